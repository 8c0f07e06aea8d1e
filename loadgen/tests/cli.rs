//! The real loadgen against its own sink, and against targets that misbehave.
//!
//! Everything is on loopback and on ports that the kernel chooses; a process started here is ended
//! here. Nothing sleeps: each wait is for a condition, with a deadline.

mod support;

use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;
use support::{Running, Sink, load, loadgen, python, scratch, within};

fn count(report: &Value, path: &str) -> u64 {
    let value = path.split('/').fold(report, |value, key| &value[key]);
    value.as_u64().unwrap_or_else(|| panic!("{path} is {value} in {report:#}"))
}

#[test]
fn agents_of_each_profile_are_served_without_error_on_either_io() {
    let sink = Sink::start(&[]);
    for io in ["uring", "tokio"] {
        for profile in ["v5-churn", "go-keepalive"] {
            let args = ["--agents", "300", "--speedup", "20", "--ramp", "1s", "--duration", "2s"];
            let run =
                load(&[&args[..], &["--io", io, "--profile", profile]].concat(), &sink.address);
            assert_eq!(run.code, Some(0), "{io} {profile}: {}", run.stderr);
            let report = run.report;
            assert_eq!(count(&report, "achieved/window/failed"), 0);
            assert_eq!(count(&report, "achieved/agents_answered"), 300, "{io} {profile}");
            let answered = count(&report, "achieved/window/answered");
            let connects = count(&report, "achieved/window/connects");
            match profile {
                "v5-churn" => assert_eq!(connects, answered, "a connection for each POST"),
                _ => assert!(connects < answered, "connections are reused"),
            }
            assert_eq!(report["generator"]["io"], io);
        }
    }
    let counts = sink.counts();
    assert_eq!(count(&counts, "digest_mismatches"), 0);
    assert_eq!(count(&counts, "bad_requests") + count(&counts, "cut_requests"), 0);
    assert!(count(&counts, "intact") > 0);
    assert_eq!(count(&counts, "intact"), count(&counts, "posts"));
}

#[test]
fn one_seed_gives_one_plan_whatever_carries_it_out() {
    let sink = Sink::start(&[]);
    let digest = |args: &[&str]| {
        let common = ["--agents", "50", "--ramp", "0s", "--duration", "200ms", "--speedup", "20"];
        let run = load(&[&common[..], args].concat(), &sink.address);
        run.report["asked"]["plan_digest"].as_str().expect("a digest").to_owned()
    };
    let first = digest(&["--seed", "7", "--io", "uring"]);
    assert_eq!(first, digest(&["--seed", "7", "--io", "tokio", "--threads", "2"]));
    assert_ne!(first, digest(&["--seed", "8"]));
}

#[test]
fn a_refusing_target_is_reported_as_such_and_ends_with_code_1() {
    // Bound and closed at once: nothing listens there now.
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = closed.local_addr().expect("an address").to_string();
    drop(closed);
    for io in ["uring", "tokio"] {
        let args = ["--agents", "100", "--speedup", "20", "--ramp", "0s", "--duration", "1s"];
        let run = load(&[&args[..], &["--io", io]].concat(), &address);
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        let refused = count(&run.report, "errors/connect.refused");
        assert!(refused > 0);
        assert_eq!(refused, count(&run.report, "achieved/window/failed"), "{io}: of one kind only");
        assert_eq!(count(&run.report, "errnos/111"), refused);
    }
}

#[test]
fn a_sink_killed_in_mid_run_shows_as_refusals_and_broken_exchanges() {
    for io in ["uring", "tokio"] {
        let mut sink = Sink::start(&["--delay", "20ms"]);
        let args = ["--agents", "300", "--speedup", "20", "--ramp", "0s", "--duration", "3s"];
        let args = [&args[..], &["--io", io, "--profile", "go-keepalive"]].concat();
        let running = Running::start(&args, &sink.address);
        let posted = || count(&sink.counts(), "posts") > 300;
        assert!(within(Duration::from_secs(10), posted), "the sink was never busy");
        sink.kill();
        let run = running.finish();
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        assert!(count(&run.report, "errors/connect.refused") > 0, "{io}");
        let broken = count(&run.report, "errors/io.eof_early")
            + count(&run.report, "errors/io.reset")
            + count(&run.report, "errors/io.broken_pipe");
        assert!(broken > 0, "{io}: exchanges under way broke: {}", run.report["errors"]);
        let failed = count(&run.report, "achieved/window/failed");
        let named: u64 = run.report["errors"]
            .as_object()
            .expect("kinds")
            .values()
            .filter_map(Value::as_u64)
            .sum();
        assert_eq!(named, failed, "every failure has a kind");
    }
}

