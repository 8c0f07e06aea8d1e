//! What systemd is told, and what it brings (sd_notify(3), sd_listen_fds(3)). Without systemd all of
//! this does nothing.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use sd_notify::NotifyState;

use crate::sys::{process, socket};

use super::doors::{Doors, Found};

/// Sockets that systemd opened for us or kept for us, by address. Others are closed: a listening
/// socket that nobody serves swallows connections.
pub(super) fn found() -> Found {
    let numbers = sd_notify::listen_fds().map_or_else(|_| Vec::new(), Iterator::collect);
    let named = |number| {
        let socket = process::inherited(number);
        let address = socket::local_address(socket.as_fd()).ok()?;
        socket::unblock(socket.as_fd()).ok()?;
        Some((address, socket))
    };
    numbers.into_iter().filter_map(named).collect()
}

/// Says that clients are served, and in a line how.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Says that the configuration is being read again; [`ready`] ends that.
pub(super) fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

pub(super) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Says that the workers turn.
pub(super) fn feed_watchdog() {
    tell(&[NotifyState::Watchdog]);
}

/// Whether systemd wants to be told so.
pub(super) fn is_watching() -> bool {
    sd_notify::watchdog_enabled().is_some()
}

/// Has systemd keep the doors that are new, for the case that this process is killed, and let go of
/// those that are no more. With FileDescriptorStoreMax=0, the default, it ignores it.
pub(super) fn keep(doors: &Doors, before: &Doors) {
    let kept: Vec<_> = before.shared();
    for (address, socket) in doors.sockets() {
        let number = std::os::fd::AsRawFd::as_raw_fd(&socket);
        if !kept.iter().any(|shared| shared.numbers.contains(&number)) {
            let name = name(address);
            let state = [NotifyState::FdStore, NotifyState::FdName(&name)];
            let _ = sd_notify::notify_with_fds(&state, &[socket]);
        }
    }
    let_go(kept.iter().map(|shared| shared.address).filter(|address| !doors.has(*address)));
}

/// Has systemd give up what it keeps.
pub(super) fn let_go(addresses: impl Iterator<Item = SocketAddr>) {
    for address in addresses {
        tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name(address))]);
    }
}

/// FDNAME may hold no colon.
fn name(address: SocketAddr) -> String {
    address.to_string().replace(':', ".")
}

fn tell(states: &[NotifyState<'_>]) {
    // A manager that does not listen is not our trouble.
    let _ = sd_notify::notify(states);
}
