//! What somebody could do who has taken a thread over: system calls in its place, by ptrace(2).

use nix::errno::Errno;
use nix::libc::c_long;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// `syscall`, as the processor reads it.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// Has a thread of another process, which waits in a system call, make another one, and go on as if
/// nothing had happened. Takes root, since what is not dumpable is traced by nobody else.
#[track_caller]
pub fn call(thread: u32, number: c_long, arguments: [u64; 3]) -> Result<u64, Errno> {
    let thread = Pid::from_raw(thread.try_into().unwrap());
    let stopped = || waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    ptrace::seize(thread, Options::empty()).unwrap();
    ptrace::interrupt(thread).unwrap();
    stopped();
    let before = ptrace::getregs(thread).unwrap();
    let at = before.rip - SYSCALL.len() as u64;
    let word = ptrace::read(thread, at as ptrace::AddressType).unwrap();
    assert_eq!(word.to_ne_bytes()[..SYSCALL.len()], SYSCALL, "it waits in a system call");
    let mut registers = before;
    registers.rip = at;
    registers.rax = number.cast_unsigned();
    // None that would be made again.
    registers.orig_rax = u64::MAX;
    [registers.rdi, registers.rsi, registers.rdx] = arguments;
    ptrace::setregs(thread, registers).unwrap();
    ptrace::step(thread, None).unwrap();
    stopped();
    let answer = ptrace::getregs(thread).unwrap().rax.cast_signed();
    ptrace::setregs(thread, before).unwrap();
    ptrace::detach(thread, None).unwrap();
    match answer {
        -4095..0 => Err(Errno::from_raw(i32::try_from(-answer).unwrap())),
        value => Ok(value.cast_unsigned()),
    }
}
