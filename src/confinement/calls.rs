//! The system calls of a relay process: which it may make, by purpose; which nobody but an intruder
//! would make; and what becomes of the rest.
//!
//! - What is **allowed** is all that the relay was seen to do and its libraries are known to do.
//! - What is **deadly** has no place in any relay, and no library tries it: executing programs, tracing,
//!   other identities, mounting, modules, keys, BPF. The kernel ends the process, and the parent
//!   starts another.
//! - **The rest** fails with ENOSYS, as on a kernel that has no such call, and is told to the kernel's
//!   log. A C library that begins to use a new call after an update expects just that, and goes on
//!   with an older one; ending the relay for it would end it on every host of a fleet at once.
//!
//! Calls of the data path are allowed whatever their arguments: the kernel then knows the verdict
//! from a bitmap without running the filter (Linux 5.11, `seccomp_cache_check_allow`).

use std::collections::BTreeMap;
use std::sync::Arc;

use libc::c_long;
use nix::errno::Errno;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::sys::confine;

/// Bytes and connections: the data path, and what every thread that waits or serves does.
const DATA: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_splice,
    libc::SYS_pipe2,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_close,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_fcntl,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// What the C library and Rust's runtime do in any thread: memory, locks, the clock, signals, its end.
const RUNTIME: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    // How many arenas malloc makes.
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_exit,
    libc::SYS_exit_group,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

/// Files are read by the main thread and what it starts: names, certificates, the time zone; the log is
/// written. Which ones is for Landlock to say.
const FILES: &[c_long] = &[
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getcwd,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
];

/// What a runtime, or an engine, waits by: its epoll instance, its bell.
const RUNTIMES: &[c_long] = &[libc::SYS_epoll_create1, libc::SYS_eventfd2];

/// What sets a thread up: its table of descriptors, its processor, the filter that narrows it.
const THREADS: &[c_long] = &[
    libc::SYS_close_range,
    libc::SYS_sched_setaffinity,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getppid,
    libc::SYS_uname,
    libc::SYS_dup,
];

/// A ring at work.
const RING: &[c_long] = &[libc::SYS_io_uring_enter];
/// A ring is made and given its buffers by the thread that it belongs to.
const RING_SETUP: &[c_long] = &[libc::SYS_io_uring_setup, libc::SYS_io_uring_register];

/// Calls that nothing but an intrusion makes.
const DEADLY: &[c_long] = &[
    // Other programs and other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    // Another identity, other namespaces.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_personality,
    // The tree of files.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_mknodat,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    libc::SYS_acct,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // The kernel.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_syslog,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// What the relay's configuration makes it need.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    /// Workers have rings.
    pub(super) rings: bool,
    /// A log file is written, and made anew.
    pub(super) writes_files: bool,
    /// Doors ask where names lead, for which they read /etc/hosts and /etc/resolv.conf.
    pub(super) doors_look_up: bool,
}

/// What the threads of a relay process are narrowed to beyond what holds for all of them: each kind to
/// what it does once it is set up.
#[derive(Clone, Debug)]
pub struct Narrowing {
    pub worker: Narrow,
    /// Doors read what strangers say, so that they are where a fault would let somebody in.
    pub door: Narrow,
    pub log: Narrow,
    /// The main thread and all that it starts from then on, once the workers have their rings: a ring that
    /// nobody has restricted makes connections and opens files past every filter of system calls.
    pub ringless: Narrow,
}

/// A filter for one kind of thread.
#[derive(Clone, Debug)]
pub struct Narrow(Arc<BpfProgram>);

impl Narrow {
    /// For the calling thread, from now on.
    ///
    /// # Errors
    /// Where the kernel does not take another filter.
    pub fn apply(&self) -> Result<(), Errno> {
        confine::filter_calls(&self.0, true)
    }
}

