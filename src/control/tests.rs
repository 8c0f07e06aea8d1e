//! The loop with a relay that only notes what it is told.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc as notes;
use std::thread;

use super::*;
use crate::backend::board::Board;
use crate::config::{ControlMode, Log, Overrides};
use crate::metrics::{CloseReason, SessionPlace, SessionView};

/// A directory of its own, removed at the end.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("fanin-control-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory under the temporary one");
        Self(path)
    }

    pub(super) fn root(&self) -> PathBuf {
        self.0.clone()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A relay that has done something.
pub(super) fn snapshot() -> Snapshot {
    Snapshot {
        status: status::tests::status(),
        started: 1_787_000_000,
        rates: Observer::default().rates().clone(),
        pasts: Default::default(),
        history: Vec::new(),
        events: Vec::new(),
        cleared: Arc::default(),
        idle_percent: 100,
    }
}

/// What the relay was told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Applied(String),
    Drain(Duration),
    Stop,
}

/// Ends its one worker when it is told to stop, and on draining if `prompt`.
struct Fake {
    notes: notes::Sender<Told>,
    board: Arc<Board>,
    exits: notes::Sender<WorkerExit>,
    exited: notes::Receiver<WorkerExit>,
    prompt: bool,
}

impl Fake {
    fn end(&self) {
        self.exits
            .send(WorkerExit { name: "worker 0".to_owned(), result: Ok(()) })
            .expect("it is ours");
    }
}

impl Relay for Fake {
    fn status(&self) -> RelayStatus {
        status::tests::relay_status()
    }

    fn apply(&mut self, config: &Config, addresses: &Addresses) -> Result<Applied, String> {
        let server = addresses.of(0, 0)[0].to_string();
        self.notes.send(Told::Applied(server.clone())).expect("the test listens");
        if config.backends[0].servers[0].weight == 13 {
            return Err("this relay is superstitious".to_owned());
        }
        if config.listeners[0].backlog == 13 {
            return Ok(Applied::Needs("the backlog"));
        }
        Ok(Applied::Now(format!("1 server: {server}")))
    }

    fn board(&self, _: usize, _: usize) -> &Arc<Board> {
        &self.board
    }

    fn expel(&self, _: usize, _: usize, _: CloseReason) {}

    fn shed(&self, _: usize, _: usize, _: u32) {}

    fn list(&self) -> Vec<(u16, notes::Receiver<Vec<SessionView>>)> {
        Vec::new()
    }

    fn end_session(&self, _: u16, _: SessionPlace) -> Option<notes::Receiver<bool>> {
        None
    }

    fn forget_highest(&self) {}

    fn doors(&self) -> Vec<usize> {
        vec![0]
    }

    fn is_turning(&mut self) -> bool {
        true
    }

    fn drain(&mut self, grace: Duration) {
        self.notes.send(Told::Drain(grace)).expect("the test listens");
        if self.prompt {
            self.end();
        }
    }

    fn stop(&mut self) {
        self.notes.send(Told::Stop).expect("the test listens");
        self.end();
    }

    fn ended(&mut self) -> Vec<WorkerExit> {
        self.exited.try_iter().collect()
    }
}

/// A loop in a thread of its own, with a control socket and a configuration file.
struct Fixture {
    scratch: Scratch,
    orders: mpsc::Sender<Order>,
    reports: mpsc::UnboundedReceiver<Report>,
    told: notes::Receiver<Told>,
    exits: notes::Sender<WorkerExit>,
    ended: thread::JoinHandle<Result<(), String>>,
}

fn configuration(server: &str) -> String {
    format!(
        "[global]\ndrain = \"7s\"\n[[listener]]\nbind = \"127.0.0.1:0\"\n\
         [[backend.b.server]]\naddress = \"{server}\"\n"
    )
}

impl Fixture {
    fn new(name: &str, prompt: bool) -> Self {
        Self::with_workers(name, prompt, 1)
    }

