//! Source ports towards a server that is not on loopback: two network namespaces and a veth pair,
//! since loopback hides what TIME_WAIT does (`tcp_tw_reuse` is 2 by default).

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::support::hosts::Hosts;
use crate::support::{Folder, peers};

/// A server of `host` that waits for the client's end, and remembers where connections came from.
fn remembering(host: &str) -> (SocketAddr, Arc<Mutex<Vec<u16>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let listener = Hosts::on(host, || TcpListener::bind("10.83.0.2:0").unwrap());
    let remember = Arc::clone(&seen);
    let server = peers::Server::on(listener, move |mut stream| {
        remember.lock().unwrap().push(stream.peer_addr().unwrap().port());
        let _ = stream.read_to_end(&mut Vec::new());
    });
    (server.address, seen)
}

#[test]
fn a_hundred_ports_carry_thousands_of_connections_that_the_relay_closes_first() {
    let Some(hosts) = Hosts::new("a") else { return };
    for engine in ["epoll", "io_uring"] {
        let (server, seen) = remembering(&hosts.server);
        let folder = Folder::new("ports");
        let file = format!(
            "[global]\nworkers = 1\nengine = \"{engine}\"\n\
             [[listener]]\nbind = [\"127.0.0.1:0\"]\n\
             [backend.b]\nsource = {{ ports = \"11000-11099\" }}\n\
             [[backend.b.server]]\naddress = \"{server}\"\n"
        );
        let path = folder.write("f.toml", &file);
        let relay = hosts.start_relay(&["-c", path.to_str().unwrap()]);
        let address = relay.address();
        Hosts::on(&hosts.relay, || {
            for _ in 0..3000 {
                // The client ends first, as an agent does, so TIME_WAIT stays with the relay.
                let mut client = TcpStream::connect(address).unwrap();
                client.shutdown(std::net::Shutdown::Write).unwrap();
                assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
            }
        });
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 3000);
        let ours = seen.iter().filter(|port| (11_000..=11_099).contains(*port)).count();
        assert_eq!(ours, 3000, "the kernel chose {} ports", 3000 - ours);
        assert_eq!(&seen[..100], &seen[100..200], "the port longest free comes first");
    }
}

#[test]
fn by_default_ports_come_from_outside_the_range_of_the_kernel() {
    let Some(hosts) = Hosts::new("b") else { return };
    let (server, seen) = remembering(&hosts.server);
    let relay = hosts.start_relay(&["--listen", "127.0.0.1:0", "--server", &server.to_string()]);
    let address = relay.address();
    Hosts::on(&hosts.relay, || {
        for _ in 0..20 {
            peers::exchange(address, b"").unwrap();
        }
    });
    let seen = seen.lock().unwrap();
    assert!(seen.iter().all(|port| (10_240..=32_767).contains(port)), "{seen:?}");
}
