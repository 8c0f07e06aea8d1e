//! What belongs to the process or to one of its threads: clock, processors, limits, the
//! descriptor table, the bell that wakes another thread.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::time::TimeSpec;
use nix::unistd::{Pid, getppid};

/// The name of this host, as uname(2) has it; empty if it cannot be read.
pub fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// Microseconds on the monotonic clock, the same for every thread.
pub fn monotonic_micros() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec to write to.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    assert_eq!(result, 0, "the monotonic clock exists on every Linux");
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * 1_000_000 + nanos / 1_000
}

/// Lets the calling thread rest for so long; a signal ends it early.
pub fn rest(duration: Duration) {
    use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
    // EINTR is the only error for a duration, and no reason to rest again.
    let _ = clock_nanosleep(
        ClockId::CLOCK_MONOTONIC,
        ClockNanosleepFlags::empty(),
        &TimeSpec::from(duration),
    );
}

/// Has the kernel wake the calling thread when it asked to be, not up to 50 us later
/// (`PR_SET_TIMERSLACK`, prctl(2)).
pub fn wake_on_time() {
    // It cannot fail for a number above zero.
    let _ = prctl::set_timerslack(1);
}

/// The processors that this thread may run on, in ascending order.
///
/// # Errors
/// As sched_getaffinity(2) says.
pub fn processors_allowed() -> Result<Vec<usize>, Errno> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect())
}

/// Keeps this thread on one processor.
///
/// # Errors
/// EINVAL when the processor does not exist or is not allowed.
pub fn pin_to(processor: usize) -> Result<(), Errno> {
    let mut only = CpuSet::new();
    only.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &only)
}

/// The soft and the hard limit on descriptor numbers (`RLIMIT_NOFILE`). It bounds each table, not
/// the process: every thread with a table of its own has it anew.
///
/// # Errors
/// None that can happen.
pub fn descriptor_limits() -> Result<(u64, u64), Errno> {
    getrlimit(Resource::RLIMIT_NOFILE)
}

/// Raises the soft limit on descriptor numbers to the hard one, and returns it.
///
/// # Errors
/// EPERM where a sandbox forbids it.
pub fn raise_descriptor_limit() -> Result<u64, Errno> {
    let (soft, hard) = descriptor_limits()?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Raises the limit on locked memory as far as the process may: rings count against it (once root's
/// capabilities are gone, root's too).
pub fn raise_locked_memory_limit() {
    let unlimited = libc::RLIM_INFINITY;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK) else { return };
    if setrlimit(Resource::RLIMIT_MEMLOCK, unlimited, unlimited).is_err() && soft < hard {
        // Cannot fail: an ordinary user may.
        let _ = setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard);
    }
}

