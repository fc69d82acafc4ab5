//! How requests and connections end, as one classification: metrics, commands, balancing and ejection all read it, so that
//! none of them calls a failure what another one does not.
//!
//! It says whether the server did what it should, not whether the client was pleased: errors of clients are no failures.
//! [`retry::Outcome`](crate::retry::Outcome) is another question, that of one attempt: whether it may be made again.

use http::StatusCode;

/// The class of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The server answered as it should, which includes most errors of clients (4xx).
    Success,
    /// It did not: 5xx, a time limit, no endpoint, a connection that broke; of gRPC UNKNOWN, DEADLINE_EXCEEDED, INTERNAL,
    /// UNAVAILABLE and DATA_LOSS.
    Failure,
    /// Refused for who asked or for what was asked: 401, 403; PERMISSION_DENIED, UNAUTHENTICATED.
    Denied,
    /// Refused because there is too much: 429; RESOURCE_EXHAUSTED.
    Limited,
    /// Whoever asked went away before the end; CANCELLED.
    Cancelled,
    /// There is no such thing: 404; NOT_FOUND, UNIMPLEMENTED.
    NotFound,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Success, Self::Failure, Self::Denied, Self::Limited, Self::Cancelled, Self::NotFound];

    /// The label value of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Denied => "denied",
            Self::Limited => "limited",
            Self::Cancelled => "cancelled",
            Self::NotFound => "not_found",
        }
    }

    /// Of a whole response; the status of gRPC goes first where there is one (RFC 9110 section 15; grpc/doc/statuscodes.md).
    pub fn of_response(status: StatusCode, grpc: Option<u8>) -> Self {
        match grpc {
            Some(code) => Self::of_grpc(code),
            None => Self::of_status(status),
        }
    }

    /// Of a status of HTTP.
    pub fn of_status(status: StatusCode) -> Self {
        match status.as_u16() {
            401 | 403 => Self::Denied,
            404 => Self::NotFound,
            429 => Self::Limited,
            code if code < 500 => Self::Success,
            _ => Self::Failure,
        }
    }

    /// Of a code of gRPC.
    pub fn of_grpc(code: u8) -> Self {
        match code {
            1 => Self::Cancelled,
            2 | 4 | 13..=15 => Self::Failure,
            5 | 12 => Self::NotFound,
            7 | 16 => Self::Denied,
            8 => Self::Limited,
            _ => Self::Success,
        }
    }

    /// Whether it counts against the server, its endpoint and its route.
    pub fn is_failure(self) -> bool {
        self == Self::Failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_the_class_of_the_table() {
        let of = |class| (0..=16).filter(|code| Class::of_grpc(*code) == class).collect::<Vec<u8>>();
        assert_eq!(
            Class::ALL.map(of),
            [vec![0, 3, 6, 9, 10, 11], vec![2, 4, 13, 14, 15], vec![7, 16], vec![8], vec![1], vec![5, 12]]
        );
        for (code, class) in [
            (101, Class::Success),
            (200, Class::Success),
            (304, Class::Success),
            (400, Class::Success),
            (401, Class::Denied),
            (403, Class::Denied),
            (404, Class::NotFound),
            (429, Class::Limited),
            (499, Class::Success),
            (500, Class::Failure),
            (503, Class::Failure),
            (999, Class::Failure),
        ] {
            let status = StatusCode::from_u16(code).unwrap_or_default();
            assert_eq!(Class::of_response(status, None), class, "{code}");
        }
        assert_eq!(Class::of_response(StatusCode::OK, Some(14)), Class::Failure, "the code of gRPC goes first");
    }
}
