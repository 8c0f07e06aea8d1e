//! What concerns the doors and the way from them to their servers.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::Spanned;

use crate::config::check::Place;
use crate::config::error::Fault;
use crate::config::file::{BackendTable, ListenerTable, ProxyTable, TlsSetting, TlsTable, Value};
use crate::config::value::Refusal;
use crate::config::{Mode, Proxy, Tls, door, value};
use crate::password::Hash;

use super::{Reader, text_of};

impl Reader {
    /// What a listener does with what comes, and the longest body that it takes.
    pub(super) fn mode(&mut self, table: &ListenerTable) -> (Mode, u64) {
        let mode = self.take("mode", table.mode.as_ref(), Mode::Tcp, text_of(value::mode));
        let body = table.body_max.as_ref();
        let bytes =
            self.take("body_max", body, door::BODY_BYTES_DEFAULT, text_of(value::body_size));
        if let Some(body) = body.filter(|_| mode == Mode::Tcp) {
            let fault = Fault::new("`body_max` without mode = \"agent\"");
            let fault = fault.at(body.span(), "bytes pass unchanged here, and have no bodies");
            self.faults.push(fault.help("write mode = \"agent\", or remove it"));
        }
        (mode, bytes)
    }

    /// Who may use the web proxy doors, and what for.
    pub(super) fn proxy(&mut self, table: Option<&ProxyTable>) -> Proxy {
        let Some(ProxyTable { users, allow }) = table else { return Proxy::default() };
        let help = format!("at most {}; name domains or networks", value::DESTINATIONS_MAX);
        let allow = allow.as_ref();
        self.no_more_than(value::DESTINATIONS_MAX, "allow", allow, "destinations", &help);
        let allow = self.each("allow", allow, str::parse);
        let users = self.users("[proxy]", users.as_ref());
        Proxy { users, allow }
    }

    /// Names and the hashes of their passwords, of the table `of`.
    pub(super) fn users(
        &mut self,
        of: &str,
        users: Option<&BTreeMap<Spanned<String>, Value>>,
    ) -> BTreeMap<String, Hash> {
        let mut named = BTreeMap::new();
        for (name, hash) in users.into_iter().flatten() {
            let user = name.get_ref();
            if let Err(refusal) = value::user(user) {
                let title = format!("a user cannot be called `{}`", user.escape_debug());
                let fault = Fault::new(title).at(name.span(), refusal.why);
                self.faults.push(fault.help(refusal.help));
            }
            let read = text_of(value::hash)(hash.get_ref());
            match read {
                Ok(hash) => drop(named.insert(user.clone(), hash)),
                // What stands there may be a password: neither it nor its line is shown.
                Err(Refusal { why, help }) => {
                    let title = format!("the password of user `{}`: {why}", user.escape_debug());
                    self.faults.push(Fault::new(title).help(help));
                }
            }
        }
        if named.len() > value::USERS_MAX {
            let fault = Fault::new(format!("{of} has {} users", named.len()));
            self.faults.push(fault.help(format!("at most {}", value::USERS_MAX)));
        }
        named
    }

    /// What is put before paths, how the servers are spoken with, and how long connections are kept.
    pub(super) fn forwarding(
        &mut self,
        backend: usize,
        table: &BackendTable,
    ) -> (String, Option<Tls>, Duration) {
        let BackendTable { path, tls, keep_idle, .. } = table;
        let kept = door::KEEP_IDLE_DEFAULT;
        (
            self.take("path", path.as_ref(), String::new(), text_of(value::prefix)),
            self.tls(backend, tls.as_ref()),
            self.take("keep_idle", keep_idle.as_ref(), kept, text_of(value::timeout)),
        )
    }

    /// TLS towards the servers of a backend; `None` is plain HTTP.
    fn tls(&mut self, backend: usize, setting: Option<&Spanned<TlsSetting>>) -> Option<Tls> {
        let setting = setting?;
        self.spans.insert(Place::Tls(backend), setting.span());
        match setting.get_ref() {
            TlsSetting::Switch(on) => on.then(Tls::default),
            TlsSetting::Table(TlsTable { ca, sni }) => Some(Tls {
                ca: self.take("ca", ca.as_ref(), None, text_of(value::authorities)),
                sni: self.take("sni", sni.as_ref(), None, |written| {
                    text_of(value::server_name)(written).map(Some)
                }),
            }),
        }
    }
}
