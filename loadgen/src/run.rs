//! `loadgen --agents N`: checks, starts, loads, watches, ends, reports.

use crate::cli::{Settings, Target, Tls};
use crate::clock::{Clock, MILLISECOND, Nanos, SECOND};
use crate::exit::{Error, INVALID, OBJECTIVE, RUN_TIME, SUCCESS};
use crate::limits::{Fit, Limits};
use crate::payload::Library;
use crate::plan::Plan;
use crate::procfs::{Machine, Usage, usage};
use crate::progress::Board;
use crate::recorder::Recorder;
use crate::report::html::{self, Run};
use crate::report::series::{self, Second};
use crate::report::{self, Report, claim, hdr, print, refused, save, save_json, text};
use crate::sink::identity;
use crate::stage::Stage;
use crate::thread::{self, Message, Orders};
use crate::tls::Trust;
use crate::view::{Title, View};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// How long exchanges under way at the end may still take.
const GRACE: Nanos = 5 * SECOND;
/// How long a thread may take to set up itself and each of its agents, before time begins.
const LEAD: Duration = Duration::from_millis(100);
const LEAD_PER_AGENT: Duration = Duration::from_micros(10);

/// Runs it all; returns the exit code.
///
/// # Errors
/// When the run could not be made at all.
pub(crate) fn run(settings: &Settings) -> Result<u8, Error> {
    block_on(async {
        let report = trial(settings, &mut Signals::new()?).await?;
        publish(settings, &report)?;
        Ok(report.exit_code)
    })
}

/// Runs a command on the main thread's runtime.
///
/// # Errors
/// Those of the command, and when there can be no runtime.
pub(crate) fn block_on<T>(command: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::System(format!("tokio runtime: {error}")))?;
    runtime.block_on(command)
}

/// One run from start to end, with a sink and a relay of its own where they are to be started.
///
/// # Errors
/// When it could not be made at all.
pub(crate) async fn trial(settings: &Settings, signals: &mut Signals) -> Result<Report, Error> {
    let limits = Limits::raised();
    let mut stage = None;
    let (target, host, relay_pid) = match &settings.target {
        Target::Given { address, relay_pid } => (resolve(address)?, address.clone(), *relay_pid),
        Target::Started(cast) => {
            let started = Stage::start(
                cast,
                limits.sink_threads(&settings.plan),
                settings.plan.profile.sink_manners(),
                settings.tls.is_some(),
            )?;
            let (target, pid) = (started.target, started.relay_pid());
            eprintln!("started: {started}");
            stage = Some(started);
            (target, target.to_string(), Some(pid))
        }
    };
    let fit = limits.fit(&settings.plan, target.ip(), settings.threads, &settings.sources)?;
    for finding in &fit.findings {
        eprintln!("{} {}", if finding.fits { "checked:" } else { "NOT ENOUGH:" }, finding.text);
    }
    // Through a tunnel a request is what it is without a proxy.
    let proxy = settings.proxy.as_ref();
    let forwarding = proxy.filter(|_| settings.tls.is_none());
    let named = proxy.map_or(host.as_str(), |proxy| proxy.upstream.as_str());
    let library = Library::new(settings.plan.profile, settings.plan.seed, named, forwarding);
    let trust = settings.tls.as_ref().map(|tls| trust(tls, named, stage.as_ref())).transpose()?;
    let mut show = Show {
        settings,
        limits,
        fit,
        target,
        host,
        relay_pid,
        stage,
        trust: trust.map(Arc::new),
        // Threads share it for as long as the process lives.
        library: Box::leak(Box::new(library)),
    };
    let seen = show.load(signals).await?;
    let report = show.report(seen);
    if let Some(stage) = show.stage.take() {
        stage.end();
    }
    Ok(report)
}

/// Whom the agents trust: the started sink, or whom was typed.
fn trust(tls: &Tls, target: &str, stage: Option<&Stage>) -> Result<Trust, Error> {
    let authority = stage.and_then(Stage::authority);
    let expected = match &tls.server_name {
        Some(name) => name.as_str(),
        None if stage.is_some() => identity::NAME,
        None => host_of(target),
    };
    Trust::new(authority.as_deref().or(tls.ca_file.as_deref()), expected).map_err(Error::Usage)
}

