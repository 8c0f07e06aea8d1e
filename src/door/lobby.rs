//! Those who have not yet said what they want, or not yet proved who they are: bounded, so that
//! they cannot take the places of those who have. When it is full, who came first has to go.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::rc::Rc;

use tokio::sync::Notify;

/// Who waits at one time in one thread. A head comes with the first segment or the next; even a fleet
/// that returns at once is never here for long.
const GUESTS_MAX: usize = 4096;
/// Of these, from one source: half, so that one cannot keep all others out.
const GUESTS_OF_SOURCE_MAX: u32 = 2048;

/// One thread's lobby.
#[derive(Debug, Default)]
pub(super) struct Lobby(RefCell<Inside>);

#[derive(Debug, Default)]
struct Inside {
    next: u64,
    guests: BTreeMap<u64, (u128, Rc<Notify>)>,
    sources: HashMap<u128, u32>,
}

/// Somebody in the lobby, until this is dropped.
#[derive(Debug)]
pub(super) struct Guest<'a> {
    lobby: &'a Lobby,
    number: u64,
    dismissed: Rc<Notify>,
}

impl Lobby {
    /// Lets somebody in; `None` if too many from there are inside already.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Guest<'_>> {
        let mut inside = self.0.borrow_mut();
        let source = source(address);
        let there = inside.sources.entry(source).or_default();
        if *there >= GUESTS_OF_SOURCE_MAX {
            return None;
        }
        *there += 1;
        if inside.guests.len() >= GUESTS_MAX
            && let Some((_, (of, first))) = inside.guests.pop_first()
        {
            first.notify_one();
            inside.leave(of);
        }
        let number = inside.next;
        inside.next += 1;
        let dismissed = Rc::<Notify>::default();
        inside.guests.insert(number, (source, Rc::clone(&dismissed)));
        drop(inside);
        Some(Guest { lobby: self, number, dismissed })
    }
}

impl Inside {
    fn leave(&mut self, source: u128) {
        if let Some(there) = self.sources.get_mut(&source) {
            *there -= 1;
            if *there == 0 {
                self.sources.remove(&source);
            }
        }
    }
}

impl Guest<'_> {
    /// Ends when its place was needed.
    pub(super) async fn dismissed(&self) {
        self.dismissed.notified().await;
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let mut inside = self.lobby.0.borrow_mut();
        if let Some((source, _)) = inside.guests.remove(&self.number) {
            inside.leave(source);
        }
    }
}

/// A host has a /64 of IPv6 at its command (RFC 4291 section 2.5.4).
fn source(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits() & !u128::from(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: usize) -> IpAddr {
        Ipv4Addr::from(0x0a00_0000 + u32::try_from(number).unwrap()).into()
    }

    #[tokio::test]
    async fn when_it_is_full_who_came_first_has_to_go() {
        let lobby = Lobby::default();
        let mut guests: Vec<_> =
            (0..GUESTS_MAX).map(|number| lobby.enter(address(number)).unwrap()).collect();
        guests.push(lobby.enter(address(GUESTS_MAX)).unwrap());
        guests[0].dismissed().await;
        tokio::select! {
            biased;
            () = guests[1].dismissed() => panic!("one was enough"),
            () = std::future::ready(()) => {}
        }
        guests.clear();
        let inside = lobby.0.borrow();
        assert_eq!((inside.guests.len(), inside.sources.len()), (0, 0));
    }

    #[test]
    fn one_source_cannot_keep_all_others_out() {
        let lobby = Lobby::default();
        let enter = |_| lobby.enter(address(7));
        let guests: Vec<_> = (0..GUESTS_MAX).filter_map(enter).collect();
        assert_eq!(guests.len(), GUESTS_MAX / 2);
        assert!(lobby.enter(address(8)).is_some());
        drop(guests);
        assert!(lobby.enter(address(7)).is_some());
    }
}
