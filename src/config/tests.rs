//! What people get wrong, and what they are told; and that what is printed can be read back.

mod reference;

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::password::Hash;

const GOOD: &str = r#"# A relay with everything written out.
[global]
workers = 2
engine = "epoll"
splice = "always"
pin = [0, 3]
maxconn = 20000
drain = "1500ms"
latency_budget = "300us"
pipes = 100
pipe_size = "1MiB"

[[listener]]
name = "agents"
bind = ["0.0.0.0:3834", "[::1]:3835", ":3836"]
mode = "tcp"
backend = "intake"
maxconn = 10000
client_idle = "90s"
backlog = 128
allow = ["10.0.0.0/8", "2001:db8::/32"]
deny = "10.6.6.6"
proxy_from = ["10.0.0.1"]
ramp = 200
sni = true
routes = [
    { sni = "Intake.example.com", backend = "intake" },
    { sni = "*.b.example", backend = "spare.site" },
]
per_source = { sessions = 50, rate = "20/1s", ipv4_prefix = 24 }

[[listener]]
bind = "*:3900"
backend = "spare.site"

[backend."spare.site"]
[[backend."spare.site".server]]
address = "[2001:db8::1]:443"

[stats]
bind = ["127.0.0.1:3935"]

[dns]
nameservers = ["10.0.0.2", "[::1]:5353"]
prefer = "both"
timeout = "750ms"
retries = 0
ttl_min = "2s"
ttl_max = "1h"
addresses_max = 8

[backend.intake]
balance = "roundrobin"
connect = "500ms"
server_idle = "2m"
half_closed = "1h"
retries = 0
redispatch = false
source = { ports = "10240-32767" }

[backend.intake.check]
interval = "1s"
fast_interval = "200ms"
rise = 1

[[backend.intake.server]]
name = "a"
address = "10.0.0.7:443"
weight = 256
maxconn = 500
check = { port = 80, down_interval = "10s", http = "/health", host = "x.example", expect = "200", timeout = "500ms" }

[[backend.intake.server]]
address = "intake.example.com:443"
weight = 0
backup = true

[control]
socket = "/run/fanin/agents.sock"

[log]
format = "json"
sessions = false
"#;

const SMALL: &str = r#"
[[listener]]
bind = [":3834"]
[[backend.intake.server]]
address = "10.0.0.7:443"
"#;

fn read(text: &str) -> Result<Config, ConfigError> {
    Config::from_text(Path::new("t.toml"), text, &Overrides::default())
}

