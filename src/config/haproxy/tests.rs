//! Files that people have, and files that nobody should run.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::config::{ConfigError, Network, Networks, Queue, ServerAddress};
use crate::op::ProxyVersion;

const WORKING: &str = include_str!("../../../tests/fixtures/working-haproxy.cfg");
const PAGE: &str = include_str!("../../../tests/fixtures/page-haproxy.cfg");

fn import(text: &str) -> Result<(Config, Report), String> {
    Config::from_haproxy(Path::new("h.cfg"), text, &Overrides::default())
        .map_err(|error: ConfigError| error.to_string())
}

#[track_caller]
fn good(text: &str) -> (Config, Report) {
    let (config, report) = import(text).unwrap_or_else(|message| panic!("{message}\n{text}"));
    let printed = config.render();
    let again = Config::from_text(Path::new("t.toml"), &printed, &Overrides::default());
    assert_eq!(again.expect(&printed), config, "{printed}");
    (config, report)
}

#[track_caller]
fn wrong(text: &str) -> String {
    match import(text) {
        Ok((config, _)) => panic!("taken for valid:\n{text}\n{config:#?}"),
        Err(message) => message,
    }
}

/// A listener with these lines in front of one server, and these in its own section.
fn listen(lines: &str) -> String {
    format!(
        "defaults\n timeout client 2m\n timeout server 2m\n timeout connect 5s\n\
         listen a\n bind 127.0.0.1:3834\n server s 192.0.2.1:443\n{lines}\n"
    )
}

fn danger(report: &Report) -> Vec<String> {
    report.of(NoteKind::Danger).iter().map(|note| format!("{}: {}", note.line, note.text)).collect()
}

#[test]
fn the_page_as_a_user_runs_it_is_taken_over_whole() {
    let (config, report) = good(WORKING);
    assert_eq!(config.global.maxconn, Some(4096));
    assert_eq!(config.control.socket.as_deref(), Some(Path::new("/tmp/haproxy")));
    assert_eq!(config.listeners.len(), 1);
    let listener = &config.listeners[0];
    assert_eq!(
        (listener.name.as_str(), listener.bind[0].to_string()),
        ("forwarder", "0.0.0.0:3834".into())
    );
    assert_eq!(listener.client_idle, Duration::from_secs(5));
    let backend = config.backend_of(listener);
    assert_eq!(
        (backend.name.as_str(), backend.retries, backend.redispatch),
        ("stackstate", 3, true)
    );
    assert_eq!(backend.timeouts.connect, Duration::from_secs(5));
    assert_eq!(backend.timeouts.server_idle, Duration::from_secs(5));
    // Without `timeout client-fin`, what has half closed waits as long as what has not.
    assert_eq!(backend.timeouts.half_closed, Duration::from_secs(5));
    assert_eq!(backend.servers[0].name, "mothership");
    assert_eq!(backend.servers[0].address.to_string(), "stackstate.example.com:443");
    let dangers = danger(&report);
    for expected in [
        "5: everybody may write in this directory",
        "12: this cuts agents that keep their connections",
        "13: this cuts agents that keep their connections",
        "31: a check of port 80 says nothing of port 443",
        "0: not needed any more, remove it",
    ] {
        assert!(dangers.iter().any(|said| said.starts_with(expected)), "{expected}: {dangers:#?}");
    }
}

#[test]
fn the_page_as_it_is_printed_lacks_what_it_lacks_and_nothing_is_guessed() {
    let message = wrong(PAGE);
    for expected in [
        "a section header is missing: `global`",
        "h.cfg:2:5",
        "write `global` on a line of its own before this one",
        "`log local0` lacks the address of the syslog server",
        "h.cfg:2:9",
        "write log HOST local0",
        "a section header is missing: `defaults`",
        "h.cfg:7:5",
        "write `defaults` on a line of its own",
        "server `mothership` has no address",
        "h.cfg:38:23",
        "server mothership HOST:PORT check",
        "4 errors",
    ] {
        assert!(message.contains(expected), "wanted {expected} in\n{message}");
    }
}

