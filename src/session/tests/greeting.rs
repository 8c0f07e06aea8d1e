//! A client whose first bytes are looked at: it speaks for another, or asks for its server by name.

use super::*;
use crate::session::greeting::{Expects, GREETING_MAX, HELLO_MAX, Said};

const HEADER: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n";
/// The first message of `openssl s_client -servername a.example`, without what nobody looks at.
const HELLO: &[u8] =
    b"\x16\x03\x01\x00\x41\x01\x00\x00\x3d\x03\x03RANDOMRANDOMRANDOMRANDOMRANDOMRA\x00\
    \x00\x02\x13\x01\x01\x00\x00\x12\x00\x00\x00\x0e\x00\x0c\x00\x00\x09a.example";

impl Driver {
    /// A client has just come that must say for whom.
    fn greeting() -> Self {
        Self::expecting(Expects { header: true, hello: false })
    }

    fn expecting(expects: Expects) -> Self {
        let mut driver = Self::open();
        let mut ops = Ops::new();
        let (session, step) = Session::greet(KEY, expects, driver.now, &mut ops);
        driver.session = session;
        driver.flying.clear();
        driver.asked.clear();
        driver.wants_dial = false;
        driver.follow(step, ops);
        driver
    }

    /// The engine holds `all` now.
    fn hears(&mut self, all: &[u8]) -> Said {
        self.flying.retain(|slot| *slot != Slot::Pull(ToBackend));
        let held = &mut self.held[ToBackend.index()];
        let before = std::mem::replace(held, u32::try_from(all.len()).unwrap());
        let outcome = moved(*held - before);
        self.greets(outcome, all)
    }

    fn greets(&mut self, outcome: Outcome, all: &[u8]) -> Said {
        self.flying.retain(|slot| *slot != Slot::Pull(ToBackend));
        let mut ops = Ops::new();
        let (step, said) = self.session.on_greeting(outcome, all, self.now, &mut ops);
        self.follow(step, ops);
        said
    }

    /// Its time is up.
    fn is_late(&mut self, by: Duration) {
        self.now = self.now + by;
        let mut ops = Ops::new();
        let step = self.session.on_deadline(self.now, &LIMITS, |_| 0, &mut ops);
        self.follow(step, ops);
    }

    fn reason(mut self) -> CloseReason {
        if self.flies(Slot::Pull(ToBackend)) {
            self.ends(Slot::Pull(ToBackend), Outcome::Cancelled);
        }
        self.ends(Slot::Close, Outcome::Done);
        self.report.expect("it is over").reason
    }
}

#[test]
fn nobody_is_dialled_before_the_header_and_what_follows_it_is_the_streams() {
    let mut driver = Driver::greeting();
    assert!(!driver.wants_dial);
    let said = driver.hears(&[HEADER, b"hello"].concat());
    assert_eq!(said.client, Some("192.0.2.1:56324".parse().unwrap()));
    assert_eq!(driver.held[ToBackend.index()], 5);
    driver.dial();
    driver.ends(Slot::Connect, Outcome::Done);
    driver.pushes(ToBackend, 5);
    assert!(driver.flies(Slot::Pull(ToBackend)));
}

#[test]
fn a_header_may_come_byte_by_byte() {
    let mut driver = Driver::greeting();
    for length in 1..HEADER.len() {
        assert_eq!(driver.hears(&HEADER[..length]), Said::default());
        assert!(!driver.wants_dial && driver.flies(Slot::Pull(ToBackend)));
    }
    assert!(driver.hears(HEADER).client.is_some());
    assert!(driver.wants_dial && driver.flies(Slot::Pull(ToBackend)), "early bytes are awaited");
}

#[test]
fn a_greeting_that_is_none_or_late_or_missing_ends_the_session() {
    let mut driver = Driver::greeting();
    driver.hears(b"GET / HTTP/1.1");
    assert_eq!(driver.reason(), CloseReason::BadGreeting);

    let mut driver = Driver::greeting();
    driver.hears(&HEADER[..20]);
    driver.is_late(GREETING_MAX);
    assert_eq!(driver.reason(), CloseReason::GreetingTimeout);

    let mut driver = Driver::greeting();
    driver.greets(Outcome::EndOfStream, &[]);
    assert_eq!(driver.reason(), CloseReason::BadGreeting);
}

#[test]
fn a_drain_ends_who_has_not_greeted() {
    let mut driver = Driver::greeting();
    let mut ops = Ops::new();
    driver.session.begin_close(CloseReason::Stopped, &mut ops);
    driver.follow(Step::Continue, ops);
    assert_eq!(driver.reason(), CloseReason::Stopped);
}

fn asking() -> Driver {
    Driver::expecting(Expects { header: false, hello: true })
}

#[test]
fn a_name_is_heard_and_goes_on_with_all_that_was_said() {
    for cut in [1, 5, 40, HELLO.len()] {
        let mut driver = asking();
        if cut < HELLO.len() {
            assert_eq!(driver.hears(&HELLO[..cut]), Said::default());
            assert!(!driver.wants_dial && driver.flies(Slot::Pull(ToBackend)));
        }
        let said = driver.hears(HELLO);
        assert_eq!(said, Said { client: None, name: Some("a.example".to_owned()) });
        driver.dial();
        driver.ends(Slot::Connect, Outcome::Done);
        driver.pushes(ToBackend, u32::try_from(HELLO.len()).unwrap());
        assert!(driver.flies(Slot::Pull(ToBackend)));
    }
}

#[test]
fn a_name_may_stand_behind_a_header_or_come_later() {
    let expects = Expects { header: true, hello: true };
    let mut driver = Driver::expecting(expects);
    let said = driver.hears(&[HEADER, HELLO].concat());
    assert!(said.client.is_some() && said.name.as_deref() == Some("a.example"));
    assert_eq!(driver.held[ToBackend.index()] as usize, HELLO.len());
    let mut driver = Driver::expecting(expects);
    let said = driver.hears(&[HEADER, &HELLO[..7]].concat());
    assert!(said.client.is_some() && said.name.is_none() && !driver.wants_dial);
    let said = driver.hears(HELLO);
    assert!(said.client.is_none() && said.name.is_some() && driver.wants_dial);
}

#[test]
fn who_names_nobody_is_served_all_the_same() {
    let mut driver = asking();
    assert_eq!(driver.hears(b"GET / HTTP/1.1\r\n\r\n"), Said::default());
    assert!(driver.wants_dial, "no TLS");

    let mut driver = asking();
    driver.greets(Outcome::EndOfStream, &[]);
    assert!(driver.wants_dial && driver.flies(Slot::Pull(ToBackend)), "an end is passed on");

    let mut driver = asking();
    driver.hears(&HELLO[..20]);
    driver.is_late(HELLO_MAX);
    assert!(!driver.wants_dial, "what is being received comes first");
    driver.greets(Outcome::Cancelled, &HELLO[..20]);
    assert!(driver.wants_dial, "late");
    assert_eq!(driver.held[ToBackend.index()], 20);
}

#[test]
fn a_client_that_is_reset_in_the_middle_of_its_greeting_is_gone() {
    let mut driver = asking();
    driver.hears(&HELLO[..20]);
    let mut ops = Ops::new();
    let step = driver.session.on_broken(Client, Errno::ECONNRESET, driver.now, &mut ops);
    driver.follow(step, ops);
    assert_eq!(driver.reason(), CloseReason::ClientReset);
}
