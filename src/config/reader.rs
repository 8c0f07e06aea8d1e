//! The way from the tables of a file to the [`Config`]: each value judged, each default filled in,
//! each fault noted with its place.

mod backend;
mod checks;
mod door;
mod process;

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;

use toml::Spanned;

use super::check::{self, Place, Spans};
use super::error::Fault;
use super::file::{
    ListenerTable, PerSourceTable, RouteTable, SMALLEST, Tables, Value, Written, structure,
};
use super::value::{self, Refusal};
use super::{Backend, Config, Control, Listener, Log, NameRoute, Network, Overrides, PerSource};

/// Listening addresses in all: each is a socket in every worker.
const BINDS_MAX: usize = 1024;

/// The configuration in a text, or everything that is wrong with it.
pub(super) fn read(text: &str, overrides: &Overrides) -> Result<Config, Vec<Fault>> {
    let (tables, faults) = structure(text)?;
    let mut reader = Reader { faults, spans: Spans::new() };
    let config = reader.config(&tables, overrides);
    let mut faults = reader.faults;
    // A server that was skipped for a fault of its own must not make its backend look empty.
    if faults.is_empty() || !config.backends.is_empty() {
        let complete = faults.is_empty();
        faults.extend(
            check::judge(&config, &reader.spans)
                .into_iter()
                .filter(|fault| complete || fault.other.is_some()),
        );
    }
    if faults.is_empty() { Ok(config) } else { Err(faults) }
}

/// Where web proxy doors are all that there is, what leads on is no server of the file's: they have a
/// backend of their own, for its limits.
fn with_proxys_own(backends: Vec<Backend>, listeners: &[Spanned<ListenerTable>]) -> Vec<Backend> {
    let is_proxy = |listener: &Spanned<ListenerTable>| {
        let mode = listener.get_ref().mode.as_ref();
        mode.is_some_and(|mode| matches!(mode.get_ref(), Written::Text(mode) if mode == "proxy"))
    };
    match backends.is_empty() && listeners.iter().any(is_proxy) {
        true => vec![Backend::new("proxy")],
        false => backends,
    }
}

struct Reader {
    faults: Vec<Fault>,
    spans: Spans,
}

impl Reader {
    fn config(&mut self, tables: &Tables, overrides: &Overrides) -> Config {
        let mut backends: Vec<_> = tables.backend.iter().flatten().collect();
        // In the order in which they were written: the order of tables and of the status.
        backends.sort_by_key(|(name, _)| name.span().start);
        let backends: Vec<Backend> = backends
            .into_iter()
            .enumerate()
            .map(|(index, (name, table))| self.backend(index, name, table))
            .collect();
        let listener_tables = tables.listener.as_deref().unwrap_or_default();
        let backends = with_proxys_own(backends, listener_tables);
        let listeners = self.listeners(listener_tables, &backends);
        self.missing(listener_tables.is_empty(), backends.is_empty());
        let global = self.global(tables.global.as_ref());
        let control = self.control(tables.control.as_ref());
        let log = self.log(tables.log.as_ref());
        Config {
            global: overrides.over(global),
            listeners,
            backends,
            proxy: self.proxy(tables.proxy.as_ref()),
            dns: self.dns(tables.dns.as_ref()),
            stats: self.stats(tables.stats.as_ref()),
            control: Control { socket: overrides.control.clone().or(control.socket), ..control },
            log: Log { format: overrides.log_format.unwrap_or(log.format), ..log },
        }
    }

    fn missing(&mut self, listener: bool, backend: bool) {
        self.faults.extend(match (listener, backend) {
            (false, false) => None,
            (true, true) => Some(
                Fault::new("there is nothing to relay: no listener and no backend").help(SMALLEST),
            ),
            (true, false) => Some(
                Fault::new("there is no listener")
                    .help("say where agents connect: [[listener]] with bind = [\"0.0.0.0:3834\"]"),
            ),
            (false, true) => Some(Fault::new("there is no backend").help(
                "say where sessions go: [[backend.intake.server]] with address = \"HOST:PORT\"",
            )),
        });
    }