/// `HOST` of `HOST:PORT`, without brackets.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn resolve(address: &str) -> Result<SocketAddr, Error> {
    let mut found = address.to_socket_addrs().map_err(|error| {
        Error::Usage(format!(
            "--target {address}: {error}; write HOST:PORT, such as 127.0.0.1:3834"
        ))
    })?;
    found.next().ok_or_else(|| Error::Usage(format!("--target {address}: no such host")))
}

/// Ctrl-C and SIGTERM.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn new() -> Result<Self, Error> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Error::System(format!("cannot listen to signals: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! { _ = self.interrupt.recv() => {}, _ = self.terminate.recv() => {} }
    }
}

/// A run that has been set up.
struct Show<'a> {
    settings: &'a Settings,
    limits: Limits,
    fit: Fit,
    target: SocketAddr,
    host: String,
    relay_pid: Option<i32>,
    stage: Option<Stage>,
    trust: Option<Arc<Trust>>,
    library: &'static Library,
}

/// What was seen of a run.
struct Seen {
    record: Recorder,
    began_unix_s: u64,
    /// At the begin and at the end of the window.
    machine: [Machine; 2],
    relay: [Option<Usage>; 2],
    measured: Nanos,
    interrupted: bool,
    fallen: Option<String>,
    cpu: Vec<Duration>,
    elapsed: Nanos,
    series: Vec<Second>,
}

/// A run under way.
struct Watch {
    clock: Clock,
    board: Board,
    record: Recorder,
    cpu: Vec<Duration>,
    window: [Option<(Nanos, Machine, Option<Usage>)>; 2],
    interrupted: bool,
    fallen: Option<String>,
}

