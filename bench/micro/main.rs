//! What the pure core costs without a kernel: one file a part. `cargo bench -p bench` measures,
//! `cargo test -p bench` runs each once, so that none can rot.
//!
//! What goes in comes through `black_box` and what comes out is used, so that no loop is folded away. A
//! nanosecond here is to be held against the 10 us that an exchange costs in all: these find what
//! has grown tenfold, `bench instructions` finds the rest.

#![allow(clippy::unwrap_used, reason = "a bench ends where it goes wrong")]

mod choice;
mod heads;
mod session;
mod table;
mod timers;

fn main() {
    divan::main();
}
