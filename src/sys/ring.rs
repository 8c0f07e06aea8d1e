//! io_uring: the ring itself, the requests that are asked of it, and the buffers that the kernel
//! picks from (`io_uring_register_buf_ring(3)`).
//!
//! Requests are methods here, since the kernel is handed addresses: what they point to belongs to
//! the [`Ring`] and outlives every request.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd, IntoRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use nix::errno::Errno;
use nix::sys::socket::{SockaddrLike as _, SockaddrStorage};

use super::pages::Pages;

/// Requests that can be queued between two submissions; more are submitted early.
const SUBMISSIONS: u32 = 1024;
/// Completions that can wait; more are kept aside by the kernel (`IORING_FEAT_NODROP`), slowly.
const COMPLETIONS: u32 = 8192;
/// Buffers in all; see [`Offer`] for how many of them the kernel picks from.
pub const BUFFERS: u16 = 1024;
/// Bytes of each buffer.
pub const BUFFER_BYTES: usize = 16 * 1024;
const GROUP: u16 = 0;

/// What [`Ring::enter`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Nothing: what is there is taken.
    None,
    /// An answer, for so long; for ever when `None`.
    Answer(Option<Duration>),
    /// The time to pass, whatever is answered meanwhile: answers do not wake the thread.
    Rest(Duration),
}

/// What came back of one request.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The word that the request was given.
    pub word: u64,
    /// A count, or an error.
    pub result: Result<u32, Errno>,
    /// The buffer that the kernel picked.
    pub buffer: Option<u16>,
    /// Whether more answers to the same request follow.
    pub more: bool,
}

/// How many buffers the kernel picks from. It takes the one that was offered longest ago, so all of
/// them are gone through in turn, and what is cold costs a miss a line: with 1024 on offer an exchange
/// of 4 KiB at 20,000/s took 5 % more of the relay's CPU than with 128. With too few a burst runs them
/// dry and each receive begins anew (32 to 64 of them, fixed: twice the cost). So their number follows
/// the bursts.
#[derive(Debug)]
struct Offer {
    /// On offer now.
    out: u16,
    /// To be on offer at each [`Ring::enter`].
    target: u16,
    /// Looks in a row of which none picked a quarter of `target`.
    calm: u16,
}

impl Offer {
    const LEAST: u16 = 64;
    const CALM_LOOKS: u16 = 4096;

    const fn is_short(&self) -> bool {
        self.out < self.target
    }

    /// The kernel has picked so many since the last look.
    fn note_picked(&mut self, picked: u16) {
        self.out -= picked;
        if picked > self.target / 2 {
            self.target = (self.target * 2).min(BUFFERS);
        }
        self.calm = if picked > self.target / 4 { 0 } else { self.calm + 1 };
        if self.calm == Self::CALM_LOOKS {
            *self = Self { out: self.out, target: (self.target / 2).max(Self::LEAST), calm: 0 };
        }
    }
}

impl Default for Offer {
    fn default() -> Self {
        Self { out: 0, target: Self::LEAST, calm: 0 }
    }
}

/// All that is ever asked of a ring.
const OPERATIONS: [(u8, &str); 6] = [
    (opcode::RecvMulti::CODE, "IORING_OP_RECV"),
    (opcode::Send::CODE, "IORING_OP_SEND"),
    (opcode::Connect::CODE, "IORING_OP_CONNECT"),
    (opcode::PollAdd::CODE, "IORING_OP_POLL_ADD"),
    (opcode::AsyncCancel::CODE, "IORING_OP_ASYNC_CANCEL"),
    (opcode::Close::CODE, "IORING_OP_CLOSE"),
];
/// `IORING_REGISTER_PROBE`, for [`Ring::missing`].
const REGISTER_PROBE: u8 = 8;