impl Show<'_> {
    async fn load(&mut self, signals: &mut Signals) -> Result<Seen, Error> {
        let plan = Arc::new(self.settings.plan.clone());
        let lead = self.lead(plan.agents)?;
        let clock = Clock::starting_in(lead);
        let began = std::time::UNIX_EPOCH.elapsed().unwrap_or_default() + lead;
        let began_unix_s = began.as_secs();
        let stop = Arc::new(AtomicBool::new(false));
        let (out, mut messages) = mpsc::unbounded_channel();
        for thread in 0..self.fit.threads {
            let orders = self.orders(thread, &plan, clock, &stop);
            let out = out.clone();
            let builder = std::thread::Builder::new().name(format!("load-{thread}"));
            let started = builder.spawn(move || thread::run(orders, out));
            started.map_err(|error| Error::System(format!("cannot start a thread: {error}")))?;
        }
        drop(out);
        let mut watch = Watch {
            clock,
            board: Board::new(self.fit.threads, self.view()),
            record: Recorder::new(plan.window()),
            cpu: Vec::new(),
            window: [None, None],
            interrupted: false,
            fallen: None,
        };
        self.watch(&mut watch, &mut messages, signals, &stop).await?;
        let elapsed = clock.now();
        let series = watch.board.finish(elapsed, self.usage());
        let [begin, end] = watch
            .window
            .map(|sample| sample.unwrap_or_else(|| (elapsed, Machine::now(), self.usage())));
        Ok(Seen {
            record: watch.record,
            began_unix_s,
            measured: end.0.min(plan.end()).saturating_sub(begin.0.min(plan.end())),
            machine: [begin.1, end.1],
            relay: [begin.2, end.2],
            interrupted: watch.interrupted,
            fallen: watch.fallen,
            cpu: watch.cpu,
            elapsed,
            series,
        })
    }

    /// A screen for the run, where it is wanted and there is one.
    fn view(&self) -> Option<View> {
        let Settings { plan, live, .. } = self.settings;
        let text = format!("{} {} agents against {}", plan.agents, plan.profile.label(), self.host);
        let title = Title { text, end: plan.end() };
        if *live { View::on_terminal(title) } else { None }
    }

    /// How long from now until time begins.
    fn lead(&self, agents: u32) -> Result<Duration, Error> {
        let least = LEAD + LEAD_PER_AGENT * agents;
        let Some(start) = self.settings.start_at else { return Ok(least) };
        let until = start.duration_since(std::time::SystemTime::now()).unwrap_or_default();
        if until < least {
            return Err(Error::Usage(format!(
                "--start-at: the moment is {until:.1?} ahead, {least:.1?} are needed for \
                 {agents} agents; give a later one"
            )));
        }
        Ok(until)
    }

    /// Listens to the threads, the clock and the user until all threads have reported.
    async fn watch(
        &mut self,
        watch: &mut Watch,
        messages: &mut mpsc::UnboundedReceiver<Message>,
        signals: &mut Signals,
        stop: &AtomicBool,
    ) -> Result<(), Error> {
        let plan = &self.settings.plan;
        let clock = watch.clock;
        let moment = |at| tokio::time::sleep_until(clock.instant(at).into());
        let (window_begin, window_end) = (moment(plan.ramp), moment(plan.end()));
        tokio::pin!(window_begin, window_end);
        let mut second = tokio::time::interval_at(
            clock.instant(SECOND + 100 * MILLISECOND).into(),
            Duration::from_secs(1),
        );
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    None => return Ok(()),
                    Some(Message::Progress(progress)) => watch.board.take(&progress),
                    Some(Message::Failed(why)) => return Err(Error::System(why)),
                    Some(Message::Finished(record, cpu)) => {
                        watch.board.take_rest(&record.interval);
                        watch.record.add(&record);
                        watch.cpu.push(cpu);
                    }
                },
                () = &mut window_begin, if watch.window[0].is_none() => {
                    watch.window[0] = Some((clock.now(), Machine::now(), self.usage()));
                }
                () = &mut window_end, if watch.window[1].is_none() => {
                    watch.window[1] = Some((clock.now(), Machine::now(), self.usage()));
                }
                _ = second.tick() => {
                    let now = clock.now();
                    let phase = phase(now, plan.ramp, plan.end());
                    watch.board.show(now, plan.agents, phase, self.usage());
                    if watch.fallen.is_none() {
                        watch.fallen = self.stage.as_mut().and_then(Stage::fallen);
                    }
                }
                () = signals.any() => {
                    watch.interrupted |= clock.now() < plan.end();
                    for sample in &mut watch.window {
                        sample.get_or_insert_with(|| (clock.now(), Machine::now(), self.usage()));
                    }
                    stop.store(true, Relaxed);
                }
            }
        }
    }

    fn orders(
        &self,
        thread: u32,
        plan: &Arc<Plan>,
        clock: Clock,
        stop: &Arc<AtomicBool>,
    ) -> Orders {
        Orders {
            thread,
            threads: self.fit.threads,
            plan: Arc::clone(plan),
            clock,
            target: self.target,
            sources: self.fit.sources.clone().into(),
            io: self.settings.io.0,
            tunnel: self.tunnel(),
            trust: self.trust.clone(),
            timeout: self.settings.timeout,
            grace: GRACE.min(self.settings.timeout),
            library: self.library,
            stop: Arc::clone(stop),
        }
    }

    /// What opens a tunnel: a proxy sees no more of TLS than that.
    fn tunnel(&self) -> Option<Arc<[u8]>> {
        let proxy = self.settings.proxy.as_ref().filter(|_| self.trust.is_some())?;
        Some(proxy.connect().into())
    }

    fn usage(&self) -> Option<Usage> {
        self.relay_pid.and_then(usage)
    }

    fn report(&self, seen: Seen) -> Report {
        let asked = self.asked();
        let achieved = report::Achieved::new(&seen.record, seen.measured, seen.interrupted);
        let latency_us = report::Latencies::new(&seen.record);
        let send_lag_us = report::Quantiles::new(&seen.record.send_lag);
        let loop_lag_us = report::Quantiles::new(&seen.record.loop_lag);
        let lag = send_lag_us.p99.max(loop_lag_us.p99);
        let fallen = seen.fallen.as_deref();
        let claim = claim::judge(&asked, &achieved, &latency_us, lag, fallen);
        let machine = seen.machine[1].since(&seen.machine[0]);
        let answered = report::number(seen.record.answered_in_time);
        let mut report = Report {
            schema: report::SCHEMA,
            made_by: self.made_by(&seen),
            asked,
            checks: self.fit.findings.clone(),
            errors: report::failures(&seen.record.window, true),
            warm_up_errors: report::failures(&seen.record.warm_up, false),
            errnos: seen.record.errnos.clone(),
            generator: self.generator(&seen, &achieved),
            relay: self.relay(&seen),
            machine_us_per_exchange: report::per(machine.busy_s() * 1e6, answered),
            machine,
            sink: self.stage.as_ref().and_then(Stage::sink_counts),
            achieved,
            latency_us,
            send_lag_us,
            loop_lag_us,
            objectives: Vec::new(),
            claim,
            percentiles: hdr::percentiles(&seen.record.exchange.from_intended),
            distribution: seen.record.exchange.from_intended,
            series: seen.series,
            exit_code: SUCCESS,
        };
        let objectives = &self.settings.objectives;
        report.objectives = objectives.iter().map(|objective| objective.judge(&report)).collect();
        report.exit_code = exit_code(&report);
        report
    }

    fn made_by(&self, seen: &Seen) -> report::MadeBy {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        report::MadeBy {
            version: env!("CARGO_PKG_VERSION"),
            kernel: kernel.trim().to_owned(),
            processors: self.limits.processors,
            began_unix_s: seen.began_unix_s,
        }
    }

    fn asked(&self) -> report::Asked {
        let plan = &self.settings.plan;
        report::Asked {
            agents: plan.agents,
            profile: plan.profile.label(),
            target: self.host.clone(),
            target_started: self.stage.is_some(),
            ramp_s: report::seconds(plan.ramp),
            duration_s: report::seconds(plan.duration),
            speedup: plan.speedup,
            phases: plan.phases.label(),
            tls: self.trust.is_some(),
            seed: plan.seed,
            plan_digest: format!("{:016x}", plan.digest()),
            rate: plan.rate(),
            timeout_s: report::seconds(self.settings.timeout),
        }
    }

    fn generator(&self, seen: &Seen, achieved: &report::Achieved) -> report::Generator {
        let busiest = seen.cpu.iter().max().copied().unwrap_or_default();
        report::Generator {
            io: self.settings.io.0.label(),
            io_note: self.settings.io.1.clone(),
            threads: self.fit.threads,
            sources: self.fit.sources.len(),
            cpu_s: seen.cpu.iter().sum::<Duration>().as_secs_f64(),
            busiest_thread: report::per(busiest.as_secs_f64(), report::seconds(seen.elapsed)),
            max_send_lag_us: self.settings.max_send_lag / 1000,
            invalid: report::invalid(achieved, &seen.record, self.settings.max_send_lag),
        }
    }

    fn relay(&self, seen: &Seen) -> Option<report::Relay> {
        let pid = self.relay_pid?;
        let [before, after] = seen.relay;
        // A relay that fell in mid-run has no usage at the end; that it fell is the news.
        let (before, after) = match (before, after) {
            (Some(before), Some(after)) => (before, after),
            _ if seen.fallen.is_some() => Default::default(),
            _ => return None,
        };
        let mut relay = report::Relay::new(pid, &before, &after, seen.record.answered_in_time);
        relay.log = self.stage.as_ref().map(|stage| stage.log.display().to_string());
        relay.fallen = seen.fallen.clone();
        Some(relay)
    }
}