/// Gives the calling thread a descriptor table of its own, with the standard three and `keep` in
/// it and nothing else. To be called at the start of a thread, before it opens anything: whatever
/// else it could name is closed (in the new table; the old one keeps it).
///
/// # Errors
/// ENOMEM or EMFILE when the table cannot be copied; ENOSYS before Linux 5.9.
pub fn own_descriptor_table(keep: &[RawFd]) -> Result<(), Errno> {
    let keep: BTreeSet<u32> =
        keep.iter().filter_map(|fd| u32::try_from(*fd).ok()).filter(|fd| *fd > 2).collect();
    let above = keep.last().copied().unwrap_or(2) + 1;
    // The copy leaves out what would be closed at once, so a large main table costs nothing.
    close_range(above, u32::MAX, libc::CLOSE_RANGE_UNSHARE)?;
    let mut next = 3;
    for kept in keep {
        if next < kept {
            close_range(next, kept - 1, 0)?;
        }
        next = kept + 1;
    }
    Ok(())
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> Result<(), Errno> {
    // The bare call: glibc has had a wrapper only since 2.34.
    // SAFETY: takes plain numbers. That no live owner of a closed descriptor is left in this
    // thread's table is what `own_descriptor_table` asks of its caller.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    Errno::result(result).map(drop)
}

/// Takes ownership of a descriptor that was kept when this thread's table was split off, or
/// inherited over execve(2). Whoever owns the same number in the table it was split from keeps
/// owning that one.
///
/// # Panics
/// If `number` is negative.
pub fn inherited(number: RawFd) -> OwnedFd {
    assert!(number >= 0);
    // SAFETY: called once for each number that `own_descriptor_table` was told to keep, in the
    // thread that kept it, or that a handover names, in the process that inherited it; nothing else
    // in this table knows the number.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Lets descriptors of this table outlive execve(2), or not. For moments when nothing else can be
/// executed: the calling process has one thread.
///
/// # Errors
/// EBADF.
pub fn inheritable(numbers: &[RawFd], inherited: bool) -> Result<(), Errno> {
    let flags = if inherited { 0 } else { libc::FD_CLOEXEC };
    for &number in numbers {
        // SAFETY: sets a flag of a descriptor; memory is not touched.
        let result = unsafe { libc::fcntl(number, libc::F_SETFD, flags) };
        Errno::result(result)?;
    }
    Ok(())
}

/// Gives this process the name that ps(1) and top(1) show.
///
/// # Errors
/// None that can happen.
pub fn name(name: &CStr) -> Result<(), Errno> {
    prctl::set_name(name)
}

/// Has the kernel end this process when its parent ends, whose process id is given.
///
/// # Errors
/// ESRCH when the parent has ended already.
pub fn end_with_parent(parent: Pid) -> Result<(), Errno> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH) }
}

/// `kernel.io_uring_disabled` (Linux 6.6), if it bars anyone: 1 bars ordinary users, 2 everybody.
pub fn io_uring_disabled() -> Option<u8> {
    let text = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?;
    text.trim().parse().ok().filter(|value| *value > 0)
}

/// Whether this process is root's.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// How many descriptors the calling thread's table holds.
///
/// # Errors
/// Where /proc is not mounted.
pub fn descriptors_open() -> io::Result<usize> {
    // The reading itself takes one, which is not counted.
    Ok(fs::read_dir("/proc/thread-self/fd")?.count() - 1)
}

/// Blocks every signal in this thread. A worker does so before it splits off its descriptor
/// table: a handler that ran in it would take a number of the main table for one of its own.
///
/// # Errors
/// None that can happen.
pub fn block_signals() -> Result<(), Errno> {
    SigSet::all().thread_block()
}

/// Wakes a thread that waits in its engine. Made before the threads' tables are split, so that its
/// number means the same in all of them; the thread that made it must keep it until the others
/// have ended.
#[derive(Debug)]
pub struct Bell(EventFd);

impl Bell {
    /// Makes a silent bell.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn new() -> Result<Self, Errno> {
        EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map(Self)
    }

    /// Rings; from any thread that has the number in its table. Rings before a [`Bell::clear`]
    /// become one.
    pub fn ring(&self) {
        // Fails only when it has rung 2^64 - 2 times unheard, and then it is ringing anyway.
        let _ = self.0.write(1);
    }

    /// Silences it.
    pub fn clear(&self) {
        // Fails only when it was not ringing.
        let _ = self.0.read();
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Bell {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// The ports that the kernel chooses from (`net.ipv4.ip_local_port_range`).
///
/// # Errors
/// Where /proc/sys cannot be read or understood.
pub fn local_port_range() -> io::Result<RangeInclusive<u16>> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    parse_port_range(&text).ok_or_else(|| malformed("ip_local_port_range", &text))
}

/// The ports that the kernel is told not to choose (`net.ipv4.ip_local_reserved_ports`).
///
/// # Errors
/// Where /proc/sys cannot be read or understood.
pub fn reserved_ports() -> io::Result<Vec<RangeInclusive<u16>>> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports")?;
    parse_port_list(&text).ok_or_else(|| malformed("ip_local_reserved_ports", &text))
}

/// How many pages all pipes of an ordinary user may hold before new ones are made tiny
/// (`fs.pipe-user-pages-soft`; 0 is no limit).
///
/// # Errors
/// Where /proc/sys cannot be read or understood.
pub fn pipe_pages_soft() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft")?;
    text.trim().parse().map_err(|_| malformed("pipe-user-pages-soft", &text))
}

