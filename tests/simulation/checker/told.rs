//! What sessions are told: each completion, as it is brought up.

use std::sync::Arc;

use fanin::op::{Flow, Outcome, SessionKey, Side, Slot};
use fanin::session::CloseReason;
use nix::errno::Errno;

use super::Checker;
use crate::faults::Sight;
use crate::shadow::{Dial, Shadow, reason_of_connect, reason_of_failure, route, slot_index};

impl Checker {
    pub(crate) fn on_ended(&mut self, key: SessionKey, slot: Slot, outcome: Outcome) {
        let now = self.now;
        let shadow = self.shadow(key);
        shadow.flying[slot_index(slot)] = false;
        shadow.landed[slot_index(slot)] = true;
        match slot {
            Slot::Connect => self.on_connect_ended(key, outcome),
            Slot::Pull(flow) => self.on_pulled(key, flow, outcome),
            Slot::Push(flow) => self.on_pushed(key, flow, outcome),
            Slot::Close => {
                let shadow = self.sessions.remove(&(key.index(), key.generation()));
                let shadow = shadow.expect("it was there a moment ago");
                self.return_port(&shadow);
                if shadow.at_server {
                    for flow in Flow::ALL {
                        self.totals.bytes[flow.index()] += shadow.flows[flow.index()].pushed;
                    }
                }
                self.totals.ended += 1;
                self.ended.push(shadow);
                return;
            }
        }
        self.shadow(key).settle(now);
    }

    fn on_connect_ended(&mut self, key: SessionKey, outcome: Outcome) {
        let now = self.now;
        let attempts_max = self.limits(self.shadow_ref(key)).attempts_max;
        let shadow = self.shadow(key);
        let gave_up = shadow.dial == Dial::GivingUp;
        let dying = shadow.cause.is_some() || shadow.closing.is_some();
        if outcome == Outcome::Done {
            self.totals.established += 1;
            let shadow = self.shadow(key);
            shadow.connected = true;
            shadow.dial = Dial::Connected;
            shadow.active = now;
            let retry_kept = shadow.attempts > 1 && shadow.flows[0].held > 0;
            if gave_up {
                self.seen.sight(Sight::GaveUpYetConnected);
            }
            if retry_kept {
                self.seen.sight(Sight::RetryKeptEarlyBytes);
            }
            return;
        }
        let conflict = matches!(outcome, Outcome::Failed(Errno::EADDRINUSE | Errno::EADDRNOTAVAIL));
        let source = std::mem::take(&mut shadow.source);
        let address = shadow.address.expect("an attempt was made");
        if let Some(source) = source {
            self.returned.push((address, source));
            self.leased.remove(&(address, source));
        }
        if let Some(source) = source.filter(|_| conflict && !gave_up && !dying) {
            self.totals.port_conflicts += 1;
            self.seen.sight(Sight::PortConflict);
            let plan = Arc::clone(&self.plan);
            let shadow = self.shadow(key);
            let configured = &plan.backends[route(&plan, shadow.listener).backend].source;
            if source.port() > 0 {
                shadow.ports_tried += 1;
                shadow.port_retry = true;
            } else {
                shadow.addresses_tried += 1;
                let addresses = configured.addresses_for(address).count();
                shadow.port_retry = shadow.addresses_tried < addresses;
            }
            if shadow.port_retry {
                return;
            }
            self.seen.sight(Sight::AddressesExhausted);
        }
        let shadow = self.shadow(key);
        shadow.at_server = false;
        let reason = match outcome {
            Outcome::Failed(errno) if !gave_up => reason_of_connect(errno),
            _ => CloseReason::ConnectTimeout,
        };
        shadow.failed = Some((address, reason));
        shadow.failed_left = false;
        shadow.dial = Dial::Waiting { since: now };
        if !dying && shadow.attempts >= attempts_max {
            shadow.cause = Some(reason);
        }
        let ours = match outcome {
            Outcome::Failed(errno) => {
                matches!(reason_of_connect(errno), CloseReason::NoPort | CloseReason::NoResources)
            }
            _ => dying,
        };
        self.totals.connect_failures += u64::from(!ours);
    }

