//! Who may look at the statistics, and who may change servers there: names and passwords of the
//! configuration, as HTTP sends them (RFC 7617).

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{self, HeaderMap};
use tokio::sync::{Mutex, oneshot};
use tokio::time::sleep;

use crate::password::{Credentials, Hash, Passed};

/// Those who wait to have their password checked; more are told to come back.
const CHECKS_MAX: usize = 16;
/// What each wrong password costs: passwords are checked one after the other, so that this is what
/// guessing comes to, and no check takes the memory of many.
const WRONG_COSTS: Duration = Duration::from_secs(1);

/// Of these from one address.
const CHECKS_OF_ONE_MAX: usize = 2;

/// Those who may.
#[derive(Debug)]
pub(super) struct Logins {
    hashes: BTreeMap<String, Hash>,
    checks: Arc<Checks>,
}

/// What is known of passwords, and those that are being checked.
#[derive(Debug)]
struct Checks {
    /// A scraper comes every few seconds, and a check takes tens of milliseconds.
    passed: Mutex<Passed>,
    /// Where those come from whose password is being checked.
    waiting: Mutex<Vec<IpAddr>>,
    turn: Mutex<()>,
}

/// Why somebody may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// No name, or one that is not known, or not its password.
    Unknown,
    /// Too many passwords are being checked.
    Busy,
}

impl Logins {
    /// # Errors
    /// When the system gives no random numbers.
    pub(super) fn new(hashes: BTreeMap<String, Hash>) -> io::Result<Self> {
        let passed = Passed::new().map_err(|_| io::Error::other("no random numbers"))?;
        let (passed, waiting) = (Mutex::new(passed), Mutex::default());
        Ok(Self { hashes, checks: Arc::new(Checks { passed, waiting, turn: Mutex::default() }) })
    }

    /// Whether there is anybody.
    pub(super) fn is_anybody(&self) -> bool {
        !self.hashes.is_empty()
    }

    /// The name of whoever sent these headers from this address.
    ///
    /// # Errors
    /// When that is nobody who may.
    pub(super) async fn name(
        &self,
        headers: &HeaderMap,
        source: IpAddr,
    ) -> Result<String, Refused> {
        let said = headers.get(header::AUTHORIZATION);
        let said = said.and_then(|value| Credentials::basic(value.as_bytes()));
        let said = said.ok_or(Refused::Unknown)?;
        let hash = self.hashes.get(&said.user).cloned();
        if self.checks.passed.lock().await.knows(hash.as_ref(), &said) {
            return Ok(said.user);
        }
        self.checks.enter(source).await?;
        let name = said.user.clone();
        let (answer, answered) = oneshot::channel();
        // Beside the connection: who hangs up has the check and the pause on his account all the same.
        tokio::spawn(Arc::clone(&self.checks).check(hash, said, source, answer));
        match answered.await {
            Ok(true) => Ok(name),
            _ => Err(Refused::Unknown),
        }
    }
}

impl Checks {
    async fn enter(&self, source: IpAddr) -> Result<(), Refused> {
        let mut waiting = self.waiting.lock().await;
        let of_one = waiting.iter().filter(|other| **other == source).count();
        if waiting.len() >= CHECKS_MAX || of_one >= CHECKS_OF_ONE_MAX {
            return Err(Refused::Busy);
        }
        waiting.push(source);
        Ok(())
    }

    /// Checks a password, one after another, and pauses after a wrong one.
    async fn check(
        self: Arc<Self>,
        hash: Option<Hash>,
        said: Credentials,
        source: IpAddr,
        answer: oneshot::Sender<bool>,
    ) {
        let turn = self.turn.lock().await;
        let (checked, password) = (hash.clone(), said.password.clone());
        let check = move || checked.unwrap_or_else(Hash::nobodys).matches(&password);
        let is_right = tokio::task::spawn_blocking(check).await.unwrap_or(false);
        match hash {
            Some(hash) if is_right => self.passed.lock().await.note(hash, &said),
            _ => sleep(WRONG_COSTS).await,
        }
        drop(turn);
        let mut waiting = self.waiting.lock().await;
        if let Some(at) = waiting.iter().position(|other| *other == source) {
            waiting.swap_remove(at);
        }
        // Whoever has gone meanwhile needs no answer.
        let _ = answer.send(is_right);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &'static str) -> HeaderMap {
        let value = header::HeaderValue::from_static(value);
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    #[tokio::test]
    async fn who_hangs_up_has_the_pause_on_his_account_and_keeps_nobody_else_out() {
        let hashes = BTreeMap::from([("bob".to_owned(), Hash::repeatable("bob", b"right"))]);
        let logins = Logins::new(hashes).unwrap();
        // bob:wrong, bob:right
        let (wrong, right) = (headers("Basic Ym9iOndyb25n"), headers("Basic Ym9iOnJpZ2h0"));
        let (guesser, other) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        for _ in 0..CHECKS_OF_ONE_MAX {
            let hung_up = tokio::time::timeout(Duration::ZERO, logins.name(&wrong, guesser));
            assert!(hung_up.await.is_err());
        }
        assert_eq!(logins.name(&wrong, guesser).await, Err(Refused::Busy));
        assert_eq!(logins.name(&right, other).await, Ok("bob".to_owned()));
        assert_eq!(logins.name(&right, guesser).await, Ok("bob".to_owned()), "known by now");
    }
}
