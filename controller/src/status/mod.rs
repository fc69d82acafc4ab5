//! What is said of objects: in their status, and on `/problems`.
//!
//! [`judge`] keeps up what each route should say, [`observed`] what it says as the API server showed it last; [`plan`] says what to
//! write when, and [`writer`] writes it. [`problems`] is what is refused now. What is to be said is `mesh-resources`' to decide.

pub(crate) mod judge;
pub(crate) mod observed;
pub(crate) mod plan;
pub(crate) mod problems;
pub(crate) mod writer;
