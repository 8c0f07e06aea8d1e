//! What an operator does to a relay that is at work, and what befalls its servers meanwhile: no client
//! has an error of it.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::nameserver::{Answer, Nameserver};
use crate::support::peers::{self, Server};
use crate::support::relay::Relay;
use crate::support::{Folder, await_passed, await_that, cli};

/// Clients that connect anew for each exchange, and those that keep their connection.
const CHURNING: usize = 4;
const KEEPING: usize = 8;
/// How long those who keep their connection rest between two exchanges.
const REST: Duration = Duration::from_millis(10);

/// Has clients at work while `meanwhile` runs; how many exchanges there were. None may fail.
#[track_caller]
fn under_load(relay: SocketAddr, meanwhile: impl FnOnce(&dyn Fn() -> u64)) -> u64 {
    let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..CHURNING {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    let answer = peers::exchange(relay, b"a report").expect("no error");
                    assert_eq!(answer, b"a report");
                    done.fetch_add(1, Relaxed);
                }
            });
        }
        for _ in 0..KEEPING {
            scope.spawn(|| {
                let mut stream = peers::connect(relay);
                while !over.load(Relaxed) {
                    ask(&mut stream).expect("no error on a kept connection");
                    done.fetch_add(1, Relaxed);
                    await_passed(Instant::now(), REST);
                }
            });
        }
        meanwhile(&|| done.load(Relaxed));
        over.store(true, Relaxed);
    });
    done.into_inner()
}

fn ask(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

#[test]
fn fifty_reloads_and_ten_upgrades_under_load_cost_no_client_an_error() {
    let server = peers::echo();
    for engine in ["epoll", "io_uring"] {
        let folder = Folder::new(&format!("renewals-{engine}"));
        // Each reload changes something; one in ten needs another relay process.
        let write = |round: usize| {
            let file = format!(
                "[global]\nengine = \"{engine}\"\nworkers = {}\n\
                 [log]\nsessions = \"failed\"\n[[listener]]\nbind = [\"127.0.0.1:0\"]\n\
                 [[backend.b.server]]\naddress = \"{}\"\nweight = {}\n",
                1 + round / 10 % 2,
                server.address,
                1 + round % 7,
            );
            folder.write("f.toml", &file)
        };
        let relay = Relay::start(&["-c", write(0).to_str().unwrap()]);
        let exchanges = under_load(relay.address(), |done| {
            for round in 1..=50 {
                let before = done();
                write(round);
                let output = relay.ask("reload");
                assert!(output.status.success(), "{engine}, reload {round}: {output:?}");
                await_that("clients go on", || done() > before);
            }
            for round in 1..=10 {
                let before = done();
                let output = relay.ask("upgrade");
                assert!(output.status.success(), "{engine}, upgrade {round}: {output:?}");
                await_that("clients go on", || done() > before);
            }
        });
        assert!(exchanges > 500, "{engine}: {exchanges} exchanges");
        assert!(relay.status()["generation"].as_u64() >= Some(15), "{}", relay.status());
    }
}

/// The server dies and its name leads to another one: whoever comes meanwhile waits for the name.
#[test]
fn a_failover_by_name_costs_no_new_client_an_error() {
    let at = |last: u8| Answer::At(vec![IpAddr::from([127, 0, 0, last])], 1);
    for engine in ["epoll", "io_uring"] {
        let [first, second] = peers::on_one_port(["127.0.0.2", "127.0.0.3"]);
        let port = first.local_addr().unwrap().port();
        let _second = Server::on(second, peers::echoed);
        let nameserver = Nameserver::new();
        nameserver.says("intake.example", at(2));
        let file = format!(
            "[global]\nengine = \"{engine}\"\n[dns]\nnameservers = [\"{}\"]\nttl_min = \"1s\"\n\
             [[listener]]\nbind = [\"127.0.0.1:0\"]\n\
             [[backend.b.server]]\nname = \"a\"\naddress = \"intake.example:{port}\"\n",
            nameserver.address
        );
        let folder = Folder::new(&format!("failover-{engine}"));
        let mut relay = Relay::start(&["-c", folder.write("f.toml", &file).to_str().unwrap()]);
        let mut before = peers::connect(relay.address());
        before.write_all(b"?").unwrap();
        let (mut there, _) = first.accept().unwrap();
        there.read_exact(&mut [0]).unwrap();
        there.write_all(b"!").unwrap();
        before.read_exact(&mut [0]).unwrap();
        // It is gone, for whoever comes now.
        drop(first);
        nameserver.says("intake.example", at(3));
        let clients: Vec<_> = (0..10)
            .map(|_| {
                let relay = relay.address();
                thread::spawn(move || peers::exchange(relay, b"after"))
            })
            .collect();
        for client in clients {
            assert_eq!(client.join().unwrap().expect("no error"), b"after", "{engine}");
        }
        relay.await_line("is at 127.0.0.3 now, was at 127.0.0.2");
        assert_eq!(relay.total("ended.no_server"), 0);
        // Who was there before goes on where he was.
        before.write_all(b"?").unwrap();
        there.read_exact(&mut [0]).unwrap();
        there.write_all(b"!").unwrap();
        before.read_exact(&mut [0]).unwrap();
    }
}

/// A name moves to and fro, and an administrator changes servers a hundred times a second (R5).
#[test]
fn names_that_move_and_changes_by_hand_under_load_cost_no_client_an_error() {
    let at = |last: u8| Answer::At(vec![IpAddr::from([127, 0, 0, last])], 1);
    for engine in ["epoll", "io_uring"] {
        let [first, second] = peers::on_one_port(["127.0.0.2", "127.0.0.3"]);
        let port = first.local_addr().unwrap().port();
        let _servers = [Server::on(first, peers::echoed), Server::on(second, peers::echoed)];
        let other = peers::echo();
        let nameserver = Nameserver::new();
        nameserver.says("intake.example", at(2));
        let file = format!(
            "[global]\nengine = \"{engine}\"\n[log]\nsessions = \"failed\"\n\
             [dns]\nnameservers = [\"{}\"]\nttl_min = \"1s\"\n\
             [[listener]]\nbind = [\"127.0.0.1:0\"]\n\
             [[backend.b.server]]\nname = \"a\"\naddress = \"intake.example:{port}\"\n\
             [[backend.b.server]]\nname = \"o\"\naddress = \"{}\"\n",
            nameserver.address, other.address
        );
        let folder = Folder::new(&format!("moves-{engine}"));
        let mut relay = Relay::start(&["-c", folder.write("f.toml", &file).to_str().unwrap()]);
        let (address, socket) = (relay.address(), relay.control().to_owned());
        let exchanges = under_load(address, |_| {
            for last in [3, 2, 3] {
                nameserver.says("intake.example", at(last));
                relay.await_line(&format!("is at 127.0.0.{last} now"));
                for round in 0..100 {
                    let began = Instant::now();
                    let state = if round % 2 == 0 { "drain" } else { "ready" };
                    let weight = 1 + round % 9;
                    let typed = format!("set server b/o state {state}; set weight b/a {weight}");
                    assert_eq!(cli(&socket, &typed), "\n\n");
                    await_passed(began, Duration::from_millis(10));
                }
            }
        });
        assert!(exchanges > 500, "{engine}: {exchanges} exchanges");
    }
}