#[test]
fn defaults_are_inherited_by_name_and_from_the_latest() {
    let (config, _) = good(
        "defaults one\n timeout client 1m\n timeout server 1m\n timeout connect 1s\n retries 7\n\
         defaults two from one\n retries 2\n option redispatch\n default-server weight 5 backup\n\
         listen a from one\n bind 127.0.0.1:1\n server s 192.0.2.1:443\n\
         listen b\n bind 127.0.0.1:2\n server s 192.0.2.1:443 no-backup\n server t 192.0.2.2:443\n\
         listen c\n bind 127.0.0.1:3\n no option redispatch\n server s 192.0.2.1:443 weight 9\n",
    );
    let [a, b, c] = &config.backends[..] else { panic!("{config:#?}") };
    assert_eq!((a.retries, a.redispatch, a.servers[0].weight), (7, false, 1));
    assert_eq!((b.retries, b.redispatch), (2, true));
    assert_eq!((b.servers[0].backup, b.servers[1].backup), (false, true));
    assert_eq!((c.redispatch, c.servers[0].weight, c.servers[0].backup), (false, 9, true));
    assert_eq!(c.timeouts.connect, Duration::from_secs(1));
}

#[test]
fn timeouts_mean_what_they_mean_there() {
    let of = |lines: &str| {
        let (config, report) = good(&listen(lines));
        let (listener, timeouts) = (config.listeners[0].client_idle, config.backends[0].timeouts);
        (listener, timeouts.server_idle, timeouts.half_closed, danger(&report))
    };
    let seconds = Duration::from_secs;
    let (client, server, half_closed, _) = of("");
    assert_eq!((client, server, half_closed), (seconds(120), seconds(120), seconds(120)));
    let (client, server, half_closed, _) = of(" timeout tunnel 1h\n timeout client-fin 1500");
    assert_eq!(
        (client, server, half_closed),
        (seconds(3600), seconds(3600), Duration::from_millis(1500))
    );
    let (client, _, half_closed, dangers) =
        of(" timeout client 0\n timeout server-fin 10s\n timeout client-fin 20s");
    assert_eq!((client, half_closed), (seconds(7 * 24 * 3600), seconds(20)));
    assert!(dangers.iter().any(|said| said.contains("0 is for ever")), "{dangers:?}");
    let (client, ..) = of(" clitimeout 90001us");
    assert_eq!(client, Duration::from_millis(91));
}

#[test]
fn addresses_are_read_as_haproxy_reads_them() {
    for (written, expected) in [
        ("*:80", &["0.0.0.0:80"][..]),
        (":80", &["0.0.0.0:80"]),
        ("ipv4@:80", &["0.0.0.0:80"]),
        ("ipv6@:80", &["[::]:80"]),
        (":::80", &["[::]:80"]),
        ("[::1]:80", &["[::1]:80"]),
        ("::1:80", &["[::1]:80"]),
        ("127.0.0.1:80,127.0.0.2:80", &["127.0.0.1:80", "127.0.0.2:80"]),
        ("127.0.0.1:80-82", &["127.0.0.1:80", "127.0.0.1:81", "127.0.0.1:82"]),
    ] {
        let text = format!("listen a\n bind {written}\n server s 192.0.2.1:443\n");
        let (config, _) = good(&text);
        let bound: Vec<_> = config.listeners[0].bind.iter().map(ToString::to_string).collect();
        assert_eq!(bound, expected, "{written}");
    }
    for (written, expected) in [
        ("10.0.0.7:443", "10.0.0.7:443"),
        ("ipv4@10.0.0.7:443", "10.0.0.7:443"),
        ("2001:db8::7:443", "[2001:db8::7]:443"),
        ("[2001:db8::7]:443", "[2001:db8::7]:443"),
        ("intake.example.com:443", "intake.example.com:443"),
    ] {
        let (config, _) = good(&format!("listen a\n bind :80\n server s {written}\n"));
        let address: &ServerAddress = &config.backends[0].servers[0].address;
        assert_eq!(address.to_string(), expected);
    }
}

#[test]
fn sources_of_a_backend_or_of_all_its_servers_are_the_backends() {
    let source = |lines: &str| good(lines).0.backends[0].source.clone();
    let there = source("listen a\n bind :80\n source 192.0.2.10\n server s 192.0.2.1:443\n");
    let with = " source 192.0.2.10";
    let all = source(&format!(
        "listen a\n bind :80\n server s 192.0.2.1:443{with}\n server t 192.0.2.2:443{with}\n"
    ));
    assert_eq!((there.addresses.len(), &there), (1, &all));
}

