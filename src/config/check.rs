//! What makes a configuration impossible although each value in it is fine.
//!
//! Judges the finished [`Config`], so that what comes from a file and what comes from flags is
//! judged alike; [`Spans`] says where each part was written, if it was.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::error::Fault;
use super::routes::ROUTES_MAX;
use super::{
    Backend, Config, Destination, Listener, Mode, Pattern, Pin, Proxy, Server, ServerAddress,
};
use crate::backend::choose::Algorithm;
use crate::op::SpliceMode;

/// A part of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Pin,
    Pipes,
    /// The name of a listener.
    Listener(usize),
    /// An address of a listener.
    Bind(usize, usize),
    /// An address of the statistics.
    Stats(usize),
    /// The name of a backend.
    Backend(usize),
    /// How a backend's servers are spoken with.
    Tls(usize),
    /// The name of a server: backend, server.
    Server(usize, usize),
    /// The address of a server: backend, server.
    Address(usize, usize),
}

/// Where the parts were written, in bytes of the text.
pub(super) type Spans = HashMap<Place, Range<usize>>;

/// Everything that is wrong with `config` as a whole.
pub(super) fn judge(config: &Config, spans: &Spans) -> Vec<Fault> {
    let mut judge = Judge { spans, faults: Vec::new() };
    judge.global(config);
    judge.listener_names(&config.listeners);
    judge.bind_addresses(config);
    for (index, backend) in config.backends.iter().enumerate() {
        judge.servers(index, backend, &config.listeners);
    }
    judge.loops(config);
    judge.doors(config);
    judge.faults
}

struct Judge<'a> {
    spans: &'a Spans,
    faults: Vec<Fault>,
}

