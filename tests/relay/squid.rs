//! Squid and the web proxy door beside each other: sixty requests, good and hostile, and what class of
//! answer each gives. Where they differ, the table says why.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::peers;
use crate::support::relay::Relay;
use crate::support::{Folder, await_that, run_well};
use crate::web_proxy::{hash, read_head, witness};

/// What both are asked. `TO` is the server that is allowed, `ELSE` one that is not, `NOBODY` an allowed
/// address at which nobody listens, `AUTH` the right credentials and a line end.
struct Row {
    ask: &'static str,
    /// Why fanin answers otherwise than Squid, in which class.
    differs: Option<(u16, &'static str)>,
}

const fn same(ask: &'static str) -> Row {
    Row { ask, differs: None }
}

const fn differs(ask: &'static str, class: u16, why: &'static str) -> Row {
    Row { ask, differs: Some((class, why)) }
}

#[rustfmt::skip]
const ROWS: [Row; 60] = [
    // Good.
    same("CONNECT TO HTTP/1.1\r\nHost: TO\r\nAUTH\r\n"),
    same("CONNECT TO HTTP/1.0\r\nAUTH\r\n"),
    same("CONNECT TO HTTP/1.1\r\nHost: other\r\nAUTH\r\n"),
    same("CONNECT TO HTTP/1.1\r\nHost: TO\r\nProxy-Connection: Keep-Alive\r\nUser-Agent: curl/8\r\nAUTH\r\n"),
    same("GET http://TO/ HTTP/1.1\r\nHost: TO\r\nAUTH\r\n"),
    same("GET http://TO/x?y=z HTTP/1.1\r\nHost: TO\r\nAUTH\r\n"),
    same("GET http://TO HTTP/1.1\r\nHost: TO\r\nAUTH\r\n"),
    same("GET http://TO?q HTTP/1.1\r\nHost: TO\r\nAUTH\r\n"),
    same("GET HTTP://TO/ HTTP/1.1\r\nHost: TO\r\nAUTH\r\n"),
    same("GET http://TO/ HTTP/1.0\r\nAUTH\r\n"),
    same("POST http://TO/ HTTP/1.1\r\nHost: TO\r\nContent-Length: 3\r\nAUTH\r\nabc"),
    same("POST http://TO/ HTTP/1.1\r\nHost: TO\r\nContent-Length: 0\r\nAUTH\r\n"),
    same("POST http://TO/ HTTP/1.1\r\nHost: TO\r\nTransfer-Encoding: chunked\r\nAUTH\r\n3\r\nabc\r\n0\r\n\r\n"),
    same("PUT http://TO/ HTTP/1.1\r\nHost: TO\r\nContent-Length: 1\r\nAUTH\r\nx"),
    same("DELETE http://TO/ HTTP/1.1\r\nHost: TO\r\nAUTH\r\n"),
    same("OPTIONS http://TO/ HTTP/1.1\r\nHost: TO\r\nAUTH\r\n"),
    same("PATCH http://TO/ HTTP/1.1\r\nHost: TO\r\nContent-Length: 1\r\nAUTH\r\nx"),
    same("REPORT http://TO/ HTTP/1.1\r\nHost: TO\r\nAUTH\r\n"),
    // Who they are.
    same("CONNECT TO HTTP/1.1\r\nHost: TO\r\n\r\n"),
    same("GET http://TO/ HTTP/1.1\r\nHost: TO\r\n\r\n"),
    same("CONNECT TO HTTP/1.1\r\nProxy-Authorization: Basic YWdlbnRzOndyb25n\r\n\r\n"),
    same("CONNECT TO HTTP/1.1\r\nProxy-Authorization: Basic bm9ib2R5Ondyb25n\r\n\r\n"),
    same("CONNECT TO HTTP/1.1\r\nProxy-Authorization: Bearer x\r\n\r\n"),
    same("CONNECT TO HTTP/1.1\r\nProxy-Authorization: Basic !!!\r\n\r\n"),
    same("CONNECT TO HTTP/1.1\r\nProxy-Authorization: Basic\r\n\r\n"),
    same("CONNECT TO HTTP/1.1\r\nAuthorization: Basic YWdlbnRzOmNhbmFyeS03ZDFm\r\n\r\n"),
    same("CONNECT ELSE HTTP/1.1\r\n\r\n"),
    // Where to.
    same("CONNECT ELSE HTTP/1.1\r\nHost: ELSE\r\nAUTH\r\n"),
    same("GET http://ELSE/ HTTP/1.1\r\nHost: ELSE\r\nAUTH\r\n"),
    same("GET http://ELSE/ HTTP/1.1\r\nHost: TO\r\nAUTH\r\n"),
    same("CONNECT 169.254.169.254:80 HTTP/1.1\r\nAUTH\r\n"),
    same("GET http://169.254.169.254/latest/meta-data HTTP/1.1\r\nHost: x\r\nAUTH\r\n"),
    same("CONNECT [::1]:80 HTTP/1.1\r\nAUTH\r\n"),
    same("CONNECT 10.0.0.1:443 HTTP/1.1\r\nAUTH\r\n"),
    same("CONNECT NOBODY HTTP/1.1\r\nAUTH\r\n"),
    same("GET http://NOBODY/ HTTP/1.1\r\nHost: NOBODY\r\nAUTH\r\n"),
    same("CONNECT 127.0.0.1:0 HTTP/1.1\r\nAUTH\r\n"),
    same("CONNECT 127.0.0.1:65536 HTTP/1.1\r\nAUTH\r\n"),
    same("CONNECT 127.0.0.1 HTTP/1.1\r\nAUTH\r\n"),
    same("CONNECT :443 HTTP/1.1\r\nAUTH\r\n"),
    differs("CONNECT / HTTP/1.1\r\nAUTH\r\n", 4, "Squid looks for a host of that name"),
    differs("CONNECT http://TO/ HTTP/1.1\r\nAUTH\r\n", 4, "Squid looks for a host called http"),
    differs("GET ftp://TO/ HTTP/1.1\r\nHost: TO\r\nAUTH\r\n", 4, "Squid speaks FTP, this door does not"),
    differs("GET gopher://TO/ HTTP/1.1\r\nHost: TO\r\nAUTH\r\n", 4, "Squid says that it cannot (501), this door that it is asked wrongly"),
    same("GET / HTTP/1.1\r\nHost: TO\r\nAUTH\r\n"),
    same("GET http:///x HTTP/1.1\r\nHost: TO\r\nAUTH\r\n"),
    // What could be read in two ways.
    differs("CONNECT TO HTTP/1.1\nHost: TO\nAUTH\n", 4, "a line that ends in LF alone may be another's two"),
    same("GET http://TO/ HTTP/1.1\r\nHost: TO\r\nA : b\r\nAUTH\r\n"),
    differs("GET http://TO/ HTTP/1.1\r\nHost: TO\r\nA: b\r\n folded\r\nAUTH\r\n", 4, "RFC 9112 section 5.2 has a proxy refuse folded lines, or unfold them"),
    differs("GET http://TO/ HTTP/1.1\r\nHost: TO\r\nHost: ELSE\r\nAUTH\r\n", 4, "RFC 9112 section 3.2 has a server refuse a second Host"),
    same("POST http://TO/ HTTP/1.1\r\nHost: TO\r\nContent-Length: 3\r\nContent-Length: 4\r\nAUTH\r\nabc"),
    differs("POST http://TO/ HTTP/1.1\r\nHost: TO\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nAUTH\r\n0\r\n\r\n", 4, "RFC 9112 section 6.1: may be an attempt at smuggling"),
    same("POST http://TO/ HTTP/1.1\r\nHost: TO\r\nContent-Length: x\r\nAUTH\r\n"),
    differs("POST http://TO/ HTTP/1.1\r\nHost: TO\r\nTransfer-Encoding: gzip\r\nAUTH\r\n", 4, "Squid says that it cannot (501), this door that it is asked wrongly"),
    differs("CONNECT TO HTTP/1.1\r\nHost: TO\r\nContent-Length: 3\r\nAUTH\r\nabc", 4, "CONNECT has no body (RFC 9110 section 9.3.6): is abc the tunnel's?"),
    differs("CONNECT  TO HTTP/1.1\r\nAUTH\r\n", 4, "RFC 9112 section 3: one space"),
    differs("CONNECT TO HTTP/9.9\r\nAUTH\r\n", 4, "Squid names the version (505)"),
    same("CONNECT TO\r\nAUTH\r\n"),
    same("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\r\n\r\n"),
    same("GET http://TO/ HTTP/1.1\r\nHost: TO\r\nA: \0\r\nAUTH\r\n"),
];

/// What an answer begins with, of a proxy that may keep the connection.
fn status(proxy: SocketAddr, request: &[u8]) -> u16 {
    let mut stream = peers::connect(proxy);
    // One that looks for a host that is nowhere has no answer for long.
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let _ = stream.write_all(request);
    let head = read_head(&mut stream);
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

struct Squid(Child);

impl Drop for Squid {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn squid(folder: &Folder, allowed: [SocketAddr; 2]) -> (Squid, SocketAddr) {
    let address = peers::nobody();
    let path = |name: &str| folder.path(name).display().to_string();
    let user = run_well("openssl", &["passwd", "-apr1", "canary-7d1f"]);
    folder.write("users", &format!("agents:{user}"));
    let [to, nobody] = allowed.map(|allowed| allowed.port());
    let text = format!(
        "http_port {address}\nauth_param basic program /usr/lib/squid/basic_ncsa_auth {}\n\
         auth_param basic realm fanin\nacl users proxy_auth REQUIRED\nacl to dst 127.0.0.1/32\n\
         acl ports port {to} {nobody}\nhttp_access deny !users\nhttp_access allow to ports\n\
         http_access deny all\ncache deny all\naccess_log none\ncache_log /dev/null\n\
         cache_store_log none\npid_filename none\nshutdown_lifetime 0 seconds\n\
         dns_nameservers 127.0.0.1\npinger_enable off\nconnect_retries 0\ncache_mem 8 MB\n\
         max_filedescriptors 1024\nvisible_hostname test\ncoredump_dir {}\n",
        path("users"),
        path("")
    );
    let file = folder.write("squid.conf", &text);
    // It runs as a user of its own.
    fs::set_permissions(folder.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let mut squid = Command::new("squid");
    squid.args(["-N", "-f"]).arg(file).stdout(Stdio::null()).stderr(Stdio::null());
    let child = Squid(squid.spawn().expect("squid; scripts/test installs it"));
    await_that("squid listens", || std::net::TcpStream::connect(address).is_ok());
    (child, address)
}

#[test]
fn squid_and_the_door_answer_alike_or_the_table_says_why_not() {
    let (server, _) = witness();
    let elsewhere = peers::echo();
    let nobody = peers::nobody();
    let folder = Folder::new("squid");
    let (_squid, squid) = squid(&folder, [server.address, nobody]);
    let file = format!(
        "[global]\nworkers = 1\n[[listener]]\nbind = [\"127.0.0.1:0\"]\nmode = \"proxy\"\n[proxy]\n\
         allow = [\"{}\", \"{nobody}\"]\nusers = {{ agents = \"{}\" }}\n",
        server.address,
        hash()
    );
    let path = folder.write("f.toml", &file);
    let relay = Relay::start(&["-c", path.to_str().unwrap()]);
    let mut wrong = Vec::new();
    for Row { ask: text, differs } in &ROWS {
        let request = text
            .replace("AUTH", "Proxy-Authorization: Basic YWdlbnRzOmNhbmFyeS03ZDFm\r\n")
            .replace("NOBODY", &nobody.to_string())
            .replace("ELSE", &elsewhere.address.to_string())
            .replace("TO", &server.address.to_string());
        let class = |proxy| status(proxy, request.as_bytes());
        let (theirs, ours) = (class(squid), class(relay.address()));
        let (fits, why) = match differs {
            None => (theirs / 100 == ours / 100, "alike"),
            Some((class, why)) => (ours / 100 == *class && theirs / 100 != *class, *why),
        };
        if !fits {
            wrong.push(format!("squid {theirs}, fanin {ours} ({why}): {}", text.escape_debug()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert_eq!(elsewhere.accepted(), 0);
}
