//! From the configuration to what the workers live by.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use hyper::header::HeaderValue;

use crate::backend::Member;
use crate::backend::board::{Board, Room};
use crate::config::{self, Config, Listener, NamePattern, NameRoute, Networks, PerSource, Server};
use crate::control::Addresses;
use crate::door;
use crate::door::trust::{self, Trust};
use crate::gate::Quota;
use crate::gate::rules::{AddressSet, Rules};
use crate::gate::sources::{SourceLimits, SourceRate, Sources};
use crate::metrics::Traffic;
use crate::op::ListenerId;
use crate::session::SessionLimits;
use crate::sys::socket;
use crate::worker::plan::{Backend, Hosts, NamedWay, Names, Plan, Route, Source, SpareLimits};
use crate::worker::queue::Queue;

use super::StartError;
use super::limits::{Host, source_ports};
use super::ways;

/// Sources that are counted at the least: 1 MiB, for any number of agents behind one relay.
const SOURCES_MIN: usize = 1 << 17;

/// What outlives a reload: the servers' records and the listeners' places.
#[derive(Debug, Default)]
pub(super) struct Registry {
    boards: HashMap<(String, String), Arc<Board>>,
    quotas: Vec<Arc<Quota>>,
    /// By the backend's name.
    queues: HashMap<String, Arc<Queue>>,
    /// By the backend's name: whom it trusts, if its servers speak TLS.
    trusts: HashMap<String, Trust>,
    /// By the listener's name.
    traffic: HashMap<String, Arc<Traffic>>,
    /// By the listener's name and what its route goes by: the sessions that went there.
    routed: HashMap<(String, NamePattern), Arc<AtomicU64>>,
    /// Made when a listener first has limits for its sources, and then kept.
    sources: Option<Arc<Sources>>,
}

impl Registry {
    /// Makes the plan that follows from a configuration. A server that has the same backend and
    /// name as before is the same server, wherever it is; a listener keeps its places by its number.
    ///
    /// `doors` has the listener, by its number, of each route, in order; workers listen at so many.
    ///
    /// # Errors
    /// When source ports are asked for that are the kernel's, or source addresses that this host lacks.
    pub(super) fn plan(
        &mut self,
        config: &Config,
        addresses: &Addresses,
        host: &Host,
        doors: &[usize],
        listening: usize,
    ) -> Result<Plan, StartError> {
        self.trust(config)?;
        let mut backends = Vec::new();
        for (number, backend) in config.backends.iter().enumerate() {
            let source = Source {
                addresses: source_addresses(backend)?,
                ports: source_ports(backend.source.ports, host)?,
            };
            let members = backend
                .servers
                .iter()
                .enumerate()
                .map(|(place, server)| self.member(backend, server, addresses.of(number, place)))
                .collect();
            backends.push(Backend {
                members,
                algorithm: backend.balance,
                redispatch: backend.redispatch,
                queue: self.queue(backend),
                drain_moved: backend.leaves_on_move,
                source,
                spare: backend.spare.max.map(|max| SpareLimits { max, idle: backend.spare.idle }),
            });
        }
        let mut listeners = Vec::new();
        for (number, listener) in config.listeners.iter().enumerate() {
            listeners.push(Route {
                backend: listener.backend,
                limits: limits(listener, &config.backends[listener.backend]),
                names: self.names(listener, config),
                // These are one for all addresses of a listener.
                quota: self.quota(number, listener.maxconn.unwrap_or(u32::MAX)),
                traffic: Arc::clone(self.traffic.entry(listener.name.clone()).or_default()),
                rules: Arc::new(self.rules(listener, config.global.maxconn)),
            });
        }
        let routes = doors.iter().map(|&door| listeners[door].clone()).collect();
        let listening = u16::try_from(listening).unwrap_or(u16::MAX);
        Ok(Plan { routes, listening, backends })
    }

