//! What may go wrong, how often, and what has been seen.
//!
//! Rates are chosen anew for each seed, as a swarm: some kinds are off entirely and the others come
//! at wildly different rates, so that rare combinations occur (TigerBeetle's swarm testing).

/// The dice of one run: splitmix64, so that every seed is a good one.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`; zero if `n` is.
    pub(crate) const fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.next() % n }
    }

    /// From `first` to `last`, both included.
    pub(crate) const fn range(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// From 1 to `last`, each order of magnitude as likely as the next.
    pub(crate) fn spread(&mut self, last: u64) -> u64 {
        let bits = u64::from(u64::BITS - last.max(1).leading_zeros());
        let power = self.below(bits);
        self.range(1 << power, (2 << power) - 1).min(last.max(1))
    }

    /// True `per_million` times in a million.
    pub(crate) const fn chance(&mut self, per_million: u64) -> bool {
        self.below(1_000_000) < per_million
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("an index fits")
    }
}

macro_rules! kinds {
    ($(#[$doc:meta])* $name:ident { $($(#[$kind_doc:meta])* $kind:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $($(#[$kind_doc])* $kind,)* }

        impl $name {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$kind,)*];
            pub(crate) const COUNT: usize = Self::ALL.len();
        }
    };
}

kinds! {
    /// What the fake kernel, the peers and the operator do to a worker. Each has a rate.
    Fault {
        /// Fewer bytes are moved than could be.
        ShortMove,
        /// An operation is looked at late.
        SlowOp,
        /// Fewer completions are brought up than are there.
        SmallBatch,
        /// The wait ends for nothing.
        SpuriousWake,
        /// The wait ends late.
        LateWake,
        /// The process was stopped for seconds or minutes.
        ClockJump,
        ConnectRefused,
        ConnectTimedOut,
        ConnectUnreachable,
        ConnectNoAddress,
        ConnectAddressInUse,
        ConnectNoDescriptor,
        ConnectNoMemory,
        /// The connect never ends until it is cancelled.
        ConnectBlackHole,
        /// A server refuses, or swallows, every connect for a while.
        ServerDown,
        /// The sessions of a server are told to end.
        Expel,
        /// Sessions of a server are told to leave it.
        Shed,
        /// The peer resets just as an operation on it is tried: at any offset.
        ResetAtOp,
        /// The connection fails (ETIMEDOUT) just as an operation on it is tried.
        FailAtOp,
        /// The peer ends its stream just as an operation on it is tried.
        EndAtOp,
        /// Nobody watches a socket that nothing is asked of.
        Unwatched,
        /// A cancelled operation has time to come to something.
        LateCancel,
        SlowClose,
        /// accept(2) fails with EMFILE, ENFILE, ENOMEM or ENOBUFS.
        AcceptFails,
        /// A connection comes up although its listener has been given up.
        AcceptedLate,
        /// A completion for a session that is no more.
        StaleEnded,
        /// A broken side of a session that is no more.
        StaleBroken,
        /// The bell rings and there is no mail.
        EmptyMailbox,
        /// The peer's script ends with a reset.
        PeerResets,
        /// The peer's script ends with a dead network.
        PeerFails,
        /// The peer closes without reading to the end.
        PeerCloses,
        /// The peer falls silent for ever.
        PeerSilent,
        /// The peer stops reading for ever.
        PeerStalls,
        /// The peer reads a little at a time.
        PeerReadsSlowly,
        /// Many connections at one time.
        Burst,
        /// A new plan.
        Replace,
        /// The quotas change.
        Resize,
        /// A drain in the midst of it all.
        Drain,
        /// A stop in the midst of it all.
        Stop,
        /// The supervisor goes away.
        MailboxGone,
        /// Nobody reads the records.
        RecordsFull,
    }
}

