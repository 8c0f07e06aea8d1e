//! From what was written to our [`Config`].

mod servers;

use std::collections::HashMap;
use std::time::Duration;

use crate::config::check::{Place, Spans};
use crate::config::error::Fault;
use crate::config::value;
use crate::config::{self, check};
use crate::config::{
    Backend, Config, Control, ControlLevel, Global, IDLE_DEFAULT, Listener, Log, LogFormat,
    NameRoute, Network, Networks, Overrides, Prefer, SessionLines, Stats, Timeouts,
};
use crate::op::SpliceMode;

use super::report::{NoteKind, Report};
use super::resolvers;
use super::sections::{Kind, LogLine, Proxy, Sections, Set, Settings, StatsUsers, Wait};
use super::switching::Switch;
use super::unison;

/// How long the agents written in Go keep an idle connection.
const AGENTS_KEEP: Duration = Duration::from_secs(90);

/// The configuration, with its report.
pub(super) fn config(
    sections: Sections,
    overrides: &Overrides,
) -> Result<(Config, Report), Vec<Fault>> {
    let Sections { global, proxies, resolvers, mut report } = sections;
    let mut dns = resolvers::dns(&resolvers, &mut report);
    let mut mapping = Mapping {
        report,
        faults: Vec::new(),
        spans: Spans::new(),
        backends: Vec::new(),
        by_name: HashMap::new(),
        prefer: None,
        stats: Stats::default(),
    };
    let socket = mapping.socket(global.socket.as_ref());
    let level = mapping.level(global.level.as_ref());
    let mode = global.mode.as_ref().map(|set| set.value).unwrap_or_default();
    let log = mapping.log(&global, overrides);
    let global = mapping.global(&global);
    for proxy in &proxies {
        mapping.backend(proxy);
    }
    let mut listeners = Vec::new();
    for proxy in &proxies {
        listeners.extend(mapping.listener(listeners.len(), proxy, &proxies));
    }
    if listeners.is_empty() && mapping.faults.is_empty() {
        let help = "write a section `listen NAME` with a bind line and a server line";
        mapping
            .faults
            .push(Fault::new("there is nothing to relay: nowhere agents connect to").help(help));
    }
    mapping.farewell();
    let Mapping { report, mut faults, spans, backends, prefer, stats, .. } = mapping;
    dns.prefer = prefer.unwrap_or(dns.prefer);
    let config = Config {
        global: overrides.over(global),
        listeners,
        backends,
        proxy: config::Proxy::default(),
        dns,
        stats,
        control: Control { socket: overrides.control.clone().or(socket), mode, level },
        log,
    };
    if faults.is_empty() {
        faults.extend(check::judge(&config, &spans));
    }
    if faults.is_empty() { Ok((config, report)) } else { Err(faults) }
}

struct Mapping {
    report: Report,
    faults: Vec<Fault>,
    spans: Spans,
    backends: Vec<Backend>,
    by_name: HashMap<String, usize>,
    /// What the servers say of the kind of their addresses; the last is right.
    prefer: Option<Prefer>,
    stats: Stats,
}

impl Mapping {
    fn mapped<T>(&mut self, set: &Set<T>, text: impl Into<String>) {
        self.report.note(NoteKind::Mapped, set.line, set.said.as_str(), text);
    }

    fn danger<T>(&mut self, set: &Set<T>, text: impl Into<String>) {
        self.report.note(NoteKind::Danger, set.line, set.said.as_str(), text);
    }

    fn level(&mut self, level: Option<&Set<ControlLevel>>) -> ControlLevel {
        let Some(set) = level else { return ControlLevel::default() };
        self.mapped(set, "[control] level: for others than root and who runs fanin");
        set.value
    }

    fn socket(&mut self, socket: Option<&Set<std::path::PathBuf>>) -> Option<std::path::PathBuf> {
        let set = socket?;
        self.mapped(set, "[control] socket");
        if set.value.starts_with("/tmp") || set.value.starts_with("/var/tmp") {
            let text = "everybody may write in this directory, and take the socket's name before \
                        fanin does; write /run/fanin/relay.sock, which RuntimeDirectory=fanin of \
                        systemd makes for fanin alone";
            self.danger(set, text);
        }
        Some(set.value.clone())
    }

