//! A status as text, with the first things first.

use std::fmt::Write as _;
use std::time::Duration;

use crate::backend::board::Tally;
use crate::backend::histogram::{BOUNDS_MICROS, TURN_BOUNDS_MICROS, Times};
use crate::control::agents::table;
use crate::control::text::{Table, grouped, limit, percent, size, span};
use crate::metrics::{CloseReason, PathBytes};

use super::{ListenerState, Status};

/// The bound that so many in a hundred are not above.
fn quantile(bounds: &[u64], times: &Times, percent: u64) -> String {
    let all = times.count();
    let mut seen = 0;
    for (bound, count) in bounds.iter().zip(times.counts) {
        seen += count;
        if all > 0 && seen * 100 >= all * percent {
            return micros(*bound);
        }
    }
    let last = bounds.last().copied().unwrap_or_default();
    if all > 0 { format!("over {}", micros(last)) } else { "-".to_owned() }
}

fn micros(micros: u64) -> String {
    match micros {
        0..1000 => format!("{micros} us"),
        1000..1_000_000 => format!("{} ms", micros as f64 / 1000.0),
        1_000_000.. => format!("{} s", micros as f64 / 1_000_000.0),
    }
}

impl Status {
    /// As text: the answer to "is it well?" on top, then what it does, then with whom.
    pub fn render(&self) -> String {
        let mut out = String::new();
        self.head(&mut out);
        self.numbers(&mut out);
        out.push_str(&self.listeners());
        out.push_str(&self.routes());
        out.push_str(&self.doors());
        out.push_str(&self.servers());
        out.push_str(&self.latencies());
        out.push_str(&self.names());
        out.push_str(&table(&self.agents.silent_agents));
        out.push_str(&self.workers());
        out.push_str(&self.endings());
        out
    }

    // Writing to a String cannot fail; hence each `let _`.

    fn head(&self, out: &mut String) {
        let up = span(Duration::from_secs(self.uptime_seconds));
        let phase = self.phase.label();
        let _ = writeln!(out, "fanin {}, pid {}, up {up}, {phase}", self.version, self.pid);
        let _ = writeln!(out, "relay process  {}, generation {}", self.relay_pid, self.generation);
        if !self.retiring.is_empty() {
            let processes: Vec<_> = self.retiring.iter().map(ToString::to_string).collect();
            let _ = writeln!(out, "retiring       {}", processes.join(", "));
        }
        let configuration = &self.configuration;
        let source = configuration.path.as_deref().unwrap_or("the command line");
        let _ = writeln!(out, "configuration  {source}, loaded {}", configuration.loaded);
        if let Some(reload) = &configuration.reload {
            let outcome = if reload.ok { "" } else { "FAILED, what ran before runs on: " };
            let _ = writeln!(out, "last reload    {}  {outcome}{}", reload.time, reload.message);
        }
        // All workers have the same reason, as they run on the same kernel.
        let mut whys: Vec<&str> =
            self.relay.workers.iter().filter_map(|worker| worker.engine_why.as_deref()).collect();
        whys.dedup();
        for why in whys {
            let _ = writeln!(out, "engine         {why}");
        }
        let _ = writeln!(out, "sandbox        {}", self.relay.sandbox.summary());
        for warning in self.relay.sandbox.warnings() {
            let _ = writeln!(out, "note           sandbox: {warning}");
        }
    }

    fn numbers(&self, out: &mut String) {
        let total = &self.total;
        let _ = writeln!(
            out,
            "sessions       {} now, {} so far",
            grouped(total.sessions),
            grouped(total.sessions_total)
        );
        let (up, down) = (total.engine.bytes_to_backend, total.engine.bytes_to_client);
        let both = total.engine.bytes();
        let _ = writeln!(
            out,
            "bytes          {} copied, {} spliced",
            share(both.copied, both),
            share(both.spliced, both)
        );
        for (direction, bytes) in [("to servers", up), ("to clients", down)] {
            let _ = writeln!(
                out,
                "  {direction}   {}: {} copied, {} spliced",
                size(bytes.total()),
                share(bytes.copied, bytes),
                share(bytes.spliced, bytes)
            );
        }
        let engine = &total.engine;
        let _ = writeln!(
            out,
            "pipes          {} used of {} open; {} times none was free",
            grouped(engine.pipes_used),
            grouped(engine.pipes_open),
            grouped(engine.pipes_missed)
        );
        let _ = writeln!(
            out,
            "connects       {} attempts, {} failed, {} retries, {} to another server",
            grouped(total.connect_attempts),
            grouped(total.connect_failures),
            grouped(total.retries),
            grouped(total.redispatches)
        );
        let agents = &self.agents;
        if agents.seen > 0 {
            let (seen, silent) = (grouped(agents.seen), grouped(agents.silent));
            let _ = writeln!(out, "agents         {seen} seen, {silent} silent");
        }
        if total.source_ports > 0 {
            let _ = writeln!(
                out,
                "source ports   {} used of {}",
                grouped(total.source_ports_used),
                grouped(total.source_ports)
            );
        }
        if total.spares_used + total.spares_missed > 0 {
            let _ = writeln!(
                out,
                "spare          {} ready; {} sessions found one, {} none; {} ended unused",
                grouped(total.spares),
                grouped(total.spares_used),
                grouped(total.spares_missed),
                grouped(total.spares_dropped)
            );
        }
        self.troubles(out);
    }

