//! What happened, a line each, on standard error, in a file and to a syslog server.
//!
//! Nobody waits for a reader: lines go through a bounded queue to one thread that writes. When the
//! queue is full they are dropped and counted, and the count is written once there is room again.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::{self, Display, Write as _};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use super::logfile::LogFile;
use super::syslog::{Frame, Syslog, is_read_by_journal};
use super::tcplog::Scene;
use crate::config::{Log, LogFormat, LogOutput, SessionLines};
use crate::confinement::Narrow;
use crate::metrics::{Asked, CloseReason, Report, SessionRecord};
use crate::sys::process;

/// Ended sessions that a worker's ring holds until they are taken out. One worker ends some 12,000
/// a second at most, and the ring is emptied every [`TICK`]: a margin of ten.
pub const RECORDS_MAX: usize = 8192;
/// How often the rings are emptied.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// Batches that wait to be written, and the size from which a batch is sent off: 4 MiB in all.
const BATCHES_MAX: usize = 128;
const BATCH_BYTES: usize = 32 * 1024;
/// Events that are kept to be shown.
const EVENTS_MAX: usize = 50;
/// How long the end of the process waits for a reader of the last lines.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Info,
    Notice,
    Warn,
    Error,
    Alert,
    Emergency,
}

impl Level {
    /// In the numbers of syslog (RFC 3164 section 4.1.1).
    const fn severity(self) -> u8 {
        match self {
            Self::Info => 6,
            Self::Notice => 5,
            Self::Warn => 4,
            Self::Error => 3,
            Self::Alert => 1,
            Self::Emergency => 0,
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Alert => "alert",
            Self::Emergency => "emergency",
        }
    }
}

/// Writes lines without ever waiting.
#[derive(Debug)]
pub struct Logger {
    settings: Log,
    /// Standard error, in life.
    plain: Outlet,
    /// Get the lines of sessions in its place, and a copy of all others.
    others: Vec<Outlet>,
    /// Sessions that ended well, for the sample.
    well: Cell<u64>,
    counts: Arc<Dropped>,
    recent: RefCell<VecDeque<Event>>,
}

/// The way to one writer.
#[derive(Debug)]
struct Outlet {
    queue: Option<SyncSender<Batch>>,
    counts: Arc<Dropped>,
    /// What stands before its lines.
    frame: Option<Arc<Frame>>,
    /// Closed by the writer when it has written everything.
    written: Receiver<()>,
}

impl Outlet {
    /// Starts a writer, and returns when it has been narrowed.
    fn new<W: Write + AsFd + Send + 'static>(
        writer: Writer<W>,
        narrow: Option<&Narrow>,
    ) -> io::Result<Self> {
        let (queue, batches) = mpsc::sync_channel(BATCHES_MAX);
        let (done, written) = mpsc::channel();
        let (counts, frame) = (Arc::clone(&writer.counts), writer.frame.clone());
        let (ready, told) = mpsc::sync_channel(1);
        let narrow = narrow.cloned();
        thread::Builder::new().name("log".into()).spawn(move || {
            let narrowed = narrow.map_or(Ok(()), |narrow| narrow.apply());
            if ready.send(narrowed).is_ok() && narrowed.is_ok() {
                writer.run(&batches);
            }
            drop(done);
        })?;
        told.recv().map_err(io::Error::other)??;
        Ok(Self { queue: Some(queue), counts, frame, written })
    }

    /// The lines of one moment, yet to be written.
    fn lines(&self, format: LogFormat, now: SystemTime) -> Lines<'_> {
        Lines::new(format, self.frame.as_deref(), now)
    }

    fn send(&self, lines: Lines<'_>) {
        if lines.count == 0 {
            return;
        }
        let batch = Batch { text: lines.text, lines: lines.count };
        if let Some(queue) = &self.queue
            && let Err(error) = queue.try_send(batch)
        {
            let (mpsc::TrySendError::Full(batch) | mpsc::TrySendError::Disconnected(batch)) = error;
            self.counts.add(batch.lines);
        }
    }

    /// Waits for the last lines to be written, but not for ever.
    fn flush(&mut self) {
        self.queue = None;
        // Whether the writer is done or nobody reads, there is nothing more to wait for.
        let _: Result<(), RecvTimeoutError> = self.written.recv_timeout(FLUSH_PATIENCE);
    }
}

