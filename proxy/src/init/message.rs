//! Netlink messages of nf_tables, as bytes: what a [`Ruleset`] is on the wire, and what the kernel says of it.
//!
//! Numbers are those of `linux/netlink.h`, `linux/netfilter/nfnetlink.h` and `nf_tables.h`. Pure: `netlink` beside this
//! owns the socket. It writes only the few expressions that the rules here need.

use super::{
    config::octets,
    rules::{Action, Chain, Family, Hook, Match, Rule, Ruleset, TABLE},
};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = (SUBSYSTEM << 8) | 2;
pub(super) const NEW_CHAIN: u16 = (SUBSYSTEM << 8) | 3;
const GET_CHAIN: u16 = (SUBSYSTEM << 8) | 4;
pub(super) const NEW_RULE: u16 = (SUBSYSTEM << 8) | 6;
const GET_RULE: u16 = (SUBSYSTEM << 8) | 7;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

pub(super) const ERROR: u16 = 2;
pub(super) const DONE: u16 = 3;

pub(super) const NESTED: u16 = 0x8000;
pub(super) const HEADER: usize = 16;
pub(super) const GENERIC: usize = 4;
const LIST_ELEMENT: u16 = 1;

pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const RULE_USERDATA: u16 = 7;
pub(super) const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

/// The kernel's number of a family (`NFPROTO_*`).
fn number(family: Family) -> u8 {
    match family {
        Family::Inet => 1,
        Family::Ipv4 => 2,
    }
}

/// Messages under construction.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// What each message is about, by its sequence number, for errors.
    pub about: Vec<String>,
}

impl Batch {
    /// Everything that replaces the table at once: nothing sees a state in between.
    pub(super) fn replace(set: &Ruleset) -> Self {
        let mut batch = Self::default();
        batch.envelope(BATCH_BEGIN);
        // A table that is not there cannot be deleted, so it is made first.
        batch.table(set.family, NEW_TABLE);
        batch.table(set.family, DELETE_TABLE);
        batch.table(set.family, NEW_TABLE);
        for chain in &set.chains {
            batch.chain(set.family, chain);
            for rule in &chain.rules {
                batch.rule(set.family, chain.name, rule);
            }
        }
        batch.envelope(BATCH_END);
        batch
    }

    /// Asks for every chain (`rules` false) of the family, or every rule of the table.
    pub(super) fn list(family: Family, rules: bool) -> Self {
        let mut batch = Self::default();
        let kind = if rules { GET_RULE } else { GET_CHAIN };
        batch.message(kind, DUMP, number(family), 0, "what was written", |m| m.text(1, TABLE));
        batch
    }

    /// The bytes to send.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many of the messages are acknowledged: all but the envelope's.
    pub(super) fn acknowledged(&self) -> usize {
        self.about.iter().filter(|about| !about.is_empty()).count()
    }

    fn envelope(&mut self, kind: u16) {
        self.message(kind, 0, 0, SUBSYSTEM, "", |_| ());
    }

    fn table(&mut self, family: Family, kind: u16) {
        self.message(kind, ACK | CREATE, number(family), 0, "the table", |m| m.text(1, TABLE));
    }

    fn chain(&mut self, family: Family, chain: &Chain) {
        let about = format!("the chain {}", chain.name);
        self.message(NEW_CHAIN, ACK | CREATE, number(family), 0, &about, |m| {
            m.text(1, TABLE);
            m.text(CHAIN_NAME, chain.name);
            if let Some(hook) = chain.hook {
                m.nested(CHAIN_HOOK, |m| {
                    m.u32(1, if hook == Hook::Prerouting { 0 } else { 3 });
                    m.attribute(2, &(-100i32).to_be_bytes()); // the priority of destination NAT
                });
                m.text(7, "nat");
            }
        });
    }

    fn rule(&mut self, family: Family, chain: &str, rule: &Rule) {
        let about = format!("the rule \"{}\" ({})", rule.comment, expressions(rule).join(" "));
        self.message(NEW_RULE, ACK | CREATE | APPEND, number(family), 0, &about, |m| {
            m.text(1, TABLE);
            m.text(RULE_CHAIN, chain);
            m.nested(RULE_EXPRESSIONS, |m| {
                rule.matches.iter().for_each(|condition| m.condition(condition));
                m.action(rule.action);
            });
            m.attribute(RULE_USERDATA, &comment(rule.comment));
        });
    }

