//! Connections to the servers come from the addresses that are configured, and from no other.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::support::hosts::Hosts;
use crate::support::peers::{self, Server};
use crate::support::relay::{BINARY, Relay};
use crate::support::{Folder, PATIENCE, run, run_well, text};

const ENGINES: [&str; 2] = ["epoll", "io_uring"];

/// A server on the host `server` that tells everybody where it sees them come from.
fn mirror(hosts: &Hosts) -> Server {
    let listener = Hosts::on(&hosts.server, || TcpListener::bind("10.83.0.2:0").unwrap());
    Server::on(listener, |mut stream| {
        let from = stream.peer_addr().unwrap();
        if writeln!(stream, "{from}").is_ok() {
            peers::echoed(stream);
        }
    })
}

fn relay(hosts: &Hosts, server: &Server, folder: &Folder, engine: &str, source: &str) -> Relay {
    let file = format!(
        "[global]\nworkers = 1\nengine = \"{engine}\"\n\
         [[listener]]\nbind = [\"127.0.0.1:3834\"]\n\
         [backend.b]\nretries = 0\nsource = {source}\n\
         [[backend.b.server]]\naddress = \"{}\"\n",
        server.address
    );
    hosts.start_relay(&["-c", folder.write("f.toml", &file).to_str().unwrap()])
}

/// A client of a relay, and where the server sees it come from.
fn visit(hosts: &Hosts, relay: &Relay) -> (TcpStream, SocketAddr) {
    let stream = Hosts::on(&hosts.relay, || TcpStream::connect(relay.address()).unwrap());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    (stream, line.trim().parse().unwrap_or_else(|_| panic!("no address: {line:?}")))
}

fn by_address(visits: &[(TcpStream, SocketAddr)]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (_, from) in visits {
        *counts.entry(from.ip().to_string()).or_default() += 1;
    }
    counts
}

#[test]
fn two_addresses_have_twice_the_ports_and_one_that_goes_leaves_all_to_the_other() {
    let Some(hosts) = Hosts::new("a") else { return };
    let second = ["-n", &hosts.relay, "address", "add", "10.83.0.3/24", "dev", "eth0"];
    let server = mirror(&hosts);
    let folder = Folder::new("source-addresses");
    for engine in ENGINES {
        run_well("ip", &second);
        let source = "{ addresses = [\"10.83.0.1\", \"10.83.0.3\"], ports = \"11000-11009\" }";
        let relay = relay(&hosts, &server, &folder, engine, source);
        let visits: Vec<_> = (0..20).map(|_| visit(&hosts, &relay)).collect();
        let expected = [("10.83.0.1".to_owned(), 10), ("10.83.0.3".to_owned(), 10)].into();
        assert_eq!(by_address(&visits), expected, "{engine}");
        let ours = 11_000..=11_009;
        assert!(visits.iter().all(|(_, from)| ours.contains(&from.port())), "{visits:?}");
        drop(visits);

        run_well("ip", &["-n", &hosts.relay, "address", "del", "10.83.0.3/24", "dev", "eth0"]);
        let visits: Vec<_> = (0..10).map(|_| visit(&hosts, &relay)).collect();
        assert_eq!(by_address(&visits), [("10.83.0.1".to_owned(), 10)].into(), "{engine}");
        assert_eq!(relay.total("connect_failures"), 0);
    }
}

#[test]
fn the_kernel_chooses_ports_at_the_address_that_is_named() {
    let Some(hosts) = Hosts::new("b") else { return };
    run_well("ip", &["-n", &hosts.relay, "address", "add", "10.83.0.3/24", "dev", "eth0"]);
    let server = mirror(&hosts);
    let folder = Folder::new("source-address");
    for engine in ENGINES {
        let source = "{ addresses = [\"10.83.0.3\"], ports = \"kernel\" }";
        let relay = relay(&hosts, &server, &folder, engine, source);
        let (_, from) = visit(&hosts, &relay);
        assert_eq!(from.ip().to_string(), "10.83.0.3");
        assert!(from.port() >= 32_768, "{from}");
    }
}

#[test]
fn an_address_of_another_host_is_refused_at_the_start_with_the_remedy() {
    let folder = Folder::new("foreign-source");
    let file = folder.write(
        "f.toml",
        "[[listener]]\nbind = [\"127.0.0.1:0\"]\n[backend.b]\n\
         source = { addresses = [\"192.0.2.77\"] }\n\
         [[backend.b.server]]\naddress = \"192.0.2.1:443\"\n",
    );
    let path = file.to_str().unwrap();
    assert!(run(BINARY, &["check", "-c", path]).status.success(), "it may be another host's file");
    let output = run(BINARY, &["run", "-c", path]);
    assert_eq!(output.status.code(), Some(78));
    let said = text(&output.stderr);
    for part in ["192.0.2.77", "backend b", "ip address", "ip_nonlocal_bind=1"] {
        assert!(said.contains(part), "{said}");
    }
}