/// Something that was logged and concerned the process.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    pub time: String,
    pub level: &'static str,
    pub message: String,
}

#[derive(Debug)]
struct Batch {
    text: String,
    lines: u64,
}

/// Lines that were dropped: since the start, and since that was last said.
#[derive(Debug, Default)]
struct Dropped {
    total: AtomicU64,
    unsaid: AtomicU64,
}

impl Dropped {
    fn add(&self, lines: u64) {
        self.total.fetch_add(lines, Relaxed);
        self.unsaid.fetch_add(lines, Relaxed);
    }
}

impl Logger {
    /// A logger to standard error, and to the file and the syslog server that the settings name.
    /// Its threads are narrowed, if they are to be.
    pub fn open(settings: Log, narrow: Option<&Narrow>) -> io::Result<Self> {
        let syslog = settings.syslog.clone().map(Syslog::open).transpose()?;
        let file = settings.file.clone().map(LogFile::open).transpose()?;
        let mut logger = match settings.output {
            LogOutput::Stdout => Self::framed(settings, io::stdout(), None, narrow)?,
            LogOutput::Stderr => {
                let frame = is_read_by_journal(&io::stderr()).then(Frame::of_journal);
                Self::framed(settings, io::stderr(), frame, narrow)?
            }
        };
        // Another file, server, facility or tag comes with another process, not with a reload.
        let Log { format, facility, ref tag, syslog_form: form, .. } = logger.settings;
        if let Some(sink) = file {
            let counts = Arc::clone(&logger.counts);
            let writer = Writer { sink, counts, format, frame: None };
            logger.others.push(Outlet::new(writer, narrow)?);
        }
        if let Some(sink) = syslog {
            let counts = Arc::clone(&logger.counts);
            let (form, host) = (Some(form), process::host_name());
            let frame = Frame { form, facility, tag: tag.clone(), host };
            let frame = Some(Arc::new(frame));
            logger.others.push(Outlet::new(Writer { sink, counts, format, frame }, narrow)?);
        }
        Ok(logger)
    }

