//! What the relay says about itself.

use std::sync::atomic::Ordering::Relaxed;

use crate::backend::Member;
use crate::backend::board::{Admin, RAMP_FULL};
use crate::config::{self, Mode, Server};
use crate::control::{
    DoorStatus, ListenerState, ListenerStatus, QueueStatus, RelayStatus, RouteStatus, ServerStatus,
    WorkerStatus,
};
use crate::door;
use crate::gate::Quota;
use crate::sys::process;
use crate::worker::Command;
use crate::worker::plan;

use super::Supervisor;
use super::thread::Thread;

impl Supervisor {
    pub(super) fn describe(&self) -> RelayStatus {
        RelayStatus {
            maxconn: self.budget.sessions.into(),
            pipes_max: u64::from(self.budget.pipes_a_worker) * u64::from(self.budget.workers),
            descriptors: self.host.descriptors,
            host: self.host.name.clone(),
            sandbox: self.sandbox.clone(),
            listeners: (0..self.config.listeners.len()).map(|n| self.listener(n)).collect(),
            servers: self.servers(),
            queues: self.queues(),
            workers: self.threads.iter().map(|thread| self.worker(thread)).collect(),
            doors: self.agents.threads.iter().map(door).collect(),
        }
    }

    fn listener(&self, number: usize) -> ListenerStatus {
        let listener = &self.config.listeners[number];
        let ours = self.doors.iter().zip(&self.plan.routes);
        let ours: Vec<_> =
            ours.filter(|(door, _)| door.listener == number && door.round == 0).collect();
        let quota = ours.first().map(|(_, route)| &*route.quota);
        let traffic = ours.first().map(|(_, route)| route.traffic.read()).unwrap_or_default();
        let ways = ours.first().map(|(_, route)| route.names.ways.as_slice()).unwrap_or_default();
        let routes = listener.routes.iter().zip(ways).map(|(route, way)| RouteStatus {
            sni: route.sni.to_string(),
            backend: self.config.backends[route.backend].name.clone(),
            sessions_total: way.taken.load(Relaxed),
        });
        let full = |quota: &Quota| quota.taken() >= quota.limit();
        let places = quota.map_or(0, |quota| quota.taken().into());
        let state = if self.sockets.is_empty() {
            ListenerState::Ended
        } else if full(&self.quota) || quota.is_some_and(full) {
            ListenerState::Paused
        } else {
            ListenerState::Accepting
        };
        ListenerStatus {
            name: listener.name.clone(),
            addresses: ours.iter().map(|(door, _)| door.address.to_string()).collect(),
            backend: self.config.backend_of(listener).name.clone(),
            state,
            mode: listener.mode.label(),
            // Through a door an agent may be connected and ask for nothing.
            sessions: if listener.mode == Mode::Agent { traffic.open() } else { places },
            connections: places,
            maxconn: listener.maxconn.map(u64::from),
            traffic,
            routes: routes.collect(),
        }
    }

    fn servers(&self) -> Vec<ServerStatus> {
        let mut statuses = Vec::new();
        for (backend, planned) in self.config.backends.iter().zip(&self.plan.backends) {
            for (server, member) in backend.servers.iter().zip(&planned.members) {
                statuses.push(ServerStatus {
                    backend: backend.name.clone(),
                    name: server.name.clone(),
                    address: server.address.to_string(),
                    resolved: member.addresses.iter().map(ToString::to_string).collect(),
                    check: None,
                    state: state(server, member).to_owned(),
                    admin: member.board.admin(),
                    balance: backend.balance.to_string(),
                    weight: member.board.weight(server.weight),
                    weight_configured: server.weight,
                    slow_start_percent: slow_start_percent(member),
                    backup: server.backup,
                    maxconn: server.maxconn.map(u64::from),
                    tally: member.board.read(),
                });
            }
        }
        statuses
    }

    fn queues(&self) -> Vec<QueueStatus> {
        let backends = self.config.backends.iter().zip(&self.plan.backends);
        let queue = |(backend, planned): (&config::Backend, &plan::Backend)| QueueStatus {
            backend: backend.name.clone(),
            waiting: planned.queue.places.taken().into(),
            waiting_max: planned.queue.most().into(),
            places: planned.queue.places.limit().into(),
        };
        backends.map(queue).collect()
    }

    fn worker(&self, thread: &Thread<Command>) -> WorkerStatus {
        let (kind, why) = &self.engine;
        WorkerStatus {
            index: thread.index,
            engine: kind.to_string(),
            engine_why: why.clone(),
            cpu: thread.processor,
            counts: thread.counters.read(),
        }
    }
}

fn slow_start_percent(member: &Member) -> Option<u32> {
    let part = member.board.ramp(member.slow_start, process::monotonic_micros());
    (part < RAMP_FULL).then_some(part * 100 / RAMP_FULL)
}

fn door(thread: &Thread<door::Command>) -> DoorStatus {
    DoorStatus { index: thread.index, counts: thread.counters.read() }
}

/// What its configuration and its administrator make of a server. Workers judge its health each for
/// itself.
fn state(server: &Server, member: &Member) -> &'static str {
    match member.board.admin() {
        Admin::Maint => "maintenance",
        Admin::Drain => "drain",
        Admin::Ready if member.addresses.is_empty() => "no address yet",
        Admin::Ready if member.board.weight(server.weight) == 0 => "off (weight 0)",
        Admin::Ready if server.backup => "backup",
        Admin::Ready => "in use",
    }
}