fn phase(now: Nanos, ramp: Nanos, end: Nanos) -> &'static str {
    match now {
        _ if now < ramp => "warm-up",
        _ if now < end => "load",
        _ => "ending",
    }
}

fn exit_code(report: &Report) -> u8 {
    let failed = report.achieved.failed();
    if !report.generator.invalid.is_empty() {
        INVALID
    } else if report.objectives.iter().any(|judged| !judged.met) {
        OBJECTIVE
    } else if failed > 0 && report.objectives.is_empty() {
        RUN_TIME
    } else {
        SUCCESS
    }
}

fn publish(settings: &Settings, report: &Report) -> Result<(), Error> {
    print(&text::render(report));
    let files = &settings.files;
    if let Some(path) = &files.json {
        save_json(path, report)?;
    }
    if let Some(path) = &files.html {
        let value = serde_json::to_value(report).map_err(|error| refused(path, error))?;
        let run = Run::read(value).map_err(|error| refused(path, error))?;
        save(path, html::page(&[(report.asked.target.clone(), run)]).as_bytes())?;
    }
    if let Some(path) = &files.csv {
        save(path, series::csv(&report.series).as_bytes())?;
    }
    if let Some(path) = &files.hgrm {
        save(path, hdr::hgrm(&report.distribution).as_bytes())?;
    }
    if let Some(path) = &files.hlog {
        let log = hdr::hlog(&report.series, report.made_by.began_unix_s);
        save(path, &log.map_err(|error| refused(path, error))?)?;
    }
    Ok(())
}