    /// Each text of a list, judged by itself.
    fn each<T>(
        &mut self,
        key: &str,
        value: Option<&Value>,
        read: impl Fn(&str) -> Result<T, Refusal>,
    ) -> Vec<T> {
        let one =
            |value| self.take(key, Some(value), None, |written| text_of(&read)(written).map(Some));
        list(value).iter().filter_map(one).collect()
    }

    /// Says so if a list has more than `max` of `what`.
    fn no_more_than(
        &mut self,
        max: usize,
        key: &str,
        value: Option<&Value>,
        what: &str,
        help: &str,
    ) {
        let values = list(value);
        if values.len() > max {
            let fault = Fault::new(format!("`{key}` has {} {what}", values.len()));
            self.faults.push(fault.at(values[0].span(), "the list begins here").help(help));
        }
    }

    fn listeners(
        &mut self,
        tables: &[Spanned<ListenerTable>],
        backends: &[Backend],
    ) -> Vec<Listener> {
        let mut listeners = Vec::new();
        let mut binds = 0;
        for spanned in tables {
            if let Some(listener) = self.listener(listeners.len(), spanned, backends) {
                binds += listener.bind.len();
                listeners.push(listener);
            }
        }
        if binds > BINDS_MAX {
            self.faults.push(
                Fault::new(format!("{binds} addresses to listen on are too many"))
                    .help(format!("at most {BINDS_MAX} in all")),
            );
        }
        listeners
    }

    fn listener(
        &mut self,
        index: usize,
        spanned: &Spanned<ListenerTable>,
        backends: &[Backend],
    ) -> Option<Listener> {
        let table = spanned.get_ref();
        let bind = self.bind(index, spanned.span(), table.bind.as_ref());
        let backend = self.backend_index(spanned.span(), table.backend.as_ref(), backends);
        let defaults = Listener::new(bind, backend.unwrap_or_default());
        let (mode, body_max) = self.mode(table);
        self.place(Place::Listener(index), table.name.as_ref().or(table.bind.as_ref()));
        let name = table.name.as_ref();
        let listener = Listener {
            mode,
            body_max,
            name: self.take("name", name, defaults.name, text_of(value::name)),
            maxconn: self.take("maxconn", table.maxconn.as_ref(), None, maxconn),
            client_idle: self.take(
                "client_idle",
                table.client_idle.as_ref(),
                defaults.client_idle,
                text_of(value::timeout),
            ),
            backlog: self.take("backlog", table.backlog.as_ref(), defaults.backlog, |written| {
                integer(written, 1, value::BACKLOG_MAX)
            }),
            allow: self.networks("allow", table.allow.as_ref()),
            deny: self.networks("deny", table.deny.as_ref()),
            proxy_from: self.networks("proxy_from", table.proxy_from.as_ref()),
            per_source: self.per_source(table.per_source.as_ref()),
            ramp: self.take("ramp", table.ramp.as_ref(), None, |written| {
                word_or(written, "off", 1, value::RAMP_MAX)
            }),
            sni: self.take("sni", table.sni.as_ref(), defaults.sni, boolean),
            routes: self.routes(table.routes.as_deref().unwrap_or_default(), backends),
            bind: defaults.bind,
            backend: defaults.backend,
        };
        // Without a backend there is nothing that an index could mean.
        (!listener.bind.is_empty() && backend.is_some()).then_some(listener)
    }

    fn bind(
        &mut self,
        index: usize,
        table: Range<usize>,
        value: Option<&Value>,
    ) -> Vec<SocketAddr> {
        const EXAMPLE: &str = "say where agents connect: bind = [\"0.0.0.0:3834\"]";
        let values = match value.map(|value| (value, value.get_ref())) {
            None => {
                let fault = Fault::new("a listener without `bind`");
                self.faults.push(fault.at(table, "has no address").help(EXAMPLE));
                return Vec::new();
            }
            Some((value, Written::List(list))) if list.is_empty() => {
                let fault = Fault::new("`bind` is an empty list");
                self.faults.push(fault.at(value.span(), "has no address").help(EXAMPLE));
                return Vec::new();
            }
            Some((_, Written::List(list))) => list.as_slice(),
            Some((value, _)) => std::slice::from_ref(value),
        };
        let mut addresses = Vec::new();
        for value in values {
            let address = self.take("bind", Some(value), None, |written| {
                text_of(value::bind_address)(written).map(Some)
            });
            if let Some(address) = address {
                self.place(Place::Bind(index, addresses.len()), Some(value));
                addresses.push(address);
            }
        }
        addresses
    }

