//! From the configuration to what the workers live by.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::backend::Member;
use crate::backend::board::Board;
use crate::config::{Config, Listener, Server};
use crate::control::Addresses;
use crate::session::SessionLimits;
use crate::worker::admission::Quota;
use crate::worker::plan::{Backend, Plan, Route};
use crate::worker::rules::{AddressSet, Rules};

use super::StartError;
use super::limits::{Host, source_ports};

/// What outlives a reload: the servers' records and the listeners' places.
#[derive(Debug, Default)]
pub(super) struct Registry {
    boards: HashMap<(String, String, String), Arc<Board>>,
    quotas: Vec<Arc<Quota>>,
}

impl Registry {
    /// Makes the plan that follows from a configuration. A server that has the same backend, name
    /// and address as before is the same server; a listener keeps its places by its number.
    ///
    /// # Errors
    /// When source ports are asked for that are the kernel's.
    pub(super) fn plan(
        &mut self,
        config: &Config,
        addresses: &Addresses,
        host: &Host,
    ) -> Result<Plan, StartError> {
        let mut backends = Vec::new();
        for (number, backend) in config.backends.iter().enumerate() {
            let source_ports = source_ports(backend.source.ports, host)?;
            let members = backend
                .servers
                .iter()
                .enumerate()
                .map(|(place, server)| {
                    self.member(&backend.name, server, addresses.of(number, place))
                })
                .collect();
            backends.push(Backend { members, redispatch: backend.redispatch, source_ports });
        }
        let mut routes = Vec::new();
        for (number, listener) in config.listeners.iter().enumerate() {
            let backend = &config.backends[listener.backend];
            // One for all addresses of a listener.
            let quota = self.quota(number, listener.maxconn.unwrap_or(u32::MAX));
            let rules = Arc::new(rules(listener));
            for _ in &listener.bind {
                routes.push(Route {
                    backend: listener.backend,
                    limits: SessionLimits {
                        connect: backend.timeouts.connect,
                        client_idle: listener.client_idle,
                        server_idle: backend.timeouts.server_idle,
                        half_closed: backend.timeouts.half_closed,
                        attempts_max: backend.retries.saturating_add(1),
                    },
                    quota: Arc::clone(&quota),
                    rules: Arc::clone(&rules),
                });
            }
        }
        Ok(Plan { routes, backends })
    }

    fn member(&mut self, backend: &str, server: &Server, addresses: &[SocketAddr]) -> Member {
        let name = || Arc::new(Board::new(format!("{backend}/{}", server.name)));
        let board = self.boards.entry(identity(backend, server)).or_insert_with(name);
        Member {
            board: Arc::clone(board),
            addresses: addresses.to_vec(),
            weight: server.weight,
            backup: server.backup,
            maxconn: server.maxconn,
        }
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

/// What a listener asks of those who come.
fn rules(listener: &Listener) -> Rules {
    Rules { permitted: listener.permitted().map(|set| AddressSet::new(set.into_ranges())) }
}

fn identity(backend: &str, server: &Server) -> (String, String, String) {
    (backend.to_owned(), server.name.clone(), server.address.to_string())
}
