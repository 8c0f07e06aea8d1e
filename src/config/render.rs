//! The way back from the configuration to TOML, for `fanin check --print`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fmt::Write as _;

use crate::password::Hash;

use super::value::{
    self, display_duration, display_latency_budget, display_or_off, display_size, word,
};
use super::{
    Backend, Check, Config, Dns, Global, Listener, Mode, NameRoute, Pin, Proxy, Server, Tls,
};

/// The complete configuration as TOML.
pub(super) fn config(config: &Config) -> String {
    let mut out = Lines::default();
    global(&mut out, &config.global);
    for each in &config.listeners {
        listener(&mut out, each, &config.backends);
    }
    for each in &config.backends {
        backend(&mut out, each);
    }
    proxy(&mut out, &config.proxy);
    dns(&mut out, &config.dns);
    out.table("[stats]");
    out.list("bind", &config.stats.bind);
    users(&mut out, "viewers", &config.stats.viewers);
    users(&mut out, "admins", &config.stats.admins);
    out.table("[control]");
    match &config.control.socket {
        Some(path) => out.text("socket", path.display()),
        None => out.comment("socket is derived from who runs fanin and where it listens"),
    }
    out.text("mode", config.control.mode);
    out.text("level", config.control.level);
    out.table("[log]");
    out.text("format", config.log.format);
    out.key("sessions", config.log.sessions);
    out.key("null", config.log.null);
    out.key("sample", config.log.sample);
    out.text("output", word(config.log.output, value::OUTPUTS));
    match &config.log.file {
        Some(path) => out.text("file", path.display()),
        None => out.text("file", "off"),
    }
    out.text("syslog_format", word(config.log.syslog_form, value::SYSLOG_FORMS));
    match &config.log.syslog {
        Some(target) => out.text("syslog", target),
        None => out.text("syslog", "off"),
    }
    out.text("facility", word(config.log.facility, value::FACILITIES));
    out.text("tag", &config.log.tag);
    out.0
}

fn global(out: &mut Lines, global: &Global) {
    out.table("[global]");
    out.auto_or("workers", global.workers);
    out.auto_or("door_threads", global.door_threads);
    out.text("engine", global.engine);
    out.text("splice", word(global.splice, value::SPLICES));
    match &global.pin {
        Pin::Off => out.text("pin", "off"),
        Pin::Auto => out.text("pin", "auto"),
        Pin::List(cpus) => out.key("pin", format!("{cpus:?}")),
    }
    out.auto_or("maxconn", global.maxconn);
    out.text("drain", display_duration(global.drain));
    out.text("retire", display_duration(global.retire));
    out.text("latency_budget", display_latency_budget(global.latency_budget));
    out.auto_or("pipes", global.pipes);
    out.text("pipe_size", display_size(global.pipe_bytes.into()));
    for (key, account) in [("user", &global.user), ("group", &global.group)] {
        out.text(key, account.as_deref().unwrap_or("off"));
    }
    out.key("sandbox", global.sandbox);
}

fn listener(out: &mut Lines, listener: &Listener, backends: &[Backend]) {
    out.table("[[listener]]");
    out.text("name", &listener.name);
    out.list("bind", &listener.bind);
    out.text("mode", listener.mode.label());
    if listener.mode != Mode::Tcp {
        out.text("body_max", display_size(listener.body_max));
    }
    out.text("backend", &backends[listener.backend].name);
    out.auto_or("maxconn", listener.maxconn);
    out.text("client_idle", display_duration(listener.client_idle));
    out.key("backlog", listener.backlog);
    out.list("allow", &listener.allow);
    out.list("deny", &listener.deny);
    out.list("proxy_from", &listener.proxy_from);
    let limits = &listener.per_source;
    let off = || quoted("off");
    if listener.mode == Mode::Tcp {
        out.key("sni", listener.sni);
        let route = |route: &NameRoute| {
            let backend = quoted(&backends[route.backend].name);
            format!("{{ sni = {}, backend = {backend} }}", quoted(&route.sni))
        };
        let routes: Vec<_> = listener.routes.iter().map(route).collect();
        out.key("routes", format!("[{}]", routes.join(", ")));
    }
    out.key("ramp", listener.ramp.map_or_else(off, |ramp| ramp.to_string()));
    out.key(
        "per_source",
        format_args!(
            "{{ sessions = {}, rate = {}, ipv4_prefix = {}, ipv6_prefix = {} }}",
            limits.sessions.map_or_else(off, |sessions| sessions.to_string()),
            limits.rate.map_or_else(off, quoted),
            limits.ipv4_prefix,
            limits.ipv6_prefix
        ),
    );
}

