//! Servers are taken out of service and brought back by the commands that scripts have for HAProxy.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use crate::support::relay::{BINARY, Relay};
use crate::support::{Folder, await_that, cells, cli, peers, run, text};

fn visits(relay: &Relay, count: usize) -> Vec<String> {
    let visit = |_| {
        let mut name = String::new();
        TcpStream::connect(relay.address()).unwrap().read_to_string(&mut name).unwrap();
        name
    };
    (0..count).map(visit).collect()
}

/// The status of a server as collectors of statistics see it.
fn status(socket: &Path, server: &str) -> String {
    cells(&cli(socket, "show stat"))[&format!("b/{server} status")].clone()
}

#[test]
fn a_server_is_drained_kept_out_over_a_reload_and_brought_back() {
    let (one, other) = (peers::name("one"), peers::name("other"));
    for engine in ["epoll", "io_uring"] {
        let folder = Folder::new(&format!("administration-{engine}"));
        let file = format!(
            "[global]\nengine = \"{engine}\"\nworkers = 2\n\
             [[listener]]\nbind = [\"127.0.0.1:0\"]\n[backend.b]\n\
             [[backend.b.server]]\nname = \"one\"\naddress = \"{}\"\n\
             [[backend.b.server]]\nname = \"other\"\naddress = \"{}\"\nweight = 4\n",
            one.address, other.address
        );
        let relay = Relay::start(&["-c", folder.write("f.toml", &file).to_str().unwrap()]);
        let socket = relay.control();
        let is_alone = |names: Vec<String>, name| names.iter().all(|visited| visited == name);

        assert_eq!(cli(socket, "set server b/other state drain"), "\n");
        assert!(is_alone(visits(&relay, 8), "one"));
        assert_eq!(status(socket, "other"), "DRAIN");
        assert_eq!(cli(socket, "disable server b/other"), "\n");
        assert_eq!(status(socket, "other"), "MAINT");
        assert!(cli(socket, "show servers state b").contains(" other 127.0.0.1 0 1 "));
        assert!(relay.ask("reload").status.success());
        assert!(is_alone(visits(&relay, 8), "one"), "kept over a reload");
        assert_eq!(cli(socket, "enable server b/other"), "\n");
        assert!(visits(&relay, 20).iter().any(|name| name == "other"));

        assert_eq!(cli(socket, "get weight b/other"), "4 (initial 4)\n\n");
        assert_eq!(cli(socket, "set weight b/other 0%"), "\n");
        assert_eq!(cli(socket, "get weight b/other"), "0 (initial 4)\n\n");
        assert!(is_alone(visits(&relay, 8), "one"));
        assert_eq!(
            cli(socket, "set server b/other weight 100%; get weight b/other"),
            "\n4 (initial 4)\n\n"
        );

        assert_eq!(cli(socket, "disable server b/nobody"), "No such server.\n\n");
        assert!(cli(socket, "set weight b/other 999").contains("allowed: 0 to 256"));
        assert_eq!(cli(socket, "show cli level"), "admin\n\n");
    }
}

#[test]
fn how_the_connections_of_a_session_that_failed_had_fared_is_kept() {
    let server = peers::echo();
    for engine in ["epoll", "io_uring"] {
        let relay = Relay::between(&[server.address], &["--engine", engine]);
        let mut client = peers::connect(relay.address());
        client.write_all(b"?").unwrap();
        client.read_exact(&mut [0]).unwrap();
        peers::reset(client);
        let ends = |words: &str| cli(relay.control(), &format!("ends {words}"));
        await_that("the end is known", || ends("").contains("client_reset"));
        let told: serde_json::Value = serde_json::from_str(&ends("client_reset json")).unwrap();
        for link in ["client_link", "server_link"] {
            assert!(told[0][link]["rtt_micros"].as_u64().unwrap() > 0, "{engine}: {told}");
            assert_eq!(told[0][link]["unacknowledged"], 0, "{engine}: {told}");
        }
        assert!(told[0]["first_byte_ms"].is_u64() && told[0]["last_byte_ms"].is_u64(), "{told}");
        let status = relay.status();
        assert_eq!(
            status["servers"][0]["first_bytes"]["counts"]
                .as_array()
                .map(|counts| { counts.iter().map(|count| count.as_u64().unwrap()).sum::<u64>() }),
            Some(1),
            "{status}"
        );
    }
}

#[test]
fn why_a_session_ended_can_be_asked_afterwards_and_seen_second_by_second() {
    for engine in ["epoll", "io_uring"] {
        let folder = Folder::new(&format!("ends-{engine}"));
        let file = format!(
            "[global]\nengine = \"{engine}\"\n[log]\nsessions = false\n\
             [[listener]]\nbind = [\"127.0.0.1:0\"]\n[backend.b]\nretries = 0\n\
             [[backend.b.server]]\naddress = \"{}\"\n",
            peers::nobody()
        );
        let relay = Relay::start(&["-c", folder.write("f.toml", &file).to_str().unwrap()]);
        let client = {
            let mut stream = TcpStream::connect(relay.address()).unwrap();
            let client = stream.local_addr().unwrap().to_string();
            let _ = stream.read(&mut [0; 1]);
            client
        };
        let ends = |words: &str| cli(relay.control(), &format!("ends {words}"));
        await_that("the session's end is known", || ends("").contains(&client));
        assert!(ends("connect_refused").contains(&client));
        assert!(!ends("completed").contains(&client));
        let only: serde_json::Value =
            serde_json::from_str(&ends("connect_refused 1 json")).unwrap();
        assert_eq!(only[0]["client"], client);
        assert!(ends("nonsense").contains("allowed: completed"));
        let control = relay.control().to_str().unwrap().to_owned();
        let top = run(BINARY, &["top", "--times", "1", "--control", &control]);
        let screen = text(&top.stdout);
        assert!(top.status.success() && screen.contains("connect_refused"), "{screen}");
        let ends = run(BINARY, &["ends", "--reason", "connect_refused", "--control", &control]);
        assert!(text(&ends.stdout).contains(&client));
    }
}