#[test]
fn words_for_choosing_and_introducing_are_ours_too() {
    let of = |lines: &str| {
        let text = format!("listen a\n bind :80\n{lines}\n server s 192.0.2.1:443 OPTION\n");
        move |option: &str| good(&text.replace("OPTION", option)).0.backends[0].clone()
    };
    for word in ["roundrobin", "leastconn", "source", "first", "random"] {
        let backend = of(&format!(" balance {word}"))("");
        assert_eq!(backend.balance.to_string(), word);
    }
    let introduced = |option: &str| of("")(option).servers[0].send_proxy;
    assert_eq!(introduced("send-proxy"), Some(ProxyVersion::V1));
    assert_eq!(introduced("send-proxy-v2 check"), Some(ProxyVersion::V2));
    assert_eq!(introduced("send-proxy no-send-proxy"), None);
    let default = of(" default-server send-proxy-v2");
    assert_eq!(default("").servers[0].send_proxy, Some(ProxyVersion::V2));
}

#[test]
fn rules_come_to_the_same_set_of_addresses_in_whatever_order() {
    let who = |lines: &str| {
        let (config, _) = good(&listen(lines));
        let set: Networks = config.listeners[0].permitted().unwrap_or_else(Networks::everything);
        move |address: &str| {
            let one: Networks = [address.parse::<Network>().unwrap()].into_iter().collect();
            !set.intersection(&one).is_empty()
        }
    };
    let only = who(" tcp-request connection reject if !{ src 10.0.0.0/8 192.0.2.7 }");
    assert!(only("10.1.2.3") && only("192.0.2.7") && !only("192.0.2.8") && !only("::1"));
    let except = who(
        " acl ours src 10.0.0.0/8\n acl ours src 2001:db8::/32\n acl bad src 10.6.6.0/255.255.255.0\n\
         tcp-request connection accept if { src 10.6.6.6 }\n\
         tcp-request connection reject if bad or !ours\n",
    );
    assert!(except("10.6.6.6") && !except("10.6.6.7") && except("10.1.1.1"));
    assert!(except("2001:db8::1") && !except("2001:db9::1") && !except("192.0.2.1"));
    let both = who(" acl net src 10.0.0.0/8\n acl half src 10.0.0.0/9\n\
         tcp-request connection reject unless net half || { src 127.0.0.1 }\n");
    assert!(both("10.1.1.1") && !both("10.200.1.1") && both("127.0.0.1"));
    // The first that holds decides.
    let first = who(" tcp-request connection accept\n tcp-request connection reject\n");
    assert!(first("10.1.1.1"));
}

#[test]
fn names_that_tls_clients_ask_for_decide_as_they_do_there() {
    let (config, _) = good(
        "backend a\n server s 192.0.2.1:443\nbackend b\n server s 192.0.2.2:443\n\
         frontend f\n bind :443\n tcp-request inspect-delay 5s\n\
         tcp-request content accept if { req_ssl_hello_type 1 }\n\
         acl is_tls req.ssl_hello_type 1\n\
         acl is_b req_ssl_sni -i one.example Two.Example\n acl is_b req.ssl_sni -m end .b.example\n\
         use_backend b if is_tls is_b or { req.ssl_sni three.example }\n\
         use_backend a if { req.ssl_sni -i one.example }\n\
         default_backend a\n",
    );
    let routes = &config.listeners[0].routes;
    let routes: Vec<_> =
        routes.iter().map(|route| (route.sni.to_string(), route.backend)).collect();
    let expected = ["one.example", "two.example", "*.b.example", "three.example"];
    assert_eq!(routes, expected.map(|name| (name.to_owned(), 1)));
    assert_eq!(config.listeners[0].backend, 0);
}

#[test]
fn variables_are_the_environments_and_setenv_adds_to_them() {
    let (config, report) = good(
        "global\n setenv PORT 3999\n presetenv PORT 1\n\
         listen a\n bind \"127.0.0.1:${PORT}\"\n server s \"192.0.2.1:${NOBODY_SETS_THIS-443}\"\n",
    );
    assert_eq!(config.listeners[0].bind[0].port(), 3999);
    assert_eq!(config.backends[0].servers[0].address.to_string(), "192.0.2.1:443");
    assert!(!danger(&report).iter().any(|said| said.contains("variable")));
}