    fn with_workers(name: &str, prompt: bool, workers: usize) -> Self {
        let scratch = Scratch::new(name);
        let path = scratch.path("fanin.toml");
        fs::write(&path, configuration("192.0.2.1:443")).expect("a file");
        let origin = Origin::File { path, overrides: Overrides::default() };
        let config = origin.load().expect("valid");
        let log = fs::File::create(scratch.path("log")).expect("a file");
        let (exits, exited) = notes::channel();
        let (note, told) = notes::channel();
        let setup = Setup {
            origin,
            config,
            names: Names::default(),
            log: Logger::to(Log::default(), log).expect("a logger"),
            closed: Default::default(),
            pages: Vec::new(),
            socket: Some(
                ControlSocket::bind(&scratch.path("r.sock"), ControlMode::Group).expect("bound"),
            ),
            parent: Parent { process: 4711, generation: 3, watched: false, link: None },
            records: Vec::new(),
            remarks: mpsc::channel(1).1,
        };
        let board = Arc::new(Board::new("default/server".to_owned()));
        let fake = Fake { notes: note, board, exits: exits.clone(), exited, prompt };
        let (orders, heard) = mpsc::channel(16);
        let (tell, reports) = mpsc::unbounded_channel();
        let ended = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            runtime.block_on(Loop::new(fake, workers, setup, tell).run(heard))
        });
        Self { scratch, orders, reports, told, exits, ended }
    }

    fn order(&self, order: Order) {
        self.orders.blocking_send(order).expect("the loop listens");
    }

    /// What the parent is told next.
    fn reported(&mut self) -> Report {
        self.reports.blocking_recv().expect("the loop runs")
    }

    fn ask(&self, command: &str) -> Result<String, String> {
        client::ask(&self.scratch.path("r.sock"), command).map_err(|error| error.to_string())
    }

    /// What the relay is told next.
    fn told(&self) -> Told {
        self.told.recv_timeout(Duration::from_secs(10)).expect("the relay is told something")
    }

    fn rewrite(&self, text: &str) {
        fs::write(self.scratch.path("fanin.toml"), text).expect("a file");
    }

    /// How it ended, and what was logged.
    fn end(self) -> (Result<(), String>, String) {
        let ended = self.ended.join().expect("no panic");
        assert!(!self.scratch.path("r.sock").exists(), "the socket's file goes with the relay");
        (ended, fs::read_to_string(self.scratch.path("log")).expect("a log"))
    }
}

#[test]
fn a_drain_has_the_configured_grace_and_the_end_is_orderly() {
    let fixture = Fixture::new("drain", true);
    fixture.order(Order::Drain);
    assert_eq!(fixture.told(), Told::Drain(Duration::from_secs(7)));
    let (ended, log) = fixture.end();
    assert_eq!(ended, Ok(()));
    assert!(log.contains("draining: accepting no more; sessions may go on for 7 s"), "{log}");
    assert!(log.ends_with(" info ended\n"), "{log}");
}

#[test]
fn a_stop_ends_a_drain() {
    let fixture = Fixture::new("twice", false);
    fixture.order(Order::Drain);
    assert_eq!(fixture.told(), Told::Drain(Duration::from_secs(7)));
    let status = fixture.ask("status json").expect("an answer while draining");
    assert!(status.contains("\"phase\":\"draining\""), "{status}");
    fixture.order(Order::Stop);
    assert_eq!(fixture.told(), Told::Stop);
    assert_eq!(fixture.end().0, Ok(()));
}

#[test]
fn a_stop_ends_at_once() {
    let fixture = Fixture::new("int", false);
    fixture.order(Order::Stop);
    assert_eq!(fixture.told(), Told::Stop);
    assert_eq!(fixture.end().0, Ok(()));
}

