//! `fanin top`: the relay's status once a second, with what a second adds; on a screen with keys, or
//! as plain text for whoever reads it through a pipe.

mod draw;
mod keys;
mod look;
mod screen;
mod sheets;
mod state;
#[cfg(test)]
mod tests;

use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use super::client::ClientError;
use super::text::{grouped, size, span};
use look::{Look, Pair, number, word};
use sheets::Sort;

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(1);

/// Shows the relay at `socket` until nobody looks any more. Where there is no terminal, or where
/// `times` says how many looks are wanted, that is plain text, until the relay ends.
///
/// # Errors
/// When the relay does not answer, or the terminal cannot be drawn on.
pub fn top(socket: &Path, times: Option<u32>) -> Result<(), ClientError> {
    let first = Look::take(socket, None)?;
    match times.is_none() && screen::is_possible() {
        true => screen::run(socket, first),
        false => print(socket, first, times),
    }
}

fn print(socket: &Path, first: Look, times: Option<u32>) -> Result<(), ClientError> {
    let mut before = first;
    let mut out = io::stdout();
    let mut shown = 0;
    while times.is_none_or(|times| shown < times) {
        std::thread::park_timeout(EVERY);
        let now = Look::take(socket, None)?;
        let between = if shown > 0 { "\n" } else { "" };
        let text = plain(&Pair { before: &before, now: &now });
        if write!(out, "{between}{text}").and_then(|()| out.flush()).is_err() {
            return Ok(());
        }
        before = now;
        shown += 1;
    }
    Ok(())
}

/// A look as text.
fn plain(pair: &Pair<'_>) -> String {
    let status = &pair.now.status;
    let mut out = format!(
        "fanin {}  pid {}  up {}  {}  {} sessions of {}\n{} begin a second  {}/s to servers  {}/s to clients\n",
        word(status, "version"),
        number(status, "pid"),
        span(Duration::from_secs(number(status, "uptime_seconds"))),
        word(status, "phase"),
        grouped(pair.now.total("sessions")),
        grouped(number(status, "maxconn")),
        grouped(pair.sessions()),
        size(pair.bytes("bytes_to_backend")),
        size(pair.bytes("bytes_to_client")),
    );
    let sheets = [
        sheets::workers(pair),
        sheets::listeners(pair),
        sheets::servers(pair, Sort::Name),
        sheets::endings(pair),
    ];
    out.extend(sheets.iter().map(sheets::Sheet::plain));
    out
}
