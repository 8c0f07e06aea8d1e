//! The tables of backends and their servers.

use std::net::IpAddr;

use toml::Spanned;

use crate::backend::choose::Algorithm;
use crate::config::check::Place;
use crate::config::error::Fault;
use crate::config::file::{BackendTable, ServerTable, SourceTable, SpareTable};
use crate::config::value;
use crate::config::{
    Backend, Check, Queue, Server, Source, SourcePorts, Spare, Timeouts, WEIGHT_DEFAULT,
};

use super::{Reader, boolean, integer, list, maxconn, text_of, word_or};

/// Servers of one backend: each has counters in every worker.
const SERVERS_MAX: usize = 4096;

impl Reader {
    pub(super) fn backend(
        &mut self,
        index: usize,
        name: &Spanned<String>,
        table: &BackendTable,
    ) -> Backend {
        self.spans.insert(Place::Backend(index), name.span());
        if let Err(refusal) = value::name(name.get_ref()) {
            let title = format!("a backend cannot be called `{}`", name.get_ref().escape_debug());
            let fault = Fault::new(title).at(name.span(), refusal.why);
            self.faults.push(fault.help(refusal.help));
        }
        let defaults = Backend::new(name.get_ref().as_str());
        let (path, tls, keep_idle) = self.forwarding(index, table);
        Backend {
            balance: self.take(
                "balance",
                table.balance.as_ref(),
                defaults.balance,
                text_of(|word| value::choice(word, Algorithm::WORDS)),
            ),
            timeouts: self.timeouts(table),
            retries: self.take("retries", table.retries.as_ref(), defaults.retries, |written| {
                integer(written, 0, value::RETRIES_MAX)
            }),
            redispatch: self.take(
                "redispatch",
                table.redispatch.as_ref(),
                defaults.redispatch,
                boolean,
            ),
            queue: self.queue(table),
            path,
            tls,
            keep_idle,
            connecting_max: self.take(
                "connecting_max",
                table.connecting_max.as_ref(),
                None,
                |written| word_or(written, "off", 1, value::MAXCONN_MAX),
            ),
            slow_start: self.take(
                "slow_start",
                table.slow_start.as_ref(),
                defaults.slow_start,
                text_of(value::timeout_or_off),
            ),
            ends_on_down: self.take(
                "on_down",
                table.on_down.as_ref(),
                defaults.ends_on_down,
                text_of(|word| value::choice(word, value::ON_DOWN)),
            ),
            leaves_on_move: self.take(
                "on_move",
                table.on_move.as_ref(),
                defaults.leaves_on_move,
                text_of(|word| value::choice(word, value::ON_MOVE)),
            ),
            rebalance: self.take(
                "rebalance",
                table.rebalance.as_ref(),
                defaults.rebalance,
                boolean,
            ),
            source: self.source(table.source.as_ref()),
            spare: self.spare(table.spare.as_ref()),
            servers: self.servers(index, name, table),
            name: defaults.name,
        }
    }

    fn queue(&mut self, table: &BackendTable) -> Queue {
        let defaults = Queue::default();
        let (patience, places) = (table.queue.as_ref(), table.queue_max.as_ref());
        Queue {
            patience: self.take(
                "queue",
                patience,
                defaults.patience,
                text_of(value::timeout_or_off),
            ),
            places: self.take("queue_max", places, defaults.places, |written| {
                integer(written, 1, value::QUEUE_PLACES_MAX)
            }),
        }
    }

    fn source(&mut self, table: Option<&SourceTable>) -> Source {
        let Some(table) = table else { return Source::default() };
        let ports = table.ports.as_ref();
        let mut addresses = Vec::new();
        for value in list(table.addresses.as_ref()) {
            let unread: Option<IpAddr> = None;
            let read = self.take("addresses", Some(value), unread, |written| {
                text_of(|text| value::source_address(text, &addresses).map(Some))(written)
            });
            addresses.extend(read);
        }
        let (max, written) = (value::SOURCE_ADDRESSES_MAX, table.addresses.as_ref());
        self.no_more_than(max, "addresses", written, "addresses", &format!("at most {max}"));
        let ports = self.take("ports", ports, SourcePorts::Auto, text_of(value::source_ports));
        Source { addresses, ports }
    }