#[test]
fn an_order_and_the_command_read_the_file_again_and_look_names_up() {
    let fixture = Fixture::new("reload", false);
    fixture.rewrite(&configuration("192.0.2.2:443"));
    fixture.order(Order::Reload);
    assert_eq!(fixture.told(), Told::Applied("192.0.2.2:443".to_owned()));
    fixture.rewrite(&configuration("localhost:443"));
    let answer = fixture.ask("reload").expect("reloaded");
    assert!(answer.starts_with("reloaded: 1 server: "), "{answer}");
    assert!(matches!(fixture.told(), Told::Applied(server) if server.ends_with(":443")));
    let status = fixture.ask("status").expect("an answer");
    assert!(status.contains("last reload") && status.contains("1 server: "), "{status}");
    fixture.order(Order::Stop);
    assert_eq!(fixture.end().0, Ok(()));
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let fixture = Fixture::new("bad", false);
    fixture.rewrite("[global]\nworkres = 1\n");
    let refusal = fixture.ask("reload").expect_err("a bad file");
    assert!(refusal.contains("not reloaded, what ran before runs on"), "{refusal}");
    assert!(refusal.contains("fanin.toml:2:1: unknown key `workres`"), "{refusal}");
    let odd = configuration("192.0.2.1:443") + "weight = 13\n";
    fixture.rewrite(&odd);
    let refusal = fixture.ask("reload").expect_err("the relay refuses");
    assert!(refusal.contains("superstitious"), "{refusal}");
    assert_eq!(fixture.told(), Told::Applied("192.0.2.1:443".to_owned()));
    let status = fixture.ask("status").expect("an answer");
    assert!(status.contains("FAILED, what ran before runs on"), "{status}");
    fixture.order(Order::Stop);
    assert_eq!(fixture.told(), Told::Stop, "nothing else was applied");
    let (ended, log) = fixture.end();
    assert_eq!(ended, Ok(()));
    assert_eq!(log.matches(" error not reloaded").count(), 2, "{log}");
}

#[test]
fn the_drain_command_asks_the_parent() {
    let mut fixture = Fixture::new("command", false);
    assert_eq!(fixture.ask("drain"), Ok("draining\n".to_owned()));
    assert!(matches!(fixture.reported(), Report::End { at_once: false }));
    fixture.order(Order::Drain);
    assert_eq!(fixture.told(), Told::Drain(Duration::from_secs(7)));
    assert_eq!(fixture.ask("drain"), Err("already ending".to_owned()));
    assert!(fixture.ask("reload").expect_err("too late").contains("the relay is ending"));
    fixture.order(Order::Stop);
    assert_eq!(fixture.end().0, Ok(()));
}

#[test]
fn a_worker_that_cannot_go_on_fails_the_process() {
    let fixture = Fixture::new("failed", false);
    let broken = io::Error::other("the ring is gone");
    fixture
        .exits
        .send(WorkerExit { name: "worker 0".to_owned(), result: Err(broken) })
        .expect("the loop listens");
    let (ended, log) = fixture.end();
    assert_eq!(ended, Err("worker 0 cannot go on: the ring is gone".to_owned()));
    assert!(log.contains(" error worker 0 cannot go on: the ring is gone\n"), "{log}");
}

#[test]
fn what_needs_another_generation_is_asked_of_the_parent_and_nothing_else_meanwhile() {
    let mut fixture = Fixture::new("renew", false);
    let path = fixture.scratch.path("r.sock");
    let changed = configuration("192.0.2.1:443").replace("bind", "backlog = 13\nbind");
    fixture.rewrite(&changed);
    let asked = |path: PathBuf, command: &'static str| {
        thread::spawn(move || client::ask(&path, command).map_err(|error| error.to_string()))
    };
    let first = asked(path.clone(), "reload");
    let Report::Renew { config, why } = fixture.reported() else { panic!("nothing is asked for") };
    assert!(config.contains("backlog = 13") && why.contains("the backlog"), "{why}");
    assert!(fixture.ask("reload").expect_err("one at a time").contains("busy"));
    assert!(fixture.ask("upgrade").expect_err("one at a time").contains("busy"));
    fixture.order(Order::Refused { why: "the port is taken".to_owned() });
    let refusal = first.join().expect("no panic").expect_err("refused");
    assert!(refusal.contains("not reloaded") && refusal.contains("port is taken"), "{refusal}");
    let second = asked(path, "upgrade /usr/bin/new");
    let expected = |report| {
        matches!(report, Report::Upgrade { binary: Some(path) }
        if path == Path::new("/usr/bin/new"))
    };
    assert!(matches!(fixture.reported(), Report::Kept) && expected(fixture.reported()));
    fixture.order(Order::Retire { answer: "the next serves".to_owned() });
    assert_eq!(second.join().expect("no panic"), Ok("upgraded: the next serves\n".to_owned()));
    let _applied = fixture.told();
    assert_eq!(fixture.told(), Told::Drain(Duration::from_secs(600)));
    fixture.order(Order::Drain);
    assert_eq!(fixture.told(), Told::Drain(Duration::from_secs(7)), "the shorter grace");
    fixture.order(Order::Stop);
    assert_eq!(fixture.end().0, Ok(()));
}

