//! The tables that concern the process as a whole.

use crate::config::check::Place;
use crate::config::error::Fault;
use crate::config::file::{ControlTable, DnsTable, GlobalTable, LogTable, StatsTable, Written};
use crate::config::value::Refusal;
use crate::config::{
    Control, ControlLevel, ControlMode, Dns, Global, Log, SessionLines, Stats, value,
};

use super::{Reader, auto_or, boolean, integer, list, maxconn, pin, text_of};

impl Reader {
    pub(super) fn log(&mut self, table: Option<&LogTable>) -> Log {
        let defaults = Log::default();
        let Some(table) = table else { return defaults };
        let LogTable {
            format,
            sessions,
            null,
            sample,
            output,
            file,
            syslog,
            syslog_format,
            facility,
            tag,
        } = table;
        Log {
            format: self.take("format", format.as_ref(), defaults.format, text_of(str::parse)),
            sessions: self.take("sessions", sessions.as_ref(), defaults.sessions, session_lines),
            null: self.take("null", null.as_ref(), defaults.null, boolean),
            sample: self.take("sample", sample.as_ref(), defaults.sample, |written| {
                integer(written, 1, value::SAMPLE_MAX)
            }),
            output: self.take("output", output.as_ref(), defaults.output, |written| {
                text_of(|text| value::choice(text, value::OUTPUTS))(written)
            }),
            file: self.take("file", file.as_ref(), None, text_of(value::log_file)),
            syslog: self.take("syslog", syslog.as_ref(), None, text_of(value::syslog)),
            syslog_form: self.take(
                "syslog_format",
                syslog_format.as_ref(),
                defaults.syslog_form,
                text_of(value::syslog_form),
            ),
            facility: self.take(
                "facility",
                facility.as_ref(),
                defaults.facility,
                text_of(value::facility),
            ),
            tag: self.take("tag", tag.as_ref(), defaults.tag, text_of(value::name)),
        }
    }

    pub(super) fn global(&mut self, table: Option<&GlobalTable>) -> Global {
        let defaults = Global::default();
        let Some(table) = table else { return defaults };
        self.place(Place::Pin, table.pin.as_ref());
        self.place(Place::Pipes, table.pipes.as_ref());
        Global {
            workers: self.take("workers", table.workers.as_ref(), None, |written| {
                auto_or(written, 1, value::WORKERS_MAX)
            }),
            door_threads: self.take("door_threads", table.door_threads.as_ref(), None, |written| {
                auto_or(written, 1, value::WORKERS_MAX)
            }),
            engine: self.take(
                "engine",
                table.engine.as_ref(),
                defaults.engine,
                text_of(str::parse),
            ),
            splice: self.take(
                "splice",
                table.splice.as_ref(),
                defaults.splice,
                text_of(value::splice),
            ),
            pin: self.take("pin", table.pin.as_ref(), defaults.pin, pin),
            maxconn: self.take("maxconn", table.maxconn.as_ref(), None, maxconn),
            drain: self.take(
                "drain",
                table.drain.as_ref(),
                defaults.drain,
                text_of(value::duration),
            ),
            retire: self.take(
                "retire",
                table.retire.as_ref(),
                defaults.retire,
                text_of(value::duration),
            ),
            latency_budget: self.take(
                "latency_budget",
                table.latency_budget.as_ref(),
                defaults.latency_budget,
                text_of(value::latency_budget),
            ),
            pipe_bytes: self.take(
                "pipe_size",
                table.pipe_size.as_ref(),
                defaults.pipe_bytes,
                text_of(value::pipe_size),
            ),
            pipes: self.take("pipes", table.pipes.as_ref(), None, |written| {
                auto_or(written, 0, value::PIPES_MAX)
            }),
            user: self.take("user", table.user.as_ref(), None, text_of(value::account)),
            group: self.take("group", table.group.as_ref(), None, text_of(value::account)),
            sandbox: self.take("sandbox", table.sandbox.as_ref(), defaults.sandbox, boolean),
        }
    }

    pub(super) fn dns(&mut self, table: Option<&DnsTable>) -> Dns {
        let defaults = Dns::default();
        let Some(table) = table else { return defaults };
        let dns = Dns {
            nameservers: self.each("nameservers", table.nameservers.as_ref(), value::nameserver),
            prefer: self.take("prefer", table.prefer.as_ref(), defaults.prefer, |written| {
                text_of(|word| value::choice(word, value::PREFERENCES))(written)
            }),
            timeout: self.take(
                "timeout",
                table.timeout.as_ref(),
                defaults.timeout,
                text_of(value::dns_timeout),
            ),
            retries: self.take("retries", table.retries.as_ref(), defaults.retries, |written| {
                integer(written, 0, value::DNS_RETRIES_MAX)
            }),
            ttl_min: self.take(
                "ttl_min",
                table.ttl_min.as_ref(),
                defaults.ttl_min,
                text_of(value::ttl),
            ),
            ttl_max: self.take(
                "ttl_max",
                table.ttl_max.as_ref(),
                defaults.ttl_max,
                text_of(value::ttl),
            ),
            addresses_max: self.take(
                "addresses_max",
                table.addresses_max.as_ref(),
                defaults.addresses_max,
                |written| integer(written, 1, value::ADDRESSES_MAX),
            ),
        };
        if let Some(written) = table.ttl_max.as_ref().or(table.ttl_min.as_ref())
            && dns.ttl_max < dns.ttl_min
        {
            let (min, max) = (dns.ttl_min, dns.ttl_max);
            let fault = Fault::new("`ttl_max` is below `ttl_min`").at(
                written.span(),
                format!(
                    "ttl_min is \"{}\", ttl_max \"{}\"",
                    value::display_duration(min),
                    value::display_duration(max)
                ),
            );
            self.faults.push(fault.help("write ttl_min no longer than ttl_max"));
        }
        dns
    }

    pub(super) fn control(&mut self, table: Option<&ControlTable>) -> Control {
        let Some(ControlTable { socket, mode, level }) = table else { return Control::default() };
        Control {
            socket: self.take("socket", socket.as_ref(), None, |written| {
                text_of(value::socket_path)(written).map(Some)
            }),
            mode: self.take("mode", mode.as_ref(), ControlMode::default(), text_of(str::parse)),
            level: self.take("level", level.as_ref(), ControlLevel::default(), text_of(str::parse)),
        }
    }

    pub(super) fn stats(&mut self, table: Option<&StatsTable>) -> Stats {
        let written = table.and_then(|table| table.bind.as_ref());
        let mut bind = Vec::new();
        for value in list(written) {
            let parse = text_of(value::bind_address);
            if let Some(address) = self.take("bind", Some(value), None, |w| parse(w).map(Some)) {
                self.place(Place::Stats(bind.len()), Some(value));
                bind.push(address);
            }
        }
        let viewers = table.and_then(|table| table.viewers.as_ref());
        let admins = table.and_then(|table| table.admins.as_ref());
        Stats {
            bind,
            viewers: self.users("[stats] viewers", viewers),
            admins: self.users("[stats] admins", admins),
        }
    }
}

fn session_lines(written: &Written) -> Result<SessionLines, Refusal> {
    match written {
        Written::Bool(true) => Ok(SessionLines::All),
        Written::Bool(false) => Ok(SessionLines::None),
        Written::Text(text) if text == "failed" => Ok(SessionLines::Failed),
        _ => Err(Refusal::new("not one of the choices", "allowed: true, false, or \"failed\"")),
    }
}
