//! What is read of a client's first bytes: PROXY headers, requests to a web proxy, an agent's head.

use divan::{Bencher, black_box};
use fanin::door::head::onward;
use fanin::door::request;
use fanin::op::ProxyVersion;
use fanin::session::greeting;
use hyper::Request;
use hyper::http::request::Parts;

fn header(version: ProxyVersion) -> Vec<u8> {
    let [client, relay] = ["203.0.113.77:51234", "192.0.2.1:3834"].map(|at| at.parse().unwrap());
    greeting::header(version, client, relay)
}

#[divan::bench]
fn proxy_header_v1(bencher: Bencher<'_, '_>) {
    let bytes = header(ProxyVersion::V1);
    assert!(matches!(greeting::parse(&bytes), greeting::Parsed::Header { .. }));
    bencher.bench_local(|| greeting::parse(black_box(&bytes)));
}

#[divan::bench]
fn proxy_header_v2(bencher: Bencher<'_, '_>) {
    let bytes = header(ProxyVersion::V2);
    assert!(matches!(greeting::parse(&bytes), greeting::Parsed::Header { .. }));
    bencher.bench_local(|| greeting::parse(black_box(&bytes)));
}

#[divan::bench]
fn web_proxy_connect(bencher: Bencher<'_, '_>) {
    let text = "CONNECT intake.example.com:443 HTTP/1.1\r\nHost: intake.example.com:443\r\n\
                User-Agent: Datadog Agent/5\r\nProxy-Connection: Keep-Alive\r\n\r\n";
    assert!(matches!(request::parse(text.as_bytes()), request::Parsed::Head { .. }));
    bencher.bench_local(|| request::parse(black_box(text.as_bytes())));
}

/// The dozen lines of an agent of version 5.
fn agents_head() -> Parts {
    Request::post("/stsAgent/intake/?api_key=0123456789abcdef")
        .header("host", "intake.example.com")
        .header("content-type", "application/json")
        .header("content-encoding", "deflate")
        .header("content-length", "3977")
        .header("content-md5", "5d41402abc4b2a76b9719d911017c592")
        .header("user-agent", "Datadog Agent/2.8.0")
        .header("accept", "text/html, */*")
        .header("accept-encoding", "gzip, deflate")
        .header("dd-collector-version", "2.8.0")
        .header("dd-api-key", "0123456789abcdef")
        .header("connection", "keep-alive")
        .body(())
        .unwrap()
        .into_parts()
        .0
}

#[divan::bench]
fn agents_head_onward(bencher: Bencher<'_, '_>) {
    bencher
        .with_inputs(agents_head)
        .bench_local_values(|head| onward(black_box(head), "/prefix", 1 << 20).unwrap());
}
