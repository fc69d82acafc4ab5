//! What can go wrong, typed: why a head or body was refused, how a connection ended, how far a request got.
//! It does not log or count; the callers do, with [`ParseReason::as_str`] as a bounded label.

use std::io;

use http::StatusCode;

/// Why a message was refused. Each has a fixed name for headers and metrics, and a status for the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ParseReason {
    /// Both Content-Length and Transfer-Encoding (RFC 9112 6.1).
    LengthAndCoding,
    /// More than one Content-Length field.
    RepeatedLength,
    /// Content-Length that is not only digits, or is too large.
    BadLength,
    /// Transfer-Encoding that is repeated, obfuscated, or does not end in `chunked`.
    BadCoding,
    /// A transfer coding other than `chunked`.
    UnsupportedCoding,
    /// Transfer-Encoding in an HTTP/1.0 message.
    CodingInHttp10,
    /// A line that ends in LF without CR.
    BareLf,
    /// CR that is not followed by LF.
    BareCr,
    /// A header continued on another line (obs-fold).
    ObsFold,
    /// White space between a header's name and its colon.
    SpaceBeforeColon,
    /// A header name that is not a token, or that imitates a framing header with `_`.
    BadHeaderName,
    /// A control character in a header's value.
    BadHeaderValue,
    /// HTTP/1.1 without Host.
    MissingHost,
    /// More than one Host.
    RepeatedHost,
    /// A Host that is no host with an optional port.
    BadHost,
    /// The request target's authority differs from Host.
    HostMismatch,
    /// The method is no token.
    BadMethod,
    /// A standard method in other letters than upper case.
    MethodCase,
    /// The request target has a form or character that is not allowed.
    BadTarget,
    /// The request target is longer than the limit.
    TargetTooLong,
    /// The request line or status line is malformed.
    BadStartLine,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    BadVersion,
    /// The head is larger than the limit.
    HeadTooLarge,
    /// More header fields than the limit.
    TooManyHeaders,
    /// The head did not arrive in time.
    HeadTimeout,
    /// A body with CONNECT or TRACE, which must not have one.
    BodyNotAllowed,
    /// A chunk's size line or end is malformed.
    BadChunk,
    /// More chunk extension bytes than the limit.
    ChunkExtension,
    /// The trailer section is malformed or too large.
    BadTrailers,
}

impl ParseReason {
    /// A fixed kebab-case name.
    pub(crate) fn as_str(self) -> &'static str {
        self.facts().0
    }

    /// What the sender did and can do about it, one line.
    pub(crate) fn help(self) -> &'static str {
        self.facts().2
    }

    /// The status that tells it to the client.
    pub(crate) fn status(self) -> StatusCode {
        self.facts().1
    }

    /// One row per reason: name, status, one line of help.
    fn facts(self) -> (&'static str, StatusCode, &'static str) {
        const BAD: StatusCode = StatusCode::BAD_REQUEST;
        const LARGE: StatusCode = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        match self {
            Self::LengthAndCoding => {
                ("length-and-transfer-encoding", BAD, "send Content-Length or Transfer-Encoding, not both")
            }
            Self::RepeatedLength => ("repeated-content-length", BAD, "send one Content-Length"),
            Self::BadLength => ("bad-content-length", BAD, "Content-Length must be one decimal number"),
            Self::BadCoding => ("bad-transfer-encoding", BAD, "Transfer-Encoding must be exactly: chunked"),
            Self::UnsupportedCoding => (
                "unsupported-transfer-encoding",
                StatusCode::NOT_IMPLEMENTED,
                "the only transfer coding understood is chunked",
            ),
            Self::CodingInHttp10 => {
                ("transfer-encoding-in-http10", BAD, "HTTP/1.0 has no Transfer-Encoding; send Content-Length")
            }
            Self::BareLf => ("bare-lf", BAD, "lines must end in CR LF"),
            Self::BareCr => ("bare-cr", BAD, "CR must be followed by LF"),
            Self::ObsFold => ("folded-header", BAD, "send each header on one line"),
            Self::SpaceBeforeColon => {
                ("space-before-colon", BAD, "remove the space between the header's name and the colon")
            }
            Self::BadHeaderName => ("bad-header-name", BAD, "a header name has a character that is not allowed"),
            Self::BadHeaderValue => ("bad-header-value", BAD, "a header value has a control character"),
            Self::MissingHost => ("missing-host", BAD, "HTTP/1.1 requests need a Host header"),
            Self::RepeatedHost => ("repeated-host", BAD, "send one Host header"),
            Self::BadHost => ("bad-host", BAD, "Host must be a host name or address with an optional port"),
            Self::HostMismatch => ("host-mismatch", BAD, "Host and the request target name different hosts"),
            Self::BadMethod => ("bad-method", BAD, "the method must be a token"),
            Self::MethodCase => ("method-case", BAD, "methods are case-sensitive: write GET, POST"),
            Self::BadTarget => {
                ("bad-target", BAD, "percent-encode the request target; fragments are not sent to servers")
            }
            Self::TargetTooLong => ("target-too-long", StatusCode::URI_TOO_LONG, "shorten the URI"),
            Self::BadStartLine => ("bad-start-line", BAD, "the first line is not HTTP"),
            Self::BadVersion => {
                ("bad-version", StatusCode::HTTP_VERSION_NOT_SUPPORTED, "this port speaks HTTP/1.0 and HTTP/1.1")
            }
            Self::HeadTooLarge => ("head-too-large", LARGE, "the headers together are too large"),
            Self::TooManyHeaders => ("too-many-headers", LARGE, "there are too many headers"),
            Self::HeadTimeout => {
                ("head-timeout", StatusCode::REQUEST_TIMEOUT, "the request's headers did not arrive in time")
            }
            Self::BodyNotAllowed => ("body-not-allowed", BAD, "CONNECT and TRACE requests have no body"),
            Self::BadChunk => ("bad-chunk", BAD, "the chunked body is malformed"),
            Self::ChunkExtension => ("chunk-extension", BAD, "the chunk extensions are too large"),
            Self::BadTrailers => ("bad-trailers", BAD, "the trailers are malformed or too large"),
        }
    }
}

