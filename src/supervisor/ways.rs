//! Where doors lead, from the configuration.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::{self, Config, Dns, Listener, Mode, Networks, Pattern, value};
use crate::control;
use crate::door;
use crate::door::destinations::{Destinations, Hosts};
use crate::door::lookups::{Answer, Asker};
use crate::door::request::Host;
use crate::gate::rules::AddressSet;
use crate::worker::plan::Plan;

/// What a door's listener does with who comes.
pub(super) fn entrance(config: &Config, plan: &Plan, listener: usize) -> door::Door {
    let Listener { mode, backend, .. } = config.listeners[listener];
    if mode != Mode::Proxy {
        return door::Door::Agent;
    }
    let mut servers: HashMap<_, Vec<SocketAddr>> = HashMap::new();
    let members = &plan.backends[backend].members;
    for (server, member) in config.backends[backend].servers.iter().zip(members) {
        // A service is no host that could be asked for.
        let Some(port) = server.address.port() else { continue };
        let host = server.address.host();
        let host = match host.parse::<IpAddr>() {
            Ok(address) => Host::Address(address.to_canonical()),
            Err(_) => Host::Name(host.trim_end_matches('.').to_ascii_lowercase()),
        };
        servers.entry((host, port)).or_default().extend(&member.addresses);
    }
    door::Door::Proxy { servers: Arc::new(servers) }
}

/// Where web proxy doors lead, and for whom.
pub(super) fn ways(config: &Config, own: Vec<SocketAddr>) -> door::Ways {
    let mut destinations = Destinations::default();
    for config::Destination { host, port } in &config.proxy.allow {
        let hosts = match host.clone() {
            Pattern::Any => Hosts::Any,
            Pattern::Under(domain) => Hosts::Under(domain),
            Pattern::Host(host) => Hosts::One(host),
            Pattern::Network(network) => {
                let set = [network].into_iter().collect::<Networks>().into_ranges();
                destinations.networks.push((AddressSet::new(set), *port));
                continue;
            }
        };
        destinations.hosts.push((hosts, *port));
    }
    let dns = config.dns.clone();
    let asker = Asker::new(move |name| look_up(dns.clone(), name));
    door::Ways { users: config.proxy.users.clone(), destinations, asker, own }
}

/// Where a name leads, in the doors' words.
async fn look_up(dns: Dns, name: String) -> Answer {
    if value::is_service(&name) {
        // The destination has a port already; nobody asks for another's.
        return Answer::Absent;
    }
    let (least, most) = (dns.ttl_min, dns.ttl_max);
    match control::ask(dns, &name).await {
        control::Outcome::Found { addresses, ttl } => Answer::Found {
            addresses: addresses.into_iter().map(|found| found.with_port(0).ip()).collect(),
            ttl: ttl.clamp(least, most),
        },
        control::Outcome::Absent { .. } => Answer::Absent,
        control::Outcome::Unanswered { .. } => Answer::Unanswered,
    }
}
