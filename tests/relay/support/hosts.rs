//! Two hosts on this one: network namespaces with a cable between them.

use std::fs::File;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::relay::{BINARY, Relay};
use super::run_well;

/// Two hosts, `relay` at 10.83.0.1 and `server` at 10.83.0.2; gone when dropped.
pub struct Hosts {
    pub relay: String,
    pub server: String,
}

impl Hosts {
    /// `None`, said loudly, where namespaces cannot be made.
    pub fn new(name: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: network namespaces need root");
            return None;
        }
        let id = std::process::id() % 100_000;
        let hosts = Self { relay: format!("fr{name}{id}"), server: format!("fs{name}{id}") };
        let (relay, server) = (hosts.relay.as_str(), hosts.server.as_str());
        for host in [relay, server] {
            run_well("ip", &["netns", "add", host]);
            run_well("ip", &["-n", host, "link", "set", "lo", "up"]);
        }
        let pair = ["type", "veth", "peer", "name", "eth0", "netns", server];
        run_well("ip", &[&["-n", relay, "link", "add", "eth0"][..], &pair].concat());
        for (host, address) in [(relay, "10.83.0.1/24"), (server, "10.83.0.2/24")] {
            run_well("ip", &["-n", host, "address", "add", address, "dev", "eth0"]);
            run_well("ip", &["-n", host, "link", "set", "eth0", "up"]);
        }
        Some(hosts)
    }

    /// `fanin run` with these arguments on the host `relay`, listening.
    #[track_caller]
    pub fn start_relay(&self, arguments: &[&str]) -> Relay {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.relay, BINARY, "run"]).args(arguments);
        Relay::start_by(command)
    }

    /// Takes the server's cable out, or puts it in again.
    pub fn link(&self, state: &str) {
        run_well("ip", &["-n", &self.server, "link", "set", "eth0", state]);
    }

    /// Lets the kernel of the host `relay` choose source ports from these only.
    pub fn choose_ports_from(&self, first: u16, last: u16) {
        Self::on(&self.relay, || {
            let range = format!("{first} {last}");
            std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).unwrap();
        });
    }

    /// Bounds what each socket of the host `relay` may hold.
    pub fn socket_buffers_of_at_most(&self, bytes: u32) {
        Self::on(&self.relay, || {
            for name in ["tcp_rmem", "tcp_wmem"] {
                let sizes = format!("4096 {} {bytes}", bytes / 2);
                std::fs::write(format!("/proc/sys/net/ipv4/{name}"), sizes).unwrap();
            }
        });
    }

    /// Does something with a host's network: what is opened there stays there.
    pub fn on<T: Send>(host: &str, act: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{host}")).unwrap();
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                act()
            });
            inside.join().unwrap()
        })
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in [&self.relay, &self.server] {
            let _ = Command::new("ip").args(["netns", "delete", host]).status();
        }
    }
}
