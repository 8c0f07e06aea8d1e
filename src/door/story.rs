//! One request from its head to the end of its answer: whose places it holds, and what is told of it.
//! However it ends, it ends by being dropped, and everything is given back and counted there.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, StatusCode};
use tokio::task::spawn_local;
use tokio::time::Instant;

use crate::backend::ServerId;
use crate::backend::board::Board;
use crate::metrics::{Asked, CloseReason, Queued, Report, RequestLine, SessionRecord, tell};

use super::Forwarder;
use super::body::{Fault, Progress};
use super::head;
use super::kept::Connection;

/// A request under way.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) forwarder: Rc<Forwarder>,
    route: usize,
    client: SocketAddr,
    began: Instant,
    line: RequestLine,
    /// Where its place is taken, and whether there is a connection for it.
    server: Option<ServerId>,
    established: bool,
    /// Who was tried last.
    tried: Option<Arc<Board>>,
    pub(super) attempts: u16,
    connect_time: Option<Duration>,
    first_byte: Option<Duration>,
    upload: Option<Rc<Progress>>,
    downloaded: u64,
    /// What the exchange goes over, until it is over.
    connection: Option<Connection>,
    reason: Option<CloseReason>,
}

impl Story {
    pub(super) fn new(
        forwarder: &Rc<Forwarder>,
        route: usize,
        client: SocketAddr,
        method: &Method,
        path: String,
    ) -> Self {
        forwarder.opened(route);
        Self {
            forwarder: Rc::clone(forwarder),
            route,
            client,
            began: Instant::now(),
            line: RequestLine { method: head::short(method), path, status: None },
            server: None,
            established: false,
            tried: None,
            attempts: 0,
            connect_time: None,
            first_byte: None,
            upload: None,
            downloaded: 0,
            connection: None,
            reason: None,
        }
    }

    /// What its body has come to is told by this.
    pub(super) fn uploads(&mut self, progress: Rc<Progress>) {
        self.upload = Some(progress);
    }

    /// It has a place at this server.
    pub(super) fn at(&mut self, server: ServerId, board: &Arc<Board>) {
        self.server = Some(server);
        self.established = false;
        self.tried = Some(Arc::clone(board));
        self.attempts += 1;
    }

    /// It has none any more.
    pub(super) fn leave(&mut self) {
        self.server = None;
    }

    /// There is a connection that it can go over.
    pub(super) fn established(&mut self) {
        self.established = true;
    }

    /// It was made for it.
    pub(super) fn connected(&mut self) {
        self.established();
        self.connect_time = Some(self.began.elapsed());
    }

    /// A server has begun to answer; over this connection, if another request may have it.
    pub(super) fn answered(&mut self, connection: Option<Connection>) {
        self.connection = connection;
        self.first_byte = Some(self.began.elapsed());
    }

    /// The agent gets this.
    pub(super) fn status(&mut self, status: StatusCode) {
        self.line.status = Some(status.as_u16());
        self.forwarder.traffic(self.route).answered(status.as_u16());
    }

    /// It ends for this reason; the first that is given is the one.
    pub(super) fn ends(&mut self, reason: CloseReason) {
        self.reason.get_or_insert(reason);
    }

    /// So many more bytes of the answer have gone to the agent.
    pub(super) fn deliver(&mut self, bytes: usize) {
        self.downloaded += bytes as u64;
    }

    /// The answer is whole; the next request may have the connection.
    pub(super) fn complete(&mut self) {
        self.ends(CloseReason::Completed);
        let Some(mut connection) = self.connection.take() else { return };
        let forwarder = Rc::clone(&self.forwarder);
        spawn_local(async move {
            // Only when the last byte of the request has been taken, too.
            if connection.sender.ready().await.is_ok() {
                forwarder.keep(connection);
            }
        });
    }

    /// The server has not brought its answer to an end.
    pub(super) fn cut_by_server(&mut self, fault: Fault) {
        self.ends(match fault {
            Fault::Stalled => CloseReason::ServerIdle,
            _ => CloseReason::ServerGone,
        });
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        let uploaded = self.upload.as_ref().map_or(0, |upload| upload.bytes.get());
        let report = Report {
            // Whoever has not said why was let go of by the agent.
            reason: self.reason.unwrap_or(CloseReason::ClientGone),
            bytes: [uploaded, self.downloaded],
            bytes_discarded: [0; 2],
            attempts: self.attempts,
            connect_time: self.connect_time,
            first_byte: self.first_byte,
            last_byte: None,
            total_time: self.began.elapsed(),
        };
        if let Some(server) = self.server.take() {
            let mut backends = self.forwarder.backends.borrow_mut();
            if self.established {
                tell(backends.board(server), &report);
                backends.release(server);
            } else {
                backends.release_unconnected(server);
            }
        }
        let record = SessionRecord {
            listener: self.forwarder.listener(self.route),
            client: self.client,
            server: self.tried.take(),
            queued: Queued::default(),
            asked: Some(Box::new(Asked::Request(std::mem::take(&mut self.line)))),
            links: None,
            report,
        };
        self.forwarder.ended(self.route, record);
    }
}
