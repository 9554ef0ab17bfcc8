//! kitten-bench.
fn main() {}
