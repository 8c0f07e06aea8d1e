//! Who may look at the statistics, and who may change servers there: names and passwords of the
//! configuration, as HTTP sends them (RFC 7617).

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use hyper::header::{self, HeaderMap};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::sleep;

use crate::password::{Credentials, Hash, Passed};

/// Those who wait to have their password checked; more are told to come back.
const CHECKS_MAX: usize = 16;
/// What each wrong password costs: passwords are checked one after the other, so that this is what
/// guessing comes to, and no check takes the memory of many.
const WRONG_COSTS: Duration = Duration::from_secs(1);

/// Those who may.
#[derive(Debug)]
pub(super) struct Logins {
    hashes: BTreeMap<String, Hash>,
    /// A scraper comes every few seconds, and a check takes tens of milliseconds.
    passed: Mutex<Passed>,
    waiting: Semaphore,
    checking: Semaphore,
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
        Ok(Self {
            hashes,
            passed: Mutex::new(passed),
            waiting: Semaphore::new(CHECKS_MAX),
            checking: Semaphore::new(1),
        })
    }

    /// Whether there is anybody.
    pub(super) fn is_anybody(&self) -> bool {
        !self.hashes.is_empty()
    }

    /// The name of whoever sent these headers.
    ///
    /// # Errors
    /// When that is nobody who may. A wrong password takes a while.
    pub(super) async fn name(&self, headers: &HeaderMap) -> Result<String, Refused> {
        let said = headers.get(header::AUTHORIZATION);
        let said = said.and_then(|value| Credentials::basic(value.as_bytes()));
        let said = said.ok_or(Refused::Unknown)?;
        let hash = self.hashes.get(&said.user).cloned();
        if self.passed.lock().await.knows(hash.as_ref(), &said) {
            return Ok(said.user);
        }
        let _place = self.waiting.try_acquire().map_err(|_| Refused::Busy)?;
        let turn = self.checking.acquire().await;
        let (checked, password) = (hash.clone(), said.password.clone());
        let check = move || checked.unwrap_or_else(Hash::nobodys).matches(&password);
        let is_right = tokio::task::spawn_blocking(check).await.unwrap_or(false);
        if let (Some(hash), true) = (hash, is_right) {
            self.passed.lock().await.note(hash, &said);
            return Ok(said.user);
        }
        sleep(WRONG_COSTS).await;
        drop(turn);
        Err(Refused::Unknown)
    }
}