    /// With a syslog server, what HAProxy would send it; `option tcplog` or not, as that is the only line
    /// of theirs that there is.
    fn log(&mut self, written: &super::sections::Global, overrides: &Overrides) -> Log {
        let mut log = Log::default();
        if let Some(set) = &written.log {
            let text = "[log] syslog, facility, format = \"tcplog\"; what is no session's goes to \
                        standard error too";
            self.mapped(set, text);
            let LogLine { target, form, sample, facility, quiet } = set.value.clone();
            (log.syslog, log.facility, log.format) = (Some(target), facility, LogFormat::Tcplog);
            (log.syslog_form, log.sample) = (form, sample.unwrap_or(log.sample));
            if quiet {
                log.sessions = SessionLines::None;
            }
            // What collectors of their lines look for.
            log.tag = "haproxy".to_owned();
        }
        if let Some(set) = &written.output {
            self.mapped(set, "[log] output, format = \"tcplog\"");
            (log.output, log.format) = (set.value, LogFormat::Tcplog);
        }
        if let Some(set) = &written.tag {
            self.mapped(set, "[log] tag");
            log.tag.clone_from(&set.value);
        }
        if let Some(set) = &written.no_null {
            self.mapped(set, "[log] null = false, for all listeners");
            log.null = false;
        }
        if let Some(set) = written.no_normal.as_ref().filter(|_| log.sessions == SessionLines::All)
        {
            self.mapped(set, "[log] sessions = \"failed\", for all listeners");
            log.sessions = SessionLines::Failed;
        }
        log.format = overrides.log_format.unwrap_or(log.format);
        log
    }

    fn global(&mut self, written: &super::sections::Global) -> Global {
        let mut global = Global::default();
        if let Some(set) = &written.maxconn {
            self.mapped(set, "[global] maxconn");
            global.maxconn = Some(set.value);
        }
        if let Some(set) = &written.workers {
            self.mapped(set, "[global] workers");
            global.workers = Some(set.value);
        }
        if let Some(set) = &written.pipes {
            self.mapped(set, "[global] pipes");
            global.pipes = Some(set.value);
        }
        if let Some(set) = &written.drain {
            self.mapped(set, "[global] drain and retire");
            global.drain = set.value;
            global.retire = set.value;
        }
        if let Some(set) = &written.nosplice {
            self.mapped(set, "[global] splice = \"never\"");
            global.splice = SpliceMode::Never;
        }
        global
    }

    fn backend(&mut self, proxy: &Proxy) {
        if !proxy.kind.is_back() || (proxy.kind == Kind::Listen && proxy.servers.is_empty()) {
            return;
        }
        let index = self.backends.len();
        if self.by_name.insert(proxy.name.value.clone(), index).is_some() {
            let title = format!("two backends are called `{}`", proxy.name.value);
            self.faults.push(
                Fault::new(title)
                    .at(proxy.name.span.clone(), "this name is taken")
                    .help("give each `backend` and `listen` a name of its own"),
            );
        }
        self.spans.insert(Place::Backend(index), proxy.name.span.clone());
        let settings = &proxy.settings;
        let mut backend = Backend::new(proxy.name.value.as_str());
        if let Some(set) = &settings.balance {
            self.mapped(set, format!("[backend.{}] balance", proxy.name.value));
            backend.balance = set.value;
        }
        if let Some(set) = &settings.retries {
            self.mapped(set, "retries");
            backend.retries = set.value;
        }
        // Off unless it is asked for, there.
        backend.redispatch = settings.redispatch.as_ref().is_some_and(|set| set.value);
        if let Some(set) = &settings.redispatch {
            self.mapped(
                set,
                "redispatch: from the first failure on, not at the last attempt alone",
            );
        }
        backend.timeouts = self.timeouts(proxy);
        if let Some(set) = &settings.source {
            self.mapped(set, format!("[backend.{}] source", proxy.name.value));
            backend.source = set.value.clone();
        }
        let sources = unison::of_servers(proxy, |options| options.source.clone());
        if let Some(source) = self.unison("source", sources) {
            backend.source = source;
        }
        self.queue(proxy, &mut backend);
        let slow_starts = unison::of_servers(proxy, |options| options.slow_start);
        backend.slow_start = self.unison("slowstart", slow_starts).unwrap_or_default();
        let ends = unison::of_servers(proxy, |options| options.ends_on_down);
        backend.ends_on_down = self.unison("on-marked-down", ends).unwrap_or_default();
        backend.tls = self.tls(proxy);
        for server in &proxy.servers {
            let server = self.server(index, backend.servers.len(), server, settings);
            backend.servers.push(server);
        }
        if backend.servers.is_empty() {
            let title = format!("backend `{}` has no servers", proxy.name.value);
            self.faults.push(
                Fault::new(title)
                    .at(proxy.name.span.clone(), "its sessions would have nowhere to go")
                    .help("write a line such as: server mothership intake.example.com:443"),
            );
        }
        self.backends.push(backend);
    }

