//! PURE: the requests that agents send, complete to the byte, made once from the seed.
//!
//! Headers, paths and encodings are those of sts-agent (`emitter.py`, `ddagent.py`, StackState's
//! `/stsAgent` prefix) and of the Go forwarder. Sizes are checked by a test. One deviation: every
//! POST carries Content-MD5, statsd's too, so that the sink can verify each body.

use crate::dice::Dice;
use crate::profile::{Conduct, Post, Profile, Size};
use crate::proxy::Proxy;
use flate2::{Compression, write::ZlibEncoder};
use serde_json::{Value, json};
use std::io::Write;

/// Different requests of each kind; what a relay mixes up is then found in 63 of 64 cases.
const VARIANTS: usize = 64;
/// Metrics that a bare host reports each run.
const HOST_METRICS: usize = 115;
/// Processes in the once-a-minute table.
const PROCESSES: usize = 70;
/// The key is one per customer, hence the same for all agents.
const API_KEY: &str = "9775a026f1ca7d1c6c5af9d94d9595a4";

/// One request as it goes on the wire.
#[derive(Debug)]
pub(crate) struct Request {
    /// Head and body, sent in one write as the agents do.
    pub(crate) bytes: Vec<u8>,
    /// Lower-case hexadecimal MD5 of the body, as in its Content-MD5.
    pub(crate) digest: [u8; 32],
}

/// All requests of a run.
#[derive(Debug)]
pub(crate) struct Library {
    requests: Vec<Request>,
}

impl Library {
    /// Makes the requests for one target (`host` is the Host header), in absolute form where a `proxy` is
    /// to forward them.
    pub(crate) fn new(profile: Profile, seed: u64, host: &str, proxy: Option<&Proxy>) -> Self {
        let requests = profile.posts().flat_map(|post| {
            (0..VARIANTS).map(move |variant| {
                let stream = 0x00B0_D1E5_0000_0000 | (u64::from(post.0) << 16) | variant as u64;
                request(profile, post, host, proxy, Dice::new(seed, stream))
            })
        });
        Self { requests: requests.collect() }
    }

    /// The request for a post; any number picks one of the variants.
    pub(crate) fn pick(&self, post: Post, number: u32) -> &Request {
        let variant = usize::try_from(number).unwrap_or(0) % VARIANTS;
        &self.requests[usize::from(post.0) * VARIANTS + variant]
    }
}

fn request(
    profile: Profile,
    post: Post,
    host: &str,
    proxy: Option<&Proxy>,
    mut dice: Dice,
) -> Request {
    let (path, body, encoding) = match profile {
        Profile::Own(own) => {
            let own = own.post(post);
            (own.path.clone(), noise(own.bytes, &mut dice), "")
        }
        _ => {
            // What hostile agents cut short is a series too.
            let post = if profile == Profile::Hostile { Post::SERIES } else { post };
            let (body, encoding) = report(post, &mut dice);
            (path(profile, post), body, encoding)
        }
    };
    let digest = hex_md5(&body);
    let (target, lines) = match proxy {
        Some(proxy) => (proxy.absolute(&path), proxy.lines()),
        None => (path, String::new()),
    };
    let headers = format!("{lines}{encoding}");
    let mut bytes = head(profile, &target, host, &headers, &digest, body.len()).into_bytes();
    let head = bytes.len();
    bytes.extend_from_slice(&body);
    if profile == Profile::Hostile {
        bytes.truncate(Conduct::of_post(post).part(head, bytes.len()));
    }
    bytes.shrink_to_fit();
    Request { bytes, digest }
}

/// What a real agent posts, and the header that says how it is encoded.
fn report(post: Post, dice: &mut Dice) -> (Vec<u8>, &'static str) {
    let hostname = format!("host-{:08x}.example.net", dice.below(1 << 32));
    let text = match post {
        Post::INTAKE_PROCESSES => intake(&hostname, dice, PROCESSES),
        Post::SERIES => series(&hostname, dice),
        Post::CHECK_RUN => check_run(&hostname, dice),
        Post::STATSD => statsd(&hostname, dice),
        _ => intake(&hostname, dice, 0),
    }
    .to_string();
    // statsd compresses only above 1024 bytes (`COMPRESS_THRESHOLD` in dogstatsd.py).
    match post {
        Post::STATSD => (text.into_bytes(), ""),
        _ => (deflate(text.as_bytes()), "Content-Encoding: deflate\r\n"),
    }
}

/// Bytes that nothing compresses, as what an agent has compressed.
fn noise(size: Size, dice: &mut Dice) -> Vec<u8> {
    let [least, most] = size.bounds().map(u64::from);
    let length = usize::try_from(dice.between(least, most + 1)).unwrap_or_default();
    let words = std::iter::repeat_with(|| dice.roll().to_le_bytes()).flatten();
    words.take(length).collect()
}

