//! A network between relay and servers: two network namespaces with the kernel's default settings, joined by
//! veth, or by two TUN devices between which each packet waits.
//!
//! Load and relay are here, the servers at the far end. Both namespaces are held by open files alone,
//! so they are gone when this program is, however it ends.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::Command;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::time::TimeSpec;

use crate::cli;
use crate::clock::{Clock, MILLISECOND};
use crate::error::Error;
use crate::process::Process;
use crate::scenario::Distance;
use crate::sys;

/// The servers' address, and the one that the relay reaches it from.
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(10, 85, 0, 2);
const NEAR: &str = "10.85.0.1";
/// The device at either end.
const DEVICES: [&str; 2] = ["near", "far"];
/// How long the process that delays may take to make its devices.
const START: Duration = Duration::from_secs(5);
/// Longer than any packet of a device with the usual MTU.
const PACKET_BYTES: usize = 2048;

/// While there is one, this thread and what it starts are at its near end.
#[derive(Debug)]
pub(crate) struct Link {
    home: File,
    near: File,
    far: File,
    _delay: Option<Process>,
}

impl Link {
    /// Makes one; `cpus` are for the process that delays, if one is needed.
    ///
    /// # Errors
    /// Without root, iproute2 or /dev/net/tun.
    pub(crate) fn new(distance: &Distance, cpus: &[usize]) -> Result<Self, Error> {
        let home = namespace()?;
        let far = namespace_of_its_own()?;
        let near = namespace_of_its_own()?;
        let mut link = Self { home, near, far, _delay: None };
        let far = format!("/proc/{}/fd/{}", std::process::id(), link.far.as_raw_fd());
        if distance.round_trip_ms == 0 {
            ip(&["link", "add", DEVICES[0], "type", "veth", "peer", DEVICES[1], "netns", &far])?;
        } else {
            let own = std::env::current_exe().map_err(Error::at("cannot find my own program"))?;
            let one_way = (distance.round_trip_ms * 1000 / 2).to_string();
            let words = ["delay", "--far", &far, "--one-way-us", &one_way];
            let delay = Process::start("delay", cpus, &own, &words.map(OsString::from))?;
            link._delay = Some(delay.line(START)?.0);
        }
        ip(&["address", "add", &format!("{NEAR}/24"), "dev", DEVICES[0]])?;
        ip(&["link", "set", DEVICES[0], "up"])?;
        link.at_far_end(|| {
            ip(&["address", "add", &format!("{FAR}/24"), "dev", DEVICES[1]])?;
            ip(&["link", "set", DEVICES[1], "up"])
        })?;
        Ok(link)
    }

    /// Does something at the far end; processes that it starts stay there.
    ///
    /// # Errors
    /// Those of `act`, and when a namespace cannot be entered.
    pub(crate) fn at_far_end<T>(&self, act: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        enter(&self.far)?;
        let outcome = act();
        enter(&self.near)?;
        outcome
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Err(error) = enter(&self.home) {
            eprintln!("bench: cannot go back to the network of before: {error}");
        }
    }
}

fn namespace() -> Result<File, Error> {
    File::open("/proc/thread-self/ns/net").map_err(Error::at("/proc/thread-self/ns/net"))
}

/// This thread is in it from now on; its loopback device is up.
fn namespace_of_its_own() -> Result<File, Error> {
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(Error::at("a network namespace cannot be made (root can)"))?;
    ip(&["link", "set", "lo", "up"])?;
    namespace()
}

fn enter(namespace: &File) -> Result<(), Error> {
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).map_err(Error::at("a network namespace"))
}

fn ip(words: &[&str]) -> Result<(), Error> {
    let command = format!("ip {}", words.join(" "));
    let output = Command::new("ip")
        .args(words)
        .output()
        .map_err(Error::at(format!("{command} (apt-get install iproute2)")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error(format!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// Makes both devices, says so, and carries packets until it is ended. tc's netem does the same where
/// the kernel has it.
///
/// # Errors
/// When the devices cannot be made, or one of them goes.
pub(crate) fn delay(arguments: &cli::Delay) -> Result<(), Error> {
    let near = sys::tun(DEVICES[0]).map_err(Error::at("a TUN device"))?;
    let far =
        File::open(&arguments.far).map_err(Error::at(format!("{}", arguments.far.display())))?;
    enter(&far)?;
    let far = sys::tun(DEVICES[1]).map_err(Error::at("a TUN device"))?;
    println!("ready");
    std::io::stdout().flush().map_err(Error::at("delay"))?;
    let wait_ns = arguments.one_way_us * (MILLISECOND / 1000);
    carry(&[near, far], wait_ns).map_err(Error::at("delay"))
}

/// Each packet of one device goes out at the other `wait_ns` later, in order.
fn carry(devices: &[File; 2], wait_ns: u64) -> std::io::Result<()> {
    let clock = Clock::start();
    // By the device that they came from: what waits, and when it is due.
    let mut waiting: [VecDeque<(u64, Vec<u8>)>; 2] = Default::default();
    let mut packet = [0; PACKET_BYTES];
    loop {
        let now = clock.now();
        for (from, queue) in waiting.iter_mut().enumerate() {
            while queue.front().is_some_and(|(due, _)| *due <= now) {
                // A device that takes no more loses the packet, as a router does.
                let _ = queue.pop_front().map(|(_, bytes)| (&devices[1 - from]).write(&bytes));
            }
        }
        let due = waiting.iter().filter_map(|queue| Some(queue.front()?.0)).min();
        let limit = due.map(|due| TimeSpec::from(Duration::from_nanos(due.saturating_sub(now))));
        let mut ready = [0, 1].map(|n| PollFd::new(devices[n].as_fd(), PollFlags::POLLIN));
        ppoll(&mut ready, limit, None)?;
        let now = clock.now();
        for (device, queue) in devices.iter().zip(&mut waiting) {
            let mut device = device;
            while let Ok(bytes @ 1..) = device.read(&mut packet) {
                queue.push_back((now + wait_ns, packet[..bytes].to_vec()));
            }
        }
    }
}