    /// Sessions wait for servers at their maxconn as long as `timeout queue` says, else as for a
    /// connect (manual, 4.2).
    fn queue(&mut self, proxy: &Proxy, backend: &mut Backend) {
        let patience = self.timeout(&proxy.settings, Wait::Queue, "queue");
        backend.queue.patience = patience.unwrap_or(backend.timeouts.connect);
        let bounds: Option<Vec<u32>> =
            proxy.servers.iter().map(|server| server.options.queue_max).collect();
        if let Some(sum) = bounds.map(|bounds| bounds.into_iter().sum::<u32>())
            && sum > 0
        {
            backend.queue.places = sum.min(value::QUEUE_PLACES_MAX);
            let text = "queue_max: one queue for all servers, as long as theirs together";
            self.mapped(&proxy.name, text);
        }
    }

    fn timeouts(&mut self, proxy: &Proxy) -> Timeouts {
        let settings = &proxy.settings;
        let defaults = Timeouts::default();
        let connect = self.timeout(settings, Wait::Connect, "connect");
        let server = self.idle(settings, Wait::Server, "server_idle");
        if connect.is_none() {
            let text = format!(
                "`timeout connect` is not set: {}",
                value::display_duration(defaults.connect)
            );
            self.unset(proxy, text);
        }
        if server.is_none() {
            let text = format!(
                "`timeout server` is not set: {}",
                value::display_duration(defaults.server_idle)
            );
            self.unset(proxy, text);
        }
        let server_idle = server.unwrap_or(defaults.server_idle);
        let fins = [Wait::ClientFin, Wait::ServerFin]
            .into_iter()
            .filter_map(|wait| self.timeout(settings, wait, "half_closed: the longer of the two"))
            .max();
        // Without them what has half closed waits as long as what has not.
        let client = time(settings, Wait::Client).unwrap_or(server_idle);
        Timeouts {
            connect: connect.unwrap_or(defaults.connect),
            server_idle,
            half_closed: fins.unwrap_or_else(|| client.max(server_idle)),
        }
    }

    fn unset(&mut self, proxy: &Proxy, text: String) {
        let text = format!("{text} here, where HAProxy waits for ever");
        self.report.note(NoteKind::Danger, proxy.name.line, proxy.name.said.as_str(), text);
    }

    fn timeout(&mut self, settings: &Settings, wait: Wait, key: &str) -> Option<Duration> {
        let set = settings.timeouts[wait as usize].as_ref()?;
        self.mapped(set, key);
        Some(set.value)
    }