fn malformed(name: &str, text: &str) -> io::Error {
    let text = text.trim();
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "/proc/sys: {name} says {text:?}, which is not what this kernel interface promises"
        ),
    )
}

/// The range in a text of `ip_local_port_range`: two numbers.
pub fn parse_port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut words = text.split_whitespace();
    let low = words.next()?.parse().ok()?;
    let high = words.next()?.parse().ok()?;
    words.next().is_none().then_some(low..=high)
}

/// The ranges in a text of `ip_local_reserved_ports`: `8080,9148-9150`.
pub fn parse_port_list(text: &str) -> Option<Vec<RangeInclusive<u16>>> {
    text.trim()
        .split(',')
        .filter(|item| !item.is_empty())
        .map(|item| {
            let (low, high) = item.split_once('-').unwrap_or((item, item));
            Some(low.parse().ok()?..=high.parse().ok()?)
        })
        .collect()
}

/// Ignores SIGPIPE for the whole process, as Rust's runtime does at its start: `splice(2)` knows no
/// `MSG_NOSIGNAL`. Returns whether it was ignored before.
///
/// # Errors
/// None that can happen.
pub fn ignore_broken_pipes() -> Result<bool, Errno> {
    // SAFETY: an all-zero sigaction is a valid one (default action, empty mask).
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: only asks; `before` is there to be written to.
    let result = unsafe { libc::sigaction(libc::SIGPIPE, ptr::null(), &raw mut before) };
    Errno::result(result)?;
    if before.sa_sigaction == libc::SIG_IGN {
        return Ok(true);
    }
    // SAFETY: SIG_IGN runs no code of ours.
    let result = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    if result == libc::SIG_ERR {
        return Err(Errno::last());
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use nix::fcntl::{FcntlArg, fcntl};

    use super::*;

    #[test]
    fn a_table_of_its_own_holds_what_was_kept_and_leaves_the_old_one_alone() {
        let kept = Bell::new().unwrap();
        let other = Bell::new().unwrap();
        let number = kept.as_raw_fd();
        let held_inside = std::thread::spawn(move || {
            own_descriptor_table(&[number, 1]).unwrap();
            descriptors_open().unwrap()
        });
        assert_eq!(held_inside.join().unwrap(), 4);
        fcntl(&other, FcntlArg::F_GETFD).expect("still open in the main table");
    }

    #[test]
    fn a_bell_rung_in_one_table_is_heard_in_another() {
        let bell = std::sync::Arc::new(Bell::new().unwrap());
        let heard = {
            let bell = std::sync::Arc::clone(&bell);
            std::thread::spawn(move || {
                own_descriptor_table(&[bell.as_raw_fd()]).unwrap();
                // Opened here, so that numbers of the two tables differ in meaning.
                let _ = Bell::new().unwrap().0.as_fd().try_clone_to_owned().unwrap().into_raw_fd();
                let minute = Duration::from_secs(60);
                super::super::socket::wait_readable(bell.as_fd(), minute).unwrap();
                bell.0.read().unwrap()
            })
        };
        bell.ring();
        assert!(heard.join().unwrap() >= 1);
    }

    #[test]
    fn port_ranges_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_port_range("32768\t60999\n"), Some(32768..=60999));
        assert_eq!(parse_port_range("32768"), None);
        assert_eq!(parse_port_list("\n"), Some(vec![]));
        assert_eq!(parse_port_list("8080,9000-9010\n"), Some(vec![8080..=8080, 9000..=9010]));
        assert_eq!(parse_port_list("web"), None);
    }

    #[test]
    fn this_host_can_be_read() {
        assert!(!processors_allowed().unwrap().is_empty());
        assert!(*local_port_range().unwrap().start() > 0);
        reserved_ports().unwrap();
        pipe_pages_soft().unwrap();
        assert!(descriptor_limits().unwrap().0 > 0);
        assert!(ignore_broken_pipes().unwrap());
        let first = monotonic_micros();
        assert!(monotonic_micros() >= first);
    }
}
