//! The clients: so many at one time, each drawing a plan, playing it and judging what came of it.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::end;
use super::judge::{Class, judge};
use super::plan::Plan;
use super::servers::{Desk, Expected, header, key};
use super::stalls::Stalls;
use super::stream::Dice;

const PATIENCE: Duration = Duration::from_secs(60);
/// After so many violations the rest would tell nothing new.
const VIOLATIONS_MAX: usize = 50;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Closed,
    /// Until then; connections that last longer are not begun.
    Open(Instant),
    Over,
}

/// What all clients share.
pub struct Load {
    desk: Arc<Desk>,
    relay: [SocketAddr; 2],
    rate: u64,
    seed: u64,
    gate: Mutex<Gate>,
    opened: Condvar,
    under_way: AtomicU64,
    results: Mutex<BTreeMap<String, u64>>,
    violations: Mutex<Vec<String>>,
    /// How long exchanges took, in milliseconds.
    exchanges: Mutex<Vec<u64>>,
    pub stalls: Stalls,
}

impl Load {
    pub fn new(desk: Arc<Desk>, relay: [SocketAddr; 2], rate: u64, seed: u64) -> Self {
        Self {
            desk,
            relay,
            rate,
            seed,
            gate: Mutex::new(Gate::Closed),
            opened: Condvar::new(),
            under_way: AtomicU64::new(0),
            results: Mutex::default(),
            violations: Mutex::default(),
            exchanges: Mutex::default(),
            stalls: Stalls::default(),
        }
    }

    pub fn resume(&self, until: Instant) {
        self.set_gate(Gate::Open(until));
    }

    pub fn stop(&self) {
        self.stalls.over.store(true, SeqCst);
        self.set_gate(Gate::Over);
    }

    fn set_gate(&self, gate: Gate) {
        *self.gate.lock().expect("no holder panics") = gate;
        self.opened.notify_all();
    }

