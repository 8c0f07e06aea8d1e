//! Servers that are told whose a connection is, and which of them gets it.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::support::Folder;
use crate::support::peers::{self, Server};
use crate::support::relay::Relay;

const ENGINES: [&str; 2] = ["epoll", "io_uring"];

fn relay(name: &str, engine: &str, backend: &str, servers: &[(SocketAddr, &str)]) -> Relay {
    let mut file = format!(
        "[global]\nworkers = 1\nengine = \"{engine}\"\n\
         [[listener]]\nbind = [\"127.0.0.1:0\"]\n[backend.b]\n{backend}\n"
    );
    for (address, lines) in servers {
        file += &format!("[[backend.b.server]]\naddress = \"{address}\"\n{lines}\n");
    }
    let folder = Folder::new(&format!("{name}-{engine}"));
    Relay::start(&["-c", folder.write("f.toml", &file).to_str().unwrap()])
}

/// What version 1 says to a server of a client of a relay.
fn line(client: &TcpStream, relay: &Relay) -> String {
    let (client, relay) = (client.local_addr().unwrap(), relay.address());
    format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", client.port(), relay.port())
}

fn binary(client: &TcpStream, relay: &Relay) -> Vec<u8> {
    let signature = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01";
    let ports = [client.local_addr().unwrap().port(), relay.address().port()];
    [&signature[..], &ports.map(u16::to_be_bytes).concat()].concat()
}

/// Reads exactly what is expected, and nothing else is there.
fn expect(stream: &mut TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, expected, "{:?}", String::from_utf8_lossy(&bytes));
}

#[test]
fn the_header_comes_first_and_once_whoever_speaks_first() {
    let server = peers::echo();
    // It refuses, so that the header is due again at the next.
    let nobody = peers::nobody();
    for engine in ENGINES {
        for version in ["v1", "v2"] {
            let wants = format!("send_proxy = \"{version}\"");
            let servers = [(nobody, wants.as_str()), (server.address, wants.as_str())];
            let relay = relay("introduction", engine, "retries = 3", &servers);
            let header = |client: &TcpStream| match version {
                "v1" => line(client, &relay).into_bytes(),
                _ => binary(client, &relay),
            };
            for speaks in [true, false] {
                let mut client = peers::connect(relay.address());
                let mut expected = header(&client);
                if speaks {
                    client.write_all(b"early bytes").unwrap();
                    expected.extend_from_slice(b"early bytes");
                }
                expect(&mut client, &expected);
                client.write_all(b"and later ones").unwrap();
                expect(&mut client, b"and later ones");
                client.shutdown(std::net::Shutdown::Write).unwrap();
                let mut rest = Vec::new();
                client.read_to_end(&mut rest).unwrap();
                assert_eq!(rest, b"", "{engine} {version}");
            }
        }
    }
}

#[test]
fn a_server_that_wants_none_gets_none_after_one_that_did() {
    let server = peers::echo();
    for engine in ENGINES {
        let servers = [(peers::nobody(), "send_proxy = \"v2\""), (server.address, "")];
        let relay = relay("introduction-none", engine, "retries = 3", &servers);
        for _ in 0..4 {
            let mut client = peers::connect(relay.address());
            client.write_all(b"plain").unwrap();
            expect(&mut client, b"plain");
        }
    }
}

/// It is made before there is anybody to introduce.
#[test]
fn a_spare_connection_is_introduced_when_it_is_used() {
    let server = peers::echo();
    for engine in ENGINES {
        for version in ["v1", "v2"] {
            let wants = format!("send_proxy = \"{version}\"");
            let servers = [(server.address, wants.as_str())];
            let name = format!("introduction-spare-{version}");
            let relay = relay(&name, engine, "spare = { max = 2, idle = \"1m\" }", &servers);
            for _ in 0..10 {
                let mut client = peers::connect(relay.address());
                client.write_all(b"first").unwrap();
                let mut expected = match version {
                    "v1" => line(&client, &relay).into_bytes(),
                    _ => binary(&client, &relay),
                };
                expected.extend(b"first");
                expect(&mut client, &expected);
            }
            assert!(relay.total("spares_used") >= 5, "{}", relay.status());
        }
    }
}

#[test]
fn one_relay_introduces_clients_to_another() {
    let server = peers::echo();
    for engine in ENGINES {
        let inner_file = format!(
            "[global]\nworkers = 1\nengine = \"{engine}\"\n\
             [[listener]]\nbind = [\"127.0.0.1:0\"]\nproxy_from = [\"127.0.0.1\"]\n\
             [backend.b]\n[[backend.b.server]]\naddress = \"{}\"\n",
            server.address
        );
        let folder = Folder::new(&format!("inner-{engine}"));
        let mut inner =
            Relay::start(&["-c", folder.write("f.toml", &inner_file).to_str().unwrap()]);
        let wants = "send_proxy = \"v2\"\ncheck = { interval = \"50ms\" }";
        let outer = relay("outer", engine, "", &[(inner.address(), wants)]);
        let mut client = peers::connect(outer.address());
        client.write_all(b"ping").unwrap();
        expect(&mut client, b"ping");
        let known = client.local_addr().unwrap().to_string();
        drop(client);
        inner.await_line(&known);
        assert_eq!(inner.total("ended.bad_greeting"), 0, "checks introduce themselves");
    }
}

#[test]
fn each_algorithm_shares_sessions_out_in_its_own_way() {
    let (one, other) = (peers::name("one"), peers::name("other"));
    let held = |server: &Server| server.accepted();
    for engine in ENGINES {
        let servers = [(one.address, "name = \"one\""), (other.address, "name = \"other\"")];
        let visits = |balance: &str| {
            let lines = format!("balance = \"{balance}\"");
            let relay = relay(&format!("balance-{balance}"), engine, &lines, &servers);
            let names = (0..12).map(|_| {
                let mut name = String::new();
                peers::connect(relay.address()).read_to_string(&mut name).unwrap();
                name
            });
            names.collect::<Vec<_>>()
        };
        let before = held(&one) + held(&other);
        let turns = visits("roundrobin");
        assert_eq!(turns.iter().filter(|name| *name == "one").count(), 6, "{turns:?}");
        assert_eq!(visits("first"), vec!["one"; 12]);
        let source: BTreeSet<_> = visits("source").into_iter().collect();
        assert_eq!(source.len(), 1, "one client, one server: {source:?}");
        let least: BTreeSet<_> = visits("leastconn").into_iter().collect();
        assert_eq!(least.len(), 2, "idle servers take turns: {least:?}");
        assert_eq!(visits("random").len(), 12);
        assert_eq!(held(&one) + held(&other), before + 60);
    }
}

#[test]
fn sessions_that_stay_are_evened_out_by_the_least_connections() {
    let (one, other) = (peers::echo(), peers::echo());
    for engine in ENGINES {
        let servers = [(one.address, "weight = 1"), (other.address, "weight = 3")];
        let relay = relay("leastconn", engine, "balance = \"leastconn\"", &servers);
        let before = (one.accepted(), other.accepted());
        let clients: Vec<_> = (0..40)
            .map(|_| {
                let mut client = peers::connect(relay.address());
                client.write_all(b"ping").unwrap();
                expect(&mut client, b"ping");
                client
            })
            .collect();
        let taken = (one.accepted() - before.0, other.accepted() - before.1);
        assert_eq!(taken, (10, 30), "{engine}");
        drop(clients);
    }
}
