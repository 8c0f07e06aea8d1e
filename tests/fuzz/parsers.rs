//! Each parser, and what must hold whatever it is fed: no panic, a refusal in words, and what is
//! accepted can be written out and read back the same. Shared by the test and by the fuzzer.

use std::path::Path;

use fanin::config::{Config, Network, Overrides, value};
use fanin::control::parse_command;
use fanin::door::destinations::{Destinations, Hosts};
use fanin::door::head::onward;
use fanin::door::request::{self, Host};
use fanin::session::greeting::{HEADER_BYTES_MAX, Parsed, parse};
use fanin::session::hello::{self, Hello};
use fanin::sys::process;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Request, Version};

/// What a refusal may say at the most, per byte of input and on top: messages quote the source.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// A parser under test.
#[derive(Clone, Copy)]
pub(crate) struct Parser {
    /// Its folder in `tests/fuzz/corpus`, and its target's name.
    pub(crate) name: &'static str,
    /// Longer inputs find nothing new.
    pub(crate) bytes_max: usize,
    /// Panics if what must hold does not.
    pub(crate) check: fn(&[u8]),
}

pub(crate) const PARSERS: &[Parser] = &[
    Parser { name: "config", bytes_max: 4096, check: config },
    Parser { name: "haproxy", bytes_max: 4096, check: haproxy },
    Parser { name: "greetings", bytes_max: 600, check: greetings },
    Parser { name: "hellos", bytes_max: 600, check: hellos },
    Parser { name: "heads", bytes_max: 1024, check: heads },
    Parser { name: "requests", bytes_max: 1024, check: requests },
    Parser { name: "values", bytes_max: 64, check: values },
    Parser { name: "commands", bytes_max: 300, check: commands },
    Parser { name: "sysctls", bytes_max: 256, check: sysctls },
];

/// The configuration as TOML.
fn config(input: &[u8]) {
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
}

/// The configuration as HAProxy's.
fn haproxy(input: &[u8]) {
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
}

/// A PROXY header: each input whole, byte by byte and in two pieces at every place is the same one.
fn greetings(input: &[u8]) {
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
}

/// The first message of a TLS client: the same, and its name is one.
fn hellos(input: &[u8]) {
    let whole = hello::parse(input);
    if let Hello::Name(name) = &whole {
        let fits = |c: char| c.is_ascii_digit() || c.is_ascii_lowercase() || "-_.".contains(c);
        assert!((1..=253).contains(&name.len()) && name.chars().all(fits), "{name:?}");
    }
    for cut in 0..=input.len() {
        let part = hello::parse(&input[..cut]);
        assert!(part == Hello::More || part == whole, "{part:?} at {cut}, then {whole:?}");
    }
}

/// Single values of it, as on the command line.
fn values(input: &[u8]) {
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
}

/// The head of a request at an agent door, as hyper has read it: a target, and a header a line.
fn heads(input: &[u8]) {
    const PREFIX: &str = "/stsAgent";
    let mut lines = input.split(|byte| *byte == b'\n');
    let target = lines.next().unwrap_or_default();
    let Ok(request) = Request::post(target).body(()) else { return };
    let mut head = request.into_parts().0;
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            head.headers.append(name, value);
        }
    }
    let key = head.headers.get("dd-api-key").cloned();
    let named = format!("{:?}", head.headers.get_all("connection")).to_ascii_lowercase();
    match onward(head, PREFIX, 1000) {
        Ok(onward) => {
            let path = onward.uri.path();
            assert!(path.starts_with("/stsAgent/") && onward.uri.authority().is_none(), "{path}");
            assert!(!path.split('/').any(|part| matches!(part, "." | "..")), "{path}");
            assert_eq!(onward.version, Version::HTTP_11);
            for between in ["connection", "transfer-encoding", "upgrade", "proxy-authorization"] {
                assert!(!onward.headers.contains_key(between), "{between}");
            }
            // What the agent has for the server gets there, unless it says itself that it is not for it.
            assert!(
                named.contains("dd-api-key") || onward.headers.get("dd-api-key") == key.as_ref()
            );
            assert!(onward.headers.contains_key("via") || named.contains("via"));
        }
        Err(refused) => {
            assert!(refused.status.is_client_error() || refused.status.as_u16() == 501);
            assert!(refused.why.ends_with('\n') && !refused.why.contains('\u{1b}'));
        }
    }
}

/// What a web proxy is asked for: the same however it is cut, one spelling of a destination, and nothing of
/// a refusal is the client's.
fn requests(input: &[u8]) {
    match request::parse(input) {
        request::Parsed::Head { bytes, request } => {
            assert!(input[..bytes].ends_with(b"\r\n\r\n") && request.port > 0);
            let again = |input: &[u8]| match request::parse(input) {
                request::Parsed::Head { bytes, request } => {
                    Some((bytes, request.host, request.port))
                }
                _ => None,
            };
            let expected = Some((bytes, request.host.clone(), request.port));
            assert_eq!(again(&input[..bytes]), expected, "what follows changes it");
            for end in 0..bytes {
                assert!(matches!(request::parse(&input[..end]), request::Parsed::More), "{end}");
            }
            // As it is told, it is read again, and is nothing that a resolver takes for an address.
            let told = format!("CONNECT {}:{} HTTP/1.1\r\n\r\n", request.host, request.port);
            assert_eq!(again(told.as_bytes()).map(|(_, host, _)| host), Some(request.host.clone()));
            let anywhere = Destinations { hosts: vec![(Hosts::Any, None)], networks: Vec::new() };
            if let Host::Address(address) = request.host {
                let standing = anywhere.standing(&request.host, request.port);
                let at = (address, request.port).into();
                assert!(!anywhere.permit(at, standing) || !address.is_loopback());
            }
        }
        request::Parsed::More => assert!(input.len() < request::HEAD_BYTES_MAX),
        request::Parsed::Bad(why) => assert!(why.ends_with('\n')),
    }
}

/// A line on the control socket.
fn commands(input: &[u8]) {
    if let Err(refusal) = parse_command(input) {
        assert!(refusal.contains("help"), "{refusal}");
        assert!(!refusal.contains(['\u{1b}', '\n']), "{refusal:?}");
    }
}

/// What stands in /proc/sys.
fn sysctls(input: &[u8]) {
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
}
