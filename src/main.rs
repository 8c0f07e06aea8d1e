//! The fanin command.

fn main() {}
