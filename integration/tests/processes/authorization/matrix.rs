//! Source x policies x level x protocol, against real processes; and what `meshctl authz` says of the same.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use mesh_integration::harness::binary;
use tokio::process::Command;

use super::{
    super::certificates::read_authority,
    Governed,
    policies::SETS,
    sources::{Protocol, Source, Verdict, sources},
};

#[tokio::test]
async fn every_caller_gets_what_the_policies_say_and_meshctl_says_the_same() {
    let governed = Governed::start().await;
    let sources = sources(&read_authority(&governed.mesh));
    let (mut rows, mut told, mut wrong) = (0, 0, Vec::new());
    for (number, set) in SETS.iter().enumerate() {
        let names = set.names(number);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        governed.govern(&set.yaml(number), &names, &names).await;
        for (protocol, expected) in Protocol::ALL.into_iter().zip(set.expected) {
            let server = if protocol == Protocol::Bytes { &governed.echo } else { &governed.web };
            for (place, source) in sources.iter().enumerate() {
                let expected = match expected.as_bytes().get(place) {
                    Some(b'+') => Verdict::LetIn,
                    Some(_) => Verdict::Denied,
                    // Nobody came in: its certificate does not count, whatever a policy says.
                    None => Verdict::Closed,
                };
                let (found, says) = tokio::join!(
                    source.call(Governed::inbound(server), protocol),
                    is_told(source, protocol, governed.mesh.manifests.dir())
                );
                rows += 1;
                // Bytes are closed either way.
                let is_as_expected = found == expected
                    || (protocol == Protocol::Bytes && expected == Verdict::Closed && found == Verdict::Denied);
                if !is_as_expected {
                    wrong.push(format!("{}: {} by {protocol:?}: {found:?}, not {expected:?}", set.title, source.name));
                }
                if let Some(says) = says {
                    told += 1;
                    let is_same = says.as_ref().is_ok_and(|says| *says == (expected == Verdict::LetIn));
                    let what = || format!("{}: {} by {protocol:?}: meshctl says {says:?}", set.title, source.name);
                    wrong.extend((!is_same).then(what));
                }
            }
        }
    }
    println!("{rows} rows, and meshctl says the same of the {told} whose callers have a name");
    assert!(rows >= 400 && wrong.is_empty(), "{} of {rows} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Whether `meshctl authz` lets a caller in, over the same manifests; `None` of whom it cannot be asked.
async fn is_told(source: &Source, protocol: Protocol, manifests: &Path) -> Option<Result<bool>> {
    let from = source.from?;
    let said = async {
        let mut command = Command::new(binary("meshctl")?);
        command.args(["authz", "--from", from, "--source-ip", "127.0.0.1", "--to", protocol.service()]);
        let said = command.args(protocol.words()).arg("--manifests").arg(manifests).output().await?;
        let code = said.status.code().context("it was killed")?;
        ensure!(code <= 1, "{code}: {}", String::from_utf8_lossy(&said.stderr));
        Ok(code == 0)
    };
    Some(said.await)
}
