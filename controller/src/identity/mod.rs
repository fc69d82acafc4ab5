//! Who is who: certificates, tokens, and the anchors that everyone trusts.
//!
//! [`ca`] signs with what [`local_ca`] keeps in a state folder, or with the issuer of a Secret (`issuer_secret` follows it,
//! [`issuer`] judges it). Tokens are checked by [`verifier`] and [`token`], or by the API server (`token_review`). [`trust`] is the
//! bundle of anchors; `trust_writer` and `webhook` write it where pods and the API server read it. The gRPC service is
//! `api::identity`.

pub(crate) mod ca;
pub mod issuer;
pub(crate) mod issuer_secret;
pub(crate) mod local_ca;
mod review_limit;
pub(crate) mod serving;
pub(crate) mod token;
pub(crate) mod token_files;
pub(crate) mod token_review;
pub(crate) mod trust;
pub(crate) mod trust_pem;
mod trust_plan;
pub(crate) mod trust_writer;
pub(crate) mod verifier;
pub(crate) mod webhook;