/// What is wrong, where, and what to do: lines of a listener (from line 8) and parts of the message.
const WRONG: &[(&str, &[&str])] = &[
    (" mode http\n http-request deny", &["h.cfg:9:2", "HTTP passes through unchanged"]),
    (" mode tpc", &["there is no mode `tpc`"]),
    (" balance foo", &["h.cfg:8:10", "there is no balance `foo`"]),
    (" option foo", &["unknown keyword `option foo`"]),
    (" option redispach", &["did you mean `option redispatch`?"]),
    (" timeout bar 5s", &["h.cfg:8:10", "known: client, server"]),
    (" timeout client", &["lacks its time"]),
    (" timeout client 5x", &["h.cfg:8:17", "not a unit of time"]),
    (" timeout client 5s 6s", &["`6s` is one word too many"]),
    (" retries x", &["not a whole number"]),
    (" maxconn 10 11", &["`11` is one word too many"]),
    (" bind", &["lacks what it is set to", "bind *:3834"]),
    (" bind nowhere", &["has no port"]),
    (" bind host:80", &["\"host\" is not an IP address"]),
    (" bind :99999", &["1 to 65535"]),
    (" bind /run/x.sock", &["unix socket"]),
    (" bind :81 ssl crt x.pem", &["h.cfg:8:11", "TLS", "passes through unchanged"]),
    (" bind 127.0.0.1:3834", &["is listened on twice"]),
    (" server t", &["server `t` has no address"]),
    (" server t check", &["an option stands where the address belongs"]),
    (" server t 192.0.2.2", &["has no port"]),
    (" server t 192.0.2.2:80 wieght 5", &["did you mean `weight`?"]),
    (" server t 192.0.2.2:80 weight 300", &["0 to 256"]),
    (" server t 192.0.2.2:80 weight", &["lacks what it is set to"]),
    (" server t 192.0.2.2:80 ssl verify none", &["h.cfg:8:9", "differ in `ssl`"]),
    (" default-server ssl\n server t 192.0.2.2:80 sni req.x", &["not a fixed name", "str(NAME)"]),
    (" server t 192.0.2.2:80 ssl crt /x.pem", &["no certificate of its own"]),
    (" server t 192.0.2.2:80 check addr host", &["not an address", "remove addr"]),
    (" stats auth alice", &["line 8: `stats auth` names nobody", "NAME:PASSWORD"]),
    (" log 127.0.0.1 local0 loud", &["unknown level `loud`", "levels: emerg"]),
    (" server s 192.0.2.2:80", &["two servers of backend `a` are called `s`"]),
    (" server t 127.0.0.1:3834", &["is the relay itself"]),
    (" use_backend x if { src 10.0.0.1 }", &["the test `src` has no counterpart", "req.ssl_sni"]),
    (" use_backend x", &["without a condition", "default_backend"]),
    (" use_backend a if { req.ssl_sni -m reg x }", &["the flag `-m`"]),
    (" use_backend a if { req.ssl_sni -m end example.com }", &["without a dot before it"]),
    (" use_backend a if { req.ssl_sni 192.0.2.1 }", &["not the name of a host"]),
    (" use_backend a if { req.ssl_hello_type 1 }", &["does not test one name"]),
    (" use_backend a if { req.ssl_sni *.example }", &["the star in `*.example`", "-m end"]),
    (" acl x src 10.0.0.1\n acl x req.ssl_sni a.example", &["tests both `src` and a name"]),
    (" acl x req.ssl_sni a.example\n acl x src 10.0.0.1", &["tests both `src` and a name"]),
    (" tcp-request content accept unless HTTP", &["content decides nothing"]),
    (" use_backend a if is_it", &["`is_it` tests no name"]),
    (" use_backend nowhere if { req.ssl_sni a.example }", &["there is no backend `nowhere`"]),
    (" stick-table type ip size 1m", &["per_source"]),
    (" source 192.0.2.10 usesrc clientip", &["more than an address", "the routes choose"]),
    (" server t 192.0.2.2:80 slowstart 5s", &["differ in `slowstart`"]),
    (" server t 192.0.2.2:80 on-marked-down sleep", &["no action", "shutdown-sessions"]),
    (" source eth0", &["not an address", "addresses of this host"]),
    (" server t 192.0.2.2:80 source 192.0.2.10", &["differ in `source`", "default-server source"]),
    (" server t 192.0.2.2:80 usesrc client", &["own addresses cannot be taken"]),
    (" http-request deny", &["HTTP passes through unchanged"]),
    (" tcp-request content reject", &["content decides nothing", "tcp-request connection"]),
    (" tcp-request connection reject if { dst 10.0.0.1 }", &["only `src` can be tested"]),
    (" tcp-request connection reject if { src 10.0.0.1", &["not closed"]),
    (" tcp-request connection reject if nobody", &["there is no acl `nobody`"]),
    (" tcp-request connection reject", &["nobody may connect"]),
    (" acl x src 10.0.0.300", &["not an address or network"]),
    (" foo bar", &["unknown keyword `foo`"]),
    (" .if defined(X)", &["conditional blocks"]),
    (" server \"t 192.0.2.1:80", &["not closed"]),
    ("listen a\n bind :99\n server s 192.0.2.1:80", &["are called `a`", "h.cfg:8:8"]),
    ("frontend f\n bind :99\n default_backend b", &["there is no backend `b`"]),
    ("frontend f\n bind :99", &["nowhere to send its sessions", "default_backend"]),
    (
        "frontend f\n bind :99\n default_backend a\n server s 192.0.2.1:80",
        &["cannot stand in a section"],
    ),
    ("backend b", &["backend `b` has no servers"]),
    ("listen", &["without a name"]),
    ("listen b from nothing", &["no defaults called `nothing`"]),
    (
        "peers p\n peer x 10.0.0.1:1",
        &["a section `peers` has no counterpart", "remove the section"],
    ),
    ("global\n stats socket ipv4@127.0.0.1:9999", &["the control socket cannot be"]),
    ("global\n nbthread 0", &["1 to 1024"]),
];

