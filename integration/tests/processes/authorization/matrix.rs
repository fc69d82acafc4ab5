//! Source x policies x level x protocol, against real processes.

use super::{
    super::certificates::read_authority,
    Governed,
    policies::SETS,
    sources::{Protocol, Verdict, sources},
};

#[tokio::test]
async fn every_caller_gets_what_the_policies_say() {
    let governed = Governed::start().await;
    let sources = sources(&read_authority(&governed.mesh));
    let (mut rows, mut wrong) = (0, Vec::new());
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
                let found = source.call(Governed::inbound(server), protocol).await;
                rows += 1;
                // Bytes are closed either way.
                let is_as_expected = found == expected
                    || (protocol == Protocol::Bytes && expected == Verdict::Closed && found == Verdict::Denied);
                if !is_as_expected {
                    wrong.push(format!("{}: {} by {protocol:?}: {found:?}, not {expected:?}", set.title, source.name));
                }
            }
        }
    }
    println!("{rows} rows");
    assert!(rows >= 400 && wrong.is_empty(), "{} of {rows} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
