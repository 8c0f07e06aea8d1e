//! The parent, as the control loop hears and tells it.

use std::io;
use std::os::unix::net::UnixStream;

use nix::sys::signal::SigSet;
use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGTERM};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::handover::{self, Order, Report, Wish};

/// Orders that wait to be carried out.
const ORDERS_MAX: usize = 16;

/// Who started this relay process.
#[derive(Debug)]
pub struct Parent {
    pub process: i32,
    /// Which of its relay processes this is.
    pub generation: u64,
    /// Whether it wants to be told that the workers turn.
    pub watched: bool,
    /// Where both talk; taken by [`Parent::talk`].
    pub link: Option<UnixStream>,
}

impl Parent {
    /// The orders that come and the reports that go, from now on. Without a link none do.
    pub(super) fn talk(
        &mut self,
    ) -> io::Result<(mpsc::Receiver<Order>, mpsc::UnboundedSender<Report>)> {
        let (heard, orders) = mpsc::channel(ORDERS_MAX);
        let (reports, said) = mpsc::unbounded_channel();
        if let Some(link) = self.link.take() {
            link.set_nonblocking(true)?;
            let (read, write) = tokio::net::UnixStream::from_std(link)?.into_split();
            tokio::spawn(hear(read, heard));
            tokio::spawn(tell(write, said));
        }
        Ok((orders, reports))
    }
}

/// Until the parent is gone; this process ends with it.
async fn hear(mut link: OwnedReadHalf, heard: mpsc::Sender<Order>) {
    let mut came = Vec::new();
    while let Ok(1..) = link.read_buf(&mut came).await {
        for order in handover::messages(&mut came) {
            if heard.send(order).await.is_err() {
                return;
            }
        }
    }
}

async fn tell(mut link: OwnedWriteHalf, mut said: mpsc::UnboundedReceiver<Report>) {
    while let Some(report) = said.recv().await {
        let Ok(line) = handover::line(&report) else { continue };
        if link.write_all(&line).await.is_err() {
            return;
        }
    }
}

/// Signals that a person means for the relay as a whole.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        let heard = Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        };
        // The parent, which reads its own from a descriptor, blocks them, and a child inherits that.
        let blocked: SigSet = [SIGTERM, SIGINT, SIGHUP].into_iter().collect();
        blocked.thread_unblock()?;
        Ok(heard)
    }

    /// Passes them on to the parent: only it can end the relay without losing who waits in a queue.
    /// Not as signals: this process may be another user's.
    pub(super) async fn pass_on(mut self, parent: mpsc::UnboundedSender<Report>) {
        loop {
            let wish = tokio::select! {
                _ = self.terminate.recv() => Wish::Terminate,
                _ = self.interrupt.recv() => Wish::Interrupt,
                _ = self.hangup.recv() => Wish::Reload,
            };
            // A parent that is gone takes this process with it.
            let _ = parent.send(Report::Signalled { wish });
        }
    }
}
