//! PURE: the report as people read it.

use super::{Both, Quantiles, Report, number, per};
use crate::progress::millis;
use std::fmt::Write;

/// The whole report.
pub(crate) fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to memory cannot fail.
    let _ = head(&mut out, report);
    let _ = latencies(&mut out, report);
    let _ = errors(&mut out, report);
    let _ = costs(&mut out, report);
    let _ = verdicts(&mut out, report);
    out
}

fn head(out: &mut String, report: &Report) -> std::fmt::Result {
    let (asked, achieved, made_by) = (&report.asked, &report.achieved, &report.made_by);
    writeln!(
        out,
        "loadgen {}: {} {} agents against {}{}",
        made_by.version,
        asked.agents,
        asked.profile,
        asked.target,
        if asked.target_started { " (started by loadgen)" } else { "" },
    )?;
    writeln!(
        out,
        "  asked      {:.0} exchanges/s{}{}{}, {} s after {} s of warm-up; seed {}, plan {}",
        asked.rate,
        if asked.speedup == 1.0 { String::new() } else { format!(", timers x{}", asked.speedup) },
        match asked.phases {
            "uniform" => String::new(),
            phases => format!(", {phases}"),
        },
        if asked.tls { ", over TLS" } else { "" },
        asked.duration_s,
        asked.ramp_s,
        asked.seed,
        asked.plan_digest,
    )?;
    writeln!(
        out,
        "  achieved   {:.1} answered/s over {:.1} s{}; {} of {} agents began, {} were answered",
        achieved.rate,
        achieved.measured_s,
        if achieved.interrupted { " (interrupted)" } else { "" },
        achieved.agents_begun,
        asked.agents,
        achieved.agents_answered,
    )?;
    let window = &achieved.window;
    writeln!(
        out,
        "  exchanges  {} begun ({} again), {} answered, {} failed, {} waited for their agent's previous one; \
         {} connections, {:.1} kB/s up",
        window.begun,
        window.retried,
        window.answered,
        window.failed,
        window.queued,
        window.connects,
        per(number(window.bytes_up) / 1e3, achieved.measured_s),
    )?;
    writeln!(
        out,
        "  warm-up    {} begun, {} answered, {} failed (not in the figures below)",
        achieved.warm_up.begun, achieved.warm_up.answered, achieved.warm_up.failed,
    )?;
    writeln!(out, "  machine    kernel {}, {} processors", made_by.kernel, made_by.processors)?;
    for finding in &report.checks {
        let mark = if finding.fits { "checked   " } else { "NOT ENOUGH" };
        writeln!(out, "  {mark} {}", finding.text)?;
    }
    Ok(())
}

fn latencies(out: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(
        out,
        "\n  {:<27}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "latency", "p50", "p90", "p99", "p99.9", "max", "count"
    )?;
    let rows: [(&str, &Both); 4] = [
        ("connect", &report.latency_us.connect),
        ("handshake", &report.latency_us.handshake),
        ("first byte", &report.latency_us.first_byte),
        ("exchange", &report.latency_us.exchange),
    ];
    for (name, both) in rows {
        if name == "handshake" && both.from_send.count == 0 {
            continue;
        }
        row(out, &format!("{name}, from intended"), &both.from_intended)?;
        row(out, &format!("{:width$}  from send", "", width = name.len()), &both.from_send)?;
    }
    row(out, "generator's send lag", &report.send_lag_us)?;
    row(out, "generator's loop lag", &report.loop_lag_us)
}

fn row(out: &mut String, name: &str, q: &Quantiles) -> std::fmt::Result {
    write!(out, "  {name:<27}")?;
    if q.count == 0 {
        return writeln!(out, "{:>10}", "none");
    }
    for value in q.times() {
        write!(out, "{:>10}", millis(value))?;
    }
    writeln!(out, "{:>10}", q.count)
}

fn errors(out: &mut String, report: &Report) -> std::fmt::Result {
    let met = |errors: &std::collections::BTreeMap<&'static str, u64>| {
        let met = errors.iter().filter(|(_, count)| **count > 0);
        met.map(|(kind, count)| format!("{kind} {count}")).collect::<Vec<_>>().join(", ")
    };
    let line = |errors: String| if errors.is_empty() { "none".to_owned() } else { errors };
    writeln!(out, "\n  errors     {}", line(met(&report.errors)))?;
    if !report.warm_up_errors.is_empty() {
        writeln!(out, "  in warm-up {}", met(&report.warm_up_errors))?;
    }
    if !report.errnos.is_empty() {
        let named = report
            .errnos
            .iter()
            .map(|(errno, count)| format!("{} {count}", std::io::Error::from_raw_os_error(*errno)));
        writeln!(out, "  errno      {}", named.collect::<Vec<_>>().join(", "))?;
    }
    Ok(())
}

fn costs(out: &mut String, report: &Report) -> std::fmt::Result {
    if let Some(relay) = &report.relay {
        writeln!(
            out,
            "  relay      pid {}: {:.2} s user, {:.2} s system, {:.1} us per exchange; \
             {:.1} MB resident, {:.1} MB at its peak",
            relay.pid,
            relay.user_s,
            relay.system_s,
            relay.us_per_exchange,
            number(relay.resident_bytes) / 1e6,
            number(relay.resident_peak_bytes) / 1e6,
        )?;
        if let Some(log) = &relay.log {
            writeln!(out, "             its log: {log}")?;
        }
        if let Some(fallen) = &relay.fallen {
            writeln!(out, "             {fallen}")?;
        }
    }
    let machine = &report.machine;
    writeln!(
        out,
        "  all in all {:.1} us of processor per exchange on this machine (user {:.1} s, system \
         {:.1} s, interrupts {:.1} s, idle {:.1} s, stolen {:.1} s), generator and sink included",
        report.machine_us_per_exchange,
        machine.user_s,
        machine.system_s,
        machine.interrupts_s,
        machine.idle_s,
        machine.stolen_s,
    )?;
    let generator = &report.generator;
    writeln!(
        out,
        "  generator  {} on {} thread(s){}, busiest {:.0} % of a processor",
        generator.io,
        generator.threads,
        match generator.sources {
            0 => String::new(),
            count => format!(", {count} source addresses"),
        },
        generator.busiest_thread * 100.0,
    )?;
    if let Some(note) = &generator.io_note {
        writeln!(out, "             not io_uring: {note}")?;
    }
    if let Some(sink) = &report.sink {
        let count = |name: &str| sink[name].as_u64().unwrap_or(0);
        writeln!(
            out,
            "  sink       {} connections, {} posts, {} bodies intact, {} damaged, {} requests bad \
             or cut",
            count("connections"),
            count("posts"),
            count("intact"),
            count("digest_mismatches"),
            count("bad_requests") + count("cut_requests"),
        )?;
    }
    Ok(())
}

fn verdicts(out: &mut String, report: &Report) -> std::fmt::Result {
    writeln!(out)?;
    for why in &report.generator.invalid {
        writeln!(out, "  INVALID: the generator could not offer the load: {why}")?;
    }
    for judged in &report.objectives {
        let verdict = if judged.met { "met   " } else { "MISSED" };
        writeln!(out, "  objective {verdict} {} (value {})", judged.objective, judged.value)?;
    }
    let claim = &report.claim;
    let verdict = match claim.shown {
        true => "SHOWN".to_owned(),
        false => format!("not shown: {}", claim.why_not.join("; ")),
    };
    writeln!(out, "  claim of 1000 agents: {verdict}")?;
    writeln!(out, "    rule: {}", claim.rule)
}
