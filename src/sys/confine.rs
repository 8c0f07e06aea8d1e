//! What a process gives up for good: another identity, its capabilities, system calls.
//!
//! Nothing here can be taken back. Identity holds for the process; capabilities and system calls for
//! the calling thread and those that it starts, so that all of this comes before other threads.

use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// `_LINUX_CAPABILITY_VERSION_3`: two words of 32 for each set (capget(2)).
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// No kernel has more than fit into the two words.
const CAPABILITIES_MAX: u32 = 64;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;

/// `PR_CAP_AMBIENT` and its commands, as in linux/prctl.h.
const AMBIENT: libc::c_int = 47;
const AMBIENT_CLEAR_ALL: libc::c_ulong = 4;
const AMBIENT_IS_SET: libc::c_ulong = 1;

/// As capget(2) has it.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    thread: i32,
}

/// As capget(2) has it: 32 of the capabilities.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Which capabilities are left in each set of the calling thread, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
    /// What could be had by execve(2), if that could give any ([`gain_nothing`]).
    pub bounding: u64,
}

/// Makes this process another user's, for good: no other groups, and all of the real, the effective and
/// the saved numbers. Verified by trying to become root again.
///
/// # Errors
/// EPERM when the process may not. EINVAL should it still be able to become root.
pub fn become_user(user: Uid, group: Gid) -> Result<(), Errno> {
    setgroups(&[group])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    let root = Uid::from_raw(0);
    if user != root && setresuid(root, root, root).is_ok() {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// Empties the bounding set of the calling thread, if it may: from then on no execve(2) gives a
/// capability. To be called before the identity is changed, which takes the right to.
pub fn empty_bounding_set() {
    for number in 0..CAPABILITIES_MAX {
        // EPERM: it may not. EINVAL: the kernel knows no more. Either way `capabilities` tells.
        if prctl(libc::PR_CAPBSET_DROP, number.into(), 0).is_err() {
            break;
        }
    }
}

/// Gives up all capabilities of the calling thread, but for the bounding set.
///
/// # Errors
/// EPERM where a filter bars it.
pub fn drop_capabilities() -> Result<(), Errno> {
    prctl(AMBIENT, AMBIENT_CLEAR_ALL, 0)?;
    if words()? == [CapabilityWord::default(); 2] {
        // A filter of the service manager may bar what is not needed.
        return Ok(());
    }
    let header = CapabilityHeader { version: CAPABILITY_VERSION, thread: 0 };
    let none = [CapabilityWord::default(); 2];
    // SAFETY: both point to what capset(2) asks for in this version, and it only reads them.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    Errno::result(result).map(drop)
}

/// What is left of the capabilities of the calling thread.
///
/// # Errors
/// None that can happen.
pub fn capabilities() -> Result<Capabilities, Errno> {
    let [low, high] = words()?;
    let both = |low: u32, high: u32| u64::from(low) | (u64::from(high) << 32);
    let asked = |option, first: Option<libc::c_ulong>| {
        let has = |number: &u32| {
            let (first, second) = match first {
                Some(first) => (first, (*number).into()),
                None => ((*number).into(), 0),
            };
            prctl(option, first, second) == Ok(1)
        };
        (0..CAPABILITIES_MAX).filter(has).fold(0, |bits, number| bits | (1 << number))
    };
    Ok(Capabilities {
        effective: both(low.effective, high.effective),
        permitted: both(low.permitted, high.permitted),
        inheritable: both(low.inheritable, high.inheritable),
        ambient: asked(AMBIENT, Some(AMBIENT_IS_SET)),
        bounding: asked(libc::PR_CAPBSET_READ, None),
    })
}

/// Whether the limits that bind ordinary users' pipes do not bind the calling thread.
pub fn is_unlimited() -> bool {
    let free = (1 << CAP_SYS_ADMIN) | (1 << CAP_SYS_RESOURCE);
    capabilities().is_ok_and(|has| has.effective & free != 0)
}

fn words() -> Result<[CapabilityWord; 2], Errno> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION, thread: 0 };
    let mut words = [CapabilityWord::default(); 2];
    // SAFETY: both point to what capget(2) asks for in this version, and writes to.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) };
    Errno::result(result).map(|_| words)
}

fn prctl(
    option: libc::c_int,
    first: libc::c_ulong,
    second: libc::c_ulong,
) -> Result<libc::c_int, Errno> {
    let zero: libc::c_ulong = 0;
    // SAFETY: none of the options that are used here takes an address.
    let result = unsafe { libc::prctl(option, first, second, zero, zero) };
    Errno::result(result)
}

/// From now on execve(2) gives nothing that the process has not: no file that is setuid or has
/// capabilities (`PR_SET_NO_NEW_PRIVS`).
///
/// # Errors
/// None that can happen.
pub fn gain_nothing() -> Result<(), Errno> {
    prctl::set_no_new_privs()
}

/// Nobody of the same user may look into this process or trace it, and no core dump is written
/// (`PR_SET_DUMPABLE`). What is in /proc of it is root's then, but the process itself may still read
/// its own.
///
/// # Errors
/// None that can happen.
pub fn hide_memory() -> Result<(), Errno> {
    prctl::set_dumpable(false)
}

/// From now on a filter judges each system call of the calling thread and of those that it starts. It
/// is added to those that are there, and the strictest verdict holds, of equals the newest filter's. What
/// it does not allow is told to the kernel's log if `told` (`SECCOMP_FILTER_FLAG_LOG`).
///
/// # Errors
/// EACCES without [`gain_nothing`]; EINVAL where the kernel has no seccomp or is older than 4.14.
pub fn filter_calls(program: &[seccompiler::sock_filter], told: bool) -> Result<(), Errno> {
    let flags = if told { libc::SECCOMP_FILTER_FLAG_LOG } else { 0 };
    let length = libc::c_ushort::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    // The kernel's type, whose fields and layout the crate's has.
    let filter = program.as_ptr().cast_mut().cast::<libc::sock_filter>();
    let program = libc::sock_fprog { len: length, filter };
    // SAFETY: the kernel reads so many instructions and keeps a copy.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    Errno::result(result).map(drop)
}

/// A bare system call, for tests of what is barred.
#[cfg(test)]
pub fn attempt(call: libc::c_long, arguments: [usize; 3]) -> Result<libc::c_long, Errno> {
    let [first, second, third] = arguments;
    // SAFETY: for calls that a filter bars: none is carried out.
    let result = unsafe { libc::syscall(call, first, second, third, 0, 0, 0) };
    Errno::result(result)
}
