//! Another configuration: read and looked up beside the loop, then in force whole or not at all.

use std::future::pending;
use std::time::SystemTime;

use tokio::task::JoinHandle;

use crate::config::Origin;
use crate::handover::Report;

use super::names::Names;
use super::{
    Applied, ENDING, Loaded, Loop, Phase, RELOADED, Relay, ReloadStatus, listener_names, log,
    lookups, socket,
};

impl<R: Relay> Loop<R> {
    pub(super) fn begin_reload(&mut self) {
        if self.phase != Phase::Serving {
            self.finish_reload(Err(ENDING.to_owned()));
        } else if self.renewing.is_some() {
            // A signal; the parent has begun something meanwhile.
            self.reload_again = true;
        } else if self.origin.path().is_none() {
            let why = "nothing to read: the configuration came from the command line";
            self.finish_reload(Err(why.to_owned()));
        } else if self.reload.is_some() {
            self.reload_again = true;
        } else {
            let known = self.lookups.names.clone();
            self.reload = Some(tokio::spawn(load(self.origin.clone(), known)));
        }
    }

    pub(super) fn on_loaded(&mut self, loaded: Loaded) {
        self.reload = None;
        if std::mem::take(&mut self.reload_again) && self.phase == Phase::Serving {
            return self.begin_reload();
        }
        let applied = loaded.and_then(|(config, names)| {
            if self.phase != Phase::Serving {
                return Err(ENDING.to_owned());
            }
            let addresses = names.addresses(&config);
            match self.relay.apply(&config, &addresses)? {
                Applied::Needs(what) => {
                    self.renew(&config, format!("{what} changed"));
                    Ok(None)
                }
                Applied::Now(what) => {
                    self.report(Report::Applied { config: config.render() });
                    self.log.configure(config.log.clone());
                    self.listeners = listener_names(&config, &self.relay.doors());
                    self.lookups.names.renew(&config, names);
                    self.remember_names();
                    self.written.clone_from(&config);
                    self.config = config;
                    self.forget_settings();
                    self.check_servers();
                    self.loaded = SystemTime::now();
                    Ok(Some(what))
                }
            }
        });
        if let Some(outcome) = applied.transpose() {
            self.finish_reload(outcome);
        }
    }

    pub(super) fn finish_reload(&mut self, outcome: Result<String, String>) {
        let done = self.renewing.take().unwrap_or(RELOADED);
        let answer = match &outcome {
            Ok(what) => {
                self.log.info(format_args!("{done}: {what}"));
                format!("{done}: {what}")
            }
            Err(why) => {
                self.report(Report::Kept);
                self.log.error(format_args!("not {done}, what ran before runs on: {why}"));
                format!("{}not {done}, what ran before runs on: {why}", socket::REFUSAL)
            }
        };
        self.last_reload = Some(ReloadStatus {
            time: log::rfc3339(SystemTime::now()),
            ok: outcome.is_ok(),
            message: outcome.unwrap_or_else(|why| why),
        });
        for waiter in self.reload_waiters.drain(..) {
            let _ = waiter.send(answer.clone());
        }
        if std::mem::take(&mut self.reload_again) && self.phase == Phase::Serving {
            self.begin_reload();
        }
    }
}

/// Reads the configuration again and looks up names that are new in it, beside the loop.
async fn load(origin: Origin, known: Names) -> Loaded {
    let read = tokio::task::spawn_blocking(move || origin.load().map_err(|error| error.summary()));
    let config = read.await.map_err(|error| error.to_string())??;
    let names = lookups::find(&config, known).await.map_err(|lines| lines.join("; "))?;
    Ok((config, names))
}

/// The end of the reload under way; never, if none is.
pub(super) async fn loaded(reload: &mut Option<JoinHandle<Loaded>>) -> Loaded {
    match reload {
        Some(reload) => reload.await.unwrap_or_else(|error| Err(error.to_string())),
        None => pending().await,
    }
}