kinds! {
    /// What came of it: situations that a sweep must have been in.
    Sight {
        PullReset,
        PullTimedOut,
        PushReset,
        PushTimedOut,
        PushBrokenPipe,
        BrokenReset,
        BrokenTimedOut,
        BrokenPipe,
        /// An operation was cancelled.
        Cancelled,
        /// An operation ended with a result although it had been cancelled.
        CompletedThoughCancelled,
        CancelFoundNothing,
        /// A push had waited for too long, and it was looked whether its sink takes anything at all.
        LookedAtSink,
        /// The client's first bytes waited for a server.
        EarlyBytes,
        /// The client ended its stream before there was a server.
        EarlyEnd,
        /// The client went away before there was a server.
        GoneWhileConnecting,
        /// Early bytes outlived a failed attempt and were delivered to another server.
        RetryKeptEarlyBytes,
        /// The time of an attempt was up, and yet it succeeded.
        GaveUpYetConnected,
        /// The same server was tried again after a pause.
        PausedForSameServer,
        /// A source went on sending after its sink had closed, until its time was up.
        LingeredTooLong,
        /// The same, until it had sent too much.
        LingeredTooMuch,
        /// The same, and it came to its end in time.
        LingeredToEnd,
        /// A source port of ours was somebody else's.
        PortConflict,
        /// All source ports were in use.
        PortsExhausted,
        AddressesExhausted,
        /// A connection waited in user space for a place.
        WaitedForPlace,
        WaitedForServer,
        /// Too many waited: one was refused.
        RefusedWaiting,
        /// A place was used again by a session of a later generation.
        PlaceReused,
        /// A new plan came while sessions lived.
        ReplacedUnderLoad,
        /// A drain came to its end by itself.
        DrainedEarly,
        /// A drain's grace passed.
        DrainedByGrace,
        /// A connection was taken after its listener had been given up.
        ServedLate,
    }
}

/// The rates of one run, and what has occurred in it.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    per_million: [u64; Fault::COUNT],
    /// Cleared when the liveness phase begins.
    on: bool,
    pub(crate) seen: Seen,
}

/// How often each thing has occurred.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) faults: [u64; Fault::COUNT],
    pub(crate) sights: [u64; Sight::COUNT],
    pub(crate) reasons: [u64; fanin::session::CloseReason::COUNT],
}

impl Fault {
    /// The dice are thrown for it a few times in a run, not at each operation.
    const fn is_once_a_run(self) -> bool {
        matches!(
            self,
            Self::AcceptedLate
                | Self::Replace
                | Self::Resize
                | Self::Expel
                | Self::Shed
                | Self::Drain
                | Self::Stop
                | Self::MailboxGone
                | Self::RecordsFull
        )
    }
}

impl Faults {
    pub(crate) fn swarm(random: &mut Random) -> Self {
        let mut per_million = [0; Fault::COUNT];
        for (rate, fault) in per_million.iter_mut().zip(Fault::ALL) {
            if random.chance(550_000) {
                *rate = if fault.is_once_a_run() {
                    random.range(50_000, 600_000)
                } else {
                    random.spread(300_000).max(200)
                };
            }
        }
        Self { per_million, on: true, seen: Seen::default() }
    }

    /// Whether it happens now; counted if so.
    pub(crate) fn strikes(&mut self, fault: Fault, random: &mut Random) -> bool {
        let strikes = self.on && random.chance(self.per_million[fault as usize]);
        if strikes {
            self.seen.faults[fault as usize] += 1;
        }
        strikes
    }

    pub(crate) const fn calm(&mut self) {
        self.on = false;
    }
}

impl Seen {
    pub(crate) const fn sight(&mut self, sight: Sight) {
        self.sights[sight as usize] += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        fn sum<const N: usize>(to: &mut [u64; N], from: &[u64; N]) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
        sum(&mut self.faults, &other.faults);
        sum(&mut self.sights, &other.sights);
        sum(&mut self.reasons, &other.reasons);
    }
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            faults: [0; Fault::COUNT],
            sights: [0; Sight::COUNT],
            reasons: [0; fanin::session::CloseReason::COUNT],
        }
    }
}