    /// One message; its sequence number is its place, from 1.
    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, about: &str, fill: impl FnOnce(&mut Self)) {
        self.about.push(about.to_owned());
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((REQUEST | flags).to_ne_bytes());
        self.bytes.extend((self.about.len() as u32).to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        fill(self);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend((value.len() as u16 + 4).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.attribute(kind | NESTED, &[]);
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, &[value.as_bytes(), &[0]].concat());
    }

    fn u32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    fn expression(&mut self, name: &str, data: impl FnOnce(&mut Self)) {
        self.nested(LIST_ELEMENT, |m| {
            m.text(EXPRESSION_NAME, name);
            m.nested(EXPRESSION_DATA, data);
        });
    }

    fn condition(&mut self, condition: &Match) {
        match condition {
            Match::Tcp => self.meta(16, EQUAL, &[6]),
            Match::Uid(uid) => self.meta(10, EQUAL, &uid.to_ne_bytes()),
            Match::ToLoopback => self.meta(5, EQUAL, &LOOPBACK.to_ne_bytes()),
            Match::FromLoopback => self.meta(4, EQUAL, &LOOPBACK.to_ne_bytes()),
            Match::Ports(ports) => {
                self.meta(16, EQUAL, &[6]);
                self.payload(2, 2, 2); // the destination port in the TCP header
                self.compare(AT_LEAST, &ports.start().to_be_bytes());
                self.compare(AT_MOST, &ports.end().to_be_bytes());
            }
            Match::To(network) => {
                let v4 = network.address.is_ipv4();
                self.meta(15, EQUAL, &[if v4 { 2 } else { 10 }]);
                // The destination address in the IP header.
                if v4 {
                    self.payload(1, 16, 4)
                } else {
                    self.payload(1, 24, 16)
                }
                self.mask(&network.mask());
                self.compare(EQUAL, &octets(network.address));
            }
            Match::Listened => {
                // "Is the socket bound to every address?" has an answer, either one, only if there is a socket.
                self.expression("socket", |m| {
                    m.u32(1, 2);
                    m.u32(2, REGISTER);
                });
                self.compare(AT_MOST, &[1]);
            }
        }
    }

    fn action(&mut self, action: Action) {
        match action {
            Action::Return => self.verdict(-5, None),
            Action::Goto(chain) => self.verdict(-4, Some(chain)),
            Action::Redirect(port) => {
                self.expression("counter", |_| ());
                self.expression("immediate", |m| {
                    m.u32(1, REGISTER);
                    m.nested(2, |m| m.attribute(1, &port.to_be_bytes()));
                });
                self.expression("redir", |m| m.u32(1, REGISTER));
            }
        }
    }

    fn verdict(&mut self, code: i32, chain: Option<&str>) {
        self.expression("immediate", |m| {
            m.u32(1, 0);
            m.nested(2, |m| {
                m.nested(2, |m| {
                    m.attribute(1, &code.to_be_bytes());
                    if let Some(chain) = chain {
                        m.text(2, chain);
                    }
                });
            });
        });
    }

    fn meta(&mut self, key: u32, operator: u32, value: &[u8]) {
        self.expression("meta", |m| {
            m.u32(2, key);
            m.u32(1, REGISTER);
        });
        self.compare(operator, value);
    }

    fn payload(&mut self, base: u32, offset: u32, length: u32) {
        self.expression("payload", |m| {
            m.u32(1, REGISTER);
            m.u32(2, base);
            m.u32(3, offset);
            m.u32(4, length);
        });
    }

    fn mask(&mut self, mask: &[u8]) {
        self.expression("bitwise", |m| {
            m.u32(1, REGISTER);
            m.u32(2, REGISTER);
            m.u32(3, mask.len() as u32);
            m.nested(4, |m| m.attribute(1, mask));
            m.nested(5, |m| m.attribute(1, &vec![0; mask.len()]));
        });
    }

    fn compare(&mut self, operator: u32, value: &[u8]) {
        self.expression("cmp", |m| {
            m.u32(1, REGISTER);
            m.u32(2, operator);
            m.nested(3, |m| m.attribute(1, value));
        });
    }
}