impl std::fmt::Display for ParseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.as_str(), self.help())
    }
}

/// How a served connection ended badly. `Ok(())` from `serve` is every orderly end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The client's head was refused and answered.
    #[error("the client's request was refused: {0}")]
    Parse(ParseReason),
    /// The connection broke while a request was in hand: the client went away.
    #[error("the client's connection broke: {0}")]
    Io(#[from] io::Error),
    /// The client closed while it was owed a response.
    #[error("the client left before its response was complete")]
    Left,
    /// The client closed in the middle of a request head.
    #[error("the client closed in the middle of a request head")]
    PartialHead,
    /// The client took no response bytes for [`super::Config::write_stall_timeout`].
    #[error("the client stopped taking the response")]
    WriteStalled,
    /// The service's response cannot be written as HTTP/1; 502 was answered instead.
    #[error("the response cannot be written: {0}")]
    Response(String),
    /// The response's body failed or broke its Content-Length. The client sees a reset: for one whose response ends with
    /// the connection, an orderly end would make a whole response of a part (RFC 9112 section 8).
    #[error("the response was cut off: {0}")]
    Cut(String),
}

/// What is said of a request body that brought nothing for too long, in either framing. The words go with it from where it is
/// read to where it fails.
pub(crate) const QUIET: &str = "the request's body brought nothing for too long (MESH_UPLOAD_TIMEOUT)";

/// Why a received body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The connection broke.
    #[error("the connection broke inside a body: {0}")]
    Io(#[from] io::Error),
    /// The peer closed before the body was complete.
    #[error("the peer closed before its body was complete")]
    Incomplete,
    /// The body's framing is malformed.
    #[error("the body was refused: {0}")]
    Parse(ParseReason),
    /// The client sent no byte for [`super::Config::body_stall_timeout`].
    #[error("{QUIET}")]
    Stalled,
    /// The exchange is over: its response was finished, or its connection closed.
    #[error("the exchange of this body is over")]
    Abandoned,
    /// The request body that went with this response failed, so the response cannot be trusted to end.
    #[error("the request body failed while the response was read: {0}")]
    Request(String),
}

/// Why a request brought no response, and how far it got: what a retry must know.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub(crate) struct SendError {
    /// What happened.
    pub kind: SendErrorKind,
    /// True if not one byte of the request was written: it may be sent again whatever its method.
    pub never_sent: bool,
    /// True if a byte of a response was received.
    pub response_started: bool,
}

/// The kinds of [`SendError`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendErrorKind {
    /// The connection broke.
    #[error("the server's connection broke: {0}")]
    Io(#[from] io::Error),
    /// The server closed before a whole response head.
    #[error("the server closed the connection before it answered")]
    Closed,
    /// The server's response head is malformed.
    #[error("the server's response was refused: {0}")]
    Parse(ParseReason),
    /// The request's body failed: its sender's fault, not the server's.
    #[error("the request body failed: {0}")]
    RequestBody(String),
    /// The request cannot be written as HTTP/1.
    #[error("the request cannot be written as HTTP/1: {0}")]
    Request(&'static str),
    /// More interim responses than the limit.
    #[error("the server sent too many interim responses")]
    TooManyInterim,
    /// 101 to a request that asked for no upgrade.
    #[error("the server switched protocols unasked")]
    UnexpectedUpgrade,
}
