//! Everything that reads what somebody else wrote, fed with what nobody would write.
//!
//! Method: a seeded mutator cuts, joins, repeats and corrupts the inputs of `tests/fuzz/corpus`, a
//! folder a parser, and checks what `parsers` says must hold: a fixed number of inputs from a fixed
//! seed, so that a failure repeats. It is blind to coverage and leans on the corpus. `scripts/fuzz`
//! hunts for hours with cargo-fuzz, guided by coverage; an input that it finds is kept in the corpus.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod mutator;
mod parsers;

use std::panic;
use std::path::Path;

use mutator::Mutator;
use parsers::{PARSERS, Parser};

/// Inputs tried.
const INPUTS: u32 = 20_000;
const SEED: u64 = 1;

/// Runs a parser on mutations of its corpus.
fn fuzz(name: &str) {
    let Parser { bytes_max, check, .. } =
        *PARSERS.iter().find(|parser| parser.name == name).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut mutator = Mutator::new(&folder, SEED, bytes_max);
    for number in 0..INPUTS {
        let input = mutator.next_input();
        if panic::catch_unwind(|| check(&input)).is_err() {
            panic!("{name}, input {number}: keep it: \"{}\"", input.escape_ascii());
        }
    }
}

#[test]
fn any_configuration_is_read_or_refused_with_words() {
    fuzz("config");
}

#[test]
fn any_configuration_of_haproxy_is_taken_over_or_refused_with_words() {
    fuzz("haproxy");
}

#[test]
fn any_greeting_is_a_header_or_none_however_it_is_cut() {
    fuzz("greetings");
}

#[test]
fn any_first_message_of_tls_names_a_host_or_none_however_it_is_cut() {
    fuzz("hellos");
}

#[test]
fn any_head_of_a_request_goes_on_as_one_that_cannot_be_misread_or_is_refused() {
    fuzz("heads");
}

#[test]
fn any_request_to_a_proxy_is_read_in_one_way_or_refused() {
    fuzz("requests");
}

#[test]
fn any_value_is_read_or_refused_with_words() {
    fuzz("values");
}

#[test]
fn any_line_on_the_control_socket_is_a_command_or_refused_with_words() {
    fuzz("commands");
}

#[test]
fn any_sysctl_is_understood_or_not_but_never_more_than_it_says() {
    fuzz("sysctls");
}

#[test]
fn every_parser_is_a_target_of_the_fuzzer_too() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/Cargo.toml");
    let manifest = std::fs::read_to_string(manifest).unwrap();
    for Parser { name, .. } in PARSERS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is no [[bin]]");
    }
}