#[test]
fn what_cannot_be_taken_over_is_refused_with_place_and_remedy() {
    for (lines, expected) in WRONG {
        let message = wrong(&listen(lines));
        for part in *expected {
            assert!(message.contains(part), "{lines}: wanted {part} in\n{message}");
        }
        assert_eq!(message.matches("error:").count(), 1, "{lines}:\n{message}");
    }
}

#[test]
fn a_queue_a_slow_start_and_the_end_of_sessions_are_taken_over() {
    let lines = "listen a
 bind :3834
 timeout connect 4s
 default-server slowstart 30s on-marked-down shutdown-sessions maxconn 10 maxqueue 50
 server s 192.0.2.1:443
 server t 192.0.2.2:443
";
    let backend = |lines: &str| good(lines).0.backends.remove(0);
    let taken = backend(lines);
    assert_eq!(taken.queue.patience, Duration::from_secs(4), "as long as for a connect");
    assert_eq!(taken.queue.places, 100);
    assert_eq!((taken.slow_start, taken.ends_on_down), (Duration::from_secs(30), true));
    let queue = backend(&lines.replace(" timeout connect 4s", " timeout queue 70s")).queue;
    assert_eq!(queue.patience, Duration::from_secs(70));
    let queue = backend(&lines.replace(" maxqueue 50", "")).queue;
    assert_eq!(queue.places, Queue::default().places);
}

#[test]
fn a_template_of_an_srv_record_is_one_server() {
    let (config, _) = good(
        "listen a
 bind :3834
 server-template s 5 _intake._tcp.example.com resolvers r check
resolvers r
 nameserver n 192.0.2.53:53
",
    );
    let server = &config.backends[0].servers[0];
    let name = "_intake._tcp.example.com".to_owned();
    assert_eq!(server.address, ServerAddress::Service { name });
    assert_eq!(config.named().count(), 1);
}

#[test]
fn an_old_address_behind_the_name_is_taken_and_named() {
    let (config, report) = good("listen a :3834\n server s 192.0.2.1:443\n");
    assert_eq!(config.listeners[0].bind[0].to_string(), "0.0.0.0:3834");
    assert!(danger(&report).iter().any(|said| said.contains("before 1.6")));
}

#[test]
fn every_keyword_is_known_once_in_a_place() {
    for (number, one) in keywords::KEYWORDS.iter().enumerate() {
        for other in &keywords::KEYWORDS[number + 1..] {
            assert!(one.name != other.name || one.place & other.place == 0, "{}", one.name);
        }
    }
}