    fn spare(&mut self, table: Option<&SpareTable>) -> Spare {
        let defaults = Spare::default();
        let Some(table) = table else { return defaults };
        Spare {
            max: self.take("max", table.max.as_ref(), defaults.max, |written| {
                word_or(written, "off", 1, value::SPARES_MAX)
            }),
            idle: self.take("idle", table.idle.as_ref(), defaults.idle, text_of(value::timeout)),
        }
    }

    fn timeouts(&mut self, table: &BackendTable) -> Timeouts {
        let defaults = Timeouts::default();
        let mut timeout =
            |key, value, default| self.take(key, value, default, text_of(value::timeout));
        Timeouts {
            connect: timeout("connect", table.connect.as_ref(), defaults.connect),
            server_idle: timeout("server_idle", table.server_idle.as_ref(), defaults.server_idle),
            half_closed: timeout("half_closed", table.half_closed.as_ref(), defaults.half_closed),
        }
    }

    fn servers(
        &mut self,
        backend: usize,
        name: &Spanned<String>,
        table: &BackendTable,
    ) -> Vec<Server> {
        let tables = table.server.as_deref().unwrap_or_default();
        let check = table.check.as_ref().map(|check| self.check(check, Check::default()));
        let count = tables.len();
        if count > SERVERS_MAX {
            let title = format!("backend `{}` has {count} servers", name.get_ref().escape_debug());
            let help = format!("at most {SERVERS_MAX}; a name may stand for many addresses");
            self.faults.push(Fault::new(title).at(name.span(), "too many").help(help));
        }
        let mut servers = Vec::new();
        for spanned in tables.iter().take(SERVERS_MAX) {
            let place = Place::Server(backend, servers.len());
            servers.extend(self.server(place, spanned, check.as_ref()));
        }
        servers
    }

    fn server(
        &mut self,
        place: Place,
        spanned: &Spanned<ServerTable>,
        check: Option<&Check>,
    ) -> Option<Server> {
        let table = spanned.get_ref();
        if table.address.is_none() {
            self.faults.push(
                Fault::new("a server without `address`")
                    .at(spanned.span(), "where is it?")
                    .help("write address = \"HOST:PORT\", such as \"intake.example.com:443\""),
            );
        }
        let address = table.address.as_ref();
        let parsed = self.take("address", address, None, |written| {
            text_of(value::server_address)(written).map(Some)
        });
        let named = parsed.clone().map(Server::new);
        let default = named.as_ref().map_or(String::new(), |server| server.name.clone());
        let name = self.take("name", table.name.as_ref(), default, text_of(value::name));
        let weight = table.weight.as_ref();
        let weight = self.take("weight", weight, WEIGHT_DEFAULT, |written| {
            integer(written, 0, value::WEIGHT_MAX)
        });
        let backup = self.take("backup", table.backup.as_ref(), false, boolean);
        let maxconn = self.take("maxconn", table.maxconn.as_ref(), None, maxconn);
        let send_proxy = table.send_proxy.as_ref();
        let send_proxy = self.take("send_proxy", send_proxy, None, text_of(value::send_proxy));
        if let (Place::Server(backend, server), Some(_)) = (place, &parsed) {
            self.place(place, table.name.as_ref().or(address));
            self.place(Place::Address(backend, server), address);
        }
        let check = match &table.check {
            Some(table) => Some(self.check(table, check.cloned().unwrap_or_default())),
            None => check.cloned(),
        };
        Some(Server { name, address: parsed?, weight, backup, maxconn, send_proxy, check })
    }
}
