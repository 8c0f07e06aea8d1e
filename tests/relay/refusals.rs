//! Bad input: one clear message with the remedy, the right exit code, and nothing lost.

use std::net::TcpListener;
use std::process::Output;

use crate::support::relay::{BINARY, Relay};
use crate::support::{Folder, peers, run, text};

/// What `fanin` answered, its exit code checked and every part found in it.
#[track_caller]
fn refused(arguments: &[&str], code: i32, parts: &[&str]) -> Output {
    let output = run(BINARY, arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    output
}

#[test]
fn a_missing_server_is_wrong_usage() {
    refused(&["run", "--listen", "127.0.0.1:0"], 2, &["--server"]);
}

#[test]
fn a_missing_file_names_it_and_the_way_without_one() {
    refused(&["run", "-c", "/no/such/fanin.toml"], 78, &["/no/such/fanin.toml", "--listen"]);
}

#[test]
fn a_file_of_noise_is_a_configuration_error() {
    let folder = Folder::new("noise");
    let noise: Vec<u8> =
        (0..4096u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let path = folder.path("noise.toml");
    std::fs::write(&path, noise).unwrap();
    for command in ["run", "check"] {
        refused(&[command, "-c", path.to_str().unwrap()], 78, &["noise.toml"]);
    }
}

#[test]
fn a_wrong_value_is_shown_where_it_stands() {
    let folder = Folder::new("wrong");
    let text = "[global]\nengine = \"uring\"\n\n[[listener]]\nbind = [\"127.0.0.1:0\"]\n\
                [[backend.b.server]]\naddress = \"192.0.2.1:443\"\n";
    let path = folder.write("wrong.toml", text);
    let path = path.to_str().unwrap();
    refused(&["check", "-c", path], 78, &["wrong.toml:2:", "uring", "io_uring"]);
}

#[test]
fn a_port_in_use_is_named_with_the_way_to_find_its_owner() {
    let owner = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = owner.local_addr().unwrap().to_string();
    let arguments = ["run", "--listen", &address, "--server", "127.0.0.1:9"];
    refused(&arguments, 71, &[&address, "ss -ltnp"]);
}

#[test]
fn a_second_instance_is_refused_and_the_first_serves_on() {
    let server = peers::name("first");
    for engine in ["epoll", "io_uring"] {
        let relay = Relay::between(&[server.address], &["--engine", engine]);
        let address = relay.address().to_string();
        // The claim of a port that the kernel chose is made by the listener itself.
        let arguments = ["run", "--listen", &address, "--server", "127.0.0.1:9"];
        refused(&arguments, 71, &[&address, "another"]);
        assert_eq!(peers::exchange(relay.address(), b"").unwrap(), b"first");
    }
}

#[test]
fn a_relay_can_follow_another_on_the_same_port_at_once() {
    let server = peers::name("here");
    for engine in ["epoll", "io_uring"] {
        let port = peers::nobody().port();
        let listen = format!("127.0.0.1:{port}");
        let server = server.address.to_string();
        let arguments = ["--listen", &listen, "--server", &server, "--engine", engine];
        for _ in 0..3 {
            let mut relay = Relay::start(&arguments);
            assert_eq!(peers::exchange(relay.address(), b"").unwrap(), b"here");
            relay.signal("TERM");
            assert!(relay.await_end().success());
        }
    }
}

#[test]
fn an_unreachable_server_does_not_stop_the_relay() {
    let relay = Relay::between(&[peers::nobody()], &[]);
    let refused = peers::exchange(relay.address(), b"x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(relay.status()["total"]["ended"]["connect_refused"], 1);
}