/// What a ring obeys: no filter of system calls sees what it is asked for, so that it must not be able to
/// open a file, say (`IORING_REGISTER_RESTRICTIONS`, Linux 5.10).
fn restrictions() -> Vec<Restriction> {
    let flags = squeue::Flags::SKIP_SUCCESS | squeue::Flags::BUFFER_SELECT;
    let others =
        [Restriction::sqe_flags_allowed(flags.bits()), Restriction::register_op(REGISTER_PROBE)];
    OPERATIONS.iter().map(|(code, _)| Restriction::sqe_op(*code)).chain(others).collect()
}

/// One thread's ring with its buffers.
pub struct Ring {
    // Before the memory that the kernel writes to: dropped first.
    ring: IoUring,
    entries: Pages,
    buffers: Pages,
    tail: u16,
    offer: Offer,
    /// Buffers that the kernel has not been offered; the one used last on top, still in cache.
    spare: Vec<u16>,
    /// Buffers that hold something.
    lent: u16,
    overflows: u64,
    /// Addresses of connects that are queued; the kernel copies them when they are submitted.
    #[expect(clippy::vec_box, reason = "the kernel knows where each one is: they must not move")]
    addresses: Vec<Box<SockaddrStorage>>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("lent", &self.lent).finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring of the calling thread alone (`IORING_SETUP_SINGLE_ISSUER`), whose completions are
    /// made when it asks for them (`IORING_SETUP_DEFER_TASKRUN`, Linux 6.1).
    ///
    /// # Errors
    /// ENOSYS and EPERM where it is barred, EINVAL where the kernel is too old, ENOMEM.
    pub fn new() -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            // Says in the ring that deferred work waits: without it an enter that waits for nothing
            // would submit, and run none of it.
            .setup_taskrun_flag()
            .setup_submit_all()
            // Until it is restricted.
            .setup_r_disabled()
            .setup_cqsize(COMPLETIONS)
            .setup_clamp()
            .build(SUBMISSIONS)?;
        let entries = Pages::map(usize::from(BUFFERS) * size_of::<BufRingEntry>())?;
        let buffers = Pages::map(usize::from(BUFFERS) * BUFFER_BYTES)?;
        // SAFETY: the memory is page-aligned, large enough for BUFFERS entries, and lives as long
        // as the ring, which is dropped before it.
        unsafe {
            let start = entries.as_ptr() as u64;
            ring.submitter().register_buf_ring_with_flags(start, BUFFERS, GROUP, 0)
        }?;
        let mut allowed = restrictions();
        ring.submitter().register_restrictions(&mut allowed)?;
        ring.submitter().register_enable_rings()?;
        Ok(Self {
            ring,
            entries,
            buffers,
            tail: 0,
            offer: Offer::default(),
            spare: (0..BUFFERS).rev().collect(),
            lent: 0,
            overflows: 0,
            addresses: Vec::new(),
        })
    }

    /// A picked buffer is not needed any more.
    pub fn give_back(&mut self, buffer: u16) {
        self.lent -= 1;
        self.spare.push(buffer);
    }

    /// Buffers that hold nothing.
    pub const fn buffers_free(&self) -> u16 {
        BUFFERS - self.lent
    }

    /// Buffers that hold something.
    pub fn buffers_lent(&self) -> u64 {
        self.lent.into()
    }

    fn start_of(&self, buffer: u16) -> *const u8 {
        self.buffers[usize::from(buffer) * BUFFER_BYTES..].as_ptr()
    }

    /// Lets the kernel pick from as many buffers as it should have.
    fn offer_buffers(&mut self) {
        while self.offer.is_short()
            && let Some(buffer) = self.spare.pop()
        {
            self.append(buffer);
            self.offer.out += 1;
        }
        let base = self.entries.as_ptr().cast::<BufRingEntry>();
        // SAFETY: `base` is the first entry of the ring that was registered.
        let tail = unsafe { BufRingEntry::tail(base) };
        // SAFETY: the tail lies in our mapping, aligned, and only ever read by the kernel.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    fn append(&mut self, buffer: u16) {
        let slot = usize::from(self.tail % BUFFERS);
        let entry = self.entries.as_ptr().cast::<BufRingEntry>();
        // SAFETY: the slot is below BUFFERS, for which the mapping has room.
        let entry = unsafe { entry.add(slot) };
        // SAFETY: the entry lies in our mapping, and the kernel does not read it before the tail
        // is moved past it.
        let entry = unsafe { &mut *entry };
        entry.set_addr(self.start_of(buffer) as u64);
        entry.set_len(u32::try_from(BUFFER_BYTES).expect("a buffer is small"));
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    fn push(&mut self, entry: squeue::Entry, word: u64) {
        let entry = entry.user_data(word);
        loop {
            // SAFETY: what the entry points to belongs to `self` (buffers, addresses) or to nobody
            // (plain numbers), and is valid until the request has ended.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            // Full: the kernel takes what is there. An error that lasts shows in the next wait.
            let _ = self.ring.submit();
        }
    }

    /// Bytes of a socket as they come, each answer in a buffer of the kernel's choice.
    pub fn recv_all(&mut self, socket: BorrowedFd<'_>, word: u64) {
        let entry = opcode::RecvMulti::new(Fd(socket.as_raw_fd()), GROUP);
        self.push(entry.build(), word);
    }

    /// Bytes `from..to` of a picked buffer to a socket, or EAGAIN when it takes none. The kernel
    /// must not wait by itself (`MSG_DONTWAIT`): its poll always asks for POLLRDHUP too
    /// (`IO_POLL_UNMASK`), so that a peer which has half-closed and reads slowly looks ready for
    /// ever, and after 128 tries the send blocks a kernel worker thread (seen on 6.18).
    ///
    /// # Panics
    /// If the bytes are not all in the buffer.
    pub fn send(&mut self, socket: BorrowedFd<'_>, buffer: u16, from: u32, to: u32, word: u64) {
        let bytes = from as usize..to as usize;
        assert!(from <= to && bytes.end <= BUFFER_BYTES);
        let start = self.start_of(buffer).wrapping_add(bytes.start);
        let entry = opcode::Send::new(Fd(socket.as_raw_fd()), start, to - from);
        self.push(entry.flags(libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT).build(), word);
    }

    /// A connection of a fresh socket.
    pub fn connect(&mut self, socket: BorrowedFd<'_>, address: SocketAddr, word: u64) {
        let address = Box::new(SockaddrStorage::from(address));
        let entry = opcode::Connect::new(Fd(socket.as_raw_fd()), address.as_ptr(), address.len());
        self.push(entry.build(), word);
        self.addresses.push(address);
    }

    /// One answer when a descriptor has one of `events`, an error or a hang-up.
    pub fn poll(&mut self, descriptor: BorrowedFd<'_>, events: i16, word: u64) {
        let events = u32::from(events.cast_unsigned());
        self.push(opcode::PollAdd::new(Fd(descriptor.as_raw_fd()), events).build(), word);
    }

    /// The same, an answer each time.
    pub fn poll_all(&mut self, descriptor: BorrowedFd<'_>, events: i16, word: u64) {
        let events = u32::from(events.cast_unsigned());
        let entry = opcode::PollAdd::new(Fd(descriptor.as_raw_fd()), events).multi(true);
        self.push(entry.build(), word);
    }

    /// The early end of the request with the word `target`. Has an answer only if it fails.
    pub fn cancel(&mut self, target: u64, word: u64) {
        let entry = opcode::AsyncCancel::new(target).build();
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS), word);
    }

    /// The end of a descriptor, with the next submission. Has an answer only if it fails.
    pub fn close(&mut self, descriptor: OwnedFd, word: u64) {
        let entry = opcode::Close::new(Fd(descriptor.into_raw_fd())).build();
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS), word);
    }

    /// Submits what is queued and waits for answers, which are appended. False if the wait was cut
    /// short, so that there may be more.
    ///
    /// # Errors
    /// What makes the ring unusable.
    pub fn enter(&mut self, patience: Patience, answers: &mut Vec<Answer>) -> io::Result<bool> {
        self.offer_buffers();
        let (want, time) = match patience {
            Patience::None => (0, Some(Duration::ZERO)),
            Patience::Answer(time) => (1, time),
            // The kernel takes a number above its queue's length for that length.
            Patience::Rest(time) => (COMPLETIONS as usize, Some(time)),
        };
        let timespec = Timespec::from(time.unwrap_or_default());
        let mut arguments = SubmitArgs::new();
        if time.is_some() {
            arguments = arguments.timespec(&timespec);
        }
        let entered = match self.ring.submitter().submit_with_args(want, &arguments) {
            Ok(_) => true,
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                // Time is up.
                Some(Errno::ETIME) => true,
                // A signal came, the kernel has no memory, or the completion queue must be emptied
                // first.
                Some(Errno::EINTR | Errno::EAGAIN | Errno::EBUSY) => false,
                _ => return Err(error),
            },
        };
        if self.ring.submission().is_empty() {
            // Else the kernel has not read some of them yet: it ran out of memory for requests.
            self.addresses.clear();
        }
        let completion = self.ring.completion();
        self.overflows = completion.overflow().into();
        let before = self.lent;
        for entry in completion {
            let buffer = cqueue::buffer_select(entry.flags());
            self.lent += u16::from(buffer.is_some());
            let result = u32::try_from(entry.result());
            answers.push(Answer {
                word: entry.user_data(),
                result: result.map_err(|_| Errno::from_raw(-entry.result())),
                buffer,
                more: cqueue::more(entry.flags()),
            });
        }
        self.offer.note_picked(self.lent - before);
        Ok(entered)
    }

    /// Times the completion queue overflowed, as of the last [`Ring::enter`].
    pub const fn overflows(&self) -> u64 {
        self.overflows
    }

    /// What of the kernel's abilities is missing, by name.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn missing(&self) -> io::Result<Option<&'static str>> {
        let parameters = self.ring.params();
        let features = [
            (parameters.is_feature_ext_arg(), "IORING_FEAT_EXT_ARG"),
            (parameters.is_feature_nodrop(), "IORING_FEAT_NODROP"),
            (parameters.is_feature_fast_poll(), "IORING_FEAT_FAST_POLL"),
            (parameters.is_feature_skip_cqe_on_success(), "IORING_FEAT_CQE_SKIP"),
        ];
        let mut probe = Probe::new();
        self.ring.submitter().register_probe(&mut probe)?;
        let codes = OPERATIONS.map(|(code, name)| (probe.is_supported(code), name));
        let mut all = features.into_iter().chain(codes);
        Ok(all.find_map(|(there, name)| (!there).then_some(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_does_nothing_but_what_the_engine_asks_of_it() {
        let mut ring = match Ring::new() {
            Ok(ring) => ring,
            Err(error) => return eprintln!("SKIPPED ON IO_URING: {error}"),
        };
        let path = c"/etc/hostname".as_ptr();
        let flags = squeue::Flags::IO_LINK;
        let here = std::env::current_dir().map(std::fs::File::open).unwrap().unwrap();
        let poll = opcode::PollAdd::new(Fd(here.as_raw_fd()), 1).build();
        let forbidden = [
            opcode::OpenAt::new(Fd(libc::AT_FDCWD), path).build(),
            opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build(),
            opcode::Nop::new().build(),
            // A flag that is not used.
            poll.flags(flags),
        ];
        for (entry, word) in forbidden.into_iter().zip(0..) {
            ring.push(entry, word);
            let mut answers = Vec::new();
            ring.enter(Patience::Answer(Some(Duration::from_secs(10))), &mut answers).unwrap();
            let [answer] = answers.as_slice() else { panic!("{answers:?}") };
            assert_eq!((answer.word, answer.result), (word, Err(Errno::EACCES)));
        }
        let again = ring.ring.submitter().unregister_buf_ring(GROUP);
        assert_eq!(again.unwrap_err().raw_os_error(), Some(libc::EACCES));
        assert_eq!(ring.missing().unwrap(), None);
    }
}
