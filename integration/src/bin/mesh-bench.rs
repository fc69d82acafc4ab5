//! Placeholder until the benchmark is in the next commit.
fn main() {}
