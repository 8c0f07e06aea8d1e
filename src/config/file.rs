//! The TOML file as written: its text and its tables.
//!
//! Every value is taken as whatever it is ([`Written`]) and judged afterwards by `reader`, so that
//! one run shows everything that is wrong and not the first fault alone.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Fault};
use super::value;

/// The largest file that is read: some 20,000 servers.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Structural faults gathered before giving up on the file.
const STRUCTURE_FAULTS_MAX: usize = 12;

/// What a file needs at least, for the messages about what is missing.
pub(super) const SMALLEST: &str = r#"the smallest configuration:
[[listener]]
bind = ["0.0.0.0:3834"]

[[backend.intake.server]]
address = "intake.example.com:443""#;

/// The text of a configuration file.
pub(super) fn text(path: &Path) -> Result<String, ConfigError> {
    let unusable = |why: &str, help: &[&str]| ConfigError::unusable(path, why, help);
    let unreadable = |error: std::io::Error| ConfigError::unreadable(path, &error);
    let file = File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.is_dir() {
        return Err(unusable(
            "is a directory, not a configuration file",
            &["name the file in it: -c DIRECTORY/fanin.toml"],
        ));
    }
    let mut bytes = Vec::new();
    let mut limited = file.take(FILE_BYTES_MAX + 1);
    limited.read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unusable(
            "is larger than 4 MiB and cannot be a configuration",
            &["name the right file with -c FILE"],
        ));
    }
    if let Some(at) = bytes.iter().position(|&byte| byte == 0) {
        return Err(unusable(
            &format!("is not a text file: byte {at} is a NUL"),
            &["name the right file with -c FILE"],
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count();
        unusable(
            &format!("is not UTF-8 text: line {line} has the byte 0x{:02x}", error.as_bytes()[at]),
            &["save the file as UTF-8"],
        )
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tables {
    pub(super) global: Option<GlobalTable>,
    pub(super) listener: Option<Vec<Spanned<ListenerTable>>>,
    pub(super) backend: Option<BTreeMap<Spanned<String>, BackendTable>>,
    pub(super) dns: Option<DnsTable>,
    pub(super) stats: Option<StatsTable>,
    pub(super) control: Option<ControlTable>,
    pub(super) log: Option<LogTable>,
    pub(super) proxy: Option<ProxyTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GlobalTable {
    pub(super) workers: Option<Value>,
    pub(super) door_threads: Option<Value>,
    pub(super) engine: Option<Value>,
    pub(super) splice: Option<Value>,
    pub(super) pin: Option<Value>,
    pub(super) maxconn: Option<Value>,
    pub(super) drain: Option<Value>,
    pub(super) retire: Option<Value>,
    pub(super) latency_budget: Option<Value>,
    pub(super) pipes: Option<Value>,
    pub(super) pipe_size: Option<Value>,
    pub(super) user: Option<Value>,
    pub(super) group: Option<Value>,
    pub(super) sandbox: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListenerTable {
    pub(super) name: Option<Value>,
    pub(super) bind: Option<Value>,
    pub(super) mode: Option<Value>,
    pub(super) body_max: Option<Value>,
    pub(super) backend: Option<Value>,
    pub(super) maxconn: Option<Value>,
    pub(super) client_idle: Option<Value>,
    pub(super) backlog: Option<Value>,
    pub(super) allow: Option<Value>,
    pub(super) deny: Option<Value>,
    pub(super) proxy_from: Option<Value>,
    pub(super) per_source: Option<PerSourceTable>,
    pub(super) ramp: Option<Value>,
    pub(super) sni: Option<Value>,
    pub(super) routes: Option<Vec<Spanned<RouteTable>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteTable {
    pub(super) sni: Option<Value>,
    pub(super) backend: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PerSourceTable {
    pub(super) sessions: Option<Value>,
    pub(super) rate: Option<Value>,
    pub(super) ipv4_prefix: Option<Value>,
    pub(super) ipv6_prefix: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackendTable {
    pub(super) balance: Option<Value>,
    pub(super) connect: Option<Value>,
    pub(super) server_idle: Option<Value>,
    pub(super) half_closed: Option<Value>,
    pub(super) retries: Option<Value>,
    pub(super) redispatch: Option<Value>,
    pub(super) queue: Option<Value>,
    pub(super) queue_max: Option<Value>,
    pub(super) connecting_max: Option<Value>,
    pub(super) slow_start: Option<Value>,
    pub(super) on_down: Option<Value>,
    pub(super) on_move: Option<Value>,
    pub(super) rebalance: Option<Value>,
    pub(super) source: Option<SourceTable>,
    pub(super) spare: Option<SpareTable>,
    pub(super) path: Option<Value>,
    pub(super) tls: Option<Spanned<TlsSetting>>,
    pub(super) keep_idle: Option<Value>,
    /// For each of its servers that has none of its own.
    pub(super) check: Option<CheckTable>,
    pub(super) server: Option<Vec<Spanned<ServerTable>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SourceTable {
    pub(super) addresses: Option<Value>,
    pub(super) ports: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpareTable {
    pub(super) max: Option<Value>,
    pub(super) idle: Option<Value>,
}

/// TLS, yes or no, or how.
#[derive(Debug)]
pub(super) enum TlsSetting {
    Switch(bool),
    Table(TlsTable),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsTable {
    pub(super) ca: Option<Value>,
    pub(super) sni: Option<Value>,
}

impl<'de> Deserialize<'de> for TlsSetting {
    fn deserialize<D: de::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = TlsSetting;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, or a table such as { ca = \"/etc/fanin/ca.pem\" }")
            }

            fn visit_bool<E>(self, on: bool) -> Result<TlsSetting, E> {
                Ok(TlsSetting::Switch(on))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TlsSetting, A::Error> {
                TlsTable::deserialize(MapAccessDeserializer::new(map)).map(TlsSetting::Table)
            }
        }
        from.deserialize_any(Either)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerTable {
    pub(super) name: Option<Value>,
    pub(super) address: Option<Value>,
    pub(super) weight: Option<Value>,
    pub(super) backup: Option<Value>,
    pub(super) maxconn: Option<Value>,
    pub(super) send_proxy: Option<Value>,
    pub(super) check: Option<CheckTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckTable {
    pub(super) interval: Option<Value>,
    pub(super) fast_interval: Option<Value>,
    pub(super) down_interval: Option<Value>,
    pub(super) timeout: Option<Value>,
    pub(super) rise: Option<Value>,
    pub(super) fall: Option<Value>,
    pub(super) port: Option<Value>,
    pub(super) address: Option<Value>,
    pub(super) http: Option<Value>,
    pub(super) host: Option<Value>,
    pub(super) expect: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DnsTable {
    pub(super) nameservers: Option<Value>,
    pub(super) prefer: Option<Value>,
    pub(super) timeout: Option<Value>,
    pub(super) retries: Option<Value>,
    pub(super) ttl_min: Option<Value>,
    pub(super) ttl_max: Option<Value>,
    pub(super) addresses_max: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProxyTable {
    pub(super) users: Option<BTreeMap<Spanned<String>, Value>>,
    pub(super) allow: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatsTable {
    pub(super) bind: Option<Value>,
    pub(super) viewers: Option<BTreeMap<Spanned<String>, Value>>,
    pub(super) admins: Option<BTreeMap<Spanned<String>, Value>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ControlTable {
    pub(super) socket: Option<Value>,
    pub(super) mode: Option<Value>,
    pub(super) level: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogTable {
    pub(super) format: Option<Value>,
    pub(super) sessions: Option<Value>,
    pub(super) null: Option<Value>,
    pub(super) sample: Option<Value>,
    pub(super) output: Option<Value>,
    pub(super) file: Option<Value>,
    pub(super) syslog: Option<Value>,
    pub(super) syslog_format: Option<Value>,
    pub(super) facility: Option<Value>,
    pub(super) tag: Option<Value>,
}

pub(super) type Value = Spanned<Written>;

/// A value as written, whatever it is.
#[derive(Debug)]
pub(super) enum Written {
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    List(Vec<Value>),
    Table,
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Longer values are visible in the source that is shown with them.
        const TEXT_CHARS_MAX: usize = 60;
        match self {
            Self::Text(text) if text.chars().count() <= TEXT_CHARS_MAX => {
                write!(f, "\"{}\"", text.escape_debug())
            }
            Self::Text(_) => f.write_str("this text"),
            Self::Integer(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
            Self::Bool(value) => value.fmt(f),
            Self::List(_) => f.write_str("a list"),
            Self::Table => f.write_str("a table or a date"),
        }
    }
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: de::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Written;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Written, E> {
                Ok(Written::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Written, E> {
                Ok(Written::Integer(value))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Written, E> {
                Ok(Written::Float(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Written, E> {
                Ok(Written::Text(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Written, A::Error> {
                let mut list = Vec::new();
                while let Some(value) = seq.next_element()? {
                    list.push(value);
                }
                Ok(Written::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Written, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Written::Table)
            }
        }
        from.deserialize_any(Any)
    }
}

/// The tables of a text. Unknown keys are noted and left out; anything else that does not fit the
/// tables is the end, since what follows from it would only confuse.
pub(super) fn structure(text: &str) -> Result<(Tables, Vec<Fault>), Vec<Fault>> {
    let mut root = DeTable::parse(text).map_err(|error| vec![syntax(text, &error)])?;
    let mut faults = Vec::new();
    loop {
        let error = match Tables::deserialize(toml::Deserializer::from(root.clone())) {
            Ok(tables) => return Ok((tables, faults)),
            Err(error) => error,
        };
        let unknown = error.message().starts_with("unknown field");
        faults.push(misfit(&error));
        let removed = unknown && error.span().is_some_and(|span| remove(root.get_mut(), &span));
        if !removed || faults.len() >= STRUCTURE_FAULTS_MAX {
            return Err(faults);
        }
    }
}

/// Takes the key at `span` out of a table, however deep it is.
fn remove(table: &mut DeTable<'_>, span: &Range<usize>) -> bool {
    let found = table.keys().find(|key| key.span() == *span).cloned();
    match found {
        Some(key) => table.remove(&key).is_some(),
        None => table.iter_mut().any(|(_, value)| remove_within(value.get_mut(), span)),
    }
}

fn remove_within(value: &mut DeValue<'_>, span: &Range<usize>) -> bool {
    match value {
        DeValue::Table(table) => remove(table, span),
        DeValue::Array(array) => array.iter_mut().any(|each| remove_within(each.get_mut(), span)),
        _ => false,
    }
}

/// What is not TOML.
fn syntax(text: &str, error: &toml::de::Error) -> Fault {
    let fault = Fault::new("this is not valid TOML");
    let fault = match error.span() {
        Some(span) => fault.at(span, error.message()),
        None => fault.at(text.len()..text.len(), error.message()),
    };
    if error.message().starts_with("duplicate key") {
        return fault.help("remove one of the two, or give a second [backend.NAME] its own name");
    }
    fault.help("texts stand in \"quotes\", a table begins with [name] on a line of its own")
}

/// What is TOML, but does not fit the tables.
fn misfit(error: &toml::de::Error) -> Fault {
    let message = error.message();
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let span = error.span().unwrap_or_default();
    if let Some((typed, known)) = quoted.split_first()
        && message.starts_with("unknown field")
    {
        let fault = Fault::new(format!("unknown key `{}`", typed.escape_debug()));
        let fault = match value::nearest(typed, known.iter().copied()) {
            _ if matches!(*typed, "server" | "servers") => {
                fault.at(span, "servers stand under their backend: [[backend.NAME.server]]")
            }
            Some(near) => fault.at(span, format!("did you mean `{near}`?")),
            None => fault.at(span, "there is no such key here"),
        };
        return fault.help(format!("allowed here: {}", known.join(", ")));
    }
    let help = if message.ends_with("expected a sequence") {
        "write the table with two brackets, there may be several: [[listener]], [[backend.NAME.server]]"
    } else {
        "tables: [global], [[listener]], [backend.NAME], [[backend.NAME.server]], [dns], [stats], [control], [log]"
    };
    Fault::new("this is not what belongs here").at(span, message).help(help)
}