/// Bars the calling thread, and those that it will start, from what is not in the lists.
///
/// # Errors
/// Where the kernel has no seccomp.
pub(super) fn apply(needs: Needs) -> Result<(), Errno> {
    confine::filter_calls(&allowing(process_rules(needs)), true)?;
    confine::filter_calls(&deadly(), true)?;
    // The C library tries it for each thread: nothing to tell of.
    let quiet = always(&[&[libc::SYS_clone3]]);
    confine::filter_calls(&compiled(quiet, SeccompAction::Allow, UNKNOWN), false)
}

/// The filters that threads add.
pub(super) fn narrowing(needs: Needs) -> Narrowing {
    let only = |rules| Narrow(Arc::new(allowing(rules)));
    let rings = always(&[RING, RING_SETUP]);
    Narrowing {
        worker: only(worker_rules(needs)),
        door: only(door_rules(needs)),
        log: only(log_rules(needs)),
        ringless: Narrow(Arc::new(compiled(rings, SeccompAction::Allow, UNKNOWN))),
    }
}

/// The answer of a kernel that has no such call.
const UNKNOWN: SeccompAction = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What every thread does once it is set up: connections, memory, no file, no thread, no ring.
fn common_rules() -> Rules {
    let mut rules = always(&[DATA, RUNTIME]);
    let domains = [libc::AF_INET, libc::AF_INET6];
    rules.insert(libc::SYS_socket, one_of(0, &domains));
    rules.insert(libc::SYS_mmap, vec![never_executable()]);
    rules.insert(libc::SYS_mprotect, vec![never_executable()]);
    let options = [libc::PR_SET_NAME, libc::PR_SET_TIMERSLACK, PR_SET_VMA];
    rules.insert(libc::SYS_prctl, one_of(0, &options));
    rules.insert(libc::SYS_ioctl, one_of(1, &[FIONBIO, FIONREAD]));
    // For abort(3): to no other process.
    let process = i32::try_from(std::process::id()).unwrap_or_default();
    rules.insert(libc::SYS_tgkill, one_of(0, &[process]));
    rules
}

fn worker_rules(needs: Needs) -> Rules {
    let mut rules = common_rules();
    if needs.rings {
        rules.extend(always(&[RING]));
    }
    rules
}

/// A door's runtime is made after it has been narrowed.
fn door_rules(needs: Needs) -> Rules {
    let mut rules = common_rules();
    rules.extend(always(&[RUNTIMES]));
    if needs.doors_look_up {
        rules.extend(file_rules(false));
    }
    rules
}

/// Lines go to a file or to a syslog server, which may be on this host; their time is that of a zone.
fn log_rules(needs: Needs) -> Rules {
    let mut rules = common_rules();
    rules.extend(file_rules(needs.writes_files));
    rules.insert(libc::SYS_socket, one_of(0, &DOMAINS));
    rules
}

fn process_rules(needs: Needs) -> Rules {
    let mut rules = worker_rules(needs);
    rules.extend(always(&[RUNTIMES, THREADS]));
    rules.extend(file_rules(needs.writes_files));
    if needs.rings {
        rules.extend(always(&[RING_SETUP]));
    }
    rules.insert(libc::SYS_socket, one_of(0, &DOMAINS));
    rules.insert(libc::SYS_socketpair, one_of(0, &[libc::AF_UNIX]));
    // Threads, and no process. clone3(2) hides its flags from a filter: with ENOSYS the C library
    // takes this one.
    let thread = masked(0, libc::CLONE_THREAD, libc::CLONE_THREAD);
    rules.insert(libc::SYS_clone, vec![rule(vec![thread])]);
    // Limits may be read.
    rules.insert(libc::SYS_prlimit64, vec![rule(vec![nothing(2)])]);
    rules.insert(libc::SYS_ioctl, one_of(1, &[FIONBIO, FIONREAD, TCGETS]));
    // A filter may be added.
    rules.insert(libc::SYS_seccomp, one_of(0, &[SET_FILTER]));
    rules
}

