//! Where the servers of a configuration are: the names among them looked up.
//!
//! The system's own resolver is asked (files, DNS, whatever `nsswitch.conf` says), on threads that
//! may block, and not for longer than [`PATIENCE`].

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::config::{Config, ServerAddress};

/// How long all look-ups together may take: what two attempts of the C library's resolver take at
/// one name server (resolv.conf(5): timeout 5 s, attempts 2).
const PATIENCE: Duration = Duration::from_secs(10);
/// Addresses kept of one name.
const ADDRESSES_MAX: usize = 64;

/// The addresses of every server, each at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses(Vec<Vec<Vec<SocketAddr>>>);

impl Addresses {
    /// Of one server, by its index and that of its backend.
    pub fn of(&self, backend: usize, server: usize) -> &[SocketAddr] {
        &self.0[backend][server]
    }
}

type Name = (String, u16);
type Found = io::Result<Vec<SocketAddr>>;

/// Looks up the names in `config`. An error is one line for each server that could not be found.
pub(super) async fn resolve(config: &Config) -> Result<Addresses, Vec<String>> {
    let system = |(host, port): &Name| Ok((host.as_str(), *port).to_socket_addrs()?.collect());
    resolve_by(config, PATIENCE, system).await
}

async fn resolve_by(
    config: &Config,
    patience: Duration,
    look_up: impl Fn(&Name) -> Found + Clone + Send + 'static,
) -> Result<Addresses, Vec<String>> {
    let deadline = Instant::now() + patience;
    let mut found = HashMap::new();
    let mut lookups = JoinSet::new();
    for server in config.backends.iter().flat_map(|backend| &backend.servers) {
        if let ServerAddress::Name { host, port } = &server.address {
            let name = (host.clone(), *port);
            if found.insert(name.clone(), None).is_none() {
                let look_up = look_up.clone();
                lookups.spawn_blocking(move || {
                    let answer = look_up(&name);
                    (name, answer)
                });
            }
        }
    }
    while let Ok(Some(lookup)) = timeout_at(deadline, lookups.join_next()).await {
        if let Ok((name, answer)) = lookup {
            found.insert(name, Some(answer));
        }
    }
    // Those that are still waiting for an answer wait on, and nobody listens.
    lookups.detach_all();
    gather(config, patience, &found)
}

fn gather(
    config: &Config,
    patience: Duration,
    found: &HashMap<Name, Option<Found>>,
) -> Result<Addresses, Vec<String>> {
    let mut errors = Vec::new();
    let mut all = Vec::new();
    for (index, backend) in config.backends.iter().enumerate() {
        let mut servers = Vec::new();
        for server in &backend.servers {
            let addresses = match &server.address {
                ServerAddress::Ip(address) => Ok(vec![*address]),
                ServerAddress::Name { host, port } => {
                    let answer = found.get(&(host.clone(), *port)).and_then(Option::as_ref);
                    usable(answer, patience)
                        .and_then(|addresses| elsewhere(config, index, addresses))
                }
            };
            servers.push(addresses.unwrap_or_else(|(why, remedy)| {
                let (backend, name) = (&backend.name, &server.name);
                let place = &server.address;
                errors.push(format!("server {backend}/{name}: {place} {why}; {remedy}"));
                Vec::new()
            }));
        }
        all.push(servers);
    }
    if errors.is_empty() { Ok(Addresses(all)) } else { Err(errors) }
}

