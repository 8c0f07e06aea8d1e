//! What the commands that change something do. What concerns the configuration is changed in the one
//! in force, and holds until the file is read anew or another relay process takes over: as with HAProxy,
//! whose next start knows nothing of it either. The parent believes the file alone.

use std::net::{IpAddr, SocketAddr};

use crate::backend::board::Admin;
use crate::config::{Config, ServerAddress};
use crate::control::prober::{self, Place};
use crate::control::{Applied, ENDING, Loop, Phase, Relay};
use crate::handover::{Administered, ClosedListener, Report};
use crate::metrics::CloseReason;
use crate::sys::process;

use super::change::{BY, Change, Checks, Door, What, refusal};
use super::{news, stat};

/// What is answered where there is nothing to say.
const DONE: &str = "\n";

impl<R: Relay> Loop<R> {
    /// Does what an administrator wants; the answer, as HAProxy gives it.
    pub(in crate::control) fn change(&mut self, change: &Change) -> String {
        let done = match change {
            Change::Server { backend, server, what } => find(&self.config, backend, server)
                .and_then(|place| {
                    let what = what.clone()?;
                    self.change_server(place, what)
                }),
            Change::Listener { name, maxconn } => self.limit_listener(name, *maxconn),
            Change::Door { name, to } => self.turn_door(name, *to),
            Change::Maxconn(limit) => self
                .amend(|config| config.global.maxconn = *limit)
                .map(|()| self.tell(format_args!("maxconn is {} now", Limit(*limit))))
                .map_err(|_| refusal("Value out of range.")),
            Change::Clear { all } => {
                self.clear(*all);
                Ok(DONE.to_owned())
            }
        };
        done.unwrap_or_else(|refusal| refusal)
    }

    fn change_server(&mut self, place: Place, what: What) -> Result<String, String> {
        let (backend, server) = place;
        let name = self.name(place);
        let configured = self.config.backends[backend].servers[server].weight;
        match what {
            What::Admin(admin) => {
                let board = self.relay.board(backend, server);
                let before = board.admin();
                board.administer(admin, process::monotonic_micros());
                self.tell_administered();
                if self.told_as_haproxy_does(place, news::Turn::Administered(before)) {
                    return Ok(DONE.to_owned());
                }
                Ok(self.tell(format_args!("server {name} is set to {}", admin.label())))
            }
            What::Weight(weight) => {
                let weight = weight.of(configured);
                let set = Some(weight).filter(|&is| is != configured);
                self.relay.board(backend, server).reweigh(set);
                self.tell_administered();
                Ok(self.tell(format_args!("server {name} has a weight of {weight} now")))
            }
            What::Shutdown => {
                self.relay.expel(backend, server, CloseReason::ShutDown);
                Ok(self.tell(format_args!("the sessions of server {name} are ended")))
            }
            What::Maxconn(limit) => {
                let limit = Some(limit).filter(|&limit| limit > 0);
                self.amend(|config| config.backends[backend].servers[server].maxconn = limit)?;
                Ok(self.tell(format_args!("server {name} has a maxconn of {} now", Limit(limit))))
            }
            What::Address { ip, port } => self.move_server(place, &ip, port.as_deref()),
            What::Name(host) => self.rename_server(place, &host),
            What::Checks(Checks::Switch(on)) => self.switch_checks(place, on),
            What::Checks(Checks::Force(up)) => self.force_checks(place, up),
            What::Checks(Checks::Move { address, port }) => self.move_checks(place, address, port),
            What::GetWeight => {
                let weight = self.relay.board(backend, server).weight(configured);
                Ok(refusal(&format!("{weight} (initial {configured})")))
            }
            What::Nothing => Ok(DONE.to_owned()),
        }
    }

    /// To another address, or another port, of which `Some(None)` is the server's own.
    fn move_checks(
        &mut self,
        place: Place,
        address: Option<IpAddr>,
        port: Option<Option<u16>>,
    ) -> Result<String, String> {
        let (backend, server) = place;
        if self.config.backends[backend].servers[server].check.is_none() {
            return Err("health checks are not enabled on this server\n".to_owned());
        }
        self.amend(|config| {
            if let Some(check) = &mut config.backends[backend].servers[server].check {
                check.address = address.or(check.address);
                check.port = port.unwrap_or(check.port);
            }
        })?;
        let name = self.name(place);
        Ok(self.tell(format_args!("the checks of server {name} go elsewhere now")))
    }