#[test]
fn a_slow_target_shows_in_latency_and_queues_show_from_the_intended_time() {
    // 30 times faster than life an agent posts 8.6 times a second; at 200 ms each it can do 5.
    let sink = Sink::start(&["--delay", "200ms"]);
    let args = ["--agents", "100", "--speedup", "30", "--ramp", "0s", "--duration", "3s"];
    let run = load(&args, &sink.address);
    let exchange = &run.report["latency_us"]["exchange"];
    assert!(count(exchange, "from_send/p50") >= 200_000, "{exchange:#}");
    assert!(
        count(exchange, "from_intended/p99") >= 2 * count(exchange, "from_send/p99"),
        "agents fell behind, and only the intended time shows it: {exchange:#}"
    );
    assert!(count(&run.report, "achieved/window/queued") > 0);
    let lag = &run.report["send_lag_us"];
    assert!(count(lag, "p50") < 100_000, "the target is slow, not the generator: {lag:#}");
}

#[test]
fn a_target_that_never_answers_shows_as_timeouts_unanswered_and_unsent() {
    // Accepted by the kernel, never read, never answered.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address").to_string();
    for io in ["uring", "tokio"] {
        let args = ["--agents", "30", "--speedup", "50", "--ramp", "0s", "--duration", "2s"];
        let run = load(&[&args[..], &["--io", io, "--timeout", "1.5s"]].concat(), &address);
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        assert!(count(&run.report, "errors/time.reply_timeout") > 0, "{io}");
        assert!(count(&run.report, "errors/time.unanswered") > 0, "{io}");
        assert!(count(&run.report, "errors/time.unsent") > 0, "{io}");
        assert_eq!(count(&run.report, "achieved/window/answered"), 0);
        let exchange = &run.report["latency_us"]["exchange"]["from_intended"];
        assert!(count(exchange, "max") >= 1_500_000, "their age counts: {exchange:#}");
    }
}

#[test]
fn a_target_whose_queue_is_full_shows_as_connect_timeouts() {
    use socket2::{Domain, Socket, Type};
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    full.bind(&any.into()).expect("a port");
    full.listen(0).expect("listens");
    let address = full.local_addr().expect("an address").as_socket().expect("IPv4").to_string();
    for io in ["uring", "tokio"] {
        let args = ["--agents", "30", "--speedup", "20", "--ramp", "0s", "--duration", "2s"];
        let run = load(&[&args[..], &["--io", io, "--timeout", "1s"]].concat(), &address);
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        assert!(count(&run.report, "errors/connect.timeout") > 0, "{}", run.report["errors"]);
    }
}

#[test]
fn the_sink_refuses_a_damaged_body_and_counts_it() {
    let sink = Sink::start(&[]);
    let mut stream = TcpStream::connect(&sink.address).expect("the sink accepts");
    let digest = "5d41402abc4b2a76b9719d911017c592";
    let request = format!(
        "POST /stsAgent/intake/ HTTP/1.1\r\nConnection: close\r\nContent-Length: 5\r\n\
         Content-MD5: {digest}\r\n\r\nhellO"
    );
    stream.write_all(request.as_bytes()).expect("the sink reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the sink answers");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let counts = sink.counts();
    assert_eq!((count(&counts, "digest_mismatches"), count(&counts, "intact")), (1, 0));
}

#[test]
fn objectives_decide_the_exit_code() {
    let sink = Sink::start(&[]);
    let with = |slo: &str| {
        let args = ["--agents", "50", "--speedup", "20", "--ramp", "0s", "--duration", "1s"];
        load(&[&args[..], &["--slo", slo]].concat(), &sink.address)
    };
    let missed = with("p50<1us");
    assert_eq!(missed.code, Some(99), "{}", missed.stderr);
    assert_eq!(missed.report["objectives"][0]["met"], false);
    assert_eq!(with("errors==0").code, Some(0));
}

