//! Who may use the web proxy doors. Passwords are checked on a thread of their own, one after another;
//! a log-in that has passed is known again by a keyed hash, compared in constant time.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use crate::gate::sources::{Entry, SourceLimits, SourceRate, Sources};
use crate::op::Time;
use crate::password::{Credentials, Hash, NoRandom, Passed};

use super::once::Once;

/// Log-ins that failed, from one source: enough for whoever mistypes a file and puts it
/// right, and too few to guess by.
const TRIES: SourceLimits = SourceLimits {
    sessions: None,
    rate: Some(SourceRate { connections: 20, period: Duration::from_secs(60) }),
    ipv4_prefix: 32,
    ipv6_prefix: 64,
};

/// How long a log-in that has failed is known as one: who waited for the answer gets it, and a fleet whose
/// password is an old one does not have it checked again and again.
const FAILED_FOR: Duration = Duration::from_secs(2);
/// Of these so many; more are checked anew.
const FAILED_MAX: usize = 4096;

/// Whether a password is that of a hash.
#[derive(Debug)]
pub struct Question {
    hash: Hash,
    password: Zeroizing<Vec<u8>>,
    answer: oneshot::Sender<bool>,
}

impl Question {
    /// Answers it, which takes tens of milliseconds.
    pub fn settle(self) {
        // Whoever has gone meanwhile needs no answer.
        let _ = self.answer.send(self.hash.matches(&self.password));
    }
}

/// Where a thread asks about passwords, and what bounds how often.
#[derive(Clone, Debug)]
pub struct Hasher {
    /// Bounded: when it is full the answer is "later".
    pub questions: mpsc::Sender<Question>,
    /// One table for all threads.
    pub tries: Arc<Sources>,
}

/// What came of a log-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Login {
    Passed,
    Failed,
    /// Too many from this source.
    TooMany,
    /// Too many passwords wait to be checked.
    Busy,
}

/// One thread's memory of who has logged in.
#[derive(Debug)]
pub(super) struct Logins {
    hasher: Hasher,
    passed: RefCell<Passed>,
    /// By the tag of what was said, until then.
    failed: RefCell<HashMap<Vec<u8>, Time>>,
    checking: Once<Vec<u8>>,
}

