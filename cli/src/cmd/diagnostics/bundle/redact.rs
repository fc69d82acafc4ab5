//! What must not leave a cluster, taken out of text: tokens, passwords, private keys.
//!
//! In doubt something is taken out: a log with a hole says more than one that nobody may pass on.

use std::sync::LazyLock;

use regex::{Captures, Regex};

/// What stands where a secret was.
pub(super) const REDACTED: &str = "[redacted]";

/// Lines that are taken out before the end of a private key whose beginning was cut off: one of RSA with 8192 bits has 100.
const KEY_LINES: usize = 128;

/// Words in the names of headers, variables and fields whose value is secret.
const SECRET_NAME: &str = r"(?i)auth|cookie|passw|passphrase|pwd|secret|token|credential|private|signature|session|jwt|dsn|api[-_.]?key|access[-_.]?key|(^|[-_.])key$|^mesh_probes$|connection[-_.]?string|(database|db|redis|mongo|amqp).*ur[il]";

/// What is taken out, and what stays before it and after it (the groups `before` and `after`).
const PATTERNS: [&str; 6] = [
    // A JSON Web Token, also one whose end is cut off.
    r"\be[wy][A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*)*",
    // What HTTP sends as credentials.
    r"(?i)(?<before>\bbearer\s+)[^\s\x22',;]+",
    r"(?i)(?<before>\b((proxy-)?authorization|(set-)?cookie)\\?\x22?\s*[:=]\s*\\?\x22?)[^\r\n\x22\\]+",
    // A header, a field or an option whose name says that it is secret.
    r"(?i)(?<before>\b(x-api-key|(\w+[-_.])?(password|passwd|passphrase|pwd|secret|token|credentials?|api[-_]?key|access[-_]?key|private[-_]?key))(\\?\x22\s*:\s*\\?\x22?|\s*=\s*\\?[\x22']?|:\s*[\x22']?))[^\s\x22'\\&;,)\]}]+",
    // A URL with a user.
    r"(?<before>\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/@\x22']+(?<after>@)",
    // The secret of a pod's probes.
    r"(?<before>/probe/)[0-9a-f]{8,}",
];

#[allow(clippy::expect_used)] // constants; a test reads them
static ALL: LazyLock<Vec<Regex>> =
    LazyLock::new(|| PATTERNS.iter().map(|pattern| Regex::new(pattern).expect("a valid pattern")).collect());
#[allow(clippy::expect_used)]
static NAME: LazyLock<Regex> = LazyLock::new(|| Regex::new(SECRET_NAME).expect("a valid pattern"));
#[allow(clippy::expect_used)]
static KEY_BEGIN: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----").expect("a valid pattern"));
#[allow(clippy::expect_used)]
static KEY_END: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"-----END [A-Z0-9 ]*PRIVATE KEY-----").expect("a valid pattern"));

/// Whether what has this name is secret, as far as the name tells.
pub(super) fn is_secret_name(name: &str) -> bool {
    NAME.is_match(name)
}

/// The text without its secrets, and how many there were.
pub(super) fn text(text: &str) -> (String, usize) {
    let (mut text, mut count) = private_keys(text);
    for pattern in ALL.iter() {
        let mut found = 0;
        let replaced = pattern.replace_all(&text, |captures: &Captures<'_>| {
            let part = |name| captures.name(name).map_or("", |part| part.as_str());
            let whole = captures.get(0).map_or("", |whole| whole.as_str());
            // Taken out before; the bracket at its end may be no part of a value.
            let before = REDACTED.trim_end_matches(']');
            if whole.strip_prefix(part("before")).is_some_and(|rest| rest.starts_with(before)) {
                return whole.to_owned();
            }
            found += 1;
            format!("{}{REDACTED}{}", part("before"), part("after"))
        });
        if found > 0 {
            text = replaced.into_owned();
            count += found;
        }
    }
    (text, count)
}

/// Takes out private keys in PEM, from their first line to their last, whatever stands before each line. One without an end
/// takes all that follows with it, one without a beginning some lines before.
fn private_keys(text: &str) -> (String, usize) {
    let (mut out, mut rest, mut count) = (String::with_capacity(text.len()), text, 0);
    loop {
        let (begin, end) = (KEY_BEGIN.find(rest), KEY_END.find(rest));
        let (from, to) = match (begin, end) {
            (None, None) => break,
            (Some(begin), None) => (begin.start(), rest.len()),
            (Some(begin), Some(end)) if begin.start() < end.start() => (begin.start(), end.end()),
            (_, Some(end)) => (lines_before(rest, end.start()), end.end()),
        };
        out.push_str(rest.get(..from).unwrap_or_default());
        out.push_str(REDACTED);
        rest = rest.get(to..).unwrap_or_default();
        count += 1;
    }
    out.push_str(rest);
    (out, count)
}