#[test]
fn a_generator_that_was_late_says_that_the_run_is_invalid() {
    let sink = Sink::start(&[]);
    let args = ["--agents", "50", "--speedup", "20", "--ramp", "0s", "--duration", "1s"];
    let run = load(&[&args[..], &["--max-send-lag", "1us"]].concat(), &sink.address);
    assert_eq!(run.code, Some(98), "{}", run.stderr);
    assert!(run.stdout.contains("INVALID"), "{}", run.stdout);
    assert_eq!(run.report["claim"]["shown"], false);
}

#[test]
fn an_interrupted_run_still_reports() {
    let sink = Sink::start(&[]);
    for io in ["uring", "tokio"] {
        let before = count(&sink.counts(), "posts");
        let args = ["--agents", "100", "--speedup", "20", "--ramp", "0s", "--duration", "5m"];
        let args = [&args[..], &["--io", io, "--profile", "go-keepalive"]].concat();
        let running = Running::start(&args, &sink.address);
        let posted = || count(&sink.counts(), "posts") > before + 100;
        assert!(within(Duration::from_secs(10), posted), "the load never began");
        running.interrupt();
        let run = running.finish();
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert_eq!(run.report["achieved"]["interrupted"], true);
        assert_eq!(count(&run.report, "achieved/window/failed"), 0, "{}", run.report["errors"]);
        assert!(run.stdout.contains("interrupted"), "{}", run.stdout);
    }
}