fn file_rules(writing: bool) -> Rules {
    let mut rules = always(&[FILES]);
    let opening = |flags| match writing {
        true => Vec::new(),
        false => vec![rule(vec![masked(flags, WRITING, libc::O_RDONLY)])],
    };
    rules.insert(libc::SYS_openat, opening(2));
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, opening(1));
    rules
}

/// The local ones too: the control socket, syslog, the passages between threads.
const DOMAINS: [i32; 3] = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX];
/// `PR_SET_VMA` (linux/prctl.h): newer C libraries name their memory by it.
const PR_SET_VMA: i32 = 0x5356_4d41;
/// `SECCOMP_SET_MODE_FILTER`
const SET_FILTER: i32 = 1;
/// As the kernel sees the commands of ioctl(2): 32 bits.
const FIONBIO: i32 = 0x5421;
const FIONREAD: i32 = 0x541b;
const TCGETS: i32 = 0x5401;
/// What of the flags of open(2) changes something.
const WRITING: i32 =
    libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY);

fn always(groups: &[&[c_long]]) -> Rules {
    groups.iter().flat_map(|group| group.iter()).map(|call| (*call, Vec::new())).collect()
}

fn one_of(argument: u8, values: &[i32]) -> Vec<SeccompRule> {
    let is = |value: &i32| rule(vec![condition(argument, Eq, *value)]);
    values.iter().map(is).collect()
}

fn masked(argument: u8, mask: i32, value: i32) -> SeccompCondition {
    condition(argument, MaskedEq(u64::from(mask.cast_unsigned())), value)
}

/// A pointer that points to nothing.
fn nothing(argument: u8) -> SeccompCondition {
    SeccompCondition::new(argument, seccompiler::SeccompCmpArgLen::Qword, Eq, 0)
        .expect("a call has that argument")
}

fn never_executable() -> SeccompRule {
    rule(vec![masked(2, libc::PROT_EXEC, 0)])
}

fn condition(argument: u8, operator: SeccompCmpOp, value: i32) -> SeccompCondition {
    SeccompCondition::new(argument, Dword, operator, value.cast_unsigned().into())
        .expect("a call has that argument")
}

fn rule(conditions: Vec<SeccompCondition>) -> SeccompRule {
    SeccompRule::new(conditions).expect("it has conditions")
}

/// As on a kernel that does not know what is not in the rules.
fn allowing(rules: Rules) -> BpfProgram {
    compiled(rules, UNKNOWN, SeccompAction::Allow)
}

fn deadly() -> BpfProgram {
    compiled(always(&[DEADLY]), SeccompAction::Allow, SeccompAction::KillProcess)
}

