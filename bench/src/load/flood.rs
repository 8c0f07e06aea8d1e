//! Bulk streams: all send, or all receive, or both, as fast as they can.

use std::net::SocketAddr;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::{Meter, Outcome, Phase, connect};
use crate::error::Error;
use crate::scenario::{Kind, Work};
use crate::stream::{Buffers, Went};

/// Longest wait, so that the window opens and shuts in time.
const PATIENCE: Duration = Duration::from_millis(5);

pub(super) fn run(work: &Work, targets: &[SocketAddr], mut meter: Meter) -> Result<Outcome, Error> {
    let mut streams = connect(work.connections, targets)?;
    let mut poll = Poll::new().map_err(Error::at("epoll"))?;
    for (index, stream) in streams.iter_mut().enumerate() {
        let both = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(stream, Token(index), both).map_err(Error::at("epoll"))?;
    }
    let mut buffers = Buffers::new();
    let mut events = Events::with_capacity(64);
    let (mut bytes, mut failures) = (0, 0);
    let mut again: Vec<usize> = Vec::new();
    meter.begin();
    loop {
        let limit = if again.is_empty() { PATIENCE } else { Duration::ZERO };
        match poll.poll(&mut events, Some(limit)) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                return Err(Error(format!("epoll: {error}")));
            }
            _ => {}
        }
        match meter.phase(meter.clock.now()) {
            Phase::Same => {}
            Phase::Opens => bytes = 0,
            Phase::Shuts => {
                let sessions = streams.len() as u64;
                return Ok(Outcome { bytes, failures, sessions, ..meter.outcome() });
            }
        }
        let mut ready = std::mem::take(&mut again);
        ready.extend(events.iter().map(|event| event.token().0));
        ready.sort_unstable();
        ready.dedup();
        for index in ready {
            match flow(&mut buffers, &mut streams[index], work.kind, &mut bytes) {
                Went::Blocked => {}
                Went::Turn => again.push(index),
                Went::Ended => failures += 1,
            }
        }
    }
}

fn flow(buffers: &mut Buffers, stream: &mut TcpStream, kind: Kind, bytes: &mut u64) -> Went {
    let mut went = Went::Blocked;
    if kind != Kind::BulkDown {
        went = buffers.pour(stream, bytes);
    }
    if kind != Kind::BulkUp && went != Went::Ended {
        let received = buffers.drink(stream, bytes);
        went = if went == Went::Blocked || received == Went::Ended { received } else { went };
    }
    went
}