    fn per_source(&mut self, table: Option<&PerSourceTable>) -> PerSource {
        let defaults = PerSource::default();
        let Some(table) = table else { return defaults };
        PerSource {
            sessions: self.take("sessions", table.sessions.as_ref(), None, |written| {
                word_or(written, "off", 1, value::SOURCE_SESSIONS_MAX)
            }),
            rate: self.take("rate", table.rate.as_ref(), None, |written| match written {
                Written::Text(text) if text == "off" => Ok(None),
                _ => text_of(value::rate)(written).map(Some),
            }),
            ipv4_prefix: self.take(
                "ipv4_prefix",
                table.ipv4_prefix.as_ref(),
                defaults.ipv4_prefix,
                |written| integer(written, 1, 32),
            ),
            ipv6_prefix: self.take(
                "ipv6_prefix",
                table.ipv6_prefix.as_ref(),
                defaults.ipv6_prefix,
                |written| integer(written, 1, 128),
            ),
        }
    }

    /// A list of networks, each judged by itself.
    fn networks(&mut self, key: &str, value: Option<&Value>) -> Vec<Network> {
        let help = format!("at most {}; name larger networks", value::NETWORKS_MAX);
        self.no_more_than(value::NETWORKS_MAX, key, value, "networks", &help);
        self.each(key, value, str::parse)
    }

    /// `None` if there is none; then that has been said, here or where backends are missed.
    fn backend_index(
        &mut self,
        table: Range<usize>,
        value: Option<&Value>,
        backends: &[Backend],
    ) -> Option<usize> {
        let names: Vec<&str> = backends.iter().map(|backend| backend.name.as_str()).collect();
        let Some(value) = value else {
            if names.len() > 1 {
                let fault = Fault::new("a listener without `backend`, and there are several");
                let help = format!("write backend = {}", value::listed(&names));
                self.faults.push(fault.at(table, "which one is meant?").help(help));
            }
            return (names.len() == 1).then_some(0);
        };
        self.backend_named(value, &names)
    }

    fn backend_named(&mut self, value: &Value, names: &[&str]) -> Option<usize> {
        if names.is_empty() {
            return None;
        }
        self.take("backend", Some(value), None, |written| {
            text_of(|typed| match names.iter().position(|name| *name == typed) {
                Some(index) => Ok(Some(index)),
                None => {
                    let help = match value::nearest(typed, names.iter().copied()) {
                        Some(near) => format!("did you mean \"{near}\"? or add [backend.{typed}]"),
                        None => format!("allowed: {}", value::listed(names)),
                    };
                    Err(Refusal::new("there is no such backend", help))
                }
            })(written)
        })
    }

    /// Where TLS clients go by the name that they ask for.
    fn routes(&mut self, tables: &[Spanned<RouteTable>], backends: &[Backend]) -> Vec<NameRoute> {
        const EXAMPLE: &str =
            "write routes = [{ sni = \"intake.example.com\", backend = \"NAME\" }]";
        let names: Vec<&str> = backends.iter().map(|backend| backend.name.as_str()).collect();
        let mut routes: Vec<NameRoute> = Vec::new();
        for spanned in tables {
            let RouteTable { sni: Some(sni), backend: Some(backend) } = spanned.get_ref() else {
                let fault = Fault::new("a route without `sni` or `backend`");
                self.faults.push(fault.at(spanned.span(), "names one of two").help(EXAMPLE));
                continue;
            };
            let pattern =
                self.take("sni", Some(sni), None, |written| text_of(value::sni)(written).map(Some));
            let (Some(pattern), Some(backend)) = (pattern, self.backend_named(backend, &names))
            else {
                continue;
            };
            if routes.iter().any(|route| route.sni == pattern) {
                let fault = Fault::new(format!("two routes for `{pattern}`"));
                let help = "remove one of them: the first that fits is it";
                self.faults.push(fault.at(sni.span(), "comes too late").help(help));
            }
            routes.push(NameRoute { sni: pattern, backend });
        }
        routes
    }