fn path(profile: Profile, post: Post) -> String {
    let path = match post {
        Post::SERIES | Post::STATSD => "api/v1/series/",
        Post::CHECK_RUN => "api/v1/check_run/",
        _ => "intake/",
    };
    match profile.is_v5() {
        true => format!("/stsAgent/{path}?api_key={API_KEY}"),
        false => format!("/stsAgent/{}", path.trim_end_matches('/')),
    }
}

fn head(
    profile: Profile,
    path: &str,
    host: &str,
    headers: &str,
    digest: &[u8; 32],
    length: usize,
) -> String {
    let digest = String::from_utf8_lossy(digest);
    match profile.is_v5() {
        true => format!(
            "POST {path} HTTP/1.1\r\n\
             Host: {host}\r\n\
             Content-Length: {length}\r\n\
             {headers}\
             Accept-Encoding: gzip, deflate\r\n\
             Accept: text/html, */*\r\n\
             User-Agent: StackState Agent/5.17.2\r\n\
             Dd-Collector-Version: 5.17.2\r\n\
             Connection: keep-alive\r\n\
             Content-Md5: {digest}\r\n\
             Content-Type: application/json\r\n\
             DD-Forwarder-Version: 5.17.2\r\n\r\n"
        ),
        false => format!(
            "POST {path} HTTP/1.1\r\n\
             Host: {host}\r\n\
             User-Agent: datadog-agent/7.50.0\r\n\
             Content-Length: {length}\r\n\
             {headers}\
             Content-Type: application/json\r\n\
             Content-Md5: {digest}\r\n\
             DD-Agent-Payload: 4.87.0\r\n\
             DD-Agent-Version: 7.50.0\r\n\
             Dd-Api-Key: {API_KEY}\r\n\
             Accept-Encoding: gzip\r\n\r\n"
        ),
    }
}

/// Host metadata and events; the process table once a minute.
fn intake(hostname: &str, dice: &mut Dice, processes: usize) -> Value {
    let uuid = format!("{:016x}{:016x}", dice.roll(), dice.roll());
    let mut message = json!({
        "agentVersion": "5.17.2",
        "apiKey": API_KEY,
        "collection_timestamp": 1_512_000_000.0 + cents(dice, 8_640_000),
        "events": {},
        "host-tags": {},
        "internalHostname": hostname,
        "metrics": [],
        "os": "linux",
        "python": "2.7.13 (default, Nov 2017) [GCC 4.7.2]",
        "resources": {},
        "service_checks": [],
        "uuid": uuid,
    });
    if processes > 0 {
        let rows = (0..processes).map(|_| process_row(dice));
        message["processes"] =
            json!({ "apiKey": API_KEY, "host": hostname, "processes": rows.collect::<Vec<_>>() });
    }
    message
}

/// One line of `ps auxww`: user, pid, cpu, mem, vsz, rss, tty, stat, started, time, command.
fn process_row(dice: &mut Dice) -> Value {
    const USERS: [&str; 5] = ["root", "www-data", "postgres", "sts-agent", "daemon"];
    const COMMANDS: [&str; 12] = [
        "/usr/sbin/sshd -D",
        "/lib/systemd/systemd-journald",
        "/usr/sbin/cron -f",
        "nginx: worker process",
        "postgres: writer process",
        "[kworker/u8:2]",
        "[rcu_sched]",
        "/usr/sbin/rsyslogd -n",
        "/opt/stackstate-agent/embedded/bin/python agent.py",
        "/usr/bin/java -Xmx2g -jar service.jar",
        "/usr/sbin/ntpd -p /var/run/ntpd.pid -g",
        "-bash",
    ];
    let pick = |dice: &mut Dice, list: &[&str]| {
        list[usize::try_from(dice.below(list.len() as u64)).unwrap_or(0)].to_owned()
    };
    json!([
        pick(dice, &USERS),
        dice.between(2, 32_768).to_string(),
        format!("{:.1}", cents(dice, 400)),
        format!("{:.1}", cents(dice, 500)),
        dice.between(10_000, 900_000).to_string(),
        dice.between(500, 90_000).to_string(),
        "?",
        "Ss",
        format!("{:02}:{:02}", dice.below(24), dice.below(60)),
        format!("{}:{:02}", dice.below(50), dice.below(60)),
        pick(dice, &COMMANDS),
    ])
}

/// What a host without integrations reports: load, cpu, memory, disk, network, agent.
fn series(hostname: &str, dice: &mut Dice) -> Value {
    const FAMILIES: [&str; 12] = [
        "system.cpu",
        "system.load",
        "system.mem",
        "system.swap",
        "system.disk",
        "system.fs.inodes",
        "system.io",
        "system.net",
        "system.uptime",
        "system.processes",
        "ntp",
        "stackstate.agent",
    ];
    const DEVICES: [&str; 6] = ["sda1", "sda2", "sdb1", "eth0", "eth1", "lo"];
    const MEASURES: [&str; 10] = [
        "used",
        "free",
        "total",
        "in_use",
        "bytes_rcvd",
        "bytes_sent",
        "util",
        "await",
        "rkb_s",
        "wkb_s",
    ];
    let now = 1_512_000_000 + dice.below(86_400);
    let points = (0..HOST_METRICS).map(|place| {
        let metric = format!(
            "{}.{}",
            FAMILIES[place % FAMILIES.len()],
            MEASURES[(place / FAMILIES.len()) % MEASURES.len()]
        );
        // Some of what a quiet host reports is zero; the rest are long decimal fractions.
        let value = if dice.below(10) == 0 { 0.0 } else { cents(dice, 1 << 47) / 7.0 };
        json!({
            "metric": metric,
            "points": [[now, value]],
            "host": hostname,
            "type": "gauge",
            "device_name": DEVICES[usize::try_from(dice.below(6)).unwrap_or(0)],
            "interval": 15,
        })
    });
    json!({ "series": points.collect::<Vec<_>>() })
}

