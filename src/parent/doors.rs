//! The listening sockets. The parent holds them for as long as their addresses are configured, so
//! that neither the end of a relay process nor a reload nor an upgrade closes one: the kernel
//! resets what waits in the queue of a socket that is closed.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;

use crate::handover::Shared;
use crate::supervisor::StartError;
use crate::sys::{process, socket};

use super::claim::{self, Claim};

/// One address where clients connect.
#[derive(Clone, Debug)]
struct Door {
    /// As configured: port 0 is the kernel's choice.
    bind: SocketAddr,
    address: SocketAddr,
    /// One a worker; more if there were more workers once, for none is ever closed; fewer if they
    /// came from somebody who does not share the address.
    sockets: Vec<Rc<OwnedFd>>,
    claim: Option<Rc<Claim>>,
}

/// The addresses of a configuration, in its order.
#[derive(Clone, Debug, Default)]
pub(super) struct Doors(Vec<Door>);

/// Listening sockets that this process was started with, by address.
pub(super) type Found = Vec<(SocketAddr, OwnedFd)>;

impl Doors {
    /// The doors at these addresses: those that are there already stay, what is missing is bound and
    /// does not listen yet. What is not in the result is closed when `self` is dropped;
    /// when the result is dropped instead, only what is new in it is closed.
    ///
    /// # Errors
    /// When an address cannot be had.
    pub(super) fn next(
        &self,
        binds: impl Iterator<Item = SocketAddr>,
        workers: u16,
        found: &mut Found,
    ) -> Result<Self, StartError> {
        let mut old = self.0.clone();
        let door = |bind: SocketAddr| {
            let mut door = match old.iter().position(|door| door.bind == bind) {
                Some(at) => old.remove(at),
                None => Door::open(bind, found)?,
            };
            door.widen(workers)?;
            Ok(door)
        };
        binds.map(door).collect::<Result<_, _>>().map(Self)
    }

    /// The port that people know the relay by.
    pub(super) fn port(&self) -> u16 {
        self.0.first().map_or(0, |door| door.address.port())
    }

    /// What an heir is told of them.
    pub(super) fn shared(&self) -> Vec<Shared> {
        let shared = |door: &Door| Shared {
            bind: door.bind,
            address: door.address,
            numbers: door.sockets.iter().map(|socket| socket.as_raw_fd()).collect(),
        };
        self.0.iter().map(shared).collect()
    }

    /// What keeps a second instance away, for an heir.
    pub(super) fn claims(&self) -> Vec<(SocketAddr, i32)> {
        let claim = |door: &Door| Some((door.bind, door.claim.as_ref()?.as_raw_fd()));
        self.0.iter().filter_map(claim).collect()
    }

    /// What kept a second instance away from the parent before.
    pub(super) fn inherit_claims(claims: Vec<(SocketAddr, i32)>) -> Vec<(SocketAddr, Rc<Claim>)> {
        let claim = |number| Rc::new(Claim::from(process::inherited(number)));
        claims.into_iter().map(|(bind, number)| (bind, claim(number))).collect()
    }

    /// The doors that the parent before left; each takes its claim out of those.
    pub(super) fn inherit(shared: Vec<Shared>, claims: &mut Vec<(SocketAddr, Rc<Claim>)>) -> Self {
        let door = |shared: Shared| {
            let mine = claims.iter().position(|(bind, _)| *bind == shared.bind);
            Door {
                bind: shared.bind,
                address: shared.address,
                sockets: shared.numbers.into_iter().map(process::inherited).map(Rc::new).collect(),
                claim: mine.map(|at| claims.remove(at).1),
            }
        };
        Self(shared.into_iter().map(door).collect())
    }