fn backend(out: &mut Lines, backend: &Backend) {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name = match backend.name.as_str() {
        name if name.chars().all(bare) => name.to_owned(),
        name => quoted(name),
    };
    out.table(&format!("[backend.{name}]"));
    out.text("balance", backend.balance);
    out.text("connect", display_duration(backend.timeouts.connect));
    out.text("server_idle", display_duration(backend.timeouts.server_idle));
    out.text("half_closed", display_duration(backend.timeouts.half_closed));
    out.key("retries", backend.retries);
    out.key("redispatch", backend.redispatch);
    out.text("queue", display_or_off(backend.queue.patience));
    out.key("queue_max", backend.queue.places);
    let connecting = backend.connecting_max.map(|limit| limit.to_string());
    out.key("connecting_max", connecting.unwrap_or_else(|| quoted("off")));
    out.text("slow_start", display_or_off(backend.slow_start));
    out.text("on_down", word(backend.ends_on_down, value::ON_DOWN));
    out.text("on_move", word(backend.leaves_on_move, value::ON_MOVE));
    out.key("rebalance", backend.rebalance);
    let ports = quoted(backend.source.ports);
    let addresses: Vec<_> = backend.source.addresses.iter().map(quoted).collect();
    let addresses = addresses.join(", ");
    out.key("source", format!("{{ addresses = [{addresses}], ports = {ports} }}"));
    let spares = backend.spare.max.map_or_else(|| quoted("off"), |max| max.to_string());
    let idle = quoted(display_duration(backend.spare.idle));
    out.key("spare", format!("{{ max = {spares}, idle = {idle} }}"));
    out.text("path", &backend.path);
    match &backend.tls {
        Some(each) => out.key("tls", tls(each)),
        None => out.key("tls", false),
    }
    out.text("keep_idle", display_duration(backend.keep_idle));
    for each in &backend.servers {
        server(out, &name, each);
    }
}

fn server(out: &mut Lines, backend: &str, server: &Server) {
    out.table(&format!("[[backend.{backend}.server]]"));
    out.text("name", &server.name);
    out.text("address", &server.address);
    out.key("weight", server.weight);
    out.key("backup", server.backup);
    out.auto_or("maxconn", server.maxconn);
    out.text("send_proxy", word(server.send_proxy, value::SEND_PROXY));
    if let Some(each) = &server.check {
        out.key("check", check(each));
    }
}

fn tls(tls: &Tls) -> String {
    let ca = tls.ca.as_ref().map_or_else(|| quoted(value::SYSTEM), |ca| quoted(ca.display()));
    let sni = tls.sni.as_ref().map_or_else(String::new, |sni| format!(", sni = {}", quoted(sni)));
    format!("{{ ca = {ca}{sni} }}")
}

/// An inline table: a table of its own would end the server's.
fn check(check: &Check) -> String {
    let span = |duration| quoted(display_duration(duration));
    let mut keys = vec![format!("interval = {}", span(check.interval))];
    let other = [("fast_interval", check.fast_interval), ("down_interval", check.down_interval)];
    for (key, interval) in other {
        keys.push(format!("{key} = {}", interval.map_or_else(|| quoted("off"), span)));
    }
    keys.push(format!("timeout = {}", span(check.timeout)));
    keys.push(format!("rise = {}, fall = {}", check.rise, check.fall));
    keys.extend(check.port.map(|port| format!("port = {port}")));
    keys.extend(check.address.map(|address| format!("address = {}", quoted(address))));
    if let Some(http) = &check.http {
        keys.push(format!("http = {}", quoted(&http.path)));
        keys.extend(http.host.as_ref().map(|host| format!("host = {}", quoted(host))));
        let (first, last) = http.expect;
        keys.push(format!("expect = {}", quoted(format_args!("{first}-{last}"))));
    }
    format!("{{ {} }}", keys.join(", "))
}

fn users(out: &mut Lines, key: &str, users: &BTreeMap<String, Hash>) {
    let users: Vec<_> = users
        .iter()
        .map(|(name, hash)| format!("{} = {}", quoted(name), quoted(hash.as_str())))
        .collect();
    out.key(key, format!("{{ {} }}", users.join(", ")).replace("{  }", "{}"));
}

fn proxy(out: &mut Lines, proxy: &Proxy) {
    out.table("[proxy]");
    users(out, "users", &proxy.users);
    out.list("allow", &proxy.allow);
}

fn dns(out: &mut Lines, dns: &Dns) {
    out.table("[dns]");
    out.list("nameservers", &dns.nameservers);
    out.text("prefer", word(dns.prefer, value::PREFERENCES));
    out.text("timeout", display_duration(dns.timeout));
    out.key("retries", dns.retries);
    out.text("ttl_min", display_duration(dns.ttl_min));
    out.text("ttl_max", display_duration(dns.ttl_max));
    out.key("addresses_max", dns.addresses_max);
}

/// A text as a TOML string.
fn quoted(text: impl Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, line: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{line}");
    }

    fn table(&mut self, header: &str) {
        if !self.0.is_empty() {
            self.line("");
        }
        self.line(header);
    }

    fn comment(&mut self, text: &str) {
        self.line(format_args!("# {text}"));
    }

    fn key(&mut self, key: &str, value: impl Display) {
        self.line(format_args!("{key} = {value}"));
    }

    fn text(&mut self, key: &str, value: impl Display) {
        self.key(key, quoted(value));
    }

    fn list(&mut self, key: &str, values: &[impl Display]) {
        let values: Vec<String> = values.iter().map(quoted).collect();
        self.key(key, format!("[{}]", values.join(", ")));
    }

    fn auto_or(&mut self, key: &str, value: Option<impl Display>) {
        match value {
            Some(value) => self.key(key, value),
            None => self.text(key, "auto"),
        }
    }
}