    /// Begins no more connections, and waits until all have ended.
    pub fn pause(&self) -> io::Result<()> {
        self.set_gate(Gate::Closed);
        let deadline = Instant::now() + PATIENCE;
        while self.under_way.load(SeqCst) > 0 {
            if Instant::now() > deadline {
                let left = self.under_way.load(SeqCst);
                return Err(io::Error::other(format!("{left} connections did not come to an end")));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Plans kept and results, and what was against the rules.
    pub fn results(&self) -> (BTreeMap<String, u64>, Vec<String>) {
        let results = self.results.lock().expect("no holder panics").clone();
        (results, self.violations.lock().expect("no holder panics").clone())
    }

    /// What an exchange took, in the middle of all: the median.
    pub fn exchange_milliseconds(&self) -> Option<u64> {
        let mut all = self.exchanges.lock().expect("no holder panics").clone();
        all.sort_unstable();
        all.get(all.len() / 2).copied()
    }

    /// One client after the other, until all is over.
    pub fn run(&self, slot: u64, slots: u64) {
        let mut dice = Dice::new(self.seed, slot);
        let think_us = slots * 1_000_000 / self.rate;
        while let Some(within) = self.enter() {
            match dice.between(0, 19) {
                0 => self.without_a_byte(&mut dice),
                _ => self.play(&Plan::draw(&mut dice, within)),
            }
            self.under_way.fetch_sub(1, SeqCst);
            thread::sleep(Duration::from_micros(dice.between(0, 2 * think_us)));
        }
    }

    /// Waits for the gate; how long it stays open, or `None` when all is over.
    fn enter(&self) -> Option<Duration> {
        let mut gate = self.gate.lock().expect("no holder panics");
        loop {
            match *gate {
                Gate::Over => return None,
                Gate::Open(until) => {
                    let within = until.saturating_duration_since(Instant::now());
                    self.under_way.fetch_add(1, SeqCst);
                    return Some(within.max(Duration::from_secs(3)));
                }
                Gate::Closed => gate = self.opened.wait(gate).expect("no holder panics"),
            }
        }
    }

    /// So many connections at one time that hold all they can.
    pub fn flood(&self, connections: u64) {
        thread::scope(|scope| {
            for number in 0..connections {
                let mut dice = Dice::new(self.seed, 1 << 32 | number);
                scope.spawn(move || self.play(&Plan::flood(&mut dice)));
            }
        });
    }

    fn play(&self, plan: &Plan) {
        let begun = Instant::now();
        let closings = self.desk.closings.load(SeqCst);
        let address = self.relay[usize::from(plan.refusable)];
        let stream = match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => stream,
            Err(error) => return self.violated(plan, None, &format!("connect: {error}")),
        };
        let port = stream.local_addr().map_or(0, |address| address.port());
        if plan.client.receive_buffer > 0 {
            let _ = SockRef::from(&stream).set_recv_buffer_size(plan.client.receive_buffer);
        }
        let (sender, reports) = channel();
        let id = self.desk.expect(Expected { part: plan.server.clone(), report: sender });
        let client = end::play(stream, &plan.client, &header(id), [key(id, true), key(id, false)]);
        let unseen = self.desk.take(id);
        let server = match &unseen {
            Some(_) => None,
            None => match reports.recv_timeout(PATIENCE) {
                Ok(report) => Some(report),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let what = format!("the server's end never ended; the client's: {client:?}");
                    return self.violated(plan, Some(port), &what);
                }
            },
        };
        // In between: the listener is just being closed.
        let closed = closings % 2 == 1 || self.desk.closings.load(SeqCst) != closings;
        let lost = self.stalls.since(begun);
        match judge(plan, &client, server.as_ref(), closed, lost) {
            Ok(class) => {
                self.count(plan.name, class);
                if plan.name == "exchange" {
                    let milliseconds = client.lasted.as_millis() as u64;
                    self.exchanges.lock().expect("no holder panics").push(milliseconds);
                }
            }
            Err(what) => {
                let what = format!("{what}\n  client {client:?}\n  server {server:?}\n  {plan:?}");
                self.violated(plan, Some(port), &what);
            }
        }
    }

    /// Connects and says nothing, in one of three ways.
    fn without_a_byte(&self, dice: &mut Dice) {
        let closings = self.desk.closings.load(SeqCst);
        let Ok(mut stream) = TcpStream::connect_timeout(&self.relay[0], PATIENCE) else {
            return self.violation("without a byte: cannot connect".to_owned());
        };
        match dice.between(0, 2) {
            0 => self.count("no byte, closed", Class::Complete),
            1 => {
                let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                self.count("no byte, reset", Class::BrokenAsPlanned);
            }
            _ => {
                let _ = stream.set_read_timeout(Some(PATIENCE));
                let _ = stream.shutdown(Shutdown::Write);
                let closed = || self.desk.closings.load(SeqCst) != closings || closings % 2 == 1;
                match stream.read(&mut [0; 1]) {
                    Ok(0) => self.count("no byte, ended", Class::Complete),
                    Err(_) if closed() => self.count("no byte, ended", Class::LostWithListener),
                    other => self.violation(format!("ended without a byte, and got {other:?}")),
                }
            }
        }
    }

    fn count(&self, name: &str, class: Class) {
        let what = format!("{name}: {}", class.label());
        *self.results.lock().expect("no holder panics").entry(what).or_default() += 1;
    }

    fn violated(&self, plan: &Plan, port: Option<u16>, what: &str) {
        let port = port.map_or_else(String::new, |port| format!(" (client port {port})"));
        self.violation(format!("{}{port}: {what}", plan.name));
    }

    fn violation(&self, what: String) {
        let mut violations = self.violations.lock().expect("no holder panics");
        if violations.len() < VIOLATIONS_MAX {
            println!("VIOLATION {what}");
            violations.push(what);
        }
    }
}
