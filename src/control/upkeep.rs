//! What the loop does about servers while no session asks for them: names that move, checks that fail.

use tokio::time::Instant;

use crate::config::LogFormat;
use crate::handover::Report;
use crate::metrics::CloseReason;
use crate::sys::process;

use super::agents;
use super::haproxy::news;
use super::lookups::Heard;
use super::prober::{self, Change, Place, Verdict};
use super::resolver::Outcome;
use super::{Loop, Phase, Relay, ServerStatus};

impl<R: Relay> Loop<R> {
    /// A name was answered for, or not.
    pub(super) fn on_answer(&mut self, answer: (String, Outcome)) {
        match self.lookups.hear(&self.config, answer) {
            Some(Heard::Moved(what)) if self.phase == Phase::Serving => {
                let addresses = self.lookups.names.addresses(&self.config);
                match self.relay.apply(&self.config, &addresses) {
                    Ok(_) => {
                        self.check_servers();
                        self.log.info(format_args!("{what}; new sessions go there"));
                    }
                    Err(why) => self.log.error(format_args!("{what}, but {why}")),
                }
                self.remember_names();
            }
            Some(Heard::Known(what)) => self.log.info(what),
            Some(Heard::Failing(what)) => self.log.warn(what),
            Some(Heard::Moved(_)) | None => {}
        }
    }

    /// Who has fallen silent, and who has come back.
    pub(super) fn mind_agents(&mut self) {
        let now = Instant::now();
        let relay = &self.relay;
        self.agents.look(now, || relay.list().into_iter().map(|(_, answered)| answered).collect());
        let [silent, back] = self.agents.news(now);
        silent.into_iter().for_each(|news| self.log.warn(news));
        back.into_iter().for_each(|news| self.log.info(news));
    }

    pub(super) fn answer_agents(&self, json: bool) -> String {
        let agents = self.agents.all(Instant::now());
        match agents.is_empty() {
            // Strings and numbers alone: that cannot fail.
            _ if json => serde_json::to_string(&agents).unwrap_or_default() + "\n",
            true => "no session has ended yet\n".to_owned(),
            false => agents::table(&agents).trim_start().to_owned(),
        }
    }

    /// What is done about servers from time to time.
    pub(super) fn mind_servers(&mut self) {
        self.lookups.on_tick(&self.config, &self.relay);
        self.rebalance.on_tick(&self.config, &self.lookups.names, &self.relay);
    }

    /// Weights that were set meanwhile, and checks that were stopped, give way to a file that was read
    /// anew; who is out of service stays so.
    pub(super) fn forget_settings(&mut self) {
        self.prober.resume();
        if !std::mem::take(&mut self.closed).is_empty() {
            self.report_closed();
        }
        for (backend, of) in self.config.backends.iter().enumerate() {
            for server in 0..of.servers.len() {
                self.relay.board(backend, server).reweigh(None);
            }
        }
        self.tell_administered();
    }

    /// Has the servers checked where they are now.
    pub(super) fn check_servers(&mut self) {
        let addresses = self.lookups.names.addresses(&self.config);
        self.prober.attend(&self.config, &addresses);
        // Boards outlive a reload; a server that is no longer checked is not down.
        for place @ (backend, server) in prober::places(&self.config) {
            self.relay
                .board(backend, server)
                .judge(self.prober.is_up(&self.config, place), process::monotonic_micros());
        }
    }

    pub(super) fn on_verdict(&mut self, verdict: &Verdict) {
        let Some(change) = self.prober.hear(&self.config, verdict) else { return };
        let (backend, server) = verdict.place;
        let of = &self.config.backends[backend];
        let name = format!("{}/{}", of.name, of.servers[server].name);
        self.relay.board(backend, server).judge(change == Change::Up, process::monotonic_micros());
        let ends = of.ends_on_down && change != Change::Up;
        let as_haproxy = self.told_as_haproxy_does(verdict.place, news::Turn::Checked);
        if !as_haproxy {
            match change {
                Change::Up => self.log.info(format_args!("server {name} is up")),
                Change::Down(why) => {
                    let how = if ends { "; its sessions are ended" } else { "" };
                    self.log.warn(format_args!("server {name} is down: {why}{how}"));
                }
            }
        }
        if ends {
            self.relay.expel(backend, server, CloseReason::ServerDown);
            if as_haproxy {
                self.log.info(format_args!("the sessions of server {name} are ended"));
            }
        }
    }

    /// Where lines of sessions are HAProxy's, so are those of servers that come and go: alerts look for
    /// them. Whether this is such a log.
    pub(super) fn told_as_haproxy_does(
        &mut self,
        (backend, server): Place,
        turn: news::Turn,
    ) -> bool {
        let relay = self.status().relay;
        let of = &self.config.backends[backend];
        let served = !self.unserved.contains(&of.name);
        match relay.servers_of(&of.name).iter().any(ServerStatus::is_usable) {
            true => drop(self.unserved.remove(&of.name)),
            false => drop(self.unserved.insert(of.name.clone())),
        }
        // What is known of backends is kept up whatever the format: a reload may change it.
        if self.config.log.format != LogFormat::Tcplog {
            return false;
        }
        for (level, line) in news::lines(&relay, &of.name, &of.servers[server].name, turn, served) {
            self.log.event(level, line);
        }
        true
    }

    /// So that the next process knows them even when nobody answers.
    pub(super) fn remember_names(&mut self) {
        if let Some(names) = self.lookups.untold() {
            self.report(Report::Names { names });
        }
    }
}