/// Where [`KEY_LINES`] lines before `end` begin.
fn lines_before(text: &str, end: usize) -> usize {
    let before = text.get(..end).unwrap_or_default();
    before.rmatch_indices('\n').nth(KEY_LINES).map_or(0, |(at, _)| at + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn out(before: &str) -> String {
        text(before).0
    }

    #[test]
    fn what_is_secret_goes_and_what_surrounds_it_stays() {
        for (before, after) in [
            ("token eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrIn0.c2ln for web", "token [redacted] for web"),
            ("cut eyJhbGciOiJSUzI1NiJ9.eyJpc3M", "cut [redacted]"),
            ("Authorization: Basic dXNlcjpwYXNz\nnext", "Authorization: [redacted]\nnext"),
            (r#"{"authorization":"Bearer abc","path":"/"}"#, r#"{"authorization":"[redacted]","path":"/"}"#),
            ("got bearer a-b~c from 10.0.0.1", "got bearer [redacted] from 10.0.0.1"),
            ("cookie: sid=1; theme=dark\nhost: a", "cookie: [redacted]\nhost: a"),
            (r#"\"authorization\":\"Basic dXNlcg==\",\"a\""#, r#"\"authorization\":\"[redacted]\",\"a\""#),
            ("dial postgres://u:p@db:5432/x", "dial postgres://[redacted]@db:5432/x"),
            ("GET /a?access_token=xyz&b=1", "GET /a?access_token=[redacted]&b=1"),
            (r#"{"password":"hunter2","a":1}"#, r#"{"password":"[redacted]","a":1}"#),
            (r#"said {\"password\":\"hunter2\"}"#, r#"said {\"password\":\"[redacted]\"}"#),
            ("--db-password=hunter2 --x", "--db-password=[redacted] --x"),
            ("/probe/0123456789abcdef0123456789abcdef/0", "/probe/[redacted]/0"),
        ] {
            assert_eq!(out(before), after);
            assert_eq!(text(&out(before)), (after.to_owned(), 0), "once");
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for same in [
            "spiffe://cluster.local/ns/shop/sa/web asked for mesh-destination.mesh-system.svc.cluster.local:4651",
            "mesh_requests_total{direction=\"inbound\",route=\"shop/split\"} 7",
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
            "--token-file=/var/run/mesh/token",
            "there is no such Secret mesh-issuer: make one",
            "2026-11-24T08:00:00Z  INFO certificate renewed lifetime=24h",
        ] {
            assert_eq!(text(same), (same.to_owned(), 0));
        }
    }

    #[test]
    fn a_private_key_goes_whole_also_if_a_part_of_it_was_cut_off() {
        let key = "-----BEGIN EC PRIVATE KEY-----\nAAAA\nBBBB\n-----END EC PRIVATE KEY-----";
        assert_eq!(out(&format!("a\n{key}\nb\n{key}\nc")), "a\n[redacted]\nb\n[redacted]\nc");
        assert_eq!(out("a\n-----BEGIN PRIVATE KEY-----\nAAAA\n"), "a\n[redacted]");
        assert_eq!(out("AAAA\nBBBB\n-----END PRIVATE KEY-----\nb"), "[redacted]\nb");
        assert_eq!(out(&key.replace('\n', "\\n")), REDACTED);
        let long = format!("{}{}", "line\n".repeat(KEY_LINES + 5), "-----END PRIVATE KEY-----");
        assert_eq!(out(&long).matches("line").count(), 5);
    }

    #[test]
    fn names_tell_what_is_secret() {
        for name in
            ["DB_PASSWORD", "authorization", "x-api-key", "GITHUB_TOKEN", "MESH_PROBES", "SSH_KEY", "DATABASE_URL"]
        {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["MESH_LOG", "x-canary", "PATH", "keyboard", "MESH_WORKERS"] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_secret_survives(
            before in "[ -~\n]{0,40}",
            secret in "[A-Za-z0-9]{24}",
            after in "[ -~\n]{0,40}",
            form in 0..6_usize,
        ) {
            let hidden = match form {
                0 => format!(" Bearer {secret}"),
                1 => format!(" eyJhbGciOiJSUzI1NiJ9.{secret}.{secret}"),
                2 => format!("\n-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n"),
                3 => format!("\npassword={secret}"),
                4 => format!("\nAuthorization: Basic {secret}=="),
                _ => format!(" https://user:{secret}@host/"),
            };
            let (clean, count) = text(&format!("{before}{hidden}{after}"));
            prop_assert!(!clean.contains(&secret), "{clean}");
            prop_assert!(count > 0);
        }

        #[test]
        fn any_text_is_taken_and_a_second_time_changes_nothing_more(any in "\\PC{0,200}") {
            let once = out(&any);
            prop_assert_eq!(out(&once), once);
        }
    }
}
