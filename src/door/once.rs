//! One question at a time for each key: who asks the same meanwhile waits for what comes of it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;

use tokio::sync::Notify;

/// The questions under way.
#[derive(Debug)]
pub(super) struct Once<K: Eq + Hash>(RefCell<HashMap<K, Rc<Notify>>>);

impl<K: Eq + Hash> Default for Once<K> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

/// Whose turn it is to ask. However it ends, those who wait are told.
#[derive(Debug)]
pub(super) struct Turn<'a, K: Eq + Hash> {
    once: &'a Once<K>,
    key: K,
}

impl<K: Eq + Hash + Clone> Once<K> {
    /// `Some` when it is the caller's turn to ask; `None` when another's has just ended: look what came
    /// of it.
    pub(super) async fn turn(&self, key: &K) -> Option<Turn<'_, K>> {
        let other = self.0.borrow().get(key).cloned();
        if let Some(other) = other {
            other.notified().await;
            return None;
        }
        self.0.borrow_mut().insert(key.clone(), Rc::default());
        Some(Turn { once: self, key: key.clone() })
    }
}

impl<K: Eq + Hash> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        if let Some(waiting) = self.once.0.borrow_mut().remove(&self.key) {
            waiting.notify_waiters();
        }
    }
}
