//! Wakes agents when their posts are due, finer than tokio's timers, which know milliseconds.
//!
//! One timerfd for a thread stands on the earliest wake-up of a heap. Request deadlines, which
//! need no such precision, use tokio's own timers.

use crate::clock::{Clock, Nanos};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// The wake-ups of one thread.
#[derive(Debug)]
pub(crate) struct Pacer {
    clock: Clock,
    timer: AsyncFd<Timer>,
    heap: RefCell<BinaryHeap<Reverse<(Nanos, u32)>>>,
    sleepers: RefCell<Vec<Option<(Nanos, Waker)>>>,
    armed: Cell<Nanos>,
    stopped: Cell<bool>,
}

#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Pacer {
    /// A pacer for sleepers `0..count`, within a tokio runtime.
    pub(crate) fn new(clock: Clock, count: usize) -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = Timer(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?);
        #[expect(
            deprecated,
            reason = "deprecated because a descriptor could change or close under it; `Timer` owns \
                      one for life, and the replacement is unsafe code for the same promise"
        )]
        let timer = AsyncFd::with_interest(timer, tokio::io::Interest::READABLE)?;
        Ok(Self {
            clock,
            timer,
            heap: RefCell::new(BinaryHeap::with_capacity(count)),
            sleepers: RefCell::new(vec![None; count]),
            armed: Cell::new(Nanos::MAX),
            stopped: Cell::new(false),
        })
    }

    /// Sleeps until `due`, or until all are woken for good. A sleeper sleeps once at a time.
    pub(crate) async fn until(&self, sleeper: u32, due: Nanos) {
        poll_fn(|context| {
            let mut sleepers = self.sleepers.borrow_mut();
            let place = &mut sleepers[sleeper as usize];
            if self.stopped.get() || self.clock.now() >= due {
                *place = None;
                return Poll::Ready(());
            }
            match place {
                Some((at, waker)) if *at == due => waker.clone_from(context.waker()),
                _ => {
                    *place = Some((due, context.waker().clone()));
                    self.heap.borrow_mut().push(Reverse((due, sleeper)));
                }
            }
            self.arm(due);
            Poll::Pending
        })
        .await;
    }

    /// Wakes every sleeper, now and from now on.
    pub(crate) fn stop(&self) {
        self.stopped.set(true);
        for place in self.sleepers.borrow_mut().iter_mut() {
            if let Some((_, waker)) = place.take() {
                waker.wake();
            }
        }
    }

    /// Serves the sleepers; runs as a task of its own for ever.
    ///
    /// # Errors
    /// When the timer cannot be waited for.
    pub(crate) async fn run(&self) -> io::Result<()> {
        loop {
            // Setting the timer anew clears its expiry, so nothing needs to be read from it.
            self.timer.readable().await?.clear_ready();
            self.armed.set(Nanos::MAX);
            if let Some(next) = self.wake(self.clock.now()) {
                self.arm(next);
            }
        }
    }

    /// Wakes whoever is due; returns the next wake-up.
    fn wake(&self, now: Nanos) -> Option<Nanos> {
        let mut heap = self.heap.borrow_mut();
        while let Some(Reverse((due, sleeper))) = heap.peek().copied() {
            if due > now {
                return Some(due);
            }
            heap.pop();
            // A sleeper woken by something else may have left its old entry behind.
            let mut sleepers = self.sleepers.borrow_mut();
            let place = &mut sleepers[sleeper as usize];
            if let Some((_, waker)) = place.take_if(|(at, _)| *at <= due) {
                waker.wake();
            }
        }
        None
    }

    fn arm(&self, due: Nanos) {
        if due >= self.armed.get() {
            return;
        }
        // Zero would disarm the timer instead of firing it at once.
        let wait = Duration::from_nanos(due.saturating_sub(self.clock.now()).max(1));
        let expiry = Expiration::OneShot(TimeSpec::from_duration(wait));
        let set = self.timer.get_ref().0.set(expiry, TimerSetTimeFlags::empty());
        debug_assert!(set.is_ok(), "a relative time is always valid");
        self.armed.set(due);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::MILLISECOND;
    use std::rc::Rc;

    #[test]
    fn sleepers_wake_in_order_and_never_early() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        let woken = local.block_on(&runtime, async {
            let clock = Clock::starting_in(Duration::ZERO);
            let pacer = Rc::new(Pacer::new(clock, 4).unwrap());
            let server = Rc::clone(&pacer);
            tokio::task::spawn_local(async move { server.run().await });
            let woken = Rc::new(RefCell::new(Vec::new()));
            let sleepers = [(0, 7), (1, 3), (2, 5), (3, 0)].map(|(sleeper, at)| {
                let (pacer, woken) = (Rc::clone(&pacer), Rc::clone(&woken));
                tokio::task::spawn_local(async move {
                    pacer.until(sleeper, at * MILLISECOND).await;
                    assert!(clock.now() >= at * MILLISECOND, "woken early");
                    woken.borrow_mut().push(sleeper);
                })
            });
            for sleeper in sleepers {
                sleeper.await.unwrap();
            }
            woken.take()
        });
        assert_eq!(woken, [3, 1, 2, 0]);
    }

    #[test]
    fn stopping_wakes_those_who_would_sleep_for_ever() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let clock = Clock::starting_in(Duration::ZERO);
            let pacer = Rc::new(Pacer::new(clock, 1).unwrap());
            let sleeping = Rc::clone(&pacer);
            let sleeper =
                tokio::task::spawn_local(async move { sleeping.until(0, Nanos::MAX / 2).await });
            tokio::task::yield_now().await;
            pacer.stop();
            sleeper.await.unwrap();
        });
    }
}
