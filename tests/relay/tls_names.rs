//! TLS clients of listeners of mode "tcp": the name that they ask for is read, told and followed.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};

use crate::support::peers::{self, Server};
use crate::support::relay::Relay;
use crate::support::tls::{certificates, secure};
use crate::support::{Folder, await_that, run, text};

const ENGINES: [&str; 2] = ["epoll", "io_uring"];
/// The first message of a client that asks for a.example, as short as can be.
const HELLO: &[u8] =
    b"\x16\x03\x01\x00\x41\x01\x00\x00\x3d\x03\x03RANDOMRANDOMRANDOMRANDOMRANDOMRA\x00\
    \x00\x02\x13\x01\x01\x00\x00\x12\x00\x00\x00\x0e\x00\x0c\x00\x00\x09a.example";

/// `a.example` and all below `b.example` have a server of their own, and all else goes to the rest.
fn relay(folder: &Folder, engine: &str, listener: &str, [a, b, rest]: [SocketAddr; 3]) -> Relay {
    let file = format!(
        "[global]\nworkers = 1\nengine = \"{engine}\"\n\
         [[listener]]\nbind = [\"127.0.0.1:0\"]\nbackend = \"rest\"\n{listener}\n\
         routes = [{{ sni = \"a.example\", backend = \"a\" }}, {{ sni = \"*.b.example\", backend = \"b\" }}]\n\
         [[backend.rest.server]]\naddress = \"{rest}\"\n\
         [[backend.a.server]]\naddress = \"{a}\"\n\
         [[backend.b.server]]\naddress = \"{b}\"\n\
         [log]\nsessions = true\nnull = true\n"
    );
    let path = folder.write(&format!("{engine}.toml"), &file);
    Relay::start(&["-c", path.to_str().unwrap()])
}

fn echoes() -> [Server; 3] {
    [peers::echo(), peers::echo(), peers::echo()]
}