#[test]
fn mistakes_are_answered_with_the_remedy_and_the_right_code() {
    let cases: [(&[&str], i32, &str); 6] = [
        (&[], 2, "--agents"),
        (&["--agents", "0"], 2, "1..="),
        (&["--agents", "5", "--target", "nonsense"], 2, "HOST:PORT"),
        (&["--agents", "5", "--slo", "p98<1s"], 2, "p99.9"),
        (&["--agents", "5", "--fanin", "/nonexistent/fanin"], 71, "--target HOST:PORT"),
        (&["sink", "--listen", "192.0.2.1:1"], 71, "192.0.2.1:1"),
    ];
    for (args, code, word) in cases {
        let output = loadgen().args(args).output().expect("loadgen runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(word), "{args:?}: {stderr}");
    }
}

#[test]
fn a_relay_that_cannot_start_is_shown_with_its_last_words() {
    let script = support::script("echo 'no port for me' >&2; exit 71");
    let output =
        loadgen().args(["--agents", "5", "--fanin"]).arg(&script).output().expect("loadgen runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(71), "{stderr}");
    assert!(stderr.contains("no port for me"), "{stderr}");
}

/// Something that takes fanin's command line and listens where it is told: a sink.
fn stand_in() -> std::path::PathBuf {
    let own = env!("CARGO_BIN_EXE_loadgen");
    support::script(&format!(
        "test \"$1 $2\" = 'run --listen' || exit 2\nexec '{own}' sink --listen \"$3\""
    ))
}

#[test]
fn alone_it_starts_sink_and_relay_and_ends_both() {
    let fanin = stand_in();
    let fanin = fanin.to_str().expect("a path");
    let args = ["--agents", "50", "--speedup", "20", "--ramp", "0s", "--duration", "1s"];
    let run = Running::start_stage(&[&args[..], &["--fanin", fanin]].concat()).finish();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(run.report["asked"]["target_started"], true);
    assert!(count(&run.report, "relay/resident_bytes") > 0);
    assert_eq!(count(&run.report, "sink/posts"), 0, "the stand-in relays nothing");
    let log = run.report["relay"]["log"].as_str().expect("a log");
    assert!(std::fs::exists(log).expect("readable"));
    for address in support::addresses(&run.stderr) {
        assert!(TcpStream::connect(&address).is_err(), "{address} still listens");
    }
}

#[test]
fn a_relay_that_falls_in_mid_run_is_named_in_the_report() {
    let fanin = stand_in();
    let args = ["--agents", "50", "--speedup", "20", "--ramp", "0s", "--duration", "3s"];
    let args = [&args[..], &["--fanin", fanin.to_str().expect("a path")]].concat();
    let mut running = Running::start_stage(&args);
    let line = running.first_line();
    let (_, rest) = line.split_once("relay (pid ").expect("the relay's pid");
    let (pid, _) = rest.split_once(')').expect("the relay's pid");
    assert!(std::process::Command::new("kill").args(["-9", pid]).status().expect("kill").success());
    let run = running.finish();
    assert_eq!(run.code, Some(1), "{}", run.stdout);
    let fallen = run.report["relay"]["fallen"].as_str().expect("how it fell");
    assert!(fallen.contains("the relay ended in mid-run"), "{fallen}");
    assert_eq!(run.report["claim"]["shown"], false);
}

#[test]
fn sink_and_relay_end_even_when_loadgen_is_killed() {
    let fanin = stand_in();
    let args = ["--agents", "50", "--duration", "5m", "--fanin", fanin.to_str().expect("a path")];
    let mut running = Running::start_stage(&args);
    let line = running.first_line();
    let addresses = support::addresses(&line);
    assert_eq!(addresses.len(), 4, "three sinks and the relay: {line}");
    assert!(addresses.iter().all(|address| TcpStream::connect(address).is_ok()), "{line}");
    running.kill();
    for address in addresses {
        let gone = || TcpStream::connect(&address).is_err();
        assert!(within(Duration::from_secs(10), gone), "{address} outlived loadgen");
    }
}

#[test]
fn the_sink_ends_with_whoever_started_it() {
    // A shell that starts a sink, tells where it listens, and goes.
    let script = support::script(
        "\"$1\" sink --listen 127.0.0.1:0 > \"$2\" & while ! grep -q listens \"$2\"; do :; done",
    );
    let told = scratch("address");
    let status = std::process::Command::new("sh")
        .arg(&script)
        .arg(env!("CARGO_BIN_EXE_loadgen"))
        .arg(&told)
        .status()
        .expect("a shell");
    assert!(status.success());
    let text = std::fs::read_to_string(&told).expect("the sink's words");
    let address = text.trim().rsplit(' ').next().expect("an address").to_owned();
    let gone = || TcpStream::connect(&address).is_err();
    assert!(within(Duration::from_secs(10), gone), "the sink outlived its parent");
}

/// Reads both files with another implementation of HdrHistogram: each line of the `.hgrm` must
/// name the value up to which the log's sum has counted as many. The percentiles are taken from its
/// counts by rank, rounded up as ours are: its own look-up rounds the rank to the nearest, which
/// may be the exchange before.
const READ_BY_OTHERS: &str = r#"
import json, math, sys
from fractions import Fraction
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
total = HdrHistogram(1, 3600 * 1000 * 1000, 3)
log = HistogramLogReader(sys.argv[1], HdrHistogram(1, 3600 * 1000 * 1000, 3))
while (interval := log.get_next_interval_histogram()) is not None:
    total.add(interval)
top = total.get_highest_equivalent_value
upto = {top(at.value_iterated_to): at.total_count_to_this_value for at in total.get_recorded_iterator()}
lines = [line.split() for line in open(sys.argv[2])]
lines = [fields for fields in lines if fields and fields[0][0].isdigit()]
for value, _, count, *_ in lines:
    assert upto[top(round(float(value) * 1000))] == int(count), (value, count)
assert int(lines[-1][2]) == total.get_total_count()
def at(percent):
    rank = math.ceil(Fraction(percent) * total.get_total_count() / 100)
    return next(value for value, count in upto.items() if count >= rank)
print(json.dumps({"count": total.get_total_count(), **{
    "p" + percent: at(percent) for percent in ("50", "90", "99", "99.9")}}))
"#;

#[test]
fn another_hdrhistogram_reads_equal_percentiles_from_hlog_and_hgrm() {
    let sink = Sink::start(&["--delay", "3ms"]);
    let (hlog, hgrm, csv) = (scratch("run.hlog"), scratch("run.hgrm"), scratch("run.csv"));
    let path = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    let args = ["--agents", "200", "--speedup", "20", "--ramp", "1s", "--duration", "3s"];
    let files = ["--hlog", &path(&hlog), "--hgrm", &path(&hgrm), "--csv", &path(&csv)];
    let run = load(&[&args[..], &files[..]].concat(), &sink.address);
    assert_eq!(run.code, Some(0), "{}", run.stderr);

    let mut other = std::process::Command::new(python());
    let output = other.args(["-c", READ_BY_OTHERS]).args([&hlog, &hgrm]).output().expect("python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let ours = &run.report["latency_us"]["exchange"]["from_intended"];
    for field in ["count", "p50", "p90", "p99", "p99.9"] {
        assert_eq!(theirs[field], ours[field], "{field}: {theirs} {ours}");
    }

    let csv = std::fs::read_to_string(csv).expect("the CSV");
    let answered = csv.lines().skip(1).map(|line| line.split(',').nth(4).expect("a field"));
    let answered: u64 = answered.map(|n| n.parse::<u64>().expect("a count")).sum();
    let whole =
        ["window", "warm_up"].map(|part| count(&run.report, &format!("achieved/{part}/answered")));
    assert_eq!(answered, whole.iter().sum::<u64>(), "every reply is in one second");
}

/// A target that stalls for S in every T keeps whoever comes in a stall waiting for what is left of
/// it. Arrivals know nothing of it, so the share of them that waits longer than x is (S - x) / T.
#[test]
fn percentiles_of_a_target_that_stalls_are_those_of_theory() {
    let sink = Sink::start(&["--stall", "400ms/2s"]);
    let args = ["--agents", "300", "--speedup", "3", "--ramp", "0s", "--duration", "12s"];
    let run = load(&args, &sink.address);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let percentiles = run.report["percentiles"].as_array().expect("pairs");
    let at = |quantile: f64| {
        let from = |pair: &&Value| pair[0].as_f64().expect("a quantile") >= quantile;
        percentiles.iter().find(from).expect("one beyond")[1].as_f64().expect("a time") / 1000.0
    };
    // 257 exchanges a second over six stalls: a hundredth of them is 31.
    for (quantile, theory) in [(0.85, 100.0), (0.9, 200.0), (0.95, 300.0), (0.99, 380.0)] {
        let measured = at(quantile);
        assert!((measured - theory).abs() < 50.0, "{quantile}: {measured} ms, not {theory} ms");
    }
    assert!(at(0.5) < 50.0, "most meet no stall: {} ms", at(0.5));
}

#[test]
fn runs_are_drawn_as_one_page_and_over_each_other() {
    let sink = Sink::start(&[]);
    let files: Vec<_> = ["a.json", "a.html", "b.json", "b.html", "c.html"].map(scratch).into();
    let path = |place: usize| files[place].to_str().expect("UTF-8");
    for place in [0, 2] {
        let args = ["--target", &sink.address, "--agents", "50", "--speedup", "20"];
        let files =
            ["--ramp", "0s", "--duration", "2s", "--json", path(place), "--html", path(place + 1)];
        let ended = loadgen().args(args).args(files).output().expect("a run");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
    let compare = |files: &[&str]| loadgen().arg("compare").args(files).output().expect("a run");
    let output = compare(&[path(0), path(2), "--html", path(4)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("(x1.00)"), "{table}");
    for (place, lines) in [(1, 1), (3, 1), (4, 2)] {
        let page = std::fs::read_to_string(path(place)).expect("the page");
        let chart = page.split("Latency by percentile").last().expect("the chart");
        let chart = chart.split("</figure>").next().expect("its end");
        assert_eq!(chart.matches("<title>").count(), lines, "{chart}");
        for outside in ["http:", "https:", "src=", "<script", "@import", "url("] {
            assert!(!page.contains(outside), "{outside} in the page");
        }
    }
    let refused = compare(&[path(0), path(1)]);
    assert_eq!(refused.status.code(), Some(1));
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(words.contains(path(1)) && words.contains("no JSON"), "{words}");
}

#[test]
fn two_runs_that_began_together_add_up_exactly() {
    let sink = Sink::start(&["--delay", "2ms"]);
    let soon = std::time::SystemTime::now() + Duration::from_secs(3);
    let soon = soon.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let moment = String::from_utf8(
        std::process::Command::new("date")
            .args(["-u", "-d", &format!("@{soon}"), "+%Y-%m-%dT%H:%M:%SZ"])
            .output()
            .expect("date(1)")
            .stdout,
    );
    let moment = moment.expect("UTF-8").trim().to_owned();
    let start = |seed: &str, hlog: &std::path::Path| {
        let args = ["--agents", "50", "--speedup", "20", "--ramp", "0s", "--duration", "2s"];
        let more = ["--seed", seed, "--start-at", &moment, "--hlog", hlog.to_str().expect("UTF-8")];
        Running::start(&[&args[..], &more[..]].concat(), &sink.address)
    };
    let (one, two) = (scratch("one.hlog"), scratch("two.hlog"));
    let runs = [start("1", &one), start("2", &two)].map(Running::finish);
    let mut sum = 0;
    for run in &runs {
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        assert_eq!(run.report["made_by"]["began_unix_s"].as_u64(), Some(soon));
        sum += count(&run.report, "latency_us/exchange/from_intended/count");
    }
    let hgrm = scratch("sum.hgrm");
    let merged = loadgen().arg("merge").args([&one, &two]).arg("--hgrm").arg(&hgrm).output();
    let merged = merged.expect("a run");
    assert!(merged.status.success(), "{}", String::from_utf8_lossy(&merged.stderr));
    let text = std::fs::read_to_string(&hgrm).expect("the percentiles");
    assert!(text.contains(&format!("Total count    = {sum:>12}]")), "{sum}: {text}");
    let late = loadgen().args(["--agents", "1", "--start-at", "2020-01-01T00:00:00Z"]).output();
    assert_eq!(late.expect("a run").status.code(), Some(2));
    let none = loadgen().arg("merge").arg(&hgrm).output().expect("a run");
    assert_eq!(none.status.code(), Some(1), "{}", String::from_utf8_lossy(&none.stderr));
}

#[test]
fn the_most_agents_are_found_or_that_there_are_none() {
    let sink = Sink::start(&["--delay", "30ms"]);
    let search = |more: &[&str]| {
        let json = scratch("found.json");
        let output = loadgen()
            .args(["find-max", "--target", &sink.address, "--speedup", "20", "--ramp", "0s"])
            .args(["--trial", "1s", "--duration", "1s", "--confirm", "1", "--max-send-lag", "5s"])
            .args(more)
            .arg("--json")
            .arg(&json)
            .output()
            .expect("a search");
        let found = std::fs::read_to_string(&json).expect("its result");
        (output.status.code(), serde_json::from_str::<Value>(&found).expect("JSON"))
    };
    let (code, found) = search(&["--from", "20", "--most", "40"]);
    assert_eq!((code, &found["agents"], &found["confirmed"]), (Some(0), &40.into(), &true.into()));
    assert_eq!(found["upper"]["most"], 40);
    let (code, found) = search(&["--from", "4", "--most", "40", "--slo", "p50<20ms"]);
    assert_eq!((code, &found["agents"]), (Some(99), &Value::Null), "{found:#}");
    assert_eq!(found["upper"]["target"], 1);
}

#[test]
fn what_the_upstream_refuses_is_posted_again() {
    let sink = Sink::start(&["--busy", "0.5"]);
    let args = ["--agents", "20", "--profile", "go-keepalive", "--speedup", "40"];
    let run = load(&[&args[..], &["--ramp", "0s", "--duration", "3s"]].concat(), &sink.address);
    assert_eq!(run.code, Some(1));
    let failed = count(&run.report, "errors/proto.bad_status");
    let again = count(&run.report, "achieved/window/retried");
    assert!(failed > 20 && again > failed / 2, "{failed} failed, {again} again");
    assert_eq!(sink.counts()["busy"].as_u64(), Some(failed));
}

#[test]
fn an_idle_fleet_stays_connected_and_silent() {
    let sink = Sink::start(&[]);
    let args = ["--agents", "40", "--profile", "idle", "--ramp", "1s", "--duration", "3s"];
    let run = load(&args, &sink.address);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(count(&run.report, "achieved/agents_answered"), 40);
    let series = run.report["series"].as_array().expect("seconds");
    assert!(series.iter().any(|second| second["open"] == 40), "{series:?}");
    assert_eq!(sink.counts()["posts"], 40);
}

#[test]
fn a_reader_that_goes_away_costs_neither_the_file_nor_the_exit_code() {
    let sink = Sink::start(&[]);
    let json = scratch("unread.json");
    let mut search = loadgen()
        .args(["find-max", "--target", &sink.address, "--speedup", "20", "--ramp", "0s"])
        .args(["--from", "10", "--most", "10", "--confirm", "1", "--max-send-lag", "5s"])
        .args(["--trial", "1s", "--duration", "1s", "--json", json.to_str().expect("UTF-8")])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("a search");
    drop(search.stdout.take());
    assert_eq!(search.wait().expect("its end").code(), Some(0));
    let found = std::fs::read_to_string(&json).expect("its result");
    let found: Value = serde_json::from_str(&found).expect("JSON");
    assert_eq!(found["agents"], 10);
}

#[test]
fn agents_speak_tls_through_the_relay_and_believe_no_stranger() {
    let folder = scratch("tls");
    let sink = Sink::start(&["--tls", folder.to_str().expect("a path")]);
    let authority = folder.join("ca.pem");
    let trusting = ["--tls", "--ca-file", authority.to_str().expect("a path")];
    let few = ["--agents", "20", "--speedup", "20", "--ramp", "0s", "--duration", "1s"];
    for io in ["uring", "tokio"] {
        for profile in ["v5-churn", "go-keepalive"] {
            let args = [&few[..], &trusting, &["--io", io, "--profile", profile]].concat();
            let run = load(&args, &sink.address);
            assert_eq!(run.code, Some(0), "{io} {profile}: {}{}", run.stdout, run.stderr);
            assert!(count(&run.report, "achieved/agents_answered") == 20, "{io} {profile}");
            let shaken = count(&run.report, "latency_us/handshake/from_send/count");
            assert_eq!(shaken, count(&run.report, "achieved/window/connects"), "{io} {profile}");
        }
    }
    let counts = sink.counts();
    assert_eq!(count(&counts, "digest_mismatches") + count(&counts, "bad_handshakes"), 0);
    for stranger in [&["--tls"][..], &[&trusting[..], &["--server-name", "a.example"]].concat()] {
        let run = load(&[&few[..], stranger].concat(), &sink.address);
        assert_eq!(run.code, Some(1));
        let failed = count(&run.report, "achieved/window/failed");
        assert_eq!(count(&run.report, "errors/tls.certificate"), failed, "{}", run.stdout);
        assert!(failed > 0 && count(&run.report, "achieved/agents_answered") == 0);
    }
    // A sink that speaks no TLS answers with an HTTP error, which is none.
    let plain = Sink::start(&[]);
    let run = load(&[&few[..], &trusting].concat(), &plain.address);
    let failed = count(&run.report, "achieved/window/failed");
    assert_eq!(count(&run.report, "errors/tls.handshake"), failed, "{}", run.stdout);
    std::fs::remove_dir_all(&folder).expect("the sink made it");
}

#[test]
fn a_terminal_sees_the_run_on_its_screen_and_then_the_report() {
    let sink = Sink::start(&[]);
    let command = format!(
        "stty rows 30 cols 100; {} --agents 50 --speedup 20 --ramp 0s --duration 2s --max-send-lag 1m --target {}",
        env!("CARGO_BIN_EXE_loadgen"),
        sink.address
    );
    let on_terminal = |command: &str| {
        let mut script = std::process::Command::new("script");
        script.args(["-qec", command, "/dev/null"]).env("TERM", "xterm");
        let output = script.output().expect("script, of bsdutils");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let seen = on_terminal(&command);
    let (screen, after) = seen.split_once("\x1b[?1049l").expect("the screen is left");
    assert!(screen.contains("\x1b[?1049h") && screen.contains("┌answered"), "{screen}");
    assert!(after.contains("50 v5-churn agents against"), "{after}");
    let plain = on_terminal(&format!("{command} --plain"));
    assert!(!plain.contains("\x1b[?1049h") && plain.contains("1 s load"), "{plain}");
}

#[test]
fn a_law_is_fitted_to_what_more_workers_bring() {
    let json = scratch("workers.json");
    let output = loadgen()
        .args(["find-max", "--workers", "1,2,3,4", "--from", "30", "--most", "30"])
        .args(["--speedup", "20", "--ramp", "0s", "--trial", "1s", "--duration", "1s"])
        .args(["--confirm", "1", "--max-send-lag", "5s", "--slo", "p99<10s"])
        .args(["--fanin", stand_in().to_str().expect("a path"), "--json"])
        .arg(&json)
        .output()
        .expect("a search");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let found = std::fs::read_to_string(&json).expect("its result");
    let found: Value = serde_json::from_str(&found).expect("JSON");
    let workers: Vec<_> = found["by_workers"]
        .as_array()
        .expect("points")
        .iter()
        .map(|p| p["workers"].as_u64())
        .collect();
    assert_eq!(workers, [1, 2, 3, 4].map(Some));
    // The same 30 agents each time: workers bring nothing, and the law says so.
    assert!(found["scaling"]["contention"].as_f64().expect("a law") > 0.5, "{found:#}");
    assert!(said.contains("one worker alone"), "{said}");
}

#[test]
fn hostile_agents_do_as_they_please_and_harm_nobody_else() {
    let sink = Sink::start(&[]);
    let args = ["--agents", "40", "--profile", "hostile", "--speedup", "40"];
    for io in ["uring", "tokio"] {
        let time = ["--ramp", "0s", "--duration", "3s", "--io", io];
        let run = load(&[&args[..], &time].concat(), &sink.address);
        assert_eq!(count(&run.report, "achieved/window/failed"), 0, "{}", run.stdout);
        assert!(count(&run.report, "achieved/agents_answered") == 40, "{io}: {}", run.stdout);
    }
    let counts = sink.counts();
    assert!(count(&counts, "cut_requests") > 0 && count(&counts, "posts") > 0, "{counts:#}");
    assert_eq!(count(&counts, "digest_mismatches") + count(&counts, "bad_requests"), 0);
}

/// A web proxy for the sink alone: tunnels, and requests in absolute form, for one user.
fn web_proxy(upstream: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let upstream = upstream.clone();
            std::thread::spawn(move || forward(client, &upstream));
        }
    });
    address
}

fn forward(mut client: TcpStream, upstream: &str) -> Option<()> {
    let mut request = vec![0; 64 * 1024];
    let length = client.read(&mut request).ok()?;
    let head = String::from_utf8_lossy(&request[..length]).into_owned();
    if !head.contains("Proxy-Authorization: Basic YWdlbnQ6c2VjcmV0\r\n") {
        let refusal = "HTTP/1.1 407 Who is it?\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return client.write_all(refusal.as_bytes()).ok();
    }
    let mut server = TcpStream::connect(upstream).ok()?;
    if head.starts_with(&format!("CONNECT {upstream} ")) {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
    } else if head.starts_with(&format!("POST http://{upstream}/")) {
        server.write_all(&request[..length]).ok()?;
    } else {
        return None;
    }
    let (mut from, mut to) = (client.try_clone().ok()?, server.try_clone().ok()?);
    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    std::io::copy(&mut server, &mut client).ok().map(drop)
}

#[test]
fn agents_post_through_a_web_proxy_and_tunnel_their_tls() {
    let folder = scratch("proxy-tls");
    let sink = Sink::start(&["--tls", folder.to_str().expect("a path")]);
    let proxy = web_proxy(sink.address.clone());
    let authority = folder.join("ca.pem");
    let tls = ["--tls", "--ca-file", authority.to_str().expect("a path")];
    let common = ["--agents", "20", "--profile", "v5-proxy", "--speedup", "20", "--ramp", "0s"];
    let common = [&common[..], &["--duration", "1s", "--upstream", &sink.address]].concat();
    for io in ["uring", "tokio"] {
        for over in [&[][..], &tls] {
            let args = [&common[..], &["--io", io, "--proxy-user", "agent:secret"], over].concat();
            let run = load(&args, &proxy);
            assert_eq!(run.code, Some(0), "{io} {over:?}: {}{}", run.stdout, run.stderr);
            assert!(count(&run.report, "achieved/window/connects") <= 20, "they are kept");
            assert!(count(&run.report, "achieved/window/answered") > 50);
        }
    }
    let stranger = load(&[&common[..], &["--proxy-user", "agent:guess"], &tls].concat(), &proxy);
    let refused = count(&stranger.report, "errors/proto.proxy_refused");
    assert!(refused > 0 && refused == count(&stranger.report, "achieved/window/failed"));
    std::fs::remove_dir_all(&folder).expect("the sink made it");
}
