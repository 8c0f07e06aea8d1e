//! What one connection is to do, at either end, drawn from the dice.

use std::time::Duration;

use super::stream::Dice;

/// The relay's timers in these runs, so that some connections can be seen to run into them.
pub const CLIENT_IDLE: Duration = Duration::from_secs(10);
pub const HALF_CLOSED: Duration = Duration::from_secs(4);

/// When an end begins to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Now,
    /// When so many bytes have come.
    AfterBytes(u64),
    /// When the other end has ended its stream.
    AfterEnd,
}

/// How an end is to finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// FIN after the last byte.
    Fin,
    /// FIN when so many bytes have come, and all are sent.
    FinAfterBytes(u64),
    /// RST when so many bytes are sent.
    ResetAtSent(u64),
    /// RST when so many bytes have come.
    ResetAtReceived(u64),
    /// close(2), unread bytes or not, when so many bytes have come.
    CloseAtReceived(u64),
    /// Neither: waits to be told.
    Silent,
}

/// One end's part.
#[derive(Clone, Debug)]
pub struct Part {
    pub bytes: u64,
    pub start: Start,
    pub finish: Finish,
    /// Largest piece of one write, and the pause after each.
    pub piece_bytes_max: u64,
    pub piece_gap: Duration,
    /// A pause in the middle of the stream.
    pub hold: Duration,
    /// One piece in so many ends with an urgent byte; 0 is none.
    pub urgent_one_in: u64,
    /// Before the first read.
    pub read_delay: Duration,
    pub read_bytes_max: usize,
    pub read_gap: Duration,
    /// `SO_RCVBUF`; 0 leaves it.
    pub receive_buffer: usize,
}

impl Part {
    fn sends(bytes: u64) -> Self {
        Self {
            bytes,
            start: Start::Now,
            finish: Finish::Fin,
            piece_bytes_max: 64 * 1024,
            piece_gap: Duration::ZERO,
            hold: Duration::ZERO,
            urgent_one_in: 0,
            read_delay: Duration::ZERO,
            read_bytes_max: 64 * 1024,
            read_gap: Duration::ZERO,
            receive_buffer: 0,
        }
    }

    /// Slow, but at least half a megabyte a second: what the kernel holds for a reader (512 KiB in
    /// its queue, more in flight) must not take it as long as the half-closed timer waits, since the
    /// relay sees a byte move only when there is room again.
    fn reads_slowly(&mut self, dice: &mut Dice) {
        self.receive_buffer = 32 * 1024;
        self.read_bytes_max = 16 * 1024;
        self.read_gap = Duration::from_millis(dice.between(2, 15));
        self.read_delay = Duration::from_millis(dice.between(0, 1500));
    }

    pub fn breaks(&self) -> bool {
        use Finish::{CloseAtReceived, ResetAtReceived, ResetAtSent};
        matches!(self.finish, ResetAtSent(_) | ResetAtReceived(_) | CloseAtReceived(_))
    }
}

/// One connection.
#[derive(Clone, Debug)]
pub struct Plan {
    pub name: &'static str,
    pub client: Part,
    pub server: Part,
    /// Through the listener whose only server refuses now and then.
    pub refusable: bool,
    /// A timer of the relay is to end it, after so long.
    pub timer: Option<Duration>,
    /// About how long it takes at the longest.
    pub lasts: Duration,
}

impl Plan {
    fn new(name: &'static str, client: Part, server: Part) -> Self {
        let lasts = Duration::from_secs(2);
        Self { name, client, server, refusable: false, timer: None, lasts }
    }

    /// A plan that takes no longer than `within`, about.
    pub fn draw(dice: &mut Dice, within: Duration) -> Self {
        loop {
            let plan = Self::draw_any(dice);
            if plan.lasts <= within {
                return plan;
            }
        }
    }

    fn draw_any(dice: &mut Dice) -> Self {
        match dice.between(0, 99) {
            0..28 => Self::exchange(dice),
            28..36 => Self::bulk(dice),
            36..44 => Self::client_ends_first(dice),
            44..52 => Self::server_ends_first(dice),
            52..68 => Self::broken(dice),
            68..74 => Self::slow(dice),
            74..80 => Self::urgent(dice),
            80..88 => Self::medium(dice),
            88..92 => Self::held(dice),
            92..94 => Self::silent(dice),
            94..96 => Self::half_closed_for_ever(dice),
            _ => Self::refusable(dice),
        }
    }

    /// Holds all that the relay can hold for a connection: brings its pools to their bounds.
    pub fn flood(dice: &mut Dice) -> Self {
        let mut part = Part::sends(dice.between(1 << 20, 3 << 20));
        part.receive_buffer = 16 * 1024;
        part.read_delay = Duration::from_secs(2);
        Self::new("flood", part.clone(), part)
    }

