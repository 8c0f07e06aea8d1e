//! Connections to servers that are kept for the next request: bounded, never used when they have grown
//! old, when their server has moved, or when anything has come in on them.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use crate::backend::board::Board;

use super::body::Upload;
use super::plan::{Manner, Plan};
use super::wire::Line;

/// Connections kept to one server by one thread: far more than 5000 agents have under way at 100 ms a
/// request (150), and few enough that a server does not mind them.
const KEPT_MAX: usize = 256;

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: SendRequest<Upload>,
    pub(super) line: Rc<Line>,
    pub(super) board: Arc<Board>,
    pub(super) address: SocketAddr,
    /// How it was made.
    pub(super) manner: Manner,
}

/// One thread's kept connections.
#[derive(Debug, Default)]
pub(super) struct Kept(Vec<(Connection, Instant)>);

impl Kept {
    /// Keeps a connection on which an exchange is over, if there is room for it.
    pub(super) fn put(&mut self, connection: Connection, plan: &Plan) {
        let board = &connection.board;
        let beside = self.0.iter().filter(|(other, _)| Arc::ptr_eq(&other.board, board)).count();
        if beside < KEPT_MAX && idle_limit(&connection, plan).is_some() {
            board.keep();
            self.0.push((connection, Instant::now()));
        }
    }

    /// The one to this server that was used last, by preference to this address of it.
    pub(super) fn take(
        &mut self,
        board: &Arc<Board>,
        address: SocketAddr,
        plan: &Plan,
    ) -> Option<Connection> {
        let ours = |connection: &Connection| Arc::ptr_eq(&connection.board, board);
        loop {
            let last = |wanted: &dyn Fn(&Connection) -> bool| {
                self.0.iter().rposition(|(connection, _)| ours(connection) && wanted(connection))
            };
            let at =
                last(&|connection| connection.address == address).or_else(|| last(&|_| true))?;
            let (connection, since) = self.0.remove(at);
            connection.board.unkeep();
            if is_usable(&connection, since, plan) && connection.line.is_quiet() {
                return Some(connection);
            }
        }
    }

    /// Lets go of what is of no more use.
    pub(super) fn sweep(&mut self, plan: &Plan) {
        self.0.retain(|(connection, since)| {
            let usable = is_usable(connection, *since, plan);
            if !usable {
                connection.board.unkeep();
            }
            usable
        });
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.iter().for_each(|(connection, _)| connection.board.unkeep());
    }
}

fn is_usable(connection: &Connection, since: Instant, plan: &Plan) -> bool {
    !connection.sender.is_closed()
        && idle_limit(connection, plan).is_some_and(|limit| since.elapsed() < limit)
}

/// How long a connection may be kept; `None` if its server is gone, is elsewhere by now, or is to be
/// spoken with in another manner.
fn idle_limit(connection: &Connection, plan: &Plan) -> Option<Duration> {
    let Connection { board, address, manner, .. } = connection;
    plan.backends.iter().find_map(|backend| {
        let same = |member: &&crate::backend::Member| Arc::ptr_eq(&member.board, board);
        let member = backend.members.iter().find(same)?;
        let here = member.addresses.contains(address);
        let alike = match (&manner.secure, &backend.manner(board)?.secure) {
            (None, None) => true,
            (Some(one), Some(other)) => one.is_same(other),
            _ => false,
        };
        (here && alike).then_some(backend.keep_idle)
    })
}