    /// A logger to anything with a descriptor.
    #[cfg(test)]
    pub fn to<W: Write + AsFd + Send + 'static>(settings: Log, sink: W) -> io::Result<Self> {
        Self::framed(settings, sink, None, None)
    }

    fn framed<W: Write + AsFd + Send + 'static>(
        settings: Log,
        sink: W,
        frame: Option<Frame>,
        narrow: Option<&Narrow>,
    ) -> io::Result<Self> {
        let counts = Arc::new(Dropped::default());
        let (format, frame) = (settings.format, frame.map(Arc::new));
        let plain =
            Outlet::new(Writer { sink, counts: Arc::clone(&counts), format, frame }, narrow)?;
        let recent = RefCell::default();
        Ok(Self { settings, plain, others: Vec::new(), well: Cell::new(0), counts, recent })
    }

    /// What a reload says about the log.
    pub fn configure(&mut self, settings: Log) {
        self.settings = settings;
    }

    /// Whether an ended session gets a line.
    fn wants(&self, report: &Report) -> bool {
        let Log { sessions, null, sample, .. } = self.settings;
        let well = report.reason == CloseReason::Completed;
        let sent = report.bytes[0] + report.bytes_discarded[0] > 0;
        if sessions == SessionLines::None || (well && sessions == SessionLines::Failed) {
            return false;
        }
        if !sent && !null {
            return false;
        }
        if !well {
            return true;
        }
        let nth = self.well.get();
        self.well.set(nth + 1);
        nth.is_multiple_of(sample.into())
    }

    /// Where the lines of sessions go.
    fn of_sessions(&self) -> &[Outlet] {
        if self.others.is_empty() { std::slice::from_ref(&self.plain) } else { &self.others }
    }

    /// Lines dropped since the start.
    pub fn lines_dropped(&self) -> u64 {
        self.counts.total.load(Relaxed)
    }

    /// Something that concerns the process. `message` is a sentence of ours and may hold anything.
    pub fn event(&self, level: Level, message: impl Display) {
        let now = SystemTime::now();
        let message = message.to_string();
        for outlet in std::iter::once(&self.plain).chain(&self.others) {
            let mut lines = outlet.lines(self.settings.format, now);
            lines.event(level, &message);
            outlet.send(lines);
        }
        let mut recent = self.recent.borrow_mut();
        if recent.len() == EVENTS_MAX {
            recent.pop_front();
        }
        recent.push_back(Event { time: rfc3339(now), level: level.label(), message });
    }

    /// The latest events, the last at the end.
    pub fn recent(&self) -> Vec<Event> {
        self.recent.borrow().iter().cloned().collect()
    }

    pub fn info(&self, message: impl Display) {
        self.event(Level::Info, message);
    }

    pub fn warn(&self, message: impl Display) {
        self.event(Level::Warn, message);
    }

    pub fn error(&self, message: impl Display) {
        self.event(Level::Error, message);
    }

    /// Takes what is in the workers' rings, writes a line for each, if that is wanted, and passes it on.
    /// `listeners` are the names by number.
    pub(super) fn sessions(
        &self,
        rings: &mut [rtrb::Consumer<SessionRecord>],
        listeners: &[String],
        scene: impl Fn() -> Scene,
        mut witness: impl FnMut(SystemTime, SessionRecord),
    ) {
        let now = SystemTime::now();
        let outlets = self.of_sessions();
        let format = self.settings.format;
        let mut lines: Vec<_> = outlets.iter().map(|outlet| outlet.lines(format, now)).collect();
        let mut seen: Option<Scene> = None;
        for ring in rings {
            // Those that come in meanwhile are for the next time: this ends.
            for _ in 0..ring.slots() {
                let Ok(record) = ring.pop() else { break };
                let wanted = self.wants(&record.report);
                if wanted && format == LogFormat::Tcplog {
                    let line = seen.get_or_insert_with(&scene).line(&record, now);
                    lines.iter_mut().for_each(|lines| lines.line(Level::Info, &line));
                } else if wanted {
                    lines.iter_mut().for_each(|lines| lines.session(&record, listeners));
                }
                witness(now, record);
                for (outlet, lines) in outlets.iter().zip(&mut lines) {
                    if lines.text.len() >= BATCH_BYTES {
                        outlet.send(std::mem::replace(lines, outlet.lines(format, now)));
                    }
                }
            }
        }
        outlets.iter().zip(lines).for_each(|(outlet, lines)| outlet.send(lines));
    }

    /// Ends the log: waits for the last lines to be written, but not for ever.
    fn flush(&mut self) {
        self.plain.flush();
        self.others.iter_mut().for_each(Outlet::flush);
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The thread that waits for the reader.
struct Writer<W> {
    sink: W,
    counts: Arc<Dropped>,
    format: LogFormat,
    frame: Option<Arc<Frame>>,
}

impl<W: Write + AsFd> Writer<W> {
    fn run(mut self, batches: &Receiver<Batch>) {
        while let Ok(batch) = batches.recv() {
            if self.write(batch.text.as_bytes()).is_err() {
                self.counts.add(batch.lines);
                continue;
            }
            let unsaid = self.counts.unsaid.swap(0, Relaxed);
            if unsaid > 0 {
                let frame = self.frame.clone();
                let mut lines = Lines::new(self.format, frame.as_deref(), SystemTime::now());
                lines.loss(unsaid);
                // If even this finds no reader, it is said the next time.
                if self.write(lines.text.as_bytes()).is_err() {
                    self.counts.unsaid.fetch_add(unsaid, Relaxed);
                }
            }
        }
    }

    /// Whoever shares our terminal or pipe may have made it nonblocking; then we wait here.
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.sink.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut sink = [PollFd::new(self.sink.as_fd(), PollFlags::POLLOUT)];
                    poll(&mut sink, PollTimeout::NONE)?;
                }
                Err(error) => return Err(error),
            }
        }
        self.sink.flush()
    }
}

/// Lines in one of the shapes, written into one text.
struct Lines<'a> {
    format: LogFormat,
    /// What stands before each, and its part that is the same on all of them.
    frame: Option<(&'a Frame, String)>,
    /// The moment of all of them.
    time: String,
    text: String,
    count: u64,
}