    /// Takes a server for up or down.
    fn force_checks(&mut self, place: Place, up: bool) -> Result<String, String> {
        if !self.prober.force(&self.config, place, up) {
            return Err(refusal("health checks are not enabled on this server"));
        }
        self.check_servers();
        let state = if up { "up" } else { "down" };
        let name = self.name(place);
        Ok(self.tell(format_args!("server {name} is taken for {state}, until checks differ")))
    }

    /// So that the next process keeps it so.
    pub(in crate::control) fn tell_administered(&self) {
        let administered = |(backend, server): Place| {
            let board = self.relay.board(backend, server);
            let (admin, weight) = (board.admin(), board.reweighed());
            let of = &self.config.backends[backend];
            (admin != Admin::Ready || weight.is_some()).then(|| Administered {
                backend: of.name.clone(),
                server: of.servers[server].name.clone(),
                admin,
                weight,
            })
        };
        let servers = prober::places(&self.config).filter_map(administered).collect();
        self.report(Report::Administered { servers });
    }

    /// To another address, another port, or both; what of it is new is told.
    fn move_server(
        &mut self,
        place: Place,
        ip: &str,
        port: Option<&str>,
    ) -> Result<String, String> {
        let (backend, server) = place;
        let addresses = self.lookups.names.addresses(&self.config);
        let known = addresses.of(backend, server).first().copied();
        let before = &self.config.backends[backend].servers[server].address;
        let (old_ip, old_port) = (
            known.map(|known| known.ip()),
            known.map(|known| known.port()).or_else(|| before.port()),
        );
        let ip: IpAddr = ip.parse().map_err(|_| refusal("Invalid addr"))?;
        let mut told = match old_ip {
            Some(old) if old == ip => "no need to change the addr".to_owned(),
            Some(old) => format!("IP changed from '{old}' to '{ip}'"),
            None => format!("IP changed from '(none)' to '{ip}'"),
        };
        let wanted = port.map(|text| text.parse::<u16>().ok().filter(|&port| port > 0));
        let shown = old_port.map_or_else(|| "0".to_owned(), |port| port.to_string());
        match (port, wanted) {
            (Some(text), Some(None)) => {
                told += &format!(", problem converting port '{}' to an int", text.escape_debug());
            }
            (_, Some(wanted)) if wanted == old_port => told += ", no need to change the port",
            (_, Some(Some(wanted))) => {
                told += &format!(", port changed from '{shown}' to '{wanted}'")
            }
            (_, None | Some(None)) => {}
        }
        told += BY;
        let Some(port) = wanted.flatten().or(old_port) else {
            return Err(refusal("a server that an SRV record tells of needs a port with its addr"));
        };
        let address = SocketAddr::new(ip, port);
        if let Some(bind) = self.config.loop_at(backend, address) {
            return Err(refusal(&format!(
                "Invalid addr '{ip}': it is the relay itself, on {bind}"
            )));
        }
        self.amend(|config| {
            config.backends[backend].servers[server].address = ServerAddress::Ip(address);
        })?;
        self.log.info(format_args!("server {}: {told}", self.name(place)));
        Ok(refusal(&told))
    }

    /// To where another name leads. Until that is answered for it gets no sessions.
    fn rename_server(&mut self, place: Place, host: &str) -> Result<String, String> {
        let (backend, server) = place;
        let port = self.config.backends[backend].servers[server].address.port().unwrap_or(0);
        let address = format!("{host}:{port}").parse::<ServerAddress>();
        let address = address.map_err(|_| {
            refusal(&format!("set server <b>/<s> fqdn: '{}' is no name", host.escape_debug()))
        })?;
        self.amend(|config| config.backends[backend].servers[server].address = address)?;
        Ok(self.tell(format_args!("server {} is at {host} now", self.name(place))))
    }

    /// Its checks go on, or stop; what they have found last holds.
    fn switch_checks(&mut self, place: Place, on: bool) -> Result<String, String> {
        let (backend, server) = place;
        if self.config.backends[backend].servers[server].check.is_none() {
            return match on {
                true => {
                    Err(refusal("Health check was not configured on this server, cannot enable."))
                }
                false => Ok(DONE.to_owned()),
            };
        }
        self.prober.pause(&self.config, place, !on);
        self.check_servers();
        let how = if on { "go on" } else { "are stopped" };
        Ok(self.tell(format_args!("the checks of server {} {how}", self.name(place))))
    }

    fn limit_listener(&mut self, name: &str, maxconn: Option<u32>) -> Result<String, String> {
        let place = self.config.listeners.iter().position(|listener| listener.name == name);
        let place = place.ok_or_else(|| refusal("No such frontend."))?;
        self.amend(|config| config.listeners[place].maxconn = maxconn)?;
        Ok(self.tell(format_args!("listener {name} has a maxconn of {} now", Limit(maxconn))))
    }

