//! A client that speaks for another.

use super::*;
use crate::session::greeting::GREETING_MAX;

const HEADER: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n";

impl Driver {
    /// A client has just come that must say for whom.
    fn greeting() -> Self {
        let mut driver = Self::open();
        let mut ops = Ops::new();
        let (session, step) = Session::greet(KEY, driver.now, &mut ops);
        driver.session = session;
        driver.flying.clear();
        driver.asked.clear();
        driver.wants_dial = false;
        driver.follow(step, ops);
        driver
    }

    fn hears(&mut self, bytes: &[u8]) -> Option<SocketAddr> {
        self.flying.retain(|slot| *slot != Slot::Pull(ToBackend));
        self.held[ToBackend.index()] = u32::try_from(bytes.len()).unwrap();
        let mut ops = Ops::new();
        let outcome = moved(u32::try_from(bytes.len()).unwrap());
        let (step, client) = self.session.on_greeting(outcome, bytes, &mut ops);
        self.follow(step, ops);
        client
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
    let client = driver.hears(&[HEADER, b"hello"].concat());
    assert_eq!(client, Some("192.0.2.1:56324".parse().unwrap()));
    assert_eq!(driver.held[ToBackend.index()], 5);
    driver.dial();
    driver.ends(Slot::Connect, Outcome::Done);
    driver.pushes(ToBackend, 5);
    assert!(driver.flies(Slot::Pull(ToBackend)));
}

#[test]
fn a_header_may_come_byte_by_byte() {
    let mut driver = Driver::greeting();
    let (last, first) = HEADER.split_last().unwrap();
    for byte in first {
        assert_eq!(driver.hears(&[*byte]), None);
        assert!(!driver.wants_dial && driver.flies(Slot::Pull(ToBackend)));
    }
    assert!(driver.hears(&[*last]).is_some());
    assert!(driver.wants_dial && driver.flies(Slot::Pull(ToBackend)), "early bytes are awaited");
}

#[test]
fn a_greeting_that_is_none_or_late_or_missing_ends_the_session() {
    let mut driver = Driver::greeting();
    driver.hears(b"GET / HTTP/1.1");
    assert_eq!(driver.reason(), CloseReason::BadGreeting);

    let mut driver = Driver::greeting();
    driver.hears(&HEADER[..20]);
    driver.now = driver.now + GREETING_MAX;
    let mut ops = Ops::new();
    let step = driver.session.on_deadline(driver.now, &LIMITS, |_| 0, &mut ops);
    driver.follow(step, ops);
    assert_eq!(driver.reason(), CloseReason::GreetingTimeout);

    let mut driver = Driver::greeting();
    driver.flying.clear();
    let mut ops = Ops::new();
    let (step, _) = driver.session.on_greeting(Outcome::EndOfStream, &[], &mut ops);
    driver.follow(step, ops);
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