    fn on_pulled(&mut self, key: SessionKey, flow: Flow, outcome: Outcome) {
        let now = self.now;
        let shadow = self.shadow(key);
        let connected = shadow.connected;
        let dying = shadow.is_dying();
        let state = &mut shadow.flows[flow.index()];
        match outcome {
            Outcome::Moved(bytes) => {
                state.pulled += u64::from(bytes.get());
                state.held = u64::from(bytes.get());
                shadow.active = now;
                if !connected {
                    self.seen.sight(Sight::EarlyBytes);
                }
            }
            Outcome::EndOfStream => {
                // Nobody is told of an end that comes after the end of the session.
                state.ended = !dying;
                shadow.active = now;
                if !connected {
                    self.seen.sight(Sight::EarlyEnd);
                }
            }
            Outcome::Failed(errno) => {
                self.seen.sight(match errno {
                    Errno::ECONNRESET => Sight::PullReset,
                    _ => Sight::PullTimedOut,
                });
                self.on_side_failed(key, flow.source(), errno);
            }
            Outcome::Cancelled => self.seen.sight(Sight::Cancelled),
            Outcome::Done => unreachable!("the kernel counts bytes"),
        }
    }

    fn on_pushed(&mut self, key: SessionKey, flow: Flow, outcome: Outcome) {
        let now = self.now;
        let shadow = self.shadow(key);
        let dying = shadow.is_dying();
        let state = &mut shadow.flows[flow.index()];
        match outcome {
            Outcome::Moved(bytes) => {
                state.pushed += u64::from(bytes.get());
                state.held -= u64::from(bytes.get());
                shadow.active = now;
                shadow.delivered = Some(flow);
                shadow.acknowledged[flow.sink().index()] = None;
            }
            Outcome::Failed(Errno::EPIPE) => {
                if !dying {
                    state.cut = true;
                    shadow.cut.get_or_insert(flow);
                    shadow.active = now;
                }
                self.seen.sight(Sight::PushBrokenPipe);
            }
            Outcome::Failed(errno) => {
                self.seen.sight(match errno {
                    Errno::ECONNRESET => Sight::PushReset,
                    _ => Sight::PushTimedOut,
                });
                self.on_side_failed(key, flow.sink(), errno);
            }
            Outcome::Cancelled => self.seen.sight(Sight::Cancelled),
            Outcome::Done | Outcome::EndOfStream => unreachable!("the kernel counts bytes"),
        }
    }

    /// The worker asks how much a sink has taken: it knows of what moved since it last asked.
    pub(crate) fn on_looked(&mut self, key: SessionKey, side: Side, bytes: u64) {
        let now = self.now;
        let shadow = self.shadow(key);
        if shadow.acknowledged[side.index()].replace(bytes) != Some(bytes) {
            shadow.active = now;
            self.seen.sight(Sight::LookedAtSink);
        }
    }

    /// The peer has taken something from a socket: whoever pushes to it is not idle, whether it knows
    /// or not.
    pub(crate) fn on_taken(&mut self, key: SessionKey, side: Side, at: u64) {
        if let Some(shadow) = self.sessions.get_mut(&(key.index(), key.generation()))
            && shadow.is_flying(Slot::Push(side.other().outbound()))
        {
            shadow.taken = shadow.taken.max(at);
        }
    }

    fn on_side_failed(&mut self, key: SessionKey, side: Side, errno: Errno) {
        let shadow = self.shadow(key);
        if side == Side::Client && !shadow.connected && !shadow.is_dying() {
            self.seen.sight(Sight::GoneWhileConnecting);
        }
        self.set_cause(key, reason_of_failure(side, errno));
    }

    /// A session was told of what ends it. It may have given up finding a server a moment ago.
    pub(super) fn set_cause(&mut self, key: SessionKey, cause: CloseReason) {
        let now = self.now;
        let unserved = self.excuses_of_the_unserved(key);
        let shadow = self.shadow(key);
        if shadow.is_dying() {
            return;
        }
        shadow.cause = Some(cause);
        if shadow.dial == (Dial::Waiting { since: now }) {
            shadow.excuses.extend(unserved);
        }
    }

    pub(crate) fn on_broken(&mut self, key: SessionKey, side: Side, errno: Errno) {
        self.seen.sight(match errno {
            Errno::EPIPE => Sight::BrokenPipe,
            Errno::ECONNRESET => Sight::BrokenReset,
            _ => Sight::BrokenTimedOut,
        });
        let now = self.now;
        let shadow = self.shadow(key);
        let towards = side.other().outbound();
        if errno == Errno::EPIPE && shadow.connected && !shadow.is_dying() {
            // What is held is being pushed, and the push will tell.
            let state = &mut shadow.flows[towards.index()];
            if !state.ended && state.held == 0 {
                state.cut = true;
                shadow.cut.get_or_insert(towards);
                shadow.active = now;
            }
            self.shadow(key).settle(now);
        } else {
            self.on_side_failed(key, side, errno);
        }
    }

    pub(super) fn return_port(&mut self, shadow: &Shadow) {
        if let (Some(to), Some(source)) = (shadow.address, shadow.source) {
            self.returned.push((to, source));
            self.leased.remove(&(to, source));
        }
    }
}
