//! Ways to write a denied path, and a denied host.

use std::collections::BTreeSet;

/// A small generator with a seed, so that a failure can be looked at again.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % most
    }

    fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }
}

/// What may stand before the slash.
const BEFORE: [&str; 9] =
    ["/public/..", "/x/y/../..", "/public/.", "/public/;a/..", "/./.", "/public%2f..", "/%2e", "/public/..;", "//"];
/// Ways to write the slash.
const SLASHES: [&str; 23] = [
    "/",
    "/",
    "/",
    "//",
    "/./",
    "%2f",
    "%2F",
    "\\",
    "/\\",
    "%5c",
    "%5C",
    "/%2e/",
    "/;/",
    "%252f",
    "/x/../",
    "/x/%2e%2e/",
    "/x/..%2f",
    "/x/..;/",
    "/x/..\\",
    "/x%2f..%2f",
    "/%2f",
    "%2f%2f",
    "///",
];
/// What may follow.
const BEHIND: [&str; 26] = [
    "",
    "/",
    "/secret",
    "//secret",
    ";x",
    ";x/secret",
    ";",
    "%3bx",
    "%2fsecret",
    "%2Fsecret",
    "\\secret",
    "%5csecret",
    "/.",
    "/..;/admin",
    "/./secret",
    "/%2e",
    "?x",
    "/secret?y=/public",
    "%00",
    "/%2e%2e/admin",
    "/../admin/secret",
    ".",
    "%20",
    "%23",
    "/;a=b/secret",
    "%252fsecret",
];

/// Different ways to write `/admin/secret`, and paths that some servers may take for it.
pub(super) fn paths(count: usize) -> Vec<String> {
    let mut random = Random(7);
    let mut all = BTreeSet::new();
    while all.len() < count {
        let mut path = String::new();
        if random.below(3) == 0 {
            path += random.of(&BEFORE);
        }
        path += random.of(&SLASHES);
        for letter in "admin".bytes() {
            match random.below(9) {
                0 => path += &format!("%{letter:02x}"),
                1 => path += &format!("%{letter:02X}"),
                2 if random.below(4) == 0 => path += &format!("%25{letter:02x}"),
                _ => path.push(char::from(letter)),
            }
        }
        path += random.of(&BEHIND);
        if path.starts_with('/') || path.starts_with('%') || path.starts_with('\\') {
            // A target begins with a slash; without one nobody takes it for a path.
            all.insert(if path.starts_with('/') { path } else { format!("/{path}") });
        }
    }
    all.into_iter().collect()
}

/// The host that is denied.
const HOST: &str = "admin.shop";
/// What may stand before and behind it, and still be it for somebody.
const AROUND: [(&str, &str); 16] = [
    ("", ""),
    ("", ""),
    ("", "."),
    ("", ":80"),
    ("", ":8080"),
    ("", ":"),
    ("", ".:80"),
    ("", ".."),
    ("", ":00080"),
    ("user@", ""),
    ("web.shop@", ""),
    ("web.shop, ", ""),
    ("", ", web.shop"),
    ("  ", " "),
    ("\t", ""),
    ("", "%00"),
];
/// Requests with a host in several places. `HOST` stands for it.
const FORMS: [&str; 9] = [
    "GET / HTTP/1.1\r\nhost: HOST\r\n",
    "GET / HTTP/1.1\r\nhost: HOST\r\n",
    "GET / HTTP/1.0\r\nhost: HOST\r\n",
    "GET http://HOST/ HTTP/1.1\r\nhost: HOST\r\n",
    "GET http://HOST/ HTTP/1.1\r\nhost: web.shop\r\n",
    "GET http://web.shop/ HTTP/1.1\r\nhost: HOST\r\n",
    "GET HTTP://HOST HTTP/1.1\r\nhost: HOST\r\n",
    "GET / HTTP/1.1\r\nhost: web.shop\r\nhost: HOST\r\n",
    "GET / HTTP/1.1\r\nhost: web.shop\r\nx-forwarded-host: HOST\r\nforwarded: host=HOST\r\n",
];

/// Different requests that name the host, or something that a server may take for it.
pub(super) fn hosts(count: usize) -> Vec<String> {
    let mut random = Random(11);
    let mut all = BTreeSet::new();
    while all.len() < count {
        let (before, behind) = AROUND[random.below(AROUND.len())];
        let mut host = String::from(before);
        for letter in HOST.bytes() {
            match random.below(12) {
                0..=3 => host.push(char::from(letter.to_ascii_uppercase())),
                4 if random.below(6) == 0 => host += &format!("%{letter:02x}"),
                _ => host.push(char::from(letter)),
            }
        }
        host += behind;
        all.insert(random.of(&FORMS).replace("HOST", &host));
    }
    all.into_iter().collect()
}
