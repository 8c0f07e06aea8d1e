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
/// And however few places there are. Of all these one source has half at the most, so that it cannot keep
/// all others out: beyond, its own first have to go.
const GUESTS_MIN: usize = 4;

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
    /// Lets somebody in, where there are so many places.
    pub(super) fn enter(&self, address: IpAddr, places: usize) -> Guest<'_> {
        let most = places.clamp(GUESTS_MIN, GUESTS_MAX);
        let mut inside = self.0.borrow_mut();
        let source = source(address);
        if inside.sources.get(&source).is_some_and(|there| *there as usize >= most.div_ceil(2)) {
            inside.dismiss_first(|other| other == source);
        } else if inside.guests.len() >= most {
            inside.dismiss_first(|_| true);
        }
        *inside.sources.entry(source).or_default() += 1;
        let number = inside.next;
        inside.next += 1;
        let dismissed = Rc::<Notify>::default();
        inside.guests.insert(number, (source, Rc::clone(&dismissed)));
        drop(inside);
        Guest { lobby: self, number, dismissed }
    }

    /// There is no place for somebody else: who came first has to go.
    pub(super) fn make_room(&self) {
        self.0.borrow_mut().dismiss_first(|_| true);
    }
}

impl Inside {
    fn dismiss_first(&mut self, of: impl Fn(u128) -> bool) {
        let first = self.guests.iter().find(|(_, (source, _))| of(*source));
        let Some((&number, _)) = first else { return };
        if let Some((source, first)) = self.guests.remove(&number) {
            first.notify_one();
            self.leave(source);
        }
    }

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
            (0..GUESTS_MAX).map(|number| lobby.enter(address(number), GUESTS_MAX)).collect();
        guests.push(lobby.enter(address(GUESTS_MAX), GUESTS_MAX));
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

    #[tokio::test]
    async fn one_source_has_half_of_it_and_gives_way_to_itself() {
        let lobby = Lobby::default();
        let other = lobby.enter(address(8), GUESTS_MAX);
        let guests: Vec<_> = (0..GUESTS_MAX).map(|_| lobby.enter(address(7), GUESTS_MAX)).collect();
        assert_eq!(lobby.0.borrow().guests.len(), GUESTS_MAX / 2 + 1);
        for guest in &guests[..GUESTS_MAX / 2] {
            guest.dismissed().await;
        }
        tokio::select! {
            biased;
            () = other.dismissed() => panic!("it came before them all, from elsewhere"),
            () = guests[GUESTS_MAX / 2].dismissed() => panic!("half of them may stay"),
            () = std::future::ready(()) => {}
        }
    }
}
