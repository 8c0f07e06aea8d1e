//! Everything that reads what somebody else wrote, fed with what nobody would write.
//!
//! Method: a seeded mutator cuts, joins, repeats and corrupts the inputs of `tests/fuzz/corpus`, a
//! folder a parser, and each parser must neither panic nor break its promise: what is refused is
//! refused with words, what is accepted can be written out and read back the same. It is blind to
//! coverage, so it leans on the corpus: an input that once failed is kept there.
//!
//! - `cargo test --test fuzz` tries a fixed number of inputs from a fixed seed.
//! - `scripts/fuzz --minutes N` goes on with ever new seeds; `FANIN_FUZZ_SEED` repeats one of them.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "a test reads the clock")]

mod mutator;

use std::panic::{self, RefUnwindSafe};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fanin::config::{Config, Network, Overrides, value};
use fanin::control::parse_command;
use fanin::session::greeting::{HEADER_BYTES_MAX, Parsed, parse};
use fanin::sys::process;

use mutator::Mutator;

/// Inputs tried of each seed.
const INPUTS: u32 = 20_000;
/// What a refusal may say at the most, per byte of input and on top: messages quote the source.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Runs `parser` on mutations of the corpus: one round, or as many as the minutes allow.
fn fuzz(corpus: &str, bytes_max: usize, parser: impl Fn(&[u8]) + Copy + RefUnwindSafe) {
    let number = |name: &str| -> Option<u64> {
        let text = std::env::var(name).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
    };
    let minutes = number("FANIN_FUZZ_MINUTES");
    let deadline = Instant::now() + Duration::from_secs(60 * minutes.unwrap_or(0));
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut seed = number("FANIN_FUZZ_SEED").unwrap_or_else(|| minutes.map_or(1, |_| now()));
    let mut inputs: u64 = 0;
    loop {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(corpus);
        let mut mutator = Mutator::new(&folder, seed, bytes_max);
        for number in 0..INPUTS {
            let input = mutator.next_input();
            if panic::catch_unwind(|| parser(&input)).is_err() {
                let text = input.escape_ascii();
                panic!("{corpus}, FANIN_FUZZ_SEED={seed}, input {number}: keep it: \"{text}\"");
            }
        }
        inputs += u64::from(INPUTS);
        seed += 1;
        if Instant::now() >= deadline {
            println!("{corpus}: {inputs} inputs");
            return;
        }
    }
}

#[test]
fn any_configuration_is_read_or_refused_with_words() {
    fuzz("config", 4096, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        match Config::from_text(Path::new("x.toml"), text, &Overrides::default()) {
            Ok(config) => {
                let written = config.render();
                let again = Config::from_text(Path::new("y.toml"), &written, &Overrides::default());
                assert_eq!(again.ok().as_ref(), Some(&config), "{written}");
            }
            Err(error) => {
                let plain = error.render(false);
                assert!(!plain.is_empty() && plain.len() < MESSAGE_BYTES_MAX + 64 * text.len());
                assert!(!plain.contains('\u{1b}'), "an escape sequence got through: {plain:?}");
                assert!(!error.render(true).is_empty());
            }
        }
    });
}

#[test]
fn any_configuration_of_haproxy_is_taken_over_or_refused_with_words() {
    fuzz("haproxy", 4096, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        match Config::from_haproxy(Path::new("x.cfg"), text, &Overrides::default()) {
            Ok((config, report)) => {
                let written = config.render();
                let again = Config::from_text(Path::new("y.toml"), &written, &Overrides::default());
                assert_eq!(again.ok().as_ref(), Some(&config), "{written}");
                assert!(!report.to_string().contains('\u{1b}'), "an escape sequence got through");
            }
            Err(error) => {
                let plain = error.render(false);
                assert!(!plain.is_empty() && plain.len() < MESSAGE_BYTES_MAX + 64 * text.len());
                assert!(!plain.contains('\u{1b}'), "an escape sequence got through: {plain:?}");
            }
        }
    });
}

/// Each input whole, byte by byte and in two pieces at every place: it is the same header each time.
#[test]
fn any_greeting_is_a_header_or_none_however_it_is_cut() {
    fuzz("greetings", 600, |input| {
        let whole = parse(input);
        if let Parsed::Header { bytes, .. } = whole {
            assert!(bytes <= input.len() && bytes <= HEADER_BYTES_MAX);
            assert_eq!(parse(&input[..bytes]), whole, "what follows is not looked at");
        }
        // What has been refused or taken once stays so, whatever comes behind it.
        let mut before = Parsed::More;
        for cut in 0..=input.len() {
            let part = parse(&input[..cut]);
            assert!(before == Parsed::More || part == before, "{before:?}, then {part:?}");
            before = part;
        }
        assert_eq!(before, whole);
    });
}

#[test]
fn any_value_is_read_or_refused_with_words() {
    fuzz("values", 64, |input| {
        let text = String::from_utf8_lossy(input);
        let text = text.as_ref();
        if let Ok(duration) = value::duration(text) {
            assert_eq!(value::duration(&value::display_duration(duration)).ok(), Some(duration));
        }
        if let Ok(size) = value::size(text) {
            assert_eq!(value::size(&value::display_size(size)).ok(), Some(size));
        }
        if let Ok(address) = value::bind_address(text) {
            assert_eq!(value::bind_address(&address.to_string()).ok(), Some(address));
        }
        if let Ok(address) = value::server_address(text) {
            assert_eq!(value::server_address(&address.to_string()).ok(), Some(address));
        }
        if let Ok(rate) = value::rate(text) {
            assert_eq!(value::rate(&rate.to_string()).ok(), Some(rate));
        }
        if let Ok(network) = text.parse::<Network>() {
            assert_eq!(network.to_string().parse().ok(), Some(network));
        }
        if let Ok(ports) = value::source_ports(text) {
            assert_eq!(value::source_ports(&ports.to_string()).ok(), Some(ports));
        }
        let refusals = [
            value::timeout(text).err(),
            value::pipe_size(text).err(),
            value::pin(text).err(),
            value::splice(text).err(),
            value::socket_path(text).err(),
            value::auto_or::<u16>(text, 1..=100).err(),
        ];
        for refusal in refusals.into_iter().flatten() {
            assert!(!refusal.to_string().is_empty());
        }
    });
}

#[test]
fn any_line_on_the_control_socket_is_a_command_or_refused_with_words() {
    fuzz("commands", 300, |input| {
        if let Err(refusal) = parse_command(input) {
            assert!(refusal.contains("help"), "{refusal}");
            assert!(!refusal.contains(['\u{1b}', '\n']), "{refusal:?}");
        }
    });
}

#[test]
fn any_sysctl_is_understood_or_not_but_never_more_than_it_says() {
    fuzz("sysctls", 256, |input| {
        let text = String::from_utf8_lossy(input);
        if let Some(range) = process::parse_port_range(&text) {
            let again = format!("{}\t{}\n", range.start(), range.end());
            assert_eq!(process::parse_port_range(&again), Some(range));
        }
        if let Some(list) = process::parse_port_list(&text) {
            let items: Vec<_> =
                list.iter().map(|range| format!("{}-{}", range.start(), range.end())).collect();
            assert_eq!(process::parse_port_list(&items.join(",")), Some(list));
        }
    });
}