fn compiled(rules: Rules, otherwise: SeccompAction, then: SeccompAction) -> BpfProgram {
    let architecture = std::env::consts::ARCH.try_into().expect("one that seccomp is known for");
    SeccompFilter::new(rules, otherwise, then, architecture)
        .and_then(BpfProgram::try_from)
        .expect("the lists make a filter")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Command, ExitStatus, Stdio};

    use super::*;

    /// Tells the call to make, in a process of its own.
    const CALL: &str = "FANIN_TEST_CALL";
    const NEEDS: Needs = Needs { rings: true, writes_files: false, doors_look_up: false };

    #[test]
    #[ignore = "started by other tests, in a process of its own"]
    fn a_confined_process_makes_a_call() {
        let call = std::env::var(CALL).unwrap().parse().unwrap();
        confine::gain_nothing().unwrap();
        apply(NEEDS).unwrap();
        // Never comes back from what is deadly.
        let _ = confine::attempt(call, [0; 3]);
    }

    /// A process that runs one of the ignored tests of this module.
    fn alone(test: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--ignored", "--nocapture", "--exact"])
            .arg(format!("confinement::calls::tests::{test}"))
            .stdout(Stdio::null());
        command
    }

    fn makes(call: c_long) -> ExitStatus {
        alone("a_confined_process_makes_a_call")
            .env(CALL, call.to_string())
            .stderr(Stdio::null())
            .status()
            .unwrap()
    }

    #[test]
    #[ignore = "started by another test, in a process of its own"]
    fn a_confined_worker_panics() {
        /// A panic must not leave it, and so it is the end of the process even where tests unwind.
        extern "C" fn fail() {
            panic!("this worker is wrong");
        }
        narrowed(NEEDS, |narrowing| narrowing.worker, || fail());
    }

    /// As in the binary, where every panic aborts: the others of the process may be half-way through what the
    /// thread shared with them, and the parent starts a fresh one.
    #[test]
    fn a_worker_that_panics_says_why_and_ends_the_process_through_every_filter() {
        for backtrace in ["0", "1"] {
            let mut command = alone("a_confined_worker_panics");
            let output = command.env("RUST_BACKTRACE", backtrace).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{:?}: {said}", output.status);
            assert!(said.contains("this worker is wrong"), "{said}");
        }
    }

    #[test]
    fn what_only_an_intruder_does_is_the_end_of_the_process() {
        assert!(makes(libc::SYS_getpid).success(), "an allowed call is none");
        for &call in DEADLY {
            assert_eq!(makes(call).signal(), Some(libc::SIGSYS), "call {call}");
        }
    }

    /// The arguments of a call; what is left out is 0.
    fn refused(call: c_long, arguments: &[i32]) {
        let mut words = [0; 3];
        for (word, argument) in words.iter_mut().zip(arguments) {
            *word = argument.cast_unsigned() as usize;
        }
        assert_eq!(confine::attempt(call, words), Err(Errno::ENOSYS), "{call} {arguments:?}");
    }

    /// In a thread of its own, since there is no way back.
    #[test]
    fn what_is_not_in_the_lists_is_as_on_a_kernel_without_it() {
        let in_process = || {
            confine::gain_nothing().unwrap();
            apply(NEEDS).unwrap();
            let here = libc::AT_FDCWD;
            // Another process, another program's memory.
            refused(libc::SYS_clone3, &[]);
            refused(libc::SYS_clone, &[libc::SIGCHLD]);
            refused(libc::SYS_clone, &[libc::CLONE_NEWUSER | libc::SIGCHLD]);
            refused(libc::SYS_kill, &[1, libc::SIGTERM]);
            refused(libc::SYS_tgkill, &[1, 1, libc::SIGTERM]);
            refused(libc::SYS_memfd_create, &[]);
            // Files, even where Landlock is not.
            refused(libc::SYS_openat, &[here, 0, libc::O_WRONLY]);
            refused(libc::SYS_openat, &[here, 0, libc::O_RDWR]);
            refused(libc::SYS_openat, &[here, 0, libc::O_CREAT]);
            refused(libc::SYS_openat, &[here, 0, libc::O_TRUNC]);
            refused(libc::SYS_openat2, &[here]);
            refused(libc::SYS_unlinkat, &[here]);
            refused(libc::SYS_renameat2, &[here]);
            refused(libc::SYS_fchmodat, &[here]);
            refused(libc::SYS_fchownat, &[here]);
            refused(libc::SYS_mkdirat, &[here]);
            refused(libc::SYS_symlinkat, &[]);
            refused(libc::SYS_linkat, &[]);
            refused(libc::SYS_ftruncate, &[]);
            // Sockets of other kinds, and a door of its own.
            refused(libc::SYS_socket, &[libc::AF_NETLINK, libc::SOCK_RAW]);
            refused(libc::SYS_socket, &[libc::AF_PACKET, libc::SOCK_RAW]);
            refused(libc::SYS_socket, &[libc::AF_ALG, libc::SOCK_SEQPACKET]);
            refused(libc::SYS_listen, &[]);
            // Code of its own.
            refused(libc::SYS_mprotect, &[0, 4096, libc::PROT_EXEC | libc::PROT_READ]);
            refused(libc::SYS_mmap, &[0, 4096, libc::PROT_EXEC]);
            // More than it has.
            refused(libc::SYS_prlimit64, &[0, 7, 1]);
            refused(libc::SYS_setrlimit, &[]);
            refused(libc::SYS_prctl, &[libc::PR_SET_DUMPABLE, 1]);
            refused(libc::SYS_ioctl, &[0, 0x5412]);
            refused(libc::SYS_seccomp, &[2]);
        };
        std::thread::spawn(in_process).join().unwrap();
    }

    /// In a thread of its own, of which there is no way back, that is narrowed like this.
    fn narrowed(
        needs: Needs,
        of: impl FnOnce(Narrowing) -> Narrow + Send + 'static,
        see: impl FnOnce() + Send + 'static,
    ) {
        let in_thread = move || {
            confine::gain_nothing().unwrap();
            apply(needs).unwrap();
            of(narrowing(needs)).apply().unwrap();
            see();
        };
        std::thread::spawn(in_thread).join().unwrap();
    }

    fn no_ring_can_be_made() {
        refused(libc::SYS_io_uring_setup, &[]);
        refused(libc::SYS_io_uring_register, &[]);
    }

    #[test]
    fn a_worker_has_neither_files_nor_threads_nor_another_ring() {
        let narrow = |narrowing: Narrowing| narrowing.worker;
        narrowed(NEEDS, narrow, || {
            no_ring_can_be_made();
            no_file_no_thread();
        });
    }

    fn no_file_no_thread() {
        refused(libc::SYS_openat, &[libc::AT_FDCWD]);
        refused(libc::SYS_newfstatat, &[]);
        refused(libc::SYS_clone, &[libc::CLONE_THREAD]);
        refused(libc::SYS_socket, &[libc::AF_UNIX, libc::SOCK_STREAM]);
        refused(libc::SYS_socketpair, &[libc::AF_UNIX, libc::SOCK_STREAM]);
        refused(libc::SYS_seccomp, &[1]);
        refused(libc::SYS_sched_setaffinity, &[]);
    }

    #[test]
    fn a_door_has_neither_files_nor_threads_nor_a_ring() {
        narrowed(
            NEEDS,
            |narrowing| narrowing.door,
            || {
                no_ring_can_be_made();
                refused(libc::SYS_io_uring_enter, &[]);
                no_file_no_thread();
            },
        );
    }

    #[test]
    fn a_door_that_looks_names_up_reads_files_and_writes_none() {
        let needs = Needs { writes_files: true, doors_look_up: true, ..NEEDS };
        narrowed(
            needs,
            |narrowing| narrowing.door,
            || {
                assert!(std::fs::read("/etc/hosts").is_ok());
                refused(libc::SYS_openat, &[libc::AT_FDCWD, 0, libc::O_WRONLY]);
                refused(libc::SYS_openat, &[libc::AT_FDCWD, 0, libc::O_CREAT]);
                no_ring_can_be_made();
            },
        );
    }

    #[test]
    fn the_log_has_neither_threads_nor_a_ring() {
        narrowed(
            NEEDS,
            |narrowing| narrowing.log,
            || {
                no_ring_can_be_made();
                refused(libc::SYS_io_uring_enter, &[]);
                refused(libc::SYS_clone, &[libc::CLONE_THREAD]);
            },
        );
    }

    #[test]
    fn nobody_has_a_ring_once_the_workers_have_theirs() {
        narrowed(
            NEEDS,
            |narrowing| narrowing.ringless,
            || {
                no_ring_can_be_made();
                refused(libc::SYS_io_uring_enter, &[]);
                // All else is as before.
                assert!(std::fs::read("/etc/hosts").is_ok());
            },
        );
    }
}
