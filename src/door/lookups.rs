//! Where the names of destinations lead, remembered for as long as the answers may be.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::once::Once;

/// Names remembered by one thread; those that are no longer good go first.
const NAMES_MAX: usize = 4096;
/// How long it is remembered that a name leads nowhere, or that nobody knows.
const NOTHING_FOR: Duration = Duration::from_secs(1);

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// At least one address, for so long.
    Found { addresses: Vec<IpAddr>, ttl: Duration },
    /// There is none, for sure.
    Absent,
    /// Nobody knows.
    Unanswered,
}

type Asking = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// Asks where a name leads; never takes for ever.
#[derive(Clone)]
pub struct Asker(Arc<dyn Fn(String) -> Asking + Send + Sync>);

impl Asker {
    /// What asks by this.
    pub fn new<F>(ask: impl Fn(String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        Self(Arc::new(move |name| Box::pin(ask(name))))
    }
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asker(..)")
    }
}

/// One thread's memory of names.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    known: RefCell<HashMap<Rc<str>, (Answer, Instant)>>,
    asking: Once<Rc<str>>,
}

impl Lookups {
    /// Where a name leads.
    pub(super) async fn find(&self, name: &str, asker: &Asker) -> Answer {
        let name: Rc<str> = name.into();
        loop {
            if let Some((answer, until)) = self.known.borrow().get(&name)
                && *until > Instant::now()
            {
                return answer.clone();
            }
            let Some(_turn) = self.asking.turn(&name).await else { continue };
            let answer = (asker.0)(name.to_string()).await;
            let good_for = match &answer {
                Answer::Found { ttl, .. } => (*ttl).max(NOTHING_FOR),
                Answer::Absent | Answer::Unanswered => NOTHING_FOR,
            };
            self.remember(name, answer.clone(), good_for);
            return answer;
        }
    }

    fn remember(&self, name: Rc<str>, answer: Answer, good_for: Duration) {
        let mut known = self.known.borrow_mut();
        let now = Instant::now();
        if known.len() >= NAMES_MAX {
            known.retain(|_, (_, until)| *until > now);
        }
        if known.len() >= NAMES_MAX {
            known.clear();
        }
        known.insert(name, (answer, now + good_for));
    }
}