impl Logins {
    /// Nobody has logged in.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub(super) fn new(hasher: Hasher) -> Result<Self, NoRandom> {
        let passed = RefCell::new(Passed::new()?);
        Ok(Self { hasher, passed, failed: RefCell::default(), checking: Once::default() })
    }

    /// Whether somebody is who he says he is.
    pub(super) async fn check(
        &self,
        users: &BTreeMap<String, Hash>,
        said: &Credentials,
        source: IpAddr,
        now: impl Fn() -> Time,
    ) -> Login {
        let known = users.get(&said.user);
        let tag = self.passed.borrow().tag(said);
        loop {
            if self.passed.borrow().knows(known, said) {
                return Login::Passed;
            }
            let sign = tag.as_ref().to_vec();
            if self.failed.borrow().get(&sign).is_some_and(|until| now() < *until) {
                return Login::Failed;
            }
            let Some(_turn) = self.checking.turn(&sign).await else { continue };
            if !self.hasher.tries.would_enter(0, source, &TRIES, now()) {
                return Login::TooMany;
            }
            let (answer, answered) = oneshot::channel();
            let hash = known.cloned().unwrap_or_else(Hash::nobodys);
            let question = Question { hash: hash.clone(), password: said.password.clone(), answer };
            if self.hasher.questions.try_send(question).is_err() {
                return Login::Busy;
            }
            if answered.await == Ok(true) && known.is_some() {
                self.passed.borrow_mut().note(hash, said);
                return Login::Passed;
            }
            self.note_failure(sign, source, now());
            return Login::Failed;
        }
    }

    /// Forgets those who are users no more.
    pub(super) fn retain(&self, users: &BTreeMap<String, Hash>) {
        self.passed.borrow_mut().retain(users);
        // What has failed may be right now.
        self.failed.borrow_mut().clear();
    }

    fn note_failure(&self, sign: Vec<u8>, source: IpAddr, now: Time) {
        if let Entry::Counted(ticket) = self.hasher.tries.enter(0, source, &TRIES, now) {
            self.hasher.tries.leave(ticket);
        }
        let mut failed = self.failed.borrow_mut();
        if failed.len() >= FAILED_MAX {
            failed.retain(|_, until| now < *until);
        }
        if failed.len() < FAILED_MAX {
            failed.insert(sign, now + FAILED_FOR);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logins(places: usize) -> (Logins, mpsc::Receiver<Question>) {
        let (questions, asked) = mpsc::channel(places);
        let tries = Arc::new(Sources::new(64));
        (Logins::new(Hasher { questions, tries }).unwrap(), asked)
    }

    fn said(user: &str, password: &str) -> Credentials {
        Credentials {
            user: user.to_owned(),
            password: Zeroizing::new(password.as_bytes().to_vec()),
        }
    }

    fn users(names: &[&str]) -> BTreeMap<String, Hash> {
        names.iter().map(|&name| (name.to_owned(), Hash::of(name.as_bytes()).unwrap())).collect()
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn start() -> Time {
        Time::from_micros(1_000_000)
    }

    /// Runs a log-in and answers the questions that it asks; how many there were.
    async fn run(
        logins: &Logins,
        asked: &mut mpsc::Receiver<Question>,
        users: &BTreeMap<String, Hash>,
        said: &Credentials,
    ) -> (Login, usize) {
        let mut questions = 0;
        let mut check = std::pin::pin!(logins.check(users, said, HERE, start));
        loop {
            tokio::select! {
                login = &mut check => return (login, questions),
                question = asked.recv() => {
                    questions += 1;
                    question.unwrap().settle();
                }
            }
        }
    }

    #[tokio::test]
    async fn a_log_in_is_checked_once_and_known_until_its_hash_changes() {
        let (logins, mut asked) = logins(8);
        let mut users = users(&["one", "two"]);
        let one = said("one", "one");
        assert_eq!(run(&logins, &mut asked, &users, &one).await, (Login::Passed, 1));
        assert_eq!(run(&logins, &mut asked, &users, &one).await, (Login::Passed, 0));
        let wrong = said("one", "two");
        assert_eq!(run(&logins, &mut asked, &users, &wrong).await, (Login::Failed, 1));
        assert_eq!(run(&logins, &mut asked, &users, &one).await, (Login::Passed, 0));
        let again = run(&logins, &mut asked, &users, &wrong).await;
        assert_eq!(again, (Login::Failed, 0), "known as wrong");
        users.insert("one".to_owned(), Hash::of(b"new").unwrap());
        assert_eq!(run(&logins, &mut asked, &users, &one).await, (Login::Failed, 1));
    }

    #[tokio::test]
    async fn who_is_no_user_costs_a_check_as_well() {
        let (logins, mut asked) = logins(8);
        let nobody = said("nobody", "nobody");
        assert_eq!(run(&logins, &mut asked, &users(&["one"]), &nobody).await, (Login::Failed, 1));
    }

    #[tokio::test]
    async fn a_source_that_guesses_is_told_to_stop_and_those_who_are_known_go_on() {
        let (logins, mut asked) = logins(8);
        let users = users(&["one"]);
        let one = said("one", "one");
        assert_eq!(run(&logins, &mut asked, &users, &one).await.0, Login::Passed);
        for guess in 0..20 {
            let guess = said("one", &guess.to_string());
            assert_eq!(run(&logins, &mut asked, &users, &guess).await, (Login::Failed, 1));
        }
        let guess = said("one", "more");
        assert_eq!(run(&logins, &mut asked, &users, &guess).await, (Login::TooMany, 0));
        assert_eq!(run(&logins, &mut asked, &users, &one).await, (Login::Passed, 0));
    }

    #[tokio::test]
    async fn those_who_pass_use_up_nothing_of_their_source() {
        let (logins, mut asked) = logins(8);
        let names: Vec<String> = (0..30).map(|number| format!("user{number}")).collect();
        let users = users(&names.iter().map(String::as_str).collect::<Vec<_>>());
        for name in &names {
            let said = said(name, name);
            assert_eq!(run(&logins, &mut asked, &users, &said).await, (Login::Passed, 1), "{name}");
        }
    }

    #[tokio::test]
    async fn a_full_queue_says_later() {
        let (logins, asked) = logins(1);
        let users = users(&["one"]);
        let (one, two) = (said("one", "1"), said("one", "2"));
        let first = logins.check(&users, &one, HERE, start);
        let second = logins.check(&users, &two, HERE, start);
        tokio::select! {
            biased;
            login = first => panic!("{login:?}"),
            login = second => assert_eq!(login, Login::Busy),
        }
        drop(asked);
    }

    #[tokio::test]
    async fn the_same_log_in_from_many_is_checked_once() {
        let (logins, mut asked) = logins(8);
        let users = users(&["one"]);
        let one = said("one", "one");
        let answering = async {
            asked.recv().await.unwrap().settle();
            asked.recv().await
        };
        let together = async {
            tokio::join!(
                logins.check(&users, &one, HERE, start),
                logins.check(&users, &one, HERE, start),
                logins.check(&users, &one, HERE, start),
            )
        };
        tokio::select! {
            logins = together => assert_eq!(logins, (Login::Passed, Login::Passed, Login::Passed)),
            again = answering => panic!("asked again: {again:?}"),
        }
    }
}