#[test]
fn without_one_of_its_workers_a_relay_asks_for_a_successor() {
    let mut fixture = Fixture::with_workers("successor", false, 2);
    let broken = io::Error::other("the ring is gone");
    fixture
        .exits
        .send(WorkerExit { name: "worker 1".to_owned(), result: Err(broken) })
        .expect("the loop listens");
    let Report::Renew { why, .. } = fixture.reported() else { panic!("nothing is asked for") };
    assert_eq!(why, "worker 1 has ended");
    fixture.order(Order::Refused { why: "no memory".to_owned() });
    assert_eq!(fixture.told(), Told::Drain(Duration::from_secs(7)));
    fixture.order(Order::Stop);
    assert_eq!(fixture.end().0, Err("worker 1 cannot go on: the ring is gone".to_owned()));
}

#[test]
fn the_status_is_the_relays_and_the_processs_together() {
    let fixture = Fixture::new("status", true);
    let text = fixture.ask("status").expect("an answer");
    assert!(text.starts_with(&format!("fanin {}, pid ", env!("CARGO_PKG_VERSION"))), "{text}");
    let json = fixture.ask("status json").expect("an answer");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json["pid"], &json["generation"]), (&4711.into(), &3.into()));
    assert_eq!(json["relay_pid"], std::process::id());
    assert_eq!(json["total"]["accepted"], 1_234_567);
    assert_eq!(json["servers"][0]["name"], "a");
    assert!(json["ready"] == true && json["events"].is_array(), "{json}");
    fixture.order(Order::Drain);
    assert_eq!(fixture.end().0, Ok(()));
}

#[test]
fn ended_sessions_are_logged_up_to_the_last_one() {
    use crate::metrics::{Queued, Report};
    use crate::op::ListenerId;

    let scratch = Scratch::new("records");
    let path: &Path = &scratch.path("log");
    let log = fs::File::create(path).expect("a file");
    let origin = Origin::Flags {
        listen: vec!["127.0.0.1:0".parse().expect("an address")],
        servers: vec!["192.0.2.1:1".parse().expect("an address")],
        overrides: Overrides::default(),
    };
    let (exits, exited) = notes::channel();
    let (mut ring, records) = rtrb::RingBuffer::new(4);
    ring.push(SessionRecord {
        listener: ListenerId(0),
        client: "192.0.2.9:4".parse().expect("an address"),
        server: None,
        queued: Queued::default(),
        asked: None,
        links: None,
        report: Report {
            reason: CloseReason::NoServer,
            bytes: [0; 2],
            bytes_discarded: [0; 2],
            attempts: 0,
            connect_time: None,
            first_byte: None,
            last_byte: None,
            total_time: Duration::ZERO,
        },
    })
    .expect("there is room");
    let setup = Setup {
        config: origin.load().expect("valid"),
        names: Names::default(),
        origin,
        log: Logger::to(Log::default(), log).expect("a logger"),
        closed: Default::default(),
        pages: Vec::new(),
        socket: None,
        parent: Parent { process: 4711, generation: 1, watched: false, link: None },
        records: vec![records],
        remarks: mpsc::channel(1).1,
    };
    let (note, _told) = notes::channel();
    let board = Arc::new(Board::new("default/server".to_owned()));
    let fake = Fake { notes: note, board, exits, exited, prompt: true };
    // The worker has ended before the loop began: only the last look at the rings can find this.
    fake.end();
    let control = Control::new().expect("a runtime");
    assert!(control.run(fake, 1, setup).expect_err("unasked").contains("worker 0 ended unasked"));
    let text = fs::read_to_string(path).expect("a log");
    assert!(text.contains("listener=127.0.0.1:0 client=192.0.2.9:4 reason=no_server"), "{text}");
}
