//! A session as its worker has it.

use std::net::SocketAddr;

use crate::backend::ServerId;
use crate::gate::sources::Ticket;
use crate::metrics::{Asked, Links};
use crate::op::{ListenerId, Time};
use crate::session::Session;

use super::dial::Lease;
use super::plan::Way;
use super::queue::Wait;

/// A session and what the worker knows about it beyond the session itself.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) session: Session,
    pub(super) listener: ListenerId,
    pub(super) client: SocketAddr,
    /// Which of its listener's ways it goes.
    pub(super) way: Way,
    /// Where its place is taken: while connecting and while relaying.
    pub(super) server: Option<ServerId>,
    /// Where the attempt under way goes.
    pub(super) address: SocketAddr,
    /// Who failed last.
    pub(super) failed: Option<ServerId>,
    /// Time has passed since then, so that it may be tried again.
    pub(super) paused: bool,
    pub(super) lease: Option<Lease>,
    /// Where its source is counted.
    pub(super) ticket: Option<Ticket>,
    /// For a place at a server.
    pub(super) wait: Wait,
    /// What it asked a door or its server for.
    pub(super) asked: Option<Box<Asked>>,
    /// How its connections fared, once it has begun to fail.
    pub(super) links: Option<Box<Links>>,
    /// It is to leave its server when it is at rest.
    pub(super) leaving: bool,
    /// When the attempt under way began.
    pub(super) dialled: Time,
    /// It is by a spare connection.
    pub(super) is_spare: bool,
    /// Source ports tried for it.
    pub(super) ports_tried: u8,
    pub(super) addresses_tried: u8,
}

// Most of what a session at rest takes, beside what its engine keeps (design target: 512 B in all).
const _: () = assert!(size_of::<Relay>() <= 328);

impl Relay {
    pub(super) fn new(
        session: Session,
        listener: ListenerId,
        client: SocketAddr,
        ticket: Option<Ticket>,
        now: Time,
    ) -> Self {
        Self {
            session,
            listener,
            client,
            way: Way::default(),
            server: None,
            address: client,
            failed: None,
            paused: false,
            lease: None,
            ticket,
            wait: Wait::default(),
            asked: None,
            links: None,
            leaving: false,
            dialled: now,
            is_spare: false,
            ports_tried: 0,
            addresses_tried: 0,
        }
    }
}