/// The first register for data; the verdict has number 0.
const REGISTER: u32 = 1;
/// The index of `lo`, the same in every network namespace.
const LOOPBACK: u32 = 1;
const EQUAL: u32 = 0;
const AT_MOST: u32 = 3;
const AT_LEAST: u32 = 5;

/// A comment as `nft` writes it.
fn comment(text: &str) -> Vec<u8> {
    let mut data = vec![0, text.len() as u8 + 1];
    data.extend(text.as_bytes());
    data.push(0);
    data
}

/// The names of the expressions that a rule becomes.
fn expressions(rule: &Rule) -> Vec<&'static str> {
    let mut names = Vec::new();
    for condition in &rule.matches {
        names.extend(match condition {
            Match::Tcp | Match::Uid(_) | Match::ToLoopback | Match::FromLoopback => &["meta", "cmp"][..],
            Match::Ports(_) => &["meta", "cmp", "payload", "cmp", "cmp"],
            Match::To(_) => &["meta", "cmp", "payload", "bitwise", "cmp"],
            Match::Listened => &["socket", "cmp"],
        });
    }
    names.extend(match rule.action {
        Action::Return | Action::Goto(_) => &["immediate"][..],
        Action::Redirect(_) => &["counter", "immediate", "redir"],
    });
    names
}

/// What the kernel holds, as far as it can be compared: chain, comment and the names of the expressions of each rule.
pub(super) type Written = Vec<(String, Vec<u8>, Vec<String>)>;

/// The same of what should be there.
pub(super) fn expected(set: &Ruleset) -> Written {
    let one = |chain: &Chain, rule: &Rule| {
        let names = expressions(rule).into_iter().map(String::from).collect();
        (chain.name.to_owned(), comment(rule.comment), names)
    };
    set.chains.iter().flat_map(|chain| chain.rules.iter().map(move |rule| one(chain, rule))).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{
        config::tests::MapEnv,
        init::{
            config::InitConfig,
            reply::{Reply, replies, u32_at},
            rules,
        },
    };

    fn set() -> Ruleset {
        let skips = [("MESH_SKIP_OUTBOUND_CIDRS", "10.0.0.0/8,fd00::/8"), ("MESH_SKIP_OUTBOUND_PORTS", "25")];
        let config = InitConfig::from_env(&MapEnv(HashMap::from(skips))).unwrap();
        rules::ruleset(&config, Family::Inet, rules::Inbound::Listened, None)
    }

    /// What is sent has the form in which the kernel lists it, so it reads back as what was meant.
    #[test]
    fn what_is_written_reads_back() {
        let set = set();
        let batch = Batch::replace(&set);
        let read: Written = replies(batch.bytes())
            .into_iter()
            .filter_map(|reply| match reply {
                Reply::Rule(chain, comment, names) => Some((chain, comment, names)),
                _ => None,
            })
            .collect();
        assert_eq!(read, expected(&set));
        let hooked = replies(batch.bytes()).into_iter().filter(|r| matches!(r, Reply::Hooked(_))).count();
        assert_eq!(hooked, 2);
        assert_eq!(batch.about.len(), batch.acknowledged() + 2, "the envelope is not acknowledged");
    }

    #[test]
    fn messages_and_attributes_are_aligned() {
        let batch = Batch::replace(&set());
        let mut rest = batch.bytes();
        let mut number = 0;
        while let Some(length) = u32_at(rest, 0) {
            assert_eq!(length % 4, 0);
            number += 1;
            assert_eq!(u32_at(rest, 8), Some(number));
            rest = &rest[length as usize..];
        }
        assert!(rest.is_empty());
        assert_eq!(number as usize, batch.about.len());
    }

    #[test]
    fn cut_replies_are_no_replies() {
        let batch = Batch::replace(&set());
        for length in 0..batch.bytes().len() {
            let _ = replies(&batch.bytes()[..length]); // must not panic
        }
        let mut error = vec![36, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        error.extend((-1i32).to_ne_bytes());
        error.extend([20, 0, 0, 0, 0, 10, 5, 4, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(replies(&error), [Reply::Answer(7, 1)]);
    }
}
