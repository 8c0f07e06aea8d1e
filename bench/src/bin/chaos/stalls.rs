//! How long this machine kept everybody waiting: a thread that asks to be woken every 20 ms and
//! notes how much later it was. Where the machine stood still, no timer can be judged.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

const NAP: Duration = Duration::from_millis(20);
/// Anything shorter is how a busy machine always is.
const NOTED_MIN: Duration = Duration::from_millis(250);

#[derive(Default)]
pub struct Stalls {
    /// When one ended, and how long it was.
    noted: Mutex<Vec<(Instant, Duration)>>,
    pub over: AtomicBool,
}

impl Stalls {
    /// Watches until all is over.
    pub fn watch(&self) {
        while !self.over.load(SeqCst) {
            let before = Instant::now();
            thread::sleep(NAP);
            let late = before.elapsed().saturating_sub(NAP);
            if late >= NOTED_MIN {
                self.noted.lock().expect("no holder panics").push((Instant::now(), late));
            }
        }
    }

    /// What was lost to stalls since.
    pub fn since(&self, begun: Instant) -> Duration {
        let noted = self.noted.lock().expect("no holder panics");
        noted.iter().rev().take_while(|(end, _)| *end >= begun).map(|(_, late)| *late).sum()
    }
}