    /// Each socket with the name of its address.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (SocketAddr, BorrowedFd<'_>)> {
        let of = |door: &'_ Door| door.address;
        self.0
            .iter()
            .flat_map(move |door| door.sockets.iter().map(move |socket| (of(door), socket.as_fd())))
    }

    /// Has nobody let in at an address any more: who comes is refused, and who waits in its queue is reset,
    /// as HAProxy does it. The sockets stay bound.
    pub(super) fn close(&self, bind: SocketAddr) -> Result<(), Errno> {
        self.at(bind).try_for_each(|socket| socket::deafen(socket.as_fd()))
    }

    /// Lets clients in again, `backlog` of whom may wait.
    pub(super) fn open(&self, bind: SocketAddr, backlog: u32) -> Result<(), Errno> {
        self.at(bind).try_for_each(|socket| socket::listen(socket, backlog))
    }

    fn at(&self, bind: SocketAddr) -> impl Iterator<Item = &Rc<OwnedFd>> {
        self.0.iter().filter(move |door| door.bind == bind).flat_map(|door| &door.sockets)
    }

    /// Whether clients are expected at this address.
    pub(super) fn has(&self, address: SocketAddr) -> bool {
        self.0.iter().any(|door| door.address == address)
    }
}

impl Door {
    fn open(bind: SocketAddr, found: &mut Found) -> Result<Self, StartError> {
        let claim = claim::claim(bind)?.map(Rc::new);
        let mut sockets = Vec::new();
        while let Some(at) = found.iter().position(|(address, _)| *address == bind) {
            sockets.push(Rc::new(found.remove(at).1));
        }
        if sockets.is_empty() && bind.port() != 0 {
            claim::is_free(bind)?;
        }
        Ok(Self { bind, address: bind, sockets, claim })
    }

    /// Binds a socket for each worker that has none.
    fn widen(&mut self, workers: u16) -> Result<(), StartError> {
        let address = self.address;
        let failed = |errno| StartError::Bind { address, errno };
        if self.sockets.first().is_some_and(|first| !socket::is_shared(first.as_fd())) {
            // Somebody else's, and nobody else may have the address: the workers share the socket.
            return Ok(());
        }
        while self.sockets.len() < usize::from(workers) {
            let socket = socket::shared(self.address).map_err(failed)?;
            // Port 0: the first socket's choice is everyone's.
            self.address = socket::local_address(socket.as_fd()).map_err(failed)?;
            self.sockets.push(Rc::new(socket));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(doors: &Doors, binds: &[&str], workers: u16) -> Doors {
        let binds = binds.iter().map(|bind| bind.parse().unwrap());
        doors.next(binds, workers, &mut Vec::new()).unwrap()
    }

    #[test]
    fn a_door_that_stays_keeps_its_sockets_though_workers_come_and_go() {
        let first = next(&Doors::default(), &["127.0.0.1:0"], 3);
        let fewer = next(&first, &["[::1]:0", "127.0.0.1:0"], 2);
        let more = next(&fewer, &["127.0.0.1:0"], 4);
        let numbers = |doors: &Doors, at: usize| doors.shared()[at].numbers.clone();
        assert_eq!(numbers(&first, 0), numbers(&fewer, 1));
        assert_eq!(numbers(&fewer, 0).len(), 2);
        assert_eq!(numbers(&more, 0)[..3], numbers(&first, 0));
        assert_eq!((numbers(&more, 0).len(), more.port()), (4, first.port()));
    }

    #[test]
    fn a_door_that_is_closed_refuses_whoever_comes_until_it_is_opened() {
        let doors = next(&Doors::default(), &["127.0.0.1:0"], 2);
        let bind: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let at = doors.sockets().next().unwrap().0;
        doors.open(bind, 16).unwrap();
        let come = || std::net::TcpStream::connect(at).map_err(|error| error.kind());
        assert!(come().is_ok());
        doors.close(bind).unwrap();
        assert_eq!(come().unwrap_err(), std::io::ErrorKind::ConnectionRefused);
        doors.open(bind, 16).unwrap();
        assert!(come().is_ok());
    }

    #[test]
    fn a_socket_that_somebody_brought_serves_all_workers() {
        let brought = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = brought.local_addr().unwrap();
        let mut found = vec![(address, OwnedFd::from(brought))];
        let binds = std::iter::once(address);
        let doors = Doors::default().next(binds, 2, &mut found).unwrap();
        assert!(found.is_empty() && doors.has(address));
        assert_eq!(doors.shared()[0].numbers.len(), 1);
    }
}