    /// How long one side may be silent: `timeout tunnel` takes the place of the side's own.
    fn idle(&mut self, settings: &Settings, wait: Wait, key: &str) -> Option<Duration> {
        let set = settings.timeouts[wait as usize].as_ref();
        if let Some(tunnel) = settings.timeouts[Wait::Tunnel as usize].as_ref() {
            self.mapped(tunnel, "client_idle and server_idle: from the start of a session, not from the first bytes both ways");
            return Some(tunnel.value);
        }
        let set = set?;
        self.mapped(set, key);
        if set.value < AGENTS_KEEP {
            let text = "this cuts agents that keep their connections: those written in Go keep idle \
                        ones for 90 s and must be who ends them; write 120s";
            self.danger(set, text);
        }
        Some(set.value)
    }

    fn listener(&mut self, index: usize, proxy: &Proxy, all: &[Proxy]) -> Option<Listener> {
        if !proxy.kind.is_front() {
            return None;
        }
        let is_page = proxy.stats.is_some()
            && proxy.servers.is_empty()
            && proxy.settings.default_backend.is_none()
            && proxy.switches.is_empty();
        if is_page {
            for bind in &proxy.binds {
                self.mapped(&bind.address, "[stats] bind");
                let at = self.stats.bind.len();
                self.spans.insert(Place::Stats(at), bind.address.span.clone());
                self.stats.bind.push(bind.address.value);
            }
            let StatsUsers { users, administer } = &proxy.settings.stats_users;
            if !self.stats.viewers.is_empty() || (self.stats.bind.len() > 1 && !users.is_empty()) {
                let text = "there is one list of those who may look and one of those who may change servers, for \
                            all pages";
                self.danger(&proxy.name, text);
            }
            let named = || users.iter().map(|(name, hash)| (name.clone(), hash.clone()));
            self.stats.viewers.extend(named());
            if *administer {
                self.stats.admins.extend(named());
            }
            return None;
        }
        if proxy.stats.is_some() {
            let text =
                "a section that relays serves no page: write a section `listen stats` of its own";
            self.danger(&proxy.name, text);
        }
        let is_door = self.is_door(proxy);
        let backend = self.backend_of(proxy)?;
        if proxy.binds.is_empty() {
            let text = "it has no bind line and never listens, there as here";
            self.report.note(NoteKind::Ignored, proxy.name.line, proxy.name.said.as_str(), text);
            return None;
        }
        let bind = proxy.binds.iter().map(|bind| bind.address.value).collect();
        let mut listener = Listener::new(bind, backend);
        listener.name.clone_from(&proxy.name.value);
        if is_door {
            listener.mode = config::Mode::Agent;
        }
        self.spans.insert(Place::Listener(index), proxy.name.span.clone());
        for (nth, bind) in proxy.binds.iter().enumerate() {
            self.spans.insert(Place::Bind(index, nth), bind.address.span.clone());
            self.mapped(&bind.address, "[[listener]] bind");
        }
        if let Some(set) = &proxy.settings.maxconn {
            self.mapped(set, "[[listener]] maxconn");
            listener.maxconn = Some(set.value);
        }
        if let Some(set) = &proxy.settings.backlog {
            self.mapped(set, "[[listener]] backlog");
            listener.backlog = set.value;
        }
        listener.client_idle = self.client_idle(proxy, all, backend);
        self.rules(proxy, &mut listener);
        self.routes(proxy, &mut listener, all)?;
        if let Some(set) = &proxy.accept_proxy {
            self.mapped(set, "[[listener]] proxy_from");
            let text = "whoever can connect may claim any address: list your load balancers in \
                        [[listener]] proxy_from";
            self.danger(set, text);
            listener.proxy_from = Network::ALL.to_vec();
        }
        Some(listener)
    }

    /// Where those go who ask for a name; `None` where one of them leads nowhere.
    fn routes(&mut self, proxy: &Proxy, listener: &mut Listener, all: &[Proxy]) -> Option<()> {
        for Switch { backend, names } in &proxy.switches {
            let to = "by a name that is waited for, 5 s at the most: [[listener]] routes to";
            let index = self.backend_named(backend, to)?;
            let default = &self.backends[listener.backend].name;
            if tunnel_of(&backend.value, all) != tunnel_of(default, all) {
                let text = "its `timeout tunnel` is not that of default_backend, which counts for every client \
                            of this frontend: see client_idle";
                self.danger(backend, text);
            }
            for sni in names {
                // Of two for one name the first is it.
                if !listener.routes.iter().any(|route| route.sni == *sni) {
                    listener.routes.push(NameRoute { sni: sni.clone(), backend: index });
                }
            }
        }
        Some(())
    }