/// What is wrong with a server's name, and what to do.
type Refusal = (String, &'static str);

/// The addresses, unless one of them is the relay's own.
fn elsewhere(
    config: &Config,
    backend: usize,
    addresses: Vec<SocketAddr>,
) -> Result<Vec<SocketAddr>, Refusal> {
    match addresses.iter().find_map(|&address| config.loop_at(backend, address)) {
        Some(bind) => Err((
            format!("is the relay itself, on {bind}"),
            "write the address of the server behind the relay",
        )),
        None => Ok(addresses),
    }
}

/// The addresses that can be connected to, or why there are none and what to do.
fn usable(found: Option<&Found>, patience: Duration) -> Result<Vec<SocketAddr>, Refusal> {
    const CHECK: &str = "check the name with: getent ahosts NAME, or write the IP address";
    let Some(found) = found else {
        let why = format!("was not looked up within {} s", patience.as_secs());
        return Err((why, "check the name servers in /etc/resolv.conf, or write the IP address"));
    };
    let answer =
        found.as_ref().map_err(|error| (format!("cannot be looked up: {error}"), CHECK))?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in answer.iter().filter(|address| !address.ip().is_unspecified()) {
        if addresses.len() < ADDRESSES_MAX && !addresses.contains(address) {
            addresses.push(*address);
        }
    }
    if addresses.is_empty() {
        return Err(("has no address to connect to".to_owned(), CHECK));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    fn config(servers: &[&str]) -> Config {
        let servers: Vec<ServerAddress> = servers.iter().map(|a| a.parse().unwrap()).collect();
        let listen = ["127.0.0.1:3834".parse().unwrap()];
        Config::from_flags(&listen, &servers, &Overrides::default()).expect("valid")
    }

    fn resolved(servers: &[&str]) -> Result<Addresses, Vec<String>> {
        runtime().block_on(resolve_by(&config(servers), PATIENCE, fake))
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    fn fake((host, port): &Name) -> Found {
        match host.as_str() {
            "two.example" => Ok(vec![
                SocketAddr::from(([192, 0, 2, 1], *port)),
                SocketAddr::from(([192, 0, 2, 2], *port)),
                SocketAddr::from(([192, 0, 2, 1], *port)),
            ]),
            "self.example" => Ok(vec![SocketAddr::from(([127, 0, 0, 1], *port))]),
            "blocked.example" => Ok(vec![SocketAddr::from(([0, 0, 0, 0], *port))]),
            _ => Err(io::Error::other("Name or service not known")),
        }
    }

    #[test]
    fn names_become_addresses_each_once_and_addresses_stay() {
        let addresses =
            resolved(&["192.0.2.7:1", "two.example:443", "two.example:80"]).expect("found");
        assert_eq!(addresses.of(0, 0), ["192.0.2.7:1".parse().unwrap()]);
        let two: Vec<String> = addresses.of(0, 1).iter().map(ToString::to_string).collect();
        assert_eq!(two, ["192.0.2.1:443", "192.0.2.2:443"]);
        assert_eq!(addresses.of(0, 2)[0].port(), 80);
    }

    #[test]
    fn a_name_that_is_not_found_names_the_server_the_reason_and_the_remedy() {
        let errors = resolved(&["two.example:1", "nowhere.example:443", "blocked.example:443"])
            .expect_err("not found");
        assert_eq!(
            errors,
            [
                "server default/nowhere.example:443: nowhere.example:443 cannot be looked up: Name \
                 or service not known; check the name with: getent ahosts NAME, or write the IP \
                 address",
                "server default/blocked.example:443: blocked.example:443 has no address to connect \
                 to; check the name with: getent ahosts NAME, or write the IP address",
            ]
        );
    }

    #[test]
    fn a_name_that_stands_for_the_relay_itself_is_refused() {
        assert!(resolved(&["self.example:3835"]).is_ok());
        let errors = resolved(&["self.example:3834"]).expect_err("a loop");
        assert!(errors[0].contains("is the relay itself, on 127.0.0.1:3834"), "{errors:?}");
    }

    #[test]
    fn a_resolver_that_does_not_answer_in_time_is_given_up() {
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        let reader = std::sync::Arc::new(reader);
        // Waits until the test is over.
        let stuck = move |_: &Name| {
            let _ = nix::unistd::read(&*reader, &mut [0]);
            Err(io::Error::other("too late"))
        };
        let config = config(&["slow.example:443"]);
        let runtime = runtime();
        let errors = runtime
            .block_on(resolve_by(&config, Duration::from_millis(20), stuck))
            .expect_err("no answer");
        assert!(errors[0].contains("was not looked up within 0 s"), "{errors:?}");
        assert!(errors[0].contains("/etc/resolv.conf"), "{errors:?}");
        drop(writer);
    }

    #[test]
    fn the_system_knows_localhost() {
        let addresses = runtime().block_on(resolve(&config(&["localhost:443"]))).expect("found");
        assert!(addresses.of(0, 0).iter().all(|address| address.ip().is_loopback()));
    }
}