fn check_run(hostname: &str, dice: &mut Dice) -> Value {
    const CHECKS: [&str; 4] =
        ["stackstate.agent.up", "stackstate.agent.check_status", "ntp.in_sync", "disk.ok"];
    let now = 1_512_000_000 + dice.below(86_400);
    let states = CHECKS.iter().enumerate().map(|(place, check)| {
        json!({
            "check": check,
            "host_name": hostname,
            "id": dice.below(1 << 32),
            "message": null,
            "status": 0,
            "tags": [format!("check:{place}")],
            "timestamp": now,
        })
    });
    json!(states.collect::<Vec<_>>())
}

/// statsd's own counters: what it posts when nobody sends it anything.
fn statsd(hostname: &str, dice: &mut Dice) -> Value {
    let now = 1_512_000_000 + dice.below(86_400);
    let own = |metric: &str, value: u64| {
        json!({
            "metric": metric,
            "points": [[now, value]],
            "host": hostname,
            "type": "rate",
            "interval": 10,
            "tags": null,
            "device_name": null,
        })
    };
    json!({ "series": [
        own("stackstate.stsstatsd.packet.count", dice.below(1000)),
        own("stackstate.stsstatsd.serialization_status", dice.below(10)),
        own("stackstate.stsstatsd.metrics", dice.below(100)),
    ] })
}

/// A number with two decimals below `limit` hundredths.
#[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
fn cents(dice: &mut Dice, limit: u64) -> f64 {
    dice.below(limit) as f64 / 100.0
}

fn deflate(text: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    // Writing to memory cannot fail.
    let _ = encoder.write_all(text);
    encoder.finish().unwrap_or_default()
}

/// Lower-case hexadecimal MD5.
pub(crate) fn hex_md5(bytes: &[u8]) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hex = [0; 32];
    for (pair, byte) in hex.chunks_exact_mut(2).zip(md5::compute(bytes).0) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library() -> Library {
        Library::new(Profile::V5Churn, 1, "127.0.0.1:7077", None)
    }

    fn parts(request: &Request) -> (String, &[u8]) {
        let end = request.bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        (String::from_utf8(request.bytes[..end].to_vec()).unwrap(), &request.bytes[end..])
    }

    #[test]
    fn bodies_have_the_sizes_of_real_agents() {
        // Bytes on the wire without the head, from observations of the real encoders.
        let expected = [
            (Post::INTAKE, 180..420),
            (Post::INTAKE_PROCESSES, 2_100..3_200),
            (Post::SERIES, 1_900..2_800),
            (Post::CHECK_RUN, 200..400),
            (Post::STATSD, 400..650),
        ];
        let library = library();
        for (post, range) in expected {
            let size = parts(library.pick(post, 0)).1.len();
            assert!(range.contains(&size), "{post:?}: {size} bytes");
        }
    }

    #[test]
    fn each_body_matches_its_length_and_digest_and_inflates_to_json() {
        for profile in [Profile::V5Churn, Profile::GoKeepalive] {
            let library = Library::new(profile, 1, "h:1", None);
            for post in profile.posts() {
                let (head, body) = parts(library.pick(post, 7));
                assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
                let digest = format!("{:x}", md5::compute(body));
                assert!(head.contains(&format!("Content-Md5: {digest}\r\n")), "{head}");
                let mut text = Vec::new();
                let mut inflate = flate2::write::ZlibDecoder::new(&mut text);
                let json = match head.contains("Content-Encoding: deflate") {
                    true => {
                        inflate.write_all(body).unwrap();
                        inflate.finish().unwrap().clone()
                    }
                    false => body.to_vec(),
                };
                assert!(serde_json::from_slice::<Value>(&json).is_ok());
            }
        }
    }

    #[test]
    fn variants_and_seeds_differ_and_one_seed_repeats() {
        let (a, b) = (library(), library());
        assert_eq!(a.pick(Post::SERIES, 3).bytes, b.pick(Post::SERIES, 3).bytes);
        assert_ne!(a.pick(Post::SERIES, 3).digest, a.pick(Post::SERIES, 4).digest);
        let other = Library::new(Profile::V5Churn, 2, "127.0.0.1:7077", None);
        assert_ne!(a.pick(Post::SERIES, 3).digest, other.pick(Post::SERIES, 3).digest);
    }
}
