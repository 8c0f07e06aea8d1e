//! A target of cargo-fuzz: the parser that the binary is named after.

#![no_main]

mod parsers;

use libfuzzer_sys::fuzz_target;
use parsers::PARSERS;

fuzz_target!(|input: &[u8]| {
    let parser = PARSERS.iter().find(|parser| parser.name == env!("CARGO_BIN_NAME"));
    let parser = parser.expect("a target is named after a parser");
    if input.len() <= parser.bytes_max {
        (parser.check)(input);
    }
});
