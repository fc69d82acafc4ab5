//! HTTP/2 conformance: h2spec with prior knowledge against both plain-text ports of a real pair, the one that an
//! application uses and the one that faces other pods.
//!
//! What does not pass is named below with its reason and in `docs/conformance/h2spec.md`; anything else that fails, and a
//! named case that passes after all, fails this test. `cargo xtask test` builds h2spec; without it the test says aloud that
//! it is skipped, and fails if `CI=true`.

use std::{
    env, fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use crate::support::Mesh;
use tokio::{process::Command, time::timeout};

/// Names it; `cargo xtask test` builds it and sets this, `cargo xtask tools` prints it.
const TOOL: &str = "MESH_H2SPEC";
/// The cases of this version, without its two strict ones.
const CASES: usize = 145;
/// Cases that fail: section, title, why it has to.
const FAILING: &[(&str, &str, &str)] = &[(
    "http2/3.5",
    "Sends invalid connection preface",
    "The ports speak HTTP/1 too, and detection takes what is no preface for it: the answer is an HTTP/1 400, then the end of \
     the connection. h2spec accepts only the end.",
)];
/// An answer that takes a while: a case that resets its stream and goes on sending must do so before the answer ends, for
/// the server has reset the stream itself afterwards and may pass over what comes then (RFC 9113 section 5.1).
const ANSWER: &str = "/delay/100";
/// The whole run takes a few seconds; each case that waits in vain takes two.
const RUN: Duration = Duration::from_secs(300);

#[tokio::test]
async fn the_servers_conform() {
    let Some(tool) = env::var_os(TOOL).map(PathBuf::from) else {
        assert!(env::var("CI").as_deref() != Ok("true"), "there is no h2spec: `cargo xtask test` builds it with Go");
        // Not by a macro: those are kept back for tests that pass.
        let _ =
            writeln!(std::io::stderr(), "\n!!! SKIPPED: h2spec is not built. `cargo xtask test` builds it with Go.\n");
        return;
    };
    let (mesh, client, server) = Mesh::pair().await;
    let inbound = SocketAddr::from((Ipv4Addr::LOCALHOST, server.listen));
    for (name, port) in [("outbound", client.entry()), ("inbound", inbound)] {
        let results = run(&tool, port, mesh.sandbox.path().join(format!("{name}.xml"))).await;
        assert_eq!(results.len(), CASES, "{name}: not all cases ran");
        let (failed, passed): (Vec<_>, Vec<_>) = results.into_iter().partition(|case| case.failure.is_some());
        println!("{name}: {} of {CASES} passed", passed.len());
        let expected = |case: &&Case| FAILING.iter().any(|(s, t, _)| (*s, *t) == (&*case.section, &*case.title));
        let surprises: Vec<_> = failed.iter().filter(|case| !expected(case)).collect();
        assert!(surprises.is_empty(), "{name}: {surprises:#?}");
        let healed: Vec<_> = passed.iter().filter(expected).collect();
        assert!(healed.is_empty(), "{name}: passes now; take it off the list and the page: {healed:#?}");
    }
}

/// The page for users names the same cases.
#[test]
fn the_page_has_what_fails() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance/h2spec.md")).unwrap();
    for (section, title, why) in FAILING {
        assert!(
            page.contains(&format!("| {section} | {title} | {why} |")),
            "docs/conformance/h2spec.md lacks {section}"
        );
    }
    assert!(page.contains(&format!("{} of {CASES}", CASES - FAILING.len())), "the page has other figures");
}

/// A case as h2spec reports it.
#[derive(Debug)]
struct Case {
    section: String,
    title: String,
    /// What was expected and what came.
    failure: Option<String>,
}

async fn run(tool: &Path, port: SocketAddr, report: PathBuf) -> Vec<Case> {
    let mut command = Command::new(tool);
    command.args(["--host", "127.0.0.1", "--port", &port.port().to_string(), "--path", ANSWER]);
    // Five headers of this length make a frame that is beyond the 64 KiB that the proxy announces; the default of h2spec
    // is for servers that keep to 16 KiB.
    command.args(["--max-header-length", "16000", "--junit-report"]).arg(&report);
    let done =
        timeout(RUN, command.stdin(Stdio::null()).kill_on_drop(true).output()).await.expect("h2spec hangs").unwrap();
    let xml = fs::read_to_string(&report);
    cases(&xml.unwrap_or_else(|error| panic!("no report ({error}): {}", String::from_utf8_lossy(&done.stdout))))
}

/// Reads the cases of a JUnit report.
fn cases(xml: &str) -> Vec<Case> {
    let attribute = |text: &str, name: &str| {
        let (_, rest) = text.split_once(&format!(" {name}=\"")).expect("an attribute");
        unescape(rest.split('"').next().unwrap())
    };
    let case = |text: &str| {
        let text = text.split("</testcase>").next().unwrap();
        let failed = ["<failure", "<error", "<skipped"].iter().any(|element| text.contains(element));
        Case {
            section: attribute(text, "package"),
            title: attribute(text, "classname"),
            failure: failed.then(|| unescape(text)),
        }
    };
    xml.split("<testcase").skip(1).map(case).collect()
}

fn unescape(text: &str) -> String {
    [("&#34;", "\""), ("&#39;", "'"), ("&#xA;", "\n"), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}
