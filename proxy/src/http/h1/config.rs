//! The limits and times of HTTP/1 connections, each with its default and the reason for it.
//! It does not read the environment: the proxy's own configuration fills it in.

use std::time::Duration;

/// Limits and times of a connection, for both sides. `Copy`, so that a connection carries its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    /// Most header fields in one head or trailer section. Default 1,000: above what any application sends.
    pub max_headers: usize,
    /// Most bytes of one head, from its first byte to the empty line. Default 128 KiB.
    pub max_head_bytes: usize,
    /// Most bytes of a request target (414 above it). Default and upper bound 65,534, what `http::Uri` holds.
    pub max_target_bytes: usize,
    /// Most bytes of a trailer section. Default 32 KiB.
    pub max_trailer_bytes: usize,
    /// Largest single read of body bytes, hence the largest data frame. Default 64 KiB.
    pub read_buffer: usize,
    /// From the first byte of a head to its last. Default 10 s; a slower client is answered 408.
    pub header_read_timeout: Duration,
    /// Without a byte between requests, or before the first. Default 75 s; the connection closes silently.
    pub idle_timeout: Duration,
    /// Server: so long a client that closed its sending half and that asked for a connection which persists is taken to wait
    /// for its response. Default 5 s; one that asked for no other response is waited for as long as `idle_timeout`.
    pub left_timeout: Duration,
    /// Server: a request body that brings no byte for so long, while it is awaited, fails. Default 60 s.
    pub body_stall_timeout: Duration,
    /// Server: a client that takes no byte of a response for so long is given up. Default 60 s.
    pub write_stall_timeout: Duration,
    /// Server: most unread request body bytes that are read and dropped to keep a connection. Default 64 KiB.
    pub drain_bytes: usize,
    /// Server: longest time to drop unread request bytes, at a message's end or while closing. Default 1 s.
    pub drain_timeout: Duration,
    /// Client: how long a body waits for `100 Continue` before it is sent anyway. Default 1 s (RFC 9110 10.1.1).
    pub expect_continue_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_headers: 1_000,
            max_head_bytes: 128 * 1024,
            max_target_bytes: 65_534,
            max_trailer_bytes: 32 * 1024,
            read_buffer: 64 * 1024,
            header_read_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            left_timeout: Duration::from_secs(5),
            body_stall_timeout: Duration::from_secs(60),
            write_stall_timeout: Duration::from_secs(60),
            drain_bytes: 64 * 1024,
            drain_timeout: Duration::from_secs(1),
            expect_continue_timeout: Duration::from_secs(1),
        }
    }
}