impl<'a> Lines<'a> {
    fn new(format: LogFormat, frame: Option<&'a Frame>, now: SystemTime) -> Self {
        let frame = frame.map(|frame| (frame, frame.stamp(now)));
        Self { format, frame, time: rfc3339(now), text: String::new(), count: 0 }
    }

    /// Something that concerns the process.
    fn event(&mut self, level: Level, message: &str) {
        if self.format == LogFormat::Tcplog {
            return self.line(level, message);
        }
        self.begin(level, level.label());
        self.text("message", message);
        self.end();
    }

    /// Lines have been lost.
    fn loss(&mut self, lines: u64) {
        const LOST: &str = "log lines were dropped, because nobody read them in time";
        if self.format == LogFormat::Tcplog {
            return self.line(Level::Warn, &format!("{LOST} lines={lines}"));
        }
        self.begin(Level::Warn, Level::Warn.label());
        self.text("message", LOST);
        self.number("lines", lines);
        self.end();
    }

    /// A line that is complete as it is; where no frame says when, as it is too.
    fn line(&mut self, level: Level, line: &str) {
        self.frame(level);
        let _ = write!(OneLine(&mut self.text), "{line}");
        self.text.push('\n');
        self.count += 1;
    }

    fn frame(&mut self, level: Level) {
        if let Some((frame, stamp)) = &self.frame {
            self.text += &frame.priority(level.severity());
            self.text += stamp;
        }
    }

    /// `kind` is a word of ours.
    fn begin(&mut self, level: Level, kind: &str) {
        self.frame(level);
        let time = &self.time;
        // Writing to a String cannot fail; so everywhere below.
        let _ = match self.format {
            // The frame has the time already, or the journal notes it.
            LogFormat::Text | LogFormat::Tcplog if self.frame.is_some() => {
                write!(self.text, "{kind}")
            }
            LogFormat::Text | LogFormat::Tcplog => write!(self.text, "{time} {kind}"),
            LogFormat::Json => write!(self.text, "{{\"time\":\"{time}\",\"kind\":\"{kind}\""),
        };
    }

    fn text(&mut self, key: &str, value: impl Display) {
        match self.format {
            LogFormat::Text | LogFormat::Tcplog if key == "message" => {
                self.text.push(' ');
                let _ = write!(OneLine(&mut self.text), "{value}");
            }
            LogFormat::Text | LogFormat::Tcplog => {
                let _ = write!(self.text, " {key}=");
                let _ = write!(OneLine(&mut self.text), "{value}");
            }
            LogFormat::Json => {
                let _ = write!(self.text, ",\"{key}\":\"");
                let _ = write!(JsonText(&mut self.text), "{value}");
                self.text.push('"');
            }
        }
    }

    fn number(&mut self, key: &str, value: impl Display) {
        let _ = match self.format {
            LogFormat::Text | LogFormat::Tcplog => write!(self.text, " {key}={value}"),
            LogFormat::Json => write!(self.text, ",\"{key}\":{value}"),
        };
    }

    fn millis(&mut self, key: &str, duration: Duration) {
        let micros = duration.as_micros();
        self.number(key, format_args!("{}.{:03}", micros / 1000, micros % 1000));
    }

    fn end(&mut self) {
        self.text.push_str(match self.format {
            LogFormat::Text | LogFormat::Tcplog => "\n",
            LogFormat::Json => "}\n",
        });
        self.count += 1;
    }

    fn session(&mut self, record: &SessionRecord, listeners: &[String]) {
        let report = &record.report;
        self.begin(Level::Info, "session");
        match listeners.get(usize::from(record.listener.0)) {
            Some(name) => self.text("listener", name),
            None => self.text("listener", record.listener.0),
        }
        self.text("client", record.client);
        if let Some(server) = &record.server {
            self.text("server", server.name());
        }
        match record.asked.as_deref() {
            Some(Asked::Host(host)) => self.text("sni", host),
            Some(Asked::Request(request)) => {
                self.text("method", &request.method);
                self.text("path", &request.path);
                if let Some(status) = request.status {
                    self.number("status", status);
                }
            }
            None => {}
        }
        self.text("reason", report.reason);
        if !record.queued.time.is_zero() {
            self.millis("queued_ms", record.queued.time);
        }
        self.number("attempts", report.attempts);
        if let Some(connect_time) = report.connect_time {
            self.millis("connect_ms", connect_time);
        }
        self.millis("total_ms", report.total_time);
        self.number("bytes_to_backend", report.bytes[0]);
        self.number("bytes_to_client", report.bytes[1]);
        let discarded = report.bytes_discarded[0] + report.bytes_discarded[1];
        if discarded > 0 {
            self.number("bytes_discarded", discarded);
        }
        self.end();
    }
}