    fn exchange(dice: &mut Dice) -> Self {
        let mut client = Part::sends(dice.size(8 * 1024));
        let mut server = Part::sends(dice.size(2 * 1024));
        server.start = Start::AfterBytes(client.bytes);
        client.finish = Finish::FinAfterBytes(server.bytes);
        if dice.one_in(3) {
            client.piece_bytes_max = dice.size(client.bytes);
        }
        Self::new("exchange", client, server)
    }

    fn medium(dice: &mut Dice) -> Self {
        let client = Part::sends(dice.between(16 * 1024, 200 * 1024));
        let server = Part::sends(dice.between(1, 200 * 1024));
        Self::new("medium", client, server)
    }

    fn bulk(dice: &mut Dice) -> Self {
        let mut client = Part::sends(dice.between(256 * 1024, 6 << 20));
        let mut server = Part::sends(dice.size(6 << 20));
        if dice.one_in(2) {
            std::mem::swap(&mut client, &mut server);
        }
        Self::new("bulk", client, server)
    }

    fn client_ends_first(dice: &mut Dice) -> Self {
        let client = Part::sends(dice.size(256 * 1024));
        let mut server = Part::sends(dice.size(512 * 1024));
        server.start = Start::AfterEnd;
        Self::new("client ends first", client, server)
    }

    fn server_ends_first(dice: &mut Dice) -> Self {
        let mut client = Part::sends(dice.size(512 * 1024));
        let server = Part::sends(dice.size(256 * 1024));
        client.start = Start::AfterEnd;
        Self::new("server ends first", client, server)
    }

    fn broken(dice: &mut Dice) -> Self {
        let mut breaker = Part::sends(dice.size(2 << 20));
        let other = Part::sends(dice.size(2 << 20));
        let received = dice.between(0, other.bytes);
        let (by, finish) = match dice.between(0, 2) {
            0 => ("reset", Finish::ResetAtSent(dice.between(0, breaker.bytes))),
            1 => ("reset", Finish::ResetAtReceived(received)),
            _ => ("close", Finish::CloseAtReceived(received)),
        };
        breaker.finish = finish;
        match (dice.one_in(2), by) {
            (true, "reset") => Self::new("client resets", breaker, other),
            (false, "reset") => Self::new("server resets", other, breaker),
            (true, _) => Self::new("client closes early", breaker, other),
            (false, _) => Self::new("server closes early", other, breaker),
        }
    }

    fn slow(dice: &mut Dice) -> Self {
        let mut client = Part::sends(dice.size(1 << 20));
        let mut server = Part::sends(dice.size(1 << 20));
        let name = match dice.between(0, 2) {
            0 => {
                client.reads_slowly(dice);
                "slow client"
            }
            1 => {
                server.reads_slowly(dice);
                "slow server"
            }
            _ => {
                client.reads_slowly(dice);
                server.reads_slowly(dice);
                "both slow"
            }
        };
        Self { lasts: Duration::from_secs(6), ..Self::new(name, client, server) }
    }

    fn urgent(dice: &mut Dice) -> Self {
        let mut client = Part::sends(dice.size(512 * 1024));
        let mut server = Part::sends(dice.size(512 * 1024));
        let urgent = dice.between(1, 4);
        client.piece_bytes_max = dice.between(1000, 20_000);
        server.piece_bytes_max = dice.between(1000, 20_000);
        let name = if dice.one_in(2) {
            client.urgent_one_in = urgent;
            "urgent bytes of a client"
        } else {
            server.urgent_one_in = urgent;
            "urgent bytes of a server"
        };
        Self::new(name, client, server)
    }

    /// Idle for longer than the half-closed timer, for less than the idle timer: must live.
    fn held(dice: &mut Dice) -> Self {
        let hold = HALF_CLOSED + Duration::from_millis(dice.between(500, 2500));
        let client = Part { hold, ..Part::sends(1 + dice.size(64 * 1024)) };
        // The server keeps its end open meanwhile.
        let start = Start::AfterBytes(client.bytes);
        let server = Part { start, ..Part::sends(dice.size(64 * 1024)) };
        Self { lasts: Duration::from_secs(8), ..Self::new("idle, then on", client, server) }
    }

    fn silent(dice: &mut Dice) -> Self {
        let silent =
            |dice: &mut Dice| Part { finish: Finish::Silent, ..Part::sends(dice.size(4096)) };
        Self {
            timer: Some(CLIENT_IDLE),
            lasts: CLIENT_IDLE + Duration::from_secs(3),
            ..Self::new("idle for ever", silent(dice), silent(dice))
        }
    }

    fn half_closed_for_ever(dice: &mut Dice) -> Self {
        let ends = Part::sends(dice.size(4096));
        let silent = Part { finish: Finish::Silent, ..Part::sends(dice.size(4096)) };
        let (client, server) = if dice.one_in(2) { (ends, silent) } else { (silent, ends) };
        Self {
            timer: Some(HALF_CLOSED),
            lasts: HALF_CLOSED + Duration::from_secs(3),
            ..Self::new("half closed for ever", client, server)
        }
    }

    fn refusable(dice: &mut Dice) -> Self {
        Self { refusable: true, name: "server may refuse", ..Self::exchange(dice) }
    }
}
