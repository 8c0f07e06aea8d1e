//! What the loop controls.

use std::io;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::backend::board::Board;
use crate::config::Config;
use crate::metrics::{CloseReason, SessionPlace, SessionView};

use super::names::Addresses;
use super::status::RelayStatus;

/// What is controlled. Nothing here may block: signals and the log wait meanwhile.
pub trait Relay {
    /// What it does now.
    fn status(&self) -> RelayStatus;

    /// Goes over to another configuration, whole or not at all: an error says why not, and that
    /// the one before is still in force.
    fn apply(&mut self, config: &Config, addresses: &Addresses) -> Result<Applied, String>;

    /// The listener, by its place in the configuration, that each
    /// [`ListenerId`](crate::op::ListenerId) belongs to.
    fn doors(&self) -> Vec<usize>;

    /// The public record of a server, by its index and that of its backend.
    fn board(&self, backend: usize, server: usize) -> &Arc<Board>;

    /// Ends every established session of a server, for this reason.
    fn expel(&self, backend: usize, server: usize, reason: CloseReason);

    /// So many sessions of a server, and not more, leave it when they are at rest.
    fn shed(&self, backend: usize, server: usize, sessions: u32);

    /// Asks every worker for its sessions. Each answers when it turns, without waking anybody.
    fn list(&self) -> Vec<(u16, mpsc::Receiver<Vec<SessionView>>)>;

    /// Ends a session of a worker, which answers likewise whether it was there; `None` where there is
    /// no such worker.
    fn end_session(&self, worker: u16, session: SessionPlace) -> Option<mpsc::Receiver<bool>>;

    /// The highest counts so far, of sessions and of those who wait, begin anew.
    fn forget_highest(&self);

    /// Whether every worker has turned since this was last asked.
    fn is_turning(&mut self) -> bool;

    /// Accepts no more; sessions may go on for `grace`.
    fn drain(&mut self, grace: Duration);

    /// Ends everything at once.
    fn stop(&mut self);

    /// Workers that have ended since this was last asked. It is asked at each tick of the log,
    /// since they must not say so themselves: waking this thread means writing to a descriptor, and a
    /// worker's descriptor table is not this thread's.
    fn ended(&mut self) -> Vec<WorkerExit>;
}

/// What became of another configuration.
#[derive(Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is in force. The text says what that means.
    Now(String),
    /// Only another generation can have it, because of this.
    Needs(&'static str),
}

/// A worker or a door's thread has ended, as it was told to or because it could not go on.
#[derive(Debug)]
pub struct WorkerExit {
    /// `worker 0`, `door 0`.
    pub name: String,
    pub result: io::Result<()>,
}