fn message(text: &str) -> String {
    match read(text) {
        Ok(config) => panic!("taken for valid:\n{text}\n{config:#?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn everything_written_is_what_is_meant() {
    let config = read(GOOD).expect("valid");
    assert_eq!(config.global.workers, Some(2));
    assert_eq!(config.global.engine, EngineChoice::Epoll);
    assert_eq!(config.global.splice, SpliceMode::Always);
    assert_eq!(config.global.pin, Pin::List(vec![0, 3]));
    assert_eq!(config.global.drain, Duration::from_millis(1500));
    assert_eq!(config.global.latency_budget, Duration::from_micros(300));
    assert_eq!(config.global.pipe_bytes, 1 << 20);
    let listener = &config.listeners[0];
    assert_eq!(listener.deny, ["10.6.6.6".parse().unwrap()]);
    let rate = Rate { count: 20, period: Duration::from_secs(1) };
    let per_source =
        PerSource { sessions: Some(50), rate: Some(rate), ipv4_prefix: 24, ipv6_prefix: 64 };
    assert_eq!(listener.per_source, per_source);
    // In the order of the file, not of the alphabet.
    assert_eq!(config.backends[0].name, "spare.site");
    assert_eq!(config.listeners[0].backend, 1);
    assert_eq!(config.listeners[1].backend, 0);
    assert_eq!(config.listeners[1].name, "0.0.0.0:3900");
    assert_eq!(config.listeners[0].bind[2].to_string(), "0.0.0.0:3836");
    let intake = &config.backends[1];
    assert_eq!(intake.timeouts.half_closed, Duration::from_secs(3600));
    assert_eq!(intake.retries, 0);
    assert!(!intake.redispatch);
    assert_eq!(intake.source.ports, SourcePorts::Range { first: 10240, last: 32767 });
    assert_eq!(intake.servers[1].name, "intake.example.com:443");
    assert!(intake.servers[1].backup);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.log.sessions, SessionLines::None);
}

#[test]
fn what_is_left_out_has_the_documented_defaults() {
    let config = read(SMALL).expect("valid");
    assert_eq!(config.global, Global::default());
    assert_eq!(config.global.drain, Duration::from_secs(30));
    assert_eq!(config.listeners[0].client_idle, Duration::from_secs(120));
    assert_eq!(config.listeners[0].backlog, 4096);
    let backend = &config.backends[0];
    assert_eq!(backend.timeouts.connect, Duration::from_secs(5));
    assert_eq!(backend.timeouts.server_idle, Duration::from_secs(120));
    assert_eq!(backend.timeouts.half_closed, Duration::from_secs(30));
    assert_eq!((backend.retries, backend.redispatch), (3, true));
    assert_eq!(backend.servers[0].weight, 1);
    assert_eq!(config.log.sessions, SessionLines::All);
}

#[test]
fn what_is_printed_reads_back_as_the_same_configuration() {
    for text in [GOOD, SMALL] {
        let config = read(text).expect("valid");
        let printed = config.render();
        assert_eq!(read(&printed).expect(&printed), config, "{printed}");
    }
    let flags = Config::from_flags(
        &["127.0.0.1:0".parse().unwrap()],
        &["a.example:1".parse().unwrap()],
        &Overrides::default(),
    )
    .expect("valid");
    assert_eq!(read(&flags.render()).expect("valid"), flags);
}

#[test]
fn flags_override_the_file() {
    let overrides = Overrides {
        workers: Some(None),
        engine: Some(EngineChoice::IoUring),
        pin: Some(Pin::Auto),
        maxconn: Some(Some(7)),
        control: Some("/x.sock".into()),
        log_format: Some(LogFormat::Text),
        splice: Some(SpliceMode::Never),
        sandbox: Some(false),
    };
    let config = Config::from_text(Path::new("t.toml"), GOOD, &overrides).expect("valid");
    assert_eq!(config.global.workers, None);
    assert_eq!(config.global.engine, EngineChoice::IoUring);
    assert_eq!(config.global.pin, Pin::Auto);
    assert_eq!(config.global.maxconn, Some(7));
    assert_eq!(config.global.splice, SpliceMode::Never);
    assert!(!config.global.sandbox);
    assert_eq!(config.control.socket, Some(PathBuf::from("/x.sock")));
    assert_eq!(config.log.format, LogFormat::Text);
    assert_eq!(config.global.drain, Duration::from_millis(1500));
}

#[test]
fn a_list_of_cpus_says_how_many_workers_there_are() {
    let config = read(&format!("[global]\npin = [4, 5, 9]\n{SMALL}")).expect("valid");
    assert_eq!(config.global.workers, Some(3));
}

/// A line of a file that is wrong, and what the message must hold: place, value, remedy.
const WRONG_GLOBAL: [(&str, &[&str]); 25] = [
    ("workers = 0", &["t.toml:2:11", "`workers` cannot be 0", "\"auto\", or 1 to 1024"]),
    ("workers = \"2\"", &["t.toml:2:11", "cannot be \"2\"", "without quotes"]),
    ("workers = 99999999999", &["out of range"]),
    ("workers = 9223372036854775808", &["t.toml:2"]),
    ("engine = \"uring\"", &["t.toml:2:10", "did you mean \"io_uring\"?", "\"epoll\""]),
    ("engine = true", &["cannot be true", "in quotes", "\"io_uring\""]),
    ("splice = \"Always\"", &["t.toml:2:10", "did you mean \"always\"?"]),
    ("pin = [0, -1]", &["t.toml:2:7", "0 to 65535"]),
    ("pin = []", &["a list without CPUs"]),
    ("pin = [1, 1]", &["CPU 1 is named twice"]),
    ("pin = [0]\nworkers = 2", &["2 workers cannot be pinned to 1 CPUs", "t.toml:2:7"]),
    ("maxconn = -5", &["`maxconn` cannot be -5", "1 to 16777216"]),
    ("drain = 30", &["t.toml:2:9", "cannot be 30", "needs a unit", "write \"30s\""]),
    ("drain = \"30\"", &["needs a unit", "write \"30s\""]),
    ("drain = \"30 parsecs\"", &["no unit of time", "\"ms\", \"s\", \"m\""]),
    ("drain = \"-1s\"", &["not a duration", "\"5s\""]),
    ("drain = \"99999d\"", &["too long", "at most \"7d\""]),
    ("drain = 1979-05-27", &["t.toml:2:9", "`drain` cannot be"]),
    ("pipe_size = \"4KiB\"", &["\"64KiB\" to \"16MiB\""]),
    ("pipe_size = \"256KB\"", &["\"KB\" is no unit of size", "\"KiB\""]),
    ("splice = \"always\"\npipes = 0", &["t.toml:3:9", "impossible with 0 pipes", "\"never\""]),
    ("latency_budget = \"1s\"", &["\"s\" is no unit of a latency budget", "\"100ms\""]),
    ("latency_budget = \"101ms\"", &["may not gather for so long", "up to \"100ms\""]),
    ("latency_budget = \"5\"", &["needs a unit", "\"300us\""]),
    ("pipesize = 1", &["t.toml:2:1", "unknown key `pipesize`", "did you mean `pipe_size`?"]),
];

#[test]
fn a_wrong_global_value_is_shown_with_its_remedy() {
    for (line, expected) in WRONG_GLOBAL {
        let message = message(&format!("[global]\n{line}\n{SMALL}"));
        for part in expected {
            assert!(message.contains(part), "{line}: wanted {part} in\n{message}");
        }
    }
}

/// Keys of the listener on line 2, of the server on line 4, and what the message must hold.
const WRONG_PARTS: [(&str, &str, &[&str]); 31] = [
    ("bind = [\"3834\"]", "address = \"h:1\"", &["t.toml:2:9", "\"3834\"", "\"0.0.0.0:3834\""]),
    ("bind = \"localhost:80\"", "address = \"h:1\"", &["\"localhost\" is not an IP address"]),
    ("bind = []", "address = \"h:1\"", &["t.toml:2:8", "empty list"]),
    ("name = \"x\"", "address = \"h:1\"", &["t.toml:1:1", "without `bind`", "[\"0.0.0.0:3834\"]"]),
    ("bind = [\"::1:80\"]", "address = \"h:1\"", &["needs brackets"]),
    ("bind = [\":65536\"]", "address = \"h:1\"", &["above 65535"]),
    ("bind = [\":1\", \"*:1\"]", "address = \"h:1\"", &["t.toml:2:15", "0.0.0.0:1 is listened on"]),
    (
        "bind = \":1\"\nmode = \"http\"",
        "address = \"h:1\"",
        &["t.toml:3:8", "a web proxy for agents", "\"tcp\""],
    ),
    (
        "bind = \":1\"\nmode = \"tpc\"",
        "address = \"h:1\"",
        &["allowed: \"tcp\", \"proxy\" or \"agent\""],
    ),
    ("bind = \":1\"\nbackend = \"x\"", "address = \"h:1\"", &["no such backend", "\"intake\""]),
    ("bind = \":1\"\nbackend = 1", "address = \"h:1\"", &["t.toml:3:11", "no such backend"]),
    (
        "bind = \":1\"\nclient_idle = \"0s\"",
        "address = \"h:1\"",
        &["t.toml:3:15", "of zero", "1ms"],
    ),
    ("bind = \":1\"\nbacklog = 70000", "address = \"h:1\"", &["1 to 65535"]),
    ("bind = \":1\"\nname = \"a b\"", "address = \"h:1\"", &["\"a b\"", "not a usable name"]),
    ("bind = \":1\"\nname = \"\\u001b[31m\"", "address = \"h:1\"", &["\"\\u{1b}[31m\""]),
    (
        "bind = \":1\"\nallow = [\"10.0.0.1/8\"]",
        "address = \"h:1\"",
        &["t.toml:3:10", "\"10.0.0.0/8\""],
    ),
    (
        "bind = \":1\"\ndeny = \"me\"",
        "address = \"h:1\"",
        &["t.toml:3:8", "such as \"10.0.0.0/8\""],
    ),
    (
        "bind = \":1\"\nper_source = { rate = \"20\" }",
        "address = \"h:1\"",
        &["t.toml:3:23", "\"20/1s\""],
    ),
    ("bind = \":1\"\nper_source = { rate = \"2000/1s\" }", "address = \"h:1\"", &["1 to 1000"]),
    ("bind = \":1\"\nper_source = { sessions = 0 }", "address = \"h:1\"", &["\"off\", or 1 to"]),
    ("bind = \":1\"", "address = \"h\"", &["t.toml:4:11", "has no port", "\"h:443\""]),
    ("bind = \":1\"", "address = \"10.0.0.1\"", &["has no port", "\"10.0.0.1:443\""]),
    ("bind = \":1\"", "address = \"2001:db8::1\"", &["\"[2001:db8::1]:443\""]),
    ("bind = \":1\"", "address = \"h:0\"", &["port 0", "1 to 65535"]),
    ("bind = \":1\"", "address = \"10.0.0.300:80\"", &["\"10.0.0.300\" is no host name"]),
    ("bind = \":1\"", "address = \"https://h/x\"", &["a URL", "write \"h:443\""]),
    ("bind = \":1\"", "address = \"0.0.0.0:80\"", &["every address", "\"127.0.0.1:80\""]),
    ("bind = \":1\"", "name = \"x\"", &["t.toml:3:1", "without `address`", "HOST:PORT"]),
    ("bind = \":1\"", "address = \"h:1\"\nweight = 257", &["t.toml:5:10", "257", "0 to 256"]),
    ("bind = \":1\"", "address = \"h:1\"\nweight = 0", &["has weight 0", "1 or more"]),
    ("bind = \":1\"", "address = \"h:1\"\nbackup = \"yes\"", &["true or false"]),
];

#[test]
fn a_wrong_listener_or_server_is_shown_with_its_remedy() {
    for (listener, server, expected) in WRONG_PARTS {
        let text = format!("[[listener]]\n{listener}\n[[backend.intake.server]]\n{server}\n");
        let message = message(&text);
        for part in expected {
            assert!(message.contains(part), "{text}: wanted {part} in\n{message}");
        }
    }
}

#[test]
fn a_server_that_is_the_relay_itself_is_refused() {
    for (bind, server, same) in [
        (":3834", "127.0.0.1:3834", true),
        (":3834", "127.9.9.9:3834", true),
        (":3834", "localhost:3834", true),
        ("[::]:3834", "[::1]:3834", true),
        ("10.0.0.1:3834", "10.0.0.1:3834", true),
        ("10.0.0.1:3834", "[::ffff:10.0.0.1]:3834", true),
        ("10.0.0.1:3834", "127.0.0.1:3834", false),
        (":3834", "127.0.0.1:3835", false),
        (":3834", "10.0.0.1:3834", false),
    ] {
        let text = format!(
            "[[listener]]\nbind = \"{bind}\"\n[[backend.b.server]]\naddress = \"{server}\"\n"
        );
        match read(&text) {
            Ok(_) => assert!(!same, "{text}"),
            Err(error) => {
                let message = error.to_string();
                assert!(same, "{message}");
                assert!(message.contains("t.toml:4:11"), "{message}");
                assert!(message.contains("is the relay itself"), "{message}");
            }
        }
    }
}

#[test]
fn names_and_addresses_are_given_once() {
    let backend = "[[backend.b.server]]\naddress = \"h:1\"\n";
    let listener = |name: &str, port| {
        format!("[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:{port}\"\n")
    };
    let names = message(&format!("{}{}{backend}", listener("x", 1), listener("x", 2)));
    assert!(names.contains("two listeners are called `x`"), "{names}");
    assert!(names.contains("t.toml:5:8") && names.contains("first here"), "{names}");
    let addresses = message(&format!("{}{}{backend}", listener("x", 1), listener("y", 1)));
    assert!(addresses.contains("127.0.0.1:1 is listened on twice"), "{addresses}");
    let servers = message(&format!("{}{backend}{backend}", listener("x", 1)));
    assert!(servers.contains("two servers of backend `b` are called `h:1`"), "{servers}");
    let backends = message(&format!("{SMALL}[backend.x]\n[backend.x]\n"));
    assert!(backends.contains("duplicate key"), "{backends}");
    // On port 0 the kernel gives each its own.
    let free = format!("{}{}{backend}", listener("x", 0), listener("y", 0));
    assert!(read(&free).is_ok());
}

#[test]
fn what_is_missing_is_named_with_what_to_write() {
    for (text, expected) in [
        ("", "there is nothing to relay"),
        ("# a comment\n", "[[backend.intake.server]]\n         address ="),
        ("[[backend.b.server]]\naddress = \"h:1\"\n", "there is no listener"),
        ("[[listener]]\nbind = \":1\"\n", "there is no backend"),
        ("[[listener]]\nbind = \":1\"\n[backend.b]\n", "backend `b` has 0 servers"),
        (
            "[[listener]]\nbind = \":1\"\n[[backend.a.server]]\naddress = \"h:1\"\n\
             [[backend.b.server]]\naddress = \"h:1\"\n",
            "write backend = \"a\" or \"b\"",
        ),
    ] {
        let message = message(text);
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn what_does_not_fit_the_tables_is_shown_where_it_stands() {
    for (text, expected) in [
        ("listener = 5\n", ["t.toml:1:12", "[[listener]]"]),
        ("[listener]\nbind = \":1\"\n", ["t.toml:1:1", "two brackets"]),
        ("[[backend]]\nname = \"b\"\n", ["t.toml:1:1", "[backend.NAME]"]),
        ("[[server]]\naddress = \"h:1\"\n", ["t.toml:1:3", "under their backend"]),
        ("bind = \n", ["t.toml:1:", "not valid TOML"]),
        ("[global\n", ["t.toml:1:", "not valid TOML"]),
        ("{\"json\": 1}\n", ["t.toml:1:1", "not valid TOML"]),
        ("é = 1\n", ["t.toml:1:1", "not valid TOML"]),
    ] {
        let message = message(text);
        for part in expected {
            assert!(message.contains(part), "{text}: wanted {part} in\n{message}");
        }
    }
}

#[test]
fn all_faults_of_a_file_are_shown_at_once_in_the_order_of_its_lines() {
    let message = message(
        "[global]\nworkers = 0\nwrokers = 1\n[[listener]]\nbind = \"x\"\nbind_ = 1\n\
         [backend.b]\nconnect = 5\n[[backend.b.server]]\naddress = \"h\"\n",
    );
    let places: Vec<usize> =
        ["t.toml:2:11", "t.toml:3:1", "t.toml:5:8", "t.toml:6:1", "t.toml:8:11"]
            .iter()
            .map(|place| message.find(place).unwrap_or_else(|| panic!("{place}: {message}")))
            .collect();
    assert!(places.is_sorted(), "{message}");
    assert!(message.contains("6 errors in t.toml"), "{message}");
    // One fault does not make others up.
    assert!(!message.contains("there is no"), "{message}");
}

#[test]
fn a_summary_is_one_line_with_place_value_and_remedy() {
    let error = read(&format!("[global]\ndrain = 5\nworkers = 0\n{SMALL}")).expect_err("invalid");
    assert_eq!(
        error.summary(),
        "t.toml:2:9: `drain` cannot be 5; a duration needs a unit; \
         write \"5s\" for seconds or \"5ms\" for milliseconds (and 1 more)"
    );
}

#[test]
fn flags_that_contradict_each_other_are_wrong_usage() {
    let load = |listen: &[&str], servers: &[&str]| {
        let listen: Vec<SocketAddr> = listen.iter().map(|a| a.parse().unwrap()).collect();
        let servers: Vec<ServerAddress> = servers.iter().map(|a| a.parse().unwrap()).collect();
        Config::from_flags(&listen, &servers, &Overrides::default())
    };
    let error = load(&["127.0.0.1:1"], &["127.0.0.1:1"]).expect_err("a loop");
    assert!(error.is_usage());
    assert!(error.to_string().contains("is the relay itself"), "{error}");
    assert!(error.summary().contains("write the address of the server behind"), "{error}");
    assert!(load(&["127.0.0.1:1", "127.0.0.1:1"], &["h:1"]).is_err());
    assert!(load(&["127.0.0.1:1"], &["h:1", "h:1"]).is_err());
}

/// A directory of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("fanin-config-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory under the temporary one");
        Self(path)
    }

    fn load(&self, name: &str, content: Option<&[u8]>) -> ConfigError {
        let path = self.0.join(name);
        if let Some(content) = content {
            fs::write(&path, content).expect("a file");
        }
        let origin = Origin::File { path, overrides: Overrides::default() };
        origin.load().expect_err("not a configuration")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn what_is_not_a_configuration_file_is_refused_with_a_remedy() {
    let scratch = Scratch::new("unusable");
    let huge = vec![b'#'; 4 * 1024 * 1024 + 1];
    for (name, content, expected) in [
        ("absent.toml", None, "--listen :3834 --server"),
        ("empty.toml", Some(&b""[..]), "the smallest configuration"),
        ("noise.toml", Some(&b"\x7fELF\x02\x00\x01"[..]), "byte 5 is a NUL"),
        ("latin.toml", Some(&b"# ok\n# \xe9t\xe9\n"[..]), "line 2 has the byte 0xe9"),
        ("huge.toml", Some(&huge[..]), "larger than 4 MiB"),
        ("haproxy.cfg", Some(&b"defaults\n"[..]), "write a section `listen NAME`"),
        (".", None, "is a directory"),
    ] {
        let error = scratch.load(name, content);
        let message = error.to_string();
        assert!(message.contains(expected), "{name}: {message}");
        assert!(!error.is_usage() && !error.is_permission(), "{name}");
        assert!(!error.summary().contains('\n'), "{name}");
    }
}

/// xorshift64*: the same mutations each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(drawn).expect("31 bits") % bound
    }
}

#[test]
fn no_damage_to_a_file_makes_the_reader_panic() {
    let mut dice = Dice(0x5eed);
    let mut refused = 0;
    for _ in 0..3000 {
        let mut bytes = GOOD.as_bytes().to_vec();
        for _ in 0..=dice.below(6) {
            let at = dice.below(bytes.len());
            match dice.below(4) {
                0 => bytes[at] = u8::try_from(dice.below(256)).expect("a byte"),
                1 => drop(bytes.drain(at..(at + dice.below(40)).min(bytes.len()))),
                2 => bytes.insert(at, b"\"[]=.{}\n0-\xc3\xa9"[dice.below(12)]),
                _ => {
                    let piece = bytes[at..(at + dice.below(60)).min(bytes.len())].to_vec();
                    let to = dice.below(bytes.len());
                    bytes.splice(to..to, piece);
                }
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        match read(&text) {
            Ok(config) => assert_eq!(read(&config.render()).expect("round trip"), config),
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().is_empty());
                assert!(!error.render(true).is_empty());
                assert!(!error.summary().contains('\n'), "{}", error.summary());
            }
        }
    }
    assert!((1000..3000).contains(&refused), "{refused} of 3000 refused");
}

/// A route of a listener, and what the message must hold.
const WRONG_ROUTES: [(&str, &[&str]); 7] = [
    ("{ sni = \"a.example\" }", &["a route without `sni` or `backend`", "names one of two"]),
    ("{ backend = \"b\" }", &["a route without `sni` or `backend`"]),
    ("{ sni = \"*\", backend = \"b\" }", &["not the name of a host", "the listener's `backend`"]),
    ("{ sni = \"192.0.2.1\", backend = \"b\" }", &["not the name of a host"]),
    ("{ sni = \"a.example:443\", backend = \"b\" }", &["not the name of a host"]),
    ("{ sni = \"a.example\", backend = \"c\" }", &["there is no such backend"]),
    (
        "{ sni = \"a.example\", backend = \"b\" }, { sni = \"A.example\", backend = \"b\" }",
        &["two routes for `a.example`", "the first that fits"],
    ),
];

#[test]
fn a_route_that_leads_nowhere_or_never_is_refused_with_the_remedy() {
    for (routes, expected) in WRONG_ROUTES {
        let text = format!(
            "[[listener]]\nbind = \":1\"\nroutes = [{routes}]\n[backend.b]\n\
             [[backend.b.server]]\naddress = \"h:443\"\n"
        );
        let message = message(&text);
        for part in expected {
            assert!(message.contains(part), "{text}: wanted {part} in\n{message}");
        }
    }
}

/// Keys of the listener, of the backend and of its server, and what the message must hold.
const WRONG_DOORS: [(&str, &str, &str, &[&str]); 11] = [
    ("sni = true", "", "", &["has `sni` or `routes`", "mode = \"tcp\""]),
    ("proxy_from = [\"10.0.0.0/8\"]", "", "", &["has `proxy_from`", "reads no PROXY headers"]),
    ("ramp = 200", "", "", &["has `ramp`", "`maxconn` of the servers"]),
    ("body_max = \"0B\"", "", "", &["\"1B\" to \"1GiB\""]),
    ("", "", "send_proxy = \"v2\"", &["which has `send_proxy`", "shared by all agents"]),
    ("", "path = \"stsAgent\"", "", &["\"/stsAgent/\""]),
    ("", "path = \"/a/../b\"", "", &["leads elsewhere"]),
    ("", "tls = \"yes\"", "", &["true, false, or a table"]),
    ("", "tls = { ca = \"ca.pem\" }", "", &["not a whole path", "\"system\""]),
    ("", "tls = { sni = \"a:443\" }", "", &["a certificate can hold", "without a port"]),
    ("", "tls = true", "check = { http = \"/\" }", &["asks without TLS", "another `port`"]),
];

#[test]
fn what_an_agent_door_cannot_do_is_refused_with_the_remedy() {
    for (listener, backend, server, expected) in WRONG_DOORS {
        let text = format!(
            "[[listener]]\nbind = \":1\"\nmode = \"agent\"\n{listener}\n[backend.b]\n{backend}\n\
             [[backend.b.server]]\naddress = \"h:443\"\n{server}\n"
        );
        let message = message(&text);
        for part in expected {
            assert!(message.contains(part), "{text}: wanted {part} in\n{message}");
        }
    }
}

#[test]
fn what_needs_requests_is_refused_where_bytes_pass_unchanged() {
    for (listener, backend, key) in [
        ("", "tls = true", "has `tls`"),
        ("", "path = \"/x\"", "has `path`"),
        ("body_max = \"1MiB\"", "", "without mode"),
    ] {
        let text = format!(
            "[[listener]]\nbind = \":1\"\n{listener}\n[backend.b]\n{backend}\n\
             [[backend.b.server]]\naddress = \"h:443\"\n"
        );
        let message = message(&text);
        assert!(message.contains(key) && message.contains("mode = \"agent\""), "{message}");
    }
}

#[test]
fn a_door_is_read_and_written_out_the_same() {
    let text = "[global]\ndoor_threads = 3\n[[listener]]\nbind = \":17123\"\nmode = \"agent\"\n\
        body_max = \"1MiB\"\n[backend.b]\npath = \"/stsAgent/\"\nkeep_idle = \"9s\"\n\
        tls = { ca = \"/etc/ca.pem\", sni = \"i.example\" }\n[[backend.b.server]]\naddress = \"h:443\"\n";
    let config = read(text).unwrap();
    assert_eq!(read(&config.render()).unwrap(), config);
    let Tls { ca, sni } = config.backends[0].tls.clone().unwrap();
    assert_eq!((ca.unwrap().to_str(), sni.as_deref()), (Some("/etc/ca.pem"), Some("i.example")));
    assert_eq!((config.listeners[0].mode, config.global.door_threads), (Mode::Agent, Some(3)));
    let proxy = "[[listener]]\nbind = [\":3128\"]\nmode = \"proxy\"\n[proxy]\n\
        allow = [\"*.example.com:443\", \"10.0.0.0/8:*\", \"[2001:db8::/32]:80\", \"A.b:1\"]\n";
    let users = format!("users = {{ \"a b\" = \"{}\" }}\n", Hash::nobodys().as_str());
    for text in [proxy.to_owned(), format!("{proxy}{users}")] {
        let config = read(&text).unwrap();
        assert_eq!(read(&config.render()).unwrap(), config);
        assert_eq!(config.proxy.allow[3].to_string(), "a.b:1");
    }
    let system =
        read(&text.replace("{ ca = \"/etc/ca.pem\", sni = \"i.example\" }", "true")).unwrap();
    assert_eq!(system.backends[0].tls, Some(Tls::default()));
}

#[test]
fn what_a_web_proxy_door_cannot_do_is_refused_with_the_remedy() {
    const DOOR: &str = "[[listener]]\nbind = [\":3128\"]\nmode = \"proxy\"\n";
    for (more, parts) in [
        ("", &["leads nowhere", "allow = ["][..]),
        ("[proxy]\nallow = [\"*:443\"]", &["open to everybody", "name users"]),
        ("[proxy]\nallow = [\"*.com:443\"]", &["open to everybody"]),
        ("[proxy]\nallow = [\"0.0.0.0/1:*\"]", &["open to everybody"]),
        ("[proxy]\nallow = [\"[::/0]:443\"]", &["open to everybody"]),
        ("allow = [\"0.0.0.0/0\"]\n[proxy]\nallow = [\"*:443\"]", &["open to everybody"]),
        ("[proxy]\nallow = [\"h\"]", &["has no port", "HOST:PORT"]),
        ("[proxy]\nallow = [\"h:0\"]", &["not a port", "1 to 65535"]),
        ("[proxy]\nallow = [\"a b:1\"]", &["not a host"]),
        ("[proxy]\nallow = [\"10.0.0.1/8:1\"]", &["behind its prefix"]),
        ("[proxy]\nallow = [\"h:1\"]\nusers = { a = \"secret\" }", &["user `a`", "fanin passwd"]),
        ("[proxy]\nallow = [\"h:1\"]\nusers = { \"a:b\" = \"x\" }", &["`a:b`", "colon"]),
        ("ramp = 10\n[proxy]\nallow = [\"h:1\"]", &["has `ramp`"]),
        (
            "[proxy]\nallow = [\"h:1\"]\n[backend.b]\ntls = true",
            &["has `tls`", "neither speak TLS"],
        ),
        (
            "[proxy]\nallow = [\"h:1\"]\n[[listener]]\nbind = [\":1\"]",
            &["backend `proxy` has 0 servers", "[[backend.proxy.server]]"],
        ),
    ] {
        let text = format!("{DOOR}{more}");
        let said = read(&text).unwrap_err().render(false);
        assert!(parts.iter().all(|part| said.contains(part)), "{more}: {said}");
        assert!(!said.contains("secret"), "{said}");
    }
    for fine in ["bind = [\"127.0.0.1:3128\"]", "bind = [\":3128\"]\nallow = [\"10.0.0.0/8\"]"] {
        read(&format!("[[listener]]\n{fine}\nmode = \"proxy\"\n[proxy]\nallow = [\"*:443\"]"))
            .unwrap();
    }
}
