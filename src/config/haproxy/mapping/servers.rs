//! Servers, their checks, and the TLS that is spoken with them.

use crate::config::error::Fault;
use crate::config::{self, Check, HttpCheck, Server, ServerAddress, Tls};

use super::super::report::NoteKind;
use super::super::sections::{Mode, Proxy, Set, Settings, Wait};
use super::super::server::ServerLine;
use super::super::unison;
use super::{Mapping, Place};

impl Mapping {
    pub(super) fn server(
        &mut self,
        backend: usize,
        number: usize,
        line: &ServerLine,
        settings: &Settings,
    ) -> Server {
        self.spans.insert(Place::Server(backend, number), line.name.span.clone());
        self.spans.insert(Place::Address(backend, number), line.address.span.clone());
        let options = &line.options;
        self.mapped(&line.name, "[[server]]");
        let check = self.check(line, settings);
        if let Some(prefer) = options.prefer {
            self.mapped(&line.name, "[dns] prefer, for all servers");
            self.prefer = Some(prefer);
        }
        Server {
            name: line.name.value.clone(),
            weight: options.weight.unwrap_or(config::WEIGHT_DEFAULT),
            backup: options.backup.unwrap_or_default(),
            maxconn: options.maxconn,
            send_proxy: options.send_proxy,
            address: line.address.value.clone(),
            check,
        }
    }

    fn check(&mut self, line: &ServerLine, settings: &Settings) -> Option<Check> {
        let options = &line.options;
        if options.check != Some(true) {
            return None;
        }
        let said = format!("server {} ... check", line.name.value);
        let text = "[[server]] check: a server that is down is still the last resort";
        self.report.note(NoteKind::Mapped, line.name.line, said, text);
        let defaults = Check::default();
        let interval = options.inter.unwrap_or(defaults.interval);
        // Without `timeout check` a check may take as long as the next one is away (manual, 4.2).
        let patience = self.timeout(settings, Wait::Check, "[[server]] check timeout");
        let check = Check {
            interval,
            fast_interval: options.fastinter,
            down_interval: options.downinter,
            timeout: patience.unwrap_or(interval),
            rise: options.rise.unwrap_or(defaults.rise),
            fall: options.fall.unwrap_or(defaults.fall),
            port: options.check_port,
            address: options.check_address,
            http: self.asked(line, settings),
        };
        let port = match &line.address.value {
            ServerAddress::Ip(address) => Some(address.port()),
            ServerAddress::Name { port, .. } => Some(*port),
            ServerAddress::Service { .. } => None,
        };
        if let (Some(checked), Some(port)) = (options.check_port, port)
            && checked != port
        {
            let text = format!(
                "a check of port {checked} says nothing of port {port}, which sessions go to: \
                 remove `port {checked}`"
            );
            self.danger(&line.name, text);
        }
        if let Some(checked) = options.check_address {
            let text = format!(
                "a check of {checked} says nothing of where sessions go: remove `addr {checked}`"
            );
            self.danger(&line.name, text);
        }
        Some(check)
    }

    /// What a check asks for. It speaks no TLS: where it would have to, it connects.
    fn asked(&mut self, line: &ServerLine, settings: &Settings) -> Option<HttpCheck> {
        let set = settings.httpchk.as_ref()?;
        let options = &line.options;
        // The check speaks TLS where sessions do, unless it goes elsewhere (manual, 5.2 "check-ssl").
        let elsewhere = options.check_port.is_some() || options.check_address.is_some();
        let speaks = options.check_tls.unwrap_or(options.tls.ssl && !elsewhere);
        if speaks {
            let text = "the check speaks no TLS: it connects, and asks for nothing";
            self.danger(&line.name, text);
            return None;
        }
        Some(set.value.clone())
    }

    /// What all servers of a backend say, or a fault.
    pub(super) fn unison<T>(
        &mut self,
        option: &str,
        said: Result<Option<T>, &Set<String>>,
    ) -> Option<T> {
        said.map_err(|name| self.faults.push(unison::differs(name, option))).ok().flatten()
    }

    /// TLS towards servers, which an agent door speaks; there certificates are always checked.
    pub(super) fn tls(&mut self, proxy: &Proxy) -> Option<Tls> {
        let same = unison::of_servers(proxy, |options| options.tls.clone());
        let words = self.unison("ssl", same.map(Some))?;
        if !words.ssl {
            return None;
        }
        let first = &proxy.servers.first()?.name;
        if proxy.settings.mode.as_ref().is_none_or(|set| set.value != Mode::Http) {
            let title = format!("server `{}` speaks TLS for clients that do not", first.value);
            let help = "if what passes is HTTP, write mode http in the frontend and the backend: that is \
                        an agent door, which speaks TLS with servers and checks their certificates. \
                        If agents speak TLS themselves, remove what concerns it here";
            let fault =
                Fault::new(title).at(first.span.clone(), "in mode tcp bytes pass unchanged");
            self.faults.push(fault.help(help));
            return None;
        }
        self.mapped(first, format!("[backend.{}] tls", proxy.name.value));
        if words.unverified {
            let text = "`verify none` is not taken over: certificates are checked, against ca-file or the \
                        authorities that the system trusts";
            self.danger(first, text);
        }
        if let (Some(asked), Some(held)) = (&words.sni, &words.verified)
            && asked != held
        {
            let text = format!(
                "the certificate must hold the name that is asked for, {asked}: `verifyhost {held}` is not taken over"
            );
            self.danger(first, text);
        }
        Some(Tls { ca: words.ca, sni: words.sni.or(words.verified) })
    }

    /// A proxy that understands requests is an agent door.
    pub(super) fn is_door(&mut self, proxy: &Proxy) -> bool {
        let Some(set) = &proxy.settings.mode else { return false };
        if set.value == Mode::Tcp {
            self.mapped(set, "mode = \"tcp\"");
            return false;
        }
        let text = "[[listener]] mode = \"agent\": requests are forwarded one by one over kept connections, \
                    GET /status is answered by the relay itself, and `Host` is the server's";
        self.report.note(NoteKind::Danger, set.line, set.said.as_str(), text);
        true
    }
}
