//! What the kernel says of nf_tables, out of the bytes of netlink messages. Pure, as `message` beside this, whose numbers it reads.

use super::{
    message::{
        CHAIN_HOOK, CHAIN_NAME, DONE, ERROR, EXPRESSION_NAME, GENERIC, HEADER, NESTED, NEW_CHAIN, NEW_RULE, RULE_CHAIN,
        RULE_EXPRESSIONS, RULE_USERDATA,
    },
    rules::TABLE,
};

/// One message of the kernel's.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The message with this number was done, or failed with this error number.
    Answer(u32, i32),
    /// The end of a list.
    Done,
    /// A rule.
    Rule(String, Vec<u8>, Vec<String>),
    /// A chain that hangs on a hook.
    Hooked(String),
    /// Something that is of no interest here.
    Other,
}

/// Splits what one read brought.
pub(super) fn replies(mut bytes: &[u8]) -> Vec<Reply> {
    let mut all = Vec::new();
    while let Some(length) = u32_at(bytes, 0).map(|l| l as usize).filter(|l| (HEADER..=bytes.len()).contains(l)) {
        all.push(reply(&bytes[..length]));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

fn reply(message: &[u8]) -> Reply {
    let kind = u16_at(message, 4).unwrap_or_default();
    let attributes = || attributes(message.get(HEADER + GENERIC..).unwrap_or_default());
    match kind {
        DONE => Reply::Done,
        ERROR => match (u32_at(message, HEADER), u32_at(message, HEADER + 4 + 8)) {
            (Some(code), Some(number)) => Reply::Answer(number, -(code as i32)),
            _ => Reply::Other,
        },
        NEW_RULE => {
            let (mut chain, mut comment, mut names) = (String::new(), Vec::new(), Vec::new());
            for (kind, value) in attributes() {
                match kind {
                    RULE_CHAIN => chain = string(value),
                    RULE_USERDATA => comment = value.to_vec(),
                    RULE_EXPRESSIONS => names = expression_names(value),
                    _ => {}
                }
            }
            Reply::Rule(chain, comment, names)
        }
        NEW_CHAIN => {
            let (name, hooked, ours) =
                attributes().fold((String::new(), false, false), |found, (kind, value)| match kind {
                    1 => (found.0, found.1, string(value) == TABLE),
                    CHAIN_NAME => (string(value), found.1, found.2),
                    CHAIN_HOOK => (found.0, true, found.2),
                    _ => found,
                });
            if hooked && ours { Reply::Hooked(name) } else { Reply::Other }
        }
        _ => Reply::Other,
    }
}

fn expression_names(list: &[u8]) -> Vec<String> {
    let named = |element| attributes(element).find(|(kind, _)| *kind == EXPRESSION_NAME).map(|(_, name)| string(name));
    attributes(list).filter_map(|(_, element)| named(element)).collect()
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let value = bytes.get(4..length)?;
        let kind = u16_at(bytes, 2)? & !NESTED;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn string(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}