/// Escapes what would end the line or command a terminal.
struct OneLine<'a>(&'a mut String);

impl fmt::Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if must_escape(c) {
                self.0.extend(c.escape_default());
            } else {
                self.0.push(c);
            }
        }
        Ok(())
    }
}

/// Escapes what a JSON string must not hold, and what would command a terminal.
struct JsonText<'a>(&'a mut String);

impl fmt::Write for JsonText<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '"' | '\\' => self.0.extend(['\\', c]),
                c if must_escape(c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(self.0, "\\u{unit:04x}")?;
                    }
                }
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

/// Control characters, and those that turn the direction of what follows on a screen.
pub(super) fn must_escape(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A moment in UTC, to the millisecond: `2026-08-21T09:30:00.250Z`.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, millis) = (since.as_secs(), since.subsec_millis());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days are counted from 1 March of year 0, in eras of 400 years of 146,097 days: a leap day
    // then ends its year (Howard Hinnant, "chrono-compatible low-level date algorithms").
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::net::SocketAddr;

    use super::*;
    use crate::backend::board::Board;
    use crate::metrics::Queued;
    use crate::metrics::{CloseReason, Report};
    use crate::op::ListenerId;

    fn pipe() -> (File, File) {
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        (reader.into(), writer.into())
    }

    fn settings(format: LogFormat) -> Log {
        Log { format, ..Log::default() }
    }

    fn record(server: Option<&str>) -> SessionRecord {
        SessionRecord {
            listener: ListenerId(0),
            client: SocketAddr::from(([192, 0, 2, 9], 40122)),
            server: server.map(|name| Arc::new(Board::new(name.to_owned()))),
            queued: Queued::default(),
            asked: None,
            links: None,
            report: Report {
                reason: CloseReason::Completed,
                bytes: [4096, 200],
                bytes_discarded: [0, 0],
                attempts: 1,
                connect_time: Some(Duration::from_micros(1250)),
                first_byte: None,
                last_byte: None,
                total_time: Duration::from_micros(35_007),
            },
        }
    }

    /// What a logger writes about `records`, without the time.
    fn written(settings: Log, records: Vec<SessionRecord>) -> String {
        let (mut reader, writer) = pipe();
        let logger = Logger::to(settings, writer).expect("a logger");
        let (mut producer, consumer) = rtrb::RingBuffer::new(records.len().max(1));
        for record in records {
            producer.push(record).expect("there is room");
        }
        let mut rings = [consumer];
        logger.sessions(&mut rings, &["agents".to_owned()], Scene::default, |_, _| ());
        assert!(rings[0].is_empty());
        drop(logger);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("text");
        text
    }

    #[test]
    fn an_ended_session_is_one_line_of_keys_and_values() {
        let text = written(settings(LogFormat::Text), vec![record(Some("intake/a")), record(None)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            &lines[0][24..],
            " session listener=agents client=192.0.2.9:40122 server=intake/a reason=completed \
             attempts=1 connect_ms=1.250 total_ms=35.007 bytes_to_backend=4096 bytes_to_client=200"
        );
        assert!(!lines[1].contains("server="), "{}", lines[1]);
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn an_ended_session_is_one_json_object_a_line() {
        let text = written(settings(LogFormat::Json), vec![record(Some("intake/a"))]);
        let line: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(line["kind"], "session");
        assert_eq!(line["server"], "intake/a");
        assert_eq!(line["connect_ms"], 1.25);
        assert_eq!(line["bytes_to_backend"], 4096);
        assert!(line["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{text}");
    }

    #[test]
    fn sessions_that_nobody_wants_to_hear_of_get_no_line() {
        let lines = |settings: Log| {
            let ended = |reason, sent| {
                let mut record = record(None);
                (record.report.reason, record.report.bytes[0]) = (reason, sent);
                record
            };
            let (well, failed) = (CloseReason::Completed, CloseReason::ClientReset);
            let mut records = vec![ended(failed, 9), ended(failed, 0), ended(well, 0)];
            records.extend((0..7).map(|_| ended(well, 9)));
            let text = written(settings, records);
            let of = |reason: &str| text.matches(reason).count();
            (of("reason=client_reset"), of("reason=completed"))
        };
        let all = || settings(LogFormat::Text);
        assert_eq!(lines(all()), (2, 8));
        assert_eq!(lines(Log { sessions: SessionLines::Failed, ..all() }), (2, 0));
        assert_eq!(lines(Log { sessions: SessionLines::None, ..all() }), (0, 0));
        assert_eq!(lines(Log { null: false, ..all() }), (1, 7));
        assert_eq!(lines(Log { sample: 4, ..all() }), (2, 2));
    }

    #[test]
    fn what_came_from_outside_cannot_forge_a_line() {
        let evil = "a\n2026 error forged\x1b[2J \"quoted\" \u{202e}\u{1f600}";
        let (mut reader, writer) = pipe();
        let mut logger = Logger::to(settings(LogFormat::Text), writer).expect("a logger");
        logger.warn(evil);
        logger.configure(settings(LogFormat::Json));
        logger.warn(evil);
        drop(logger);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains(r"a\n2026 error forged\u{1b}[2J"), "{}", lines[0]);
        assert!(text.chars().all(|c| c == '\n' || !must_escape(c)), "{text}");
        let line: serde_json::Value = serde_json::from_str(lines[1]).expect("JSON");
        assert_eq!(line["message"], evil);
    }

    #[test]
    fn lines_are_dropped_and_counted_when_nobody_reads_and_that_is_said_later() {
        let (mut reader, writer) = pipe();
        let logger = Logger::to(settings(LogFormat::Text), writer).expect("a logger");
        let long = "x".repeat(60_000);
        // The pipe holds 64 KiB and the queue 128 lines; none of this may block.
        for _ in 0..500 {
            logger.info(&long);
        }
        let dropped = logger.lines_dropped();
        assert!((300..500).contains(&dropped), "{dropped}");
        let reading = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        drop(logger);
        let text = reading.join().expect("no panic").expect("text");
        let told: u64 = text
            .lines()
            .filter_map(|line| line.split_once("log lines were dropped")?.1.split_once("lines="))
            .map(|(_, lines)| lines.parse::<u64>().expect("a number"))
            .sum();
        assert_eq!(told, dropped, "the loss is told when there is room again");
    }

    #[test]
    fn the_end_does_not_wait_for_a_reader_that_never_comes() {
        let (reader, writer) = pipe();
        let logger = Logger::to(settings(LogFormat::Text), writer).expect("a logger");
        for _ in 0..3 {
            logger.info("x".repeat(60_000));
        }
        // Would hang for ever; the test's own deadline is the runner's.
        drop(logger);
        drop(reader);
    }

    #[test]
    fn a_closed_sink_costs_the_lines_and_nothing_else() {
        let (reader, writer) = pipe();
        drop(reader);
        let mut logger = Logger::to(settings(LogFormat::Text), writer).expect("a logger");
        logger.info("nobody hears this");
        logger.flush();
        assert_eq!(logger.lines_dropped(), 1);
    }

    #[test]
    fn a_sink_that_somebody_made_nonblocking_loses_nothing() {
        let (mut reader, writer) = pipe();
        let flags = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
        nix::fcntl::fcntl(&writer, flags).expect("flags");
        let logger = Logger::to(settings(LogFormat::Text), writer).expect("a logger");
        for _ in 0..10 {
            logger.info("y".repeat(30_000));
        }
        let reading = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        drop(logger);
        let text = reading.join().expect("no panic").expect("text");
        assert_eq!(text.lines().count(), 10);
    }

    #[test]
    fn moments_are_written_in_utc() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_799, "2000-02-29T23:59:59.000Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
        let odd = UNIX_EPOCH + Duration::from_millis(1_787_304_600_250);
        assert_eq!(rfc3339(odd), "2026-08-21T09:30:00.250Z");
    }
}