    /// Rules in their order, the first that holds decides, and who meets none is accepted: worked
    /// out as the set of those who are rejected, and written as the shorter of the two lists.
    fn rules(&mut self, proxy: &Proxy, listener: &mut Listener) {
        let mut undecided = Networks::everything();
        let mut rejected = Networks::default();
        for set in &proxy.verdicts {
            let met = undecided.intersection(&set.value.who);
            if !set.value.accept {
                rejected = rejected.union(&met);
            }
            undecided = undecided.without(&met);
            self.mapped(set, "[[listener]] allow and deny");
        }
        if rejected.is_empty() {
            return;
        }
        let (deny, allow) = (rejected.networks(), rejected.complement().networks());
        match proxy.verdicts.first() {
            Some(set) if allow.is_empty() => {
                let fault = Fault::new("nobody may connect")
                    .at(set.span.clone(), "rejects everybody that is left");
                self.faults.push(fault.help("accept somebody, or remove the section"));
            }
            _ if allow.len() < deny.len() => listener.allow = allow,
            _ => listener.deny = deny,
        }
    }

    /// `timeout client` stands with who listens, `timeout tunnel` with who has servers.
    fn client_idle(&mut self, proxy: &Proxy, all: &[Proxy], backend: usize) -> Duration {
        if let Some(tunnel) = tunnel_of(&self.backends[backend].name, all) {
            return tunnel;
        }
        self.idle(&proxy.settings, Wait::Client, "[[listener]] client_idle").unwrap_or_else(|| {
            let text =
                format!("`timeout client` is not set: {}", value::display_duration(IDLE_DEFAULT));
            self.unset(proxy, text);
            IDLE_DEFAULT
        })
    }

    fn backend_of(&mut self, proxy: &Proxy) -> Option<usize> {
        if !proxy.servers.is_empty() {
            return self.by_name.get(&proxy.name.value).copied();
        }
        let Some(set) = &proxy.settings.default_backend else {
            let title = format!("`{}` has nowhere to send its sessions", proxy.name.value);
            let help = match proxy.kind {
                Kind::Listen => "write a line such as: server mothership intake.example.com:443",
                _ => "write default_backend NAME, and a section `backend NAME` with servers",
            };
            self.faults.push(
                Fault::new(title).at(proxy.name.span.clone(), "no server, no backend").help(help),
            );
            return None;
        };
        self.backend_named(set, "[[listener]] backend =")
    }

    fn backend_named(&mut self, set: &Set<String>, to: &str) -> Option<usize> {
        let found = self.by_name.get(&set.value).copied();
        if found.is_some() {
            self.mapped(set, format!("{to} \"{}\"", set.value));
            return found;
        }
        let names: Vec<&str> = self.backends.iter().map(|backend| backend.name.as_str()).collect();
        let help = match value::nearest(&set.value, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write a section `backend {}`", set.value),
        };
        let title = format!("there is no backend `{}`", set.value.escape_debug());
        self.faults.push(Fault::new(title).at(set.span.clone(), "is not in this file").help(help));
        None
    }

    /// What concerns no single line.
    fn farewell(&mut self) {
        let text = "not needed any more, remove it: names are looked up again when their time to \
                    live is over, and when connects to their servers fail";
        self.report.note(NoteKind::Danger, 0, "the cron job that reloads HAProxy", text);
    }
}

/// `timeout tunnel` of the backend that is called so.
fn tunnel_of(name: &str, all: &[Proxy]) -> Option<Duration> {
    let of = all.iter().find(|other| other.kind.is_back() && other.name.value == name);
    of.and_then(|other| time(&other.settings, Wait::Tunnel))
}

fn time(settings: &Settings, wait: Wait) -> Option<Duration> {
    settings.timeouts[wait as usize].as_ref().map(|set| set.value)
}