impl Judge<'_> {
    fn fault(&mut self, at: Place, title: String, why: &str, help: &str) -> &mut Fault {
        let mut fault = Fault::new(title).help(help);
        fault.span = self.spans.get(&at).cloned();
        fault.why = why.to_owned();
        self.faults.push(fault);
        let last = self.faults.len() - 1;
        &mut self.faults[last]
    }

    /// A fault that has an earlier part as its other half.
    fn clash(&mut self, at: Place, earlier: Place, title: String, why: &str, help: &str) {
        let other = self.spans.get(&earlier).cloned();
        self.fault(at, title, why, help).other = other.map(|span| (span, "first here".to_owned()));
    }

    fn global(&mut self, config: &Config) {
        let global = &config.global;
        if let (Pin::List(cpus), Some(workers)) = (&global.pin, global.workers)
            && usize::from(workers) > cpus.len()
        {
            self.fault(
                Place::Pin,
                format!("{workers} workers cannot be pinned to {} CPUs", cpus.len()),
                "worker n runs on the n-th CPU of this list",
                "list as many CPUs as there are workers, or ask for fewer workers",
            );
        }
        if global.splice == SpliceMode::Always && global.pipes == Some(0) {
            self.fault(
                Place::Pipes,
                "splice \"always\" is impossible with 0 pipes".to_owned(),
                "bytes are spliced through pipes",
                "write pipes = \"auto\", or splice = \"never\"",
            );
        }
    }

    fn listener_names(&mut self, listeners: &[Listener]) {
        let mut seen = HashMap::new();
        for (index, listener) in listeners.iter().enumerate() {
            if listener.routes.len() > ROUTES_MAX {
                self.fault(
                    Place::Listener(index),
                    format!("listener `{}` has {} routes", listener.name, listener.routes.len()),
                    "each session looks through them",
                    &format!("at most {ROUTES_MAX}; \"*.example.com\" stands for many names"),
                );
            }
            let Some(earlier) = seen.insert(&listener.name, index) else {
                continue;
            };
            // Names taken from one address clash because the addresses do, and that is said there.
            let same = |bind: &SocketAddr| bind.port() != 0 && listeners[earlier].bind[0] == *bind;
            if !same(&listener.bind[0]) {
                self.clash(
                    Place::Listener(index),
                    Place::Listener(earlier),
                    format!("two listeners are called `{}`", listener.name),
                    "this name is taken",
                    "give each listener a name of its own: log lines and metrics go by it",
                );
            }
        }
    }

    fn bind_addresses(&mut self, config: &Config) {
        let listeners = config.listeners.iter().enumerate().flat_map(|(index, listener)| {
            let place = move |(nth, address)| (Place::Bind(index, nth), address);
            listener.bind.iter().enumerate().map(place)
        });
        let stats = config.stats.bind.iter().enumerate();
        let stats = stats.map(|(nth, address)| (Place::Stats(nth), address));
        let mut seen = HashMap::new();
        // On port 0 the kernel gives each its own.
        for (place, address) in listeners.chain(stats).filter(|(_, address)| address.port() != 0) {
            if let Some(earlier) = seen.insert(address, place) {
                self.clash(
                    place,
                    earlier,
                    format!("{address} is listened on twice"),
                    "the kernel would share its connections out at random",
                    "give each listener an address or a port of its own",
                );
            }
        }
    }

    fn servers(&mut self, index: usize, backend: &Backend, listeners: &[Listener]) {
        let mut seen = HashMap::new();
        for (nth, server) in backend.servers.iter().enumerate() {
            if let Some(earlier) = seen.insert(&server.name, nth) {
                self.clash(
                    Place::Server(index, nth),
                    Place::Server(index, earlier),
                    format!(
                        "two servers of backend `{}` are called `{}`",
                        backend.name, server.name
                    ),
                    "this name is taken",
                    "give each server a name of its own; one that carries more takes a weight",
                );
            }
        }
        if backend.rebalance && matches!(backend.balance, Algorithm::Source | Algorithm::First) {
            self.fault(
                Place::Backend(index),
                format!(
                    "`rebalance` cannot work with balance \"{}\" in backend `{}`",
                    backend.balance, backend.name
                ),
                "its servers are not to have even shares",
                "remove it, or write balance = \"roundrobin\", \"leastconn\" or \"random\"",
            );
        }
        let serves = |listener: &&Listener| listener.leads_to(index);
        let mut listeners = listeners.iter().filter(serves).peekable();
        let proxied = listeners.peek().is_some() && listeners.all(|it| it.mode == Mode::Proxy);
        if backend.servers.is_empty() && !proxied {
            let Backend { name, .. } = backend;
            self.fault(
                Place::Backend(index),
                format!("backend `{name}` has 0 servers"),
                "its sessions would have nowhere to go",
                &format!("write [[backend.{name}.server]] with address = \"HOST:PORT\""),
            );
        }
        if !backend.servers.is_empty() && backend.servers.iter().all(|server| server.weight == 0) {
            self.fault(
                Place::Backend(index),
                format!("every server of backend `{}` has weight 0", backend.name),
                "no session could ever be given to a server",
                "give at least one of its servers a weight of 1 or more",
            );
        }
    }

    fn loops(&mut self, config: &Config) {
        for (index, backend) in config.backends.iter().enumerate() {
            for (nth, server) in backend.servers.iter().enumerate() {
                let Some((at, bind)) = met(config, index, &server.address) else {
                    continue;
                };
                let other = self.spans.get(&at).cloned();
                self.fault(
                    Place::Address(index, nth),
                    format!("server `{}` is the relay itself, on {bind}", server.name),
                    "each session would open another one, without end",
                    "write the address of the server behind the relay",
                )
                .other = other.map(|span| (span, "the relay listens here".to_owned()));
            }
        }
    }
}

