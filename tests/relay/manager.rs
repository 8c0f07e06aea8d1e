//! What the service manager is told, and what it is given to keep (sd_notify(3)): here it is a socket
//! that writes everything down. scripts/package-check has the same with systemd.

use std::os::unix::net::UnixDatagram;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::relay::{BINARY, Relay};
use crate::support::{Folder, await_that};

struct Manager {
    socket: UnixDatagram,
    folder: Folder,
    heard: String,
}

impl Manager {
    fn new(name: &str) -> Self {
        let folder = Folder::new(name);
        let socket = UnixDatagram::bind(folder.path("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, folder, heard: String::new() }
    }

    /// A service of two workers that it has started.
    fn start(&self) -> Relay {
        let mut command = Command::new(BINARY);
        command.env("NOTIFY_SOCKET", self.folder.path("notify"));
        command.args([
            "run",
            "--listen",
            "127.0.0.1:0",
            "--server",
            "127.0.0.1:9",
            "--workers",
            "2",
        ]);
        Relay::start_by(command)
    }

    /// Everything that it has been told; a socket that comes with it is closed at once.
    fn hear(&mut self) -> &str {
        let mut told = [0; 4096];
        while let Ok(bytes) = self.socket.recv(&mut told) {
            self.heard += &String::from_utf8_lossy(&told[..bytes]);
            self.heard.push('\n');
        }
        &self.heard
    }

    #[track_caller]
    fn await_words(&mut self, words: &str) {
        await_that(words, || self.hear().contains(words));
    }
}

fn tell(relay: &Relay, signal: Signal) {
    kill(Pid::from_raw(relay.parent() as i32), signal).unwrap();
}

#[test]
fn the_service_manager_is_told_when_clients_are_served_and_given_the_sockets_to_keep() {
    let mut manager = Manager::new("manager-ready");
    let relay = manager.start();
    manager.await_words("READY=1");
    let name = format!("FDNAME={}", relay.address().to_string().replace(':', "."));
    let kept = manager.hear().matches("FDSTORE=1").count();
    assert_eq!((kept, manager.hear().matches(&name).count()), (2, 2), "{}", manager.heard);
    tell(&relay, Signal::SIGHUP);
    manager.await_words("RELOADING=1");
    await_that("the end of the reload", || manager.hear().matches("READY=1").count() == 2);
}

#[test]
fn a_stop_lets_go_of_the_sockets_and_a_restart_leaves_them_to_the_next_process() {
    for (signal, lets_go) in [(Signal::SIGTERM, true), (Signal::SIGQUIT, false)] {
        let mut manager = Manager::new(&format!("manager-{}", signal.as_str()));
        let mut relay = manager.start();
        manager.await_words("READY=1");
        tell(&relay, signal);
        assert!(relay.await_end().success(), "{signal}: {}", relay.log());
        assert!(manager.hear().contains("STOPPING=1"), "{signal}: {}", manager.heard);
        assert_eq!(
            manager.heard.contains("FDSTOREREMOVE=1"),
            lets_go,
            "{signal}: {}",
            manager.heard
        );
    }
}