    /// The value of a key: what is written, or the default if nothing is or if it cannot be taken,
    /// which is noted.
    fn take<T>(
        &mut self,
        key: &str,
        value: Option<&Value>,
        default: T,
        read: impl FnOnce(&Written) -> Result<T, Refusal>,
    ) -> T {
        let Some(value) = value else { return default };
        match read(value.get_ref()) {
            Ok(value) => value,
            Err(refusal) => {
                let title = format!("`{key}` cannot be {}", value.get_ref());
                let fault = Fault::new(title).at(value.span(), refusal.why);
                self.faults.push(fault.help(refusal.help));
                default
            }
        }
    }

    fn place(&mut self, place: Place, value: Option<&Value>) {
        if let Some(value) = value {
            self.spans.insert(place, value.span());
        }
    }
}

/// The values of a list; one that stands alone is a list of one.
fn list(value: Option<&Value>) -> &[Value] {
    match value.map(|value| (value, value.get_ref())) {
        None => &[],
        Some((_, Written::List(list))) => list,
        Some((value, _)) => std::slice::from_ref(value),
    }
}

/// Reads a text by `parse`.
fn text_of<T>(
    parse: impl FnOnce(&str) -> Result<T, Refusal>,
) -> impl FnOnce(&Written) -> Result<T, Refusal> {
    move |written| match written {
        Written::Text(text) => parse(text),
        // What is wrong with the bare number says more than that it is one: the unit that it lacks.
        Written::Integer(number) => match parse(&number.to_string()) {
            Err(refusal) => Err(refusal),
            Ok(_) => Err(Refusal::new("wants a text", format!("write \"{number}\""))),
        },
        other => match parse("") {
            Err(refusal) => Err(Refusal::new("wants a text in quotes", refusal.help)),
            Ok(_) => Err(Refusal::new("wants a text in quotes", format!("not {other}"))),
        },
    }
}

fn integer<N>(written: &Written, first: N, last: N) -> Result<N, Refusal>
where
    N: Copy + PartialOrd + fmt::Display + TryFrom<i64>,
{
    match written {
        Written::Integer(number) => value::number(*number, first..=last),
        _ => Err(Refusal::new(
            "wants a whole number, without quotes",
            format!("allowed: {first} to {last}"),
        )),
    }
}

fn auto_or<N>(written: &Written, first: N, last: N) -> Result<Option<N>, Refusal>
where
    N: Copy + PartialOrd + fmt::Display + TryFrom<i64>,
{
    word_or(written, "auto", first, last)
}

/// A number, or the word that stands for there being none.
fn word_or<N>(written: &Written, word: &str, first: N, last: N) -> Result<Option<N>, Refusal>
where
    N: Copy + PartialOrd + fmt::Display + TryFrom<i64>,
{
    let allowed = format!("allowed: \"{word}\", or {first} to {last}");
    match written {
        Written::Text(text) if text == word => Ok(None),
        Written::Integer(number) => match value::number(*number, first..=last) {
            Ok(number) => Ok(Some(number)),
            Err(refusal) => Err(Refusal::new(refusal.why, allowed)),
        },
        _ => {
            let why = format!("wants a whole number, without quotes, or \"{word}\"");
            Err(Refusal::new(why, allowed))
        }
    }
}

fn maxconn(written: &Written) -> Result<Option<u32>, Refusal> {
    auto_or(written, 1, value::MAXCONN_MAX)
}

fn boolean(written: &Written) -> Result<bool, Refusal> {
    match written {
        Written::Bool(value) => Ok(*value),
        _ => Err(Refusal::new("wants yes or no", "allowed: true or false, without quotes")),
    }
}

fn pin(written: &Written) -> Result<super::Pin, Refusal> {
    let Written::List(list) = written else {
        return text_of(value::pin)(written);
    };
    let cpus: Result<Vec<u16>, Refusal> =
        list.iter().map(|cpu| integer(cpu.get_ref(), 0, u16::MAX)).collect();
    value::pin_list(cpus?)
}
