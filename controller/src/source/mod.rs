//! Where objects come from, and the one index that they end in.
//!
//! A folder of manifests ([`folder_watch`] says when, `listing` what, [`folder`] reads) or an API server (`cluster_watch` with one
//! `list_watch` a kind; `page`, `pruned`, `object_budget` and `waiting` bound what that takes, `doubted` holds what may not be gone); [`index`] makes snapshots of either. What an
//! object means is `mesh-resources`' to say, and who is told of it `api`'s.

pub(crate) mod cluster_watch;
mod doubted;
pub(crate) mod folder;
pub(crate) mod folder_watch;
pub(crate) mod index;
mod kind_problems;
mod list_watch;
mod listing;
mod object;
mod object_budget;
mod page;
mod pruned;
pub(crate) mod published;
mod waiting;