impl Judge<'_> {
    /// What an agent door cannot do, and what only an agent door can.
    fn doors(&mut self, config: &Config) {
        for (index, listener) in config.listeners.iter().enumerate() {
            let backend = config.backend_of(listener);
            match listener.mode {
                Mode::Tcp => self.without_requests(index, listener, backend),
                Mode::Agent => self.door(index, listener, backend),
                Mode::Proxy => self.proxy(index, listener, config),
            }
        }
        for (index, backend) in config.backends.iter().enumerate() {
            let plain = |server: &&Server| {
                server.check.as_ref().is_some_and(|check| {
                    check.http.is_some() && check.port.is_none() && check.address.is_none()
                })
            };
            let asked = backend.servers.iter().find(plain).filter(|_| backend.tls.is_some());
            if let Some(server) = asked {
                self.fault(
                    Place::Tls(index),
                    format!("the check of server `{}` asks without TLS", server.name),
                    "its servers speak TLS on this port",
                    "remove `http` from the check, which then connects; or let it ask another `port`",
                );
            }
        }
    }

    fn without_requests(&mut self, index: usize, listener: &Listener, backend: &Backend) {
        let Backend { name, path, tls, .. } = backend;
        let key = match (tls, path.as_str()) {
            (Some(_), _) => "tls",
            (None, "") => return,
            _ => "path",
        };
        self.fault(
            Place::Listener(index),
            format!("listener `{}` passes bytes on, and backend `{name}` has `{key}`", listener.name),
            "modes \"tcp\" and \"proxy\" neither speak TLS nor change paths",
            "write mode = \"agent\"; or a backend of its own, where TLS stays between agent and server",
        );
    }

    fn proxy(&mut self, index: usize, listener: &Listener, config: &Config) {
        let (at, name) = (Place::Listener(index), &listener.name);
        let backend = config.backend_of(listener);
        self.without_requests(index, listener, backend);
        self.door(index, listener, backend);
        let Proxy { users, allow } = &config.proxy;
        if allow.is_empty() && backend.servers.is_empty() {
            self.fault(
                at,
                format!("web proxy door `{name}` leads nowhere"),
                "nobody gets anywhere unless it is named",
                "say where: [proxy] with allow = [\"intake.example.com:443\"]",
            );
        }
        let reachable = listener.bind.iter().any(|bind| !bind.ip().to_canonical().is_loopback());
        let everywhere = |to: &Destination| match &to.host {
            Pattern::Any => true,
            // *.com
            Pattern::Under(domain) => !domain.contains('.'),
            Pattern::Host(_) => false,
            Pattern::Network(network) => network.is_wide(),
        };
        let open = allow.iter().any(everywhere) && users.is_empty();
        let anybody = listener.allow.is_empty() || listener.allow.iter().any(|it| it.is_wide());
        if open && reachable && anybody {
            self.fault(
                at,
                format!("web proxy door `{name}` is open to everybody, for everywhere"),
                "whoever reaches it could hide behind this host",
                "name users in [proxy], or the agents' networks in `allow` of the listener, or hosts \
                 instead of everything in `allow` of [proxy]",
            );
        }
    }

    fn door(&mut self, index: usize, listener: &Listener, backend: &Backend) {
        let at = Place::Listener(index);
        let name = &listener.name;
        if !listener.proxy_from.is_empty() {
            self.fault(
                at,
                format!("door `{name}` has `proxy_from`"),
                "a door reads no PROXY headers",
                "remove it, and let agents come directly or by a balancer that says nothing first",
            );
        }
        if listener.sni || !listener.routes.is_empty() {
            self.fault(
                at,
                format!("door `{name}` has `sni` or `routes`"),
                "its agents speak HTTP with it, and no TLS with their servers through it",
                "remove it, or write mode = \"tcp\"",
            );
        }
        if listener.ramp.is_some() {
            self.fault(
                at,
                format!("door `{name}` has `ramp`"),
                "its servers see kept connections, not the agents' crowd",
                "remove it; `maxconn` of the servers bounds what reaches them at one time",
            );
        }
        if let Some(server) = backend.servers.iter().find(|server| server.send_proxy.is_some()) {
            self.fault(
                at,
                format!("door `{name}` goes to server `{}`, which has `send_proxy`", server.name),
                "its connections to servers are shared by all agents",
                "remove send_proxy from the server, or write a backend of its own for the door",
            );
        }
    }
}

/// The address at which a listener of this backend would meet its own connection to `server`.
pub(super) fn met(
    config: &Config,
    backend: usize,
    server: &ServerAddress,
) -> Option<(Place, SocketAddr)> {
    let of_backend = |(_, listener): &(usize, &Listener)| listener.leads_to(backend);
    config
        .listeners
        .iter()
        .enumerate()
        .filter(of_backend)
        .flat_map(|(index, listener)| {
            let place = move |(nth, &bind)| (Place::Bind(index, nth), bind);
            listener.bind.iter().enumerate().map(place)
        })
        .find(|&(_, bind)| leads_to(server, bind))
}

/// Whether a connect to `server` from this host arrives at `bind`, as far as the text tells: the
/// host's other addresses, and what names stand for, are not known here.
fn leads_to(server: &ServerAddress, bind: SocketAddr) -> bool {
    let loopback = |bind: IpAddr| bind.is_unspecified() || bind.is_loopback();
    match server {
        ServerAddress::Ip(server) => {
            let (to, at) = (server.ip().to_canonical(), bind.ip().to_canonical());
            server.port() == bind.port() && (to == at || (to.is_loopback() && at.is_unspecified()))
        }
        ServerAddress::Service { .. } => false,
        ServerAddress::Name { host, port } => {
            *port == bind.port()
                && host.trim_end_matches('.').eq_ignore_ascii_case("localhost")
                && loopback(bind.ip())
        }
    }
}