/// Openssl's client checks the certificate, and sees the server that it has asked for.
#[test]
fn openssl_goes_where_its_name_leads() {
    let folders = ["a", "b"].map(|name| Folder::new(&format!("tls-names-{name}")));
    let servers = folders.each_ref().map(|folder| {
        certificates(folder);
        secure(folder)
    });
    folders[1].write("answer", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nsafe too\n");
    let [a, b] = servers.each_ref().map(|server| server.address);
    for engine in ENGINES {
        let mut relay = relay(&folders[0], engine, "", [a, b, b]);
        let ask = |name: &str, folder: &Folder| {
            let script = format!(
                "printf 'GET /answer HTTP/1.0\\r\\n\\r\\n' | openssl s_client -quiet -ign_eof \
                 -verify_return_error -CAfile {} {name} -connect {} 2>&1",
                folder.path("ca.pem").display(),
                relay.address(),
            );
            text(&run("sh", &["-c", &script]).stdout)
        };
        for (name, server, answer) in [
            ("-servername a.example", 0, "safe\n"),
            ("-servername A.Example", 0, "safe\n"),
            ("-servername x.y.b.example", 1, "safe too\n"),
            // Not below it, and nobody's.
            ("-servername b.example", 1, "safe too\n"),
            ("-noservername", 1, "safe too\n"),
        ] {
            let said = ask(name, &folders[server]);
            assert!(said.contains("200 OK") && said.ends_with(answer), "{engine} {name}: {said}");
        }
        let line = relay.await_line("sni=x.y.b.example");
        assert!(line.contains("server=b/"), "{line}");
        let ends = || text(&relay.ask_with(&["ends", "--json"]).stdout);
        await_that("all are told of", || ends().matches("\"sni\":\"").count() == 4);
        let ends: serde_json::Value = serde_json::from_str(&ends()).unwrap();
        assert_eq!(ends[0]["sni"], "a.example");
        let status = relay.status();
        let listener = &status["listeners"][0];
        assert_eq!(listener["traffic"]["named"], 4, "{listener}");
        let counts = [0, 1].map(|n| listener["routes"][n]["sessions_total"].as_u64().unwrap());
        assert_eq!(counts, [2, 1], "{listener}");
        assert_eq!(ends[0]["reason"], "completed");
    }
}

#[test]
fn a_first_message_in_pieces_goes_the_same_way_and_arrives_as_it_was() {
    let folder = Folder::new("tls-names-pieces");
    for engine in ENGINES {
        let servers = echoes();
        let addresses = servers.each_ref().map(|server| server.address);
        let relay = relay(&folder, engine, "", addresses);
        // A record's header, a record for each byte of the message, and all at once with what follows.
        let records = |bytes: &[u8]| -> Vec<u8> {
            bytes[5..].iter().flat_map(|byte| [0x16, 3, 1, 0, 1, *byte]).collect()
        };
        for (bytes, piece) in [
            (HELLO.to_vec(), 1),
            (HELLO.to_vec(), 5),
            (records(HELLO), 7),
            ([HELLO, &[7; 50_000]].concat(), usize::MAX),
        ] {
            let mut client = peers::connect(relay.address());
            client.set_nodelay(true).unwrap();
            for piece in bytes.chunks(piece) {
                client.write_all(piece).unwrap();
            }
            client.shutdown(Shutdown::Write).unwrap();
            let mut back = Vec::new();
            client.read_to_end(&mut back).unwrap();
            assert_eq!(back, bytes, "{engine}, {piece} at a time");
        }
        assert_eq!(servers.map(|server| server.accepted()), [4, 0, 0], "{engine}");
    }
}

#[test]
fn who_names_nobody_goes_to_the_rest_at_once_and_who_says_nothing_after_a_while() {
    let folder = Folder::new("tls-names-rest");
    let relays = ENGINES.map(|engine| {
        let (a, rest) = (peers::echo(), peers::echo());
        let relay = relay(&folder, engine, "", [a.address, a.address, rest.address]);
        assert_eq!(peers::exchange(relay.address(), b"GET / HTTP/1.1\r\n").unwrap().len(), 16);
        assert_eq!(peers::exchange(relay.address(), b"").unwrap(), b"", "an end is an end");
        // It breaks off in the middle.
        assert_eq!(peers::exchange(relay.address(), &HELLO[..30]).unwrap(), &HELLO[..30]);
        assert_eq!((a.accepted(), rest.accepted()), (0, 3));
        relay
    });
    // Servers that speak first, to clients who wait for that.
    let speaks = peers::name("welcome");
    let [epoll, io_uring] = ENGINES.map(|engine| {
        let address = speaks.address;
        relay(&Folder::new(&format!("tls-names-first-{engine}")), engine, "", [address; 3])
    });
    let clients = [&epoll, &io_uring].map(|relay| peers::connect(relay.address()));
    for mut client in clients {
        client.write_all(&HELLO[..3]).unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap_or_default();
        assert_eq!(said, "welcome");
    }
    drop(relays);
}

#[test]
fn a_name_behind_a_header_leads_too() {
    let folder = Folder::new("tls-names-header");
    for engine in ENGINES {
        let servers = echoes();
        let addresses = servers.each_ref().map(|server| server.address);
        let mut relay = relay(&folder, engine, "proxy_from = [\"127.0.0.1\"]", addresses);
        let header = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
        for cut in [10, header.len(), header.len() + 20] {
            let mut client = peers::connect(relay.address());
            client.set_nodelay(true).unwrap();
            let all = [&header[..], HELLO].concat();
            client.write_all(&all[..cut]).unwrap();
            client.write_all(&all[cut..]).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut back = Vec::new();
            client.read_to_end(&mut back).unwrap();
            assert_eq!(back, HELLO, "{engine}, cut at {cut}");
        }
        assert_eq!(servers.map(|server| server.accepted()), [3, 0, 0], "{engine}");
        let line = relay.await_line("client=192.0.2.7:56324");
        assert!(line.contains("sni=a.example"), "{line}");
    }
}