    /// Reads whom each backend trusts; what has not changed stays, with the sessions to be resumed.
    fn trust(&mut self, config: &Config) -> Result<(), StartError> {
        let mut trusts = HashMap::new();
        for backend in &config.backends {
            let Some(tls) = &backend.tls else { continue };
            let failed = |why| StartError::Tls { backend: backend.name.clone(), why };
            let newer = Trust::read(tls.ca.clone()).map_err(failed)?;
            for server in &backend.servers {
                trust::name(&server_name(backend, server)).map_err(failed)?;
            }
            let trust = match self.trusts.get(&backend.name).cloned() {
                Some(known) => known.or_newer(newer),
                None => newer,
            };
            trusts.insert(backend.name.clone(), trust);
        }
        self.trusts = trusts;
        Ok(())
    }

    /// The doors' plan that goes with the workers': what both live by is made once.
    /// `doors` has the number of each address and its listener's, in order; `own` is where the process
    /// listens.
    pub(super) fn doors(
        &self,
        config: &Config,
        plan: &Plan,
        doors: &[(ListenerId, usize)],
        own: Vec<SocketAddr>,
    ) -> door::Plan {
        let backends = config.backends.iter().zip(&plan.backends).map(|(backend, planned)| {
            let servers = backend.servers.iter();
            door::Backend {
                members: planned.members.clone(),
                manners: servers.map(|server| self.manner(backend, server)).collect(),
                algorithm: backend.balance,
                redispatch: backend.redispatch,
                attempts_max: backend.retries.saturating_add(1),
                connect: backend.timeouts.connect,
                server_idle: backend.timeouts.server_idle,
                keep_idle: backend.keep_idle,
                prefix: backend.path.trim_end_matches('/').to_owned(),
                sources: planned.source.addresses.clone(),
            }
        });
        let routes = doors.iter().map(|&(id, number)| {
            let (listener, planned) = (&config.listeners[number], &plan.routes[usize::from(id.0)]);
            door::Route {
                listener: id,
                backend: planned.backend,
                quota: Arc::clone(&planned.quota),
                traffic: Arc::clone(&planned.traffic),
                rules: Arc::clone(&planned.rules),
                client_idle: listener.client_idle,
                body_max: listener.body_max,
                door: ways::entrance(config, plan, number),
            }
        });
        let ways = Arc::new(ways::ways(config, own));
        door::Plan { routes: routes.collect(), backends: backends.collect(), ways }
    }

    /// How a server is spoken with.
    fn manner(&self, backend: &config::Backend, server: &Server) -> door::Manner {
        let secure = self.trusts.get(&backend.name).and_then(|trust| {
            let name = trust::name(&server_name(backend, server)).ok()?;
            Some(door::Secure::new(Arc::clone(trust.config()), name))
        });
        door::Manner { host: host(backend, server), secure }
    }

    fn member(
        &mut self,
        backend: &config::Backend,
        server: &Server,
        addresses: &[SocketAddr],
    ) -> Member {
        let name = || Arc::new(Board::new(format!("{}/{}", backend.name, server.name)));
        let board = self.boards.entry(identity(&backend.name, server)).or_insert_with(name);
        Member {
            board: Arc::clone(board),
            addresses: addresses.to_vec(),
            weight: server.weight,
            backup: server.backup,
            room: Room { sessions: server.maxconn, connecting: backend.connecting_max },
            slow_start: backend.slow_start,
            introduce: server.send_proxy,
        }
    }

    /// Where sessions of a backend wait. Another patience or size begins with a queue of its own; who
    /// waits in the one before goes on by its rules.
    fn queue(&mut self, backend: &config::Backend) -> Arc<Queue> {
        let config::Queue { patience, places } = backend.queue;
        let queue = self.queues.entry(backend.name.clone());
        let queue = queue.or_insert_with(|| Arc::new(Queue::new(patience, places)));
        if queue.patience != patience || queue.places.limit() != places {
            *queue = Arc::new(Queue::new(patience, places));
        }
        Arc::clone(queue)
    }

