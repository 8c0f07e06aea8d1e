//! What concerns agent doors and the way from them to their servers.

use std::time::Duration;

use toml::Spanned;

use crate::config::check::Place;
use crate::config::error::Fault;
use crate::config::file::{BackendTable, ListenerTable, TlsSetting, TlsTable};
use crate::config::{Mode, Tls, door, value};

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