    /// What should be zero, where it is not.
    fn troubles(&self, out: &mut String) {
        let total = &self.total;
        let troubles = [
            (total.refused, "connections refused, because there was no place for them"),
            (total.source_limited, "connections denied, because their source is at its limit"),
            (total.denied, "connections denied, because of the address that they came from"),
            (total.accept_failures, "times accepting failed for want of descriptors or memory"),
            (total.listeners_paused, "listeners paused now, counted in each worker"),
            (total.port_conflicts, "source ports that another program had"),
            (total.engine.pipes_small, "pipes given up, because the kernel made them too small"),
            (total.engine.buffers_missed, "times no copy buffer was free"),
            (total.engine.bytes_discarded, "bytes discarded, because who they were for had gone"),
            (total.engine.completions_stale, "completions that came for sessions long gone"),
            (total.engine.queue_overflows, "times the completion queue overflowed"),
            (self.log_lines_dropped, "log lines dropped, because nobody read them in time"),
            (total.records_dropped, "sessions without a log line, because the log was behind"),
        ];
        for (count, what) in troubles.into_iter().filter(|(count, _)| *count > 0) {
            let _ = writeln!(out, "note           {} {what}", grouped(count));
        }
        for queue in self.relay.queues.iter().filter(|queue| queue.waiting_max > 0) {
            let _ = writeln!(
                out,
                "queue          {}: {} wait for a server, {} at most so far, of {}",
                queue.backend,
                grouped(queue.waiting),
                grouped(queue.waiting_max),
                grouped(queue.places)
            );
        }
    }

    fn listeners(&self) -> String {
        let mut table =
            Table::new(&["LISTENER", "ADDRESS", "BACKEND", "STATE", ">SESSIONS", ">MAX"]);
        for listener in &self.relay.listeners {
            let state = match listener.state {
                ListenerState::Accepting => "accepting",
                ListenerState::Paused => "paused",
                ListenerState::Disabled => "disabled",
                ListenerState::Ended => "ended",
            };
            table.row([
                listener.name.clone(),
                listener.addresses.join(" "),
                listener.backend.clone(),
                state.to_owned(),
                grouped(listener.sessions),
                limit(listener.maxconn),
            ]);
        }
        table.render()
    }

    /// Where TLS clients go by the name that they ask for; who goes by none goes to the listener's backend.
    fn routes(&self) -> String {
        let mut table = Table::new(&["LISTENER", "SNI", "BACKEND", ">TOTAL"]);
        for listener in &self.relay.listeners {
            for route in &listener.routes {
                table.row([
                    listener.name.clone(),
                    route.sni.clone(),
                    route.backend.clone(),
                    grouped(route.sessions_total),
                ]);
            }
        }
        table.render()
    }

    /// Of each agent door what a session alone does not tell.
    fn doors(&self) -> String {
        let mut table = Table::new(&[
            "DOOR",
            ">CONNECTED",
            ">REQUESTS",
            ">2XX",
            ">4XX",
            ">5XX",
            ">STATUS",
            ">TO SERVERS",
            ">REUSED",
            ">HANDSHAKES",
            ">RESUMED",
        ]);
        for door in self.relay.listeners.iter().filter(|listener| listener.is_door()) {
            let ours = self.relay.servers.iter().filter(|server| server.backend == door.backend);
            let sum = |of: fn(&Tally) -> u64| ours.clone().map(|server| of(&server.tally)).sum();
            let [_, good, _, refused, failed] = door.traffic.answers;
            table.row([
                door.name.clone(),
                grouped(door.connections),
                grouped(door.traffic.sessions_total),
                grouped(good),
                grouped(refused),
                grouped(failed),
                grouped(door.traffic.own_answers),
                grouped(sum(|tally| tally.connects.count())),
                grouped(sum(|tally| tally.reuses)),
                grouped(sum(|tally| tally.handshakes_full)),
                grouped(sum(|tally| tally.handshakes_resumed)),
            ]);
        }
        table.render()
    }

