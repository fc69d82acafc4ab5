//! The limits that HTTP connections are made with, accepted or opened.

use super::h1;
use crate::config::{Config, Limits};

/// DATA frames up to this size, both ways: four TLS records, so that a 64 KiB body is one frame.
pub(crate) const MAX_FRAME: u32 = 64 * 1024;

/// HTTP/2 counts 32 bytes beyond name and value for each field (RFC 9113 section 6.5.2).
pub(crate) fn header_list_size(limits: &Limits) -> u32 {
    u32::try_from(limits.header_bytes + 32 * limits.headers).unwrap_or(u32::MAX)
}

/// The window of a whole connection: as many stream windows as it has streams, as far as HTTP/2 can count (RFC 9113
/// section 6.9.1).
pub(crate) fn connection_window(limits: &Limits, streams: u32) -> u32 {
    limits.stream_window.saturating_mul(streams).min(i32::MAX as u32)
}

/// The limits of HTTP/1 connections.
pub(crate) fn h1_config(config: &Config) -> h1::Config {
    h1::Config {
        max_headers: config.limits.headers,
        max_head_bytes: config.limits.header_bytes,
        header_read_timeout: config.times.header,
        idle_timeout: config.times.idle,
        body_stall_timeout: config.times.upload,
        write_stall_timeout: config.times.idle,
        ..h1::Config::default()
    }
}
