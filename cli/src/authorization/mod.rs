//! What the servers' side decides about a caller, for `meshctl explain` and `meshctl authz`.
//!
//! It finds out who calls (`caller`), which pods are called (`behind`), what manifests imply of both (`implied`), and asks
//! `mesh_policy::decide_inbound` as the sidecars of these pods do (`decided`). It decides nothing itself.

mod behind;
mod caller;
mod decided;
mod implied;
mod named;
mod objects;
mod selector;
#[cfg(test)]
mod tests;
mod words;

pub(crate) use behind::{Behind, behind, notes, ports_of};
pub(crate) use caller::{Caller, Who, caller, pods_of};
#[cfg(test)]
use decided::Decided;
pub(crate) use decided::{Group, Verdict, groups};
pub(crate) use named::{Named, named, path_of};
pub(crate) use objects::Objects;
pub(crate) use words::{details, line, nearest, openness};