    fn servers(&self) -> String {
        let mut table = Table::new(&[
            "BACKEND",
            "SERVER",
            "ADDRESS",
            "STATE",
            ">SESSIONS",
            ">MAX",
            ">TOTAL",
            ">FAILED",
            ">SENT",
            ">RECEIVED",
        ]);
        for server in &self.relay.servers {
            table.row([
                server.backend.clone(),
                server.name.clone(),
                server.address.clone(),
                server.state.clone(),
                grouped(server.tally.sessions),
                limit(server.maxconn),
                grouped(server.tally.sessions_total),
                grouped(server.tally.connect_failures),
                size(server.tally.bytes_to_server),
                size(server.tally.bytes_from_server),
            ]);
        }
        table.render()
    }

    /// How long connects, first bytes and sessions took, of servers that had any; each as the bound that it
    /// was not above.
    fn latencies(&self) -> String {
        let mut table = Table::new(&[
            "BACKEND",
            "SERVER",
            ">CONNECT P50",
            ">P99",
            ">FIRST BYTE P50",
            ">P99",
            ">LENGTH P50",
            ">P99",
        ]);
        let had = |tally: &Tally| tally.connects.count() + tally.durations.count() > 0;
        for server in self.relay.servers.iter().filter(|server| had(&server.tally)) {
            let tally = &server.tally;
            let of = |times: &Times, percent| quantile(&BOUNDS_MICROS, times, percent);
            table.row([
                server.backend.clone(),
                server.name.clone(),
                of(&tally.connects, 50),
                of(&tally.connects, 99),
                of(&tally.first_bytes, 50),
                of(&tally.first_bytes, 99),
                of(&tally.durations, 50),
                of(&tally.durations, 99),
            ]);
        }
        table.render()
    }

    fn names(&self) -> String {
        let mut table = Table::new(&["NAME", "ADDRESSES", ">ASKED", ">NEXT", "LAST ANSWER"]);
        for name in &self.names {
            let ago = |seconds| format!("{} ago", span(Duration::from_secs(seconds)));
            table.row([
                name.name.clone(),
                if name.addresses.is_empty() { "-".to_owned() } else { name.addresses.join(" ") },
                name.asked_seconds_ago.map_or_else(|| "-".to_owned(), ago),
                format!("in {}", span(Duration::from_secs(name.next_in_seconds))),
                name.failure.clone().unwrap_or_else(|| "good".to_owned()),
            ]);
        }
        table.render()
    }

    fn workers(&self) -> String {
        let mut table = Table::new(&[
            ">WORKER",
            "ENGINE",
            ">CPU",
            ">SESSIONS",
            ">ACCEPTED",
            ">COPIED",
            ">SPLICED",
            ">PIPES",
            ">TURN P50",
            ">P99",
        ]);
        for worker in &self.relay.workers {
            let (counts, bytes) = (&worker.counts, worker.counts.engine.bytes());
            table.row([
                worker.index.to_string(),
                worker.engine.clone(),
                worker.cpu.map_or_else(|| "any".to_owned(), |cpu| cpu.to_string()),
                grouped(counts.sessions),
                grouped(counts.accepted),
                size(bytes.copied),
                size(bytes.spliced),
                format!("{}/{}", counts.engine.pipes_used, counts.engine.pipes_open),
                quantile(&TURN_BOUNDS_MICROS, &counts.turns, 50),
                quantile(&TURN_BOUNDS_MICROS, &counts.turns, 99),
            ]);
        }
        table.render()
    }

    /// How sessions ended; reasons that did not occur are left out.
    fn endings(&self) -> String {
        let sum: u64 = self.total.ended.iter().sum();
        let mut table = Table::new(&["ENDED", ">SESSIONS", ">SHARE"]);
        for reason in CloseReason::ALL {
            let count = self.total.ended[reason.index()];
            if count > 0 {
                table.row([reason.label().to_owned(), grouped(count), percent(count, sum)]);
            }
        }
        table.render()
    }
}

/// `12.3 GiB (40.1 %)`
fn share(part: u64, whole: PathBytes) -> String {
    format!("{} ({})", size(part), percent(part, whole.total()))
}