#[test]
fn the_report_names_lines_and_reasons() {
    let (_, report) = good(WORKING);
    let text = report.to_string();
    for part in ["taken over:", "ignored, and why:", "to look at:", "line    3", "maxconn 4096"] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn resolvers_become_the_dns_of_the_relay() {
    let (config, report) = good(
        "resolvers one\n nameserver a 10.0.0.2:5353\n nameserver b udp@[2001:db8::1]:53\n \
         resolve_retries 3\n timeout retry 500ms\n timeout resolve 1s\n hold valid 10m\n hold nx 30s\n\
         resolvers two\n nameserver c 10.0.0.2:5353\n parse-resolv-conf\n\
         listen l\n bind :3834\n timeout client 2m\n timeout server 2m\n timeout connect 5s\n \
         server s a.example:443 resolvers one resolve-prefer ipv6 init-addr last,libc,none\n",
    );
    let dns = &config.dns;
    let asked: Vec<String> = dns.nameservers.iter().map(ToString::to_string).collect();
    assert_eq!(asked, ["10.0.0.2:5353", "[2001:db8::1]:53"]);
    assert_eq!((dns.retries, dns.timeout), (3, Duration::from_millis(500)));
    assert_eq!(dns.ttl_max, Duration::from_secs(600));
    assert_eq!(dns.prefer, crate::config::Prefer::Ipv6);
    let ignored: Vec<usize> = report.of(NoteKind::Ignored).iter().map(|note| note.line).collect();
    assert_eq!(ignored, [6, 8, 17, 17], "timeout resolve, hold nx, resolvers, init-addr");
    let dangers = danger(&report);
    assert_eq!(dangers.len(), 2, "{dangers:?}");
    assert_eq!(dangers[1], "11: the name servers that are listed are asked alone");
}

#[test]
fn checks_keep_their_numbers_their_port_and_their_page() {
    let (config, report) = good(
        "defaults\n timeout client 2m\n timeout server 2m\n timeout connect 5s\n timeout check 700ms\n\
         backend b\n option httpchk GET /health\n http-check expect status 200\n \
         default-server inter 5s fastinter 1s rise 1 fall 5\n \
         server s 192.0.2.1:443 check port 80 downinter 10s\n server t 192.0.2.2:443\n\
         frontend f\n bind :3834\n default_backend b\n",
    );
    let [s, t] = config.backends[0].servers.as_slice() else { panic!("{config:#?}") };
    assert_eq!(t.check, None);
    let check = s.check.as_ref().expect("checked");
    let seconds = Duration::from_secs;
    assert_eq!((check.interval, check.fast_interval), (seconds(5), Some(seconds(1))));
    assert_eq!(
        (check.down_interval, check.timeout),
        (Some(seconds(10)), Duration::from_millis(700))
    );
    assert_eq!((check.rise, check.fall, check.port), (1, 5, Some(80)));
    let http = check.http.as_ref().expect("a page");
    assert_eq!((http.path.as_str(), http.expect), ("/health", (200, 200)));
    assert!(danger(&report).iter().any(|said| said.contains("a check of port 80 says nothing")));
}

/// What the page of the agents' maker has had since its second edition.
const SECOND_EDITION: &str = "global\n stats socket /run/fanin/relay.sock mode 600 level admin\n\
     defaults\n timeout client 2m\n timeout server 2m\n timeout connect 5s\n\
     resolvers dns\n nameserver one 192.0.2.53:53\n\
     frontend metrics\n bind 127.0.0.1:3834\n mode http\n default_backend intake\n\
     backend intake\n balance roundrobin\n mode http\n option httpchk GET /health\n \
     server-template mothership 5 intake.example.com:443 check ssl verify required \
     ca-file /etc/ssl/certs/ca-certificates.crt check-sni intake.example.com \
     sni str(intake.example.com) resolvers dns init-addr none resolve-prefer ipv4\n";

#[test]
fn a_proxy_that_speaks_tls_with_its_servers_is_an_agent_door_that_checks_them() {
    let (config, report) = good(SECOND_EDITION);
    assert_eq!(config.listeners[0].mode, crate::config::Mode::Agent);
    let tls = config.backends[0].tls.as_ref().expect("TLS");
    assert_eq!(tls.sni.as_deref(), Some("intake.example.com"));
    assert_eq!(tls.ca.as_deref(), Some("/etc/ssl/certs/ca-certificates.crt".as_ref()));
    let check = config.backends[0].servers[0].check.as_ref().expect("checked");
    assert_eq!(check.http, None, "checks speak no TLS");
    assert_eq!(config.control.mode, crate::config::ControlMode::Owner);
    let dangers = danger(&report);
    for expected in ["GET /status is answered by the relay itself", "the check speaks no TLS"] {
        assert!(dangers.iter().any(|said| said.contains(expected)), "{dangers:#?}");
    }
    let unverified = SECOND_EDITION.replace("required", "none");
    let (config, report) = good(&unverified);
    assert!(config.backends[0].tls.is_some());
    assert!(danger(&report).iter().any(|said| said.contains("`verify none` is not taken over")));
    let tcp = wrong(&SECOND_EDITION.replace("mode http", "mode tcp"));
    assert!(tcp.contains("write mode http") && tcp.contains("for clients that do not"), "{tcp}");
}

#[test]
fn what_stands_behind_a_log_and_a_socket_is_taken_or_told() {
    let file = |line: &str| {
        good(&format!(
            "global\n {line}\ndefaults\n timeout client 2m\n timeout server 2m\n timeout connect 5s\n\
             listen a\n bind 127.0.0.1:1\n server s 192.0.2.1:443\n"
        ))
    };
    let (config, report) = file("log 127.0.0.1 len 2048 format rfc5424 sample 1:10 local3 info");
    assert_eq!(config.log.syslog_form, crate::config::SyslogForm::Rfc5424);
    assert_eq!((config.log.sample, config.log.facility), (10, 19));
    assert_eq!(config.log.sessions, crate::config::SessionLines::All);
    assert_eq!(danger(&report).len(), 1, "the cron job alone: {:?}", danger(&report));
    let (config, report) = file("log 127.0.0.1 local0 notice");
    assert_eq!(config.log.sessions, crate::config::SessionLines::None);
    assert!(danger(&report).iter().any(|said| said.contains("[log] sessions = false")));
    let (config, _) = file("log stdout format raw local0");
    assert_eq!(config.log.output, crate::config::LogOutput::Stdout);
    assert_eq!(config.log.format, crate::config::LogFormat::Tcplog);
    let (config, report) = file("stats socket /run/fanin/x.sock mode 777 level admin");
    assert_eq!(config.control.mode, crate::config::ControlMode::Group);
    assert!(danger(&report).iter().any(|said| said.contains("everybody could command HAProxy")));
}

#[test]
fn who_may_see_the_statistics_may_see_them_here_and_the_password_is_in_no_message() {
    let (config, report) = good(
        "defaults\n timeout client 2m\n timeout server 2m\n timeout connect 5s\n\
         listen stats\n bind 127.0.0.1:3835\n mode http\n stats enable\n stats auth alice:s3:cret\n \
         stats admin if TRUE\n\
         listen a\n bind 127.0.0.1:1\n server s 192.0.2.1:443 check addr 192.0.2.9 \
         on-marked-up shutdown-backup-sessions\n",
    );
    assert!(config.stats.viewers["alice"].matches(b"s3:cret"));
    assert_eq!(config.stats.viewers, config.stats.admins);
    assert!(!report.to_string().contains("s3:cret") && !config.render().contains("s3:cret"));
    let check = config.backends[0].servers[0].check.as_ref().expect("checked");
    assert_eq!(check.address, Some("192.0.2.9".parse().unwrap()));
    assert!(danger(&report).iter().any(|said| said.contains("sessions on backup servers stay")));
    let message = wrong(
        "listen stats\n bind 127.0.0.1:3835\n mode http\n stats enable\n stats auth s3cret\n",
    );
    assert!(!message.contains("s3cret"), "{message}");
}

#[test]
fn no_message_shows_a_password_however_its_line_is_misspelled() {
    for line in [
        "global\n stats auth alice:s3cret",
        "stats auth alice:s3cret",
        "listen a\n bind 127.0.0.1:1\n server s 192.0.2.1:443\n stats auht alice:s3cret",
        "listen a\n bind 127.0.0.1:1\n server s 192.0.2.1:443\n stats auth \"alice:s3cret",
    ] {
        let message = wrong(&format!("{line}\n"));
        assert!(!message.contains("s3cret"), "{message}");
        assert!(message.contains("stats"), "{message}");
    }
}