    /// What a listener asks of those who come.
    fn rules(&mut self, listener: &Listener, maxconn: Option<u32>) -> Rules {
        let set = |networks: Networks| AddressSet::new(networks.into_ranges());
        let PerSource { sessions, rate, ipv4_prefix, ipv6_prefix } = listener.per_source;
        let rate = rate.map(|rate| SourceRate { connections: rate.count, period: rate.period });
        let limits = (sessions.is_some() || rate.is_some()).then_some(SourceLimits {
            sessions,
            rate,
            ipv4_prefix,
            ipv6_prefix,
        });
        if limits.is_some() {
            // Twice what can be there at one time: a full bucket is then a rarity.
            let there = maxconn.map_or(SOURCES_MIN, |maxconn| 2 * maxconn as usize);
            self.sources.get_or_insert_with(|| Arc::new(Sources::new(there.max(SOURCES_MIN))));
        }
        Rules {
            permitted: listener.permitted().map(set),
            proxies: match listener.proxy_from.as_slice() {
                [] => None,
                from => Some(set(from.iter().copied().collect())),
            },
            limits,
            sources: self.sources.clone(),
            salt: salt(&listener.name),
            ramp: listener.ramp,
        }
    }

    /// Where those go who ask for a name.
    fn names(&mut self, listener: &Listener, config: &Config) -> Names {
        let way = |NameRoute { sni, backend }: &NameRoute| NamedWay {
            hosts: match sni.clone() {
                NamePattern::Host(host) => Hosts::One(host),
                NamePattern::Under(domain) => Hosts::Under(domain),
            },
            backend: *backend,
            limits: limits(listener, &config.backends[*backend]),
            taken: {
                let counted = self.routed.entry((listener.name.clone(), sni.clone()));
                Arc::clone(counted.or_default())
            },
        };
        let are_read = listener.sni || !listener.routes.is_empty();
        Names { are_read, ways: listener.routes.iter().map(way).collect() }
    }

    fn quota(&mut self, listener: usize, limit: u32) -> Arc<Quota> {
        if let Some(quota) = self.quotas.get(listener) {
            quota.resize(limit);
        } else {
            self.quotas.push(Arc::new(Quota::new(limit)));
        }
        Arc::clone(&self.quotas[listener])
    }
}

/// How long sessions through a listener may wait that go to this backend.
fn limits(listener: &Listener, backend: &config::Backend) -> SessionLimits {
    SessionLimits {
        connect: backend.timeouts.connect,
        client_idle: listener.client_idle,
        server_idle: backend.timeouts.server_idle,
        half_closed: backend.timeouts.half_closed,
        attempts_max: backend.retries.saturating_add(1),
    }
}

/// The addresses that connections come from, each of which can be bound now.
fn source_addresses(backend: &config::Backend) -> Result<Vec<IpAddr>, StartError> {
    for &address in &backend.source.addresses {
        let name = || backend.name.clone();
        socket::bind_alone((address, 0).into()).map_err(|errno| StartError::SourceAddress {
            backend: name(),
            address,
            errno,
        })?;
    }
    Ok(backend.source.addresses.clone())
}

/// Tells a listener's sources from those of others, over a reload too.
fn salt(listener: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(listener)
}

/// The name that a server is known by: in TLS, and in the `Host` of requests.
fn server_name<'a>(backend: &'a config::Backend, server: &'a Server) -> Cow<'a, str> {
    match backend.tls.as_ref().and_then(|tls| tls.sni.as_ref()) {
        Some(name) => name.into(),
        None => server.address.host(),
    }
}

/// The `Host` of requests: the name, and the port where it is not the one that goes without saying.
fn host(backend: &config::Backend, server: &Server) -> HeaderValue {
    let usual = if backend.tls.is_some() { 443 } else { 80 };
    let name = server_name(backend, server);
    let name = if name.contains(':') { format!("[{name}]") } else { name.into_owned() };
    let host = match server.address.port() {
        Some(port) if port != usual => format!("{name}:{port}"),
        _ => name,
    };
    // A host's name and an address hold nothing that a header must not.
    HeaderValue::try_from(host).unwrap_or_else(|_| HeaderValue::from_static("server"))
}

fn identity(backend: &str, server: &Server) -> (String, String) {
    (backend.to_owned(), server.name.clone())
}