    /// Has a listener let nobody in, or everybody again. What it answers is HAProxy's.
    fn turn_door(&mut self, name: &str, to: Door) -> Result<String, String> {
        let known = self.config.listeners.iter().any(|listener| listener.name == name);
        if !known {
            return Err(refusal("No such frontend."));
        }
        if self.phase != Phase::Serving {
            return Err(refusal(ENDING));
        }
        let now = match self.closed.iter().find(|closed| closed.name == name) {
            None => Door::Open,
            Some(closed) if closed.for_good => Door::Shut,
            Some(_) => Door::Closed,
        };
        let why_not = match (now, to) {
            (Door::Shut, Door::Open) => "Frontend was previously shut down, cannot enable.",
            (Door::Shut, Door::Closed) => "Frontend was previously shut down, cannot disable.",
            (Door::Shut, Door::Shut) => "Frontend was already shut down.",
            (Door::Closed, Door::Closed) => "All sockets are already disabled.",
            (Door::Open, Door::Open) => "All sockets are already enabled.",
            _ => "",
        };
        if !why_not.is_empty() {
            return Err(refusal(why_not));
        }
        self.closed.retain(|closed| closed.name != name);
        if to != Door::Open {
            self.closed.push(ClosedListener { name: name.to_owned(), for_good: to == Door::Shut });
        }
        self.report_closed();
        let how = match to {
            Door::Open => "lets clients in again",
            Door::Closed => "lets nobody in: who comes is refused, until it is enabled",
            Door::Shut => {
                "lets nobody in any more: who comes is refused, until the file is read anew"
            }
        };
        Ok(self.tell(format_args!("listener {name} {how}")))
    }

    pub(in crate::control) fn report_closed(&self) {
        self.report(Report::Closed { listeners: self.closed.clone() });
    }

    /// What is the highest so far begins anew; with `all`, so do HAProxy's statistics. Our own go on:
    /// they are what others take the difference of.
    fn clear(&mut self, all: bool) {
        self.relay.forget_highest();
        self.observer.forget_highest();
        self.standings.forget_highest();
        if all {
            self.cleared = stat::counted(&self.snapshot()).into();
        }
        self.log.info(if all { "counters are cleared" } else { "the highest counts are cleared" });
    }

    /// Changes the configuration in force. An error is an answer.
    fn amend(&mut self, change: impl FnOnce(&mut Config)) -> Result<(), String> {
        if self.phase != Phase::Serving {
            return Err(refusal(ENDING));
        }
        let mut config = self.config.clone();
        change(&mut config);
        let mut names = self.lookups.names.clone();
        names.attend(&config);
        match self.relay.apply(&config, &names.addresses(&config)).map_err(|why| refusal(&why))? {
            Applied::Now(_) => {}
            // A port that the sandbox does not let this process reach, say. The parent starts another
            // with nothing but what stands in the file.
            Applied::Needs(what) => {
                return Err(refusal(&format!(
                    "This cannot be changed here: {what}. Write it in the configuration and reload."
                )));
            }
        }
        self.lookups.names = names;
        self.config = config;
        self.check_servers();
        Ok(())
    }

    /// Whoever reads the log is to know what was changed by hand.
    fn tell(&mut self, what: std::fmt::Arguments<'_>) -> String {
        self.log.info(what);
        DONE.to_owned()
    }

    /// `backend/server`.
    fn name(&self, (backend, server): Place) -> String {
        let of = &self.config.backends[backend];
        format!("{}/{}", of.name, of.servers[server].name)
    }
}

/// `None` is none.
struct Limit(Option<u32>);

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(limit) => limit.fmt(f),
            None => f.write_str("as many as come"),
        }
    }
}

/// Where a server stands that is called by name, or by `#` and its number in the statistics.
fn find(config: &Config, backend: &str, server: &str) -> Result<Place, String> {
    let by_number = |text: &str, first: usize| {
        text.strip_prefix('#')?.parse::<usize>().ok()?.checked_sub(first)
    };
    let named = config.backends.iter().position(|of| of.name == backend);
    let backend = named
        .or_else(|| by_number(backend, config.listeners.len() + 1))
        .filter(|&number| number < config.backends.len())
        .ok_or_else(|| refusal("No such backend."))?;
    let servers = &config.backends[backend].servers;
    let named = servers.iter().position(|of| of.name == server);
    let server = named
        .or_else(|| by_number(server, 1))
        .filter(|&place| place < servers.len())
        .ok_or_else(|| refusal("No such server."))?;
    Ok((backend, server))
}
