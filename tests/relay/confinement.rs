//! The relay process gives up what it does not need: read from the kernel, thread by thread, while it
//! does everything that it has to.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::process::Command;

use crate::support::relay::{BINARY, Relay};
use crate::support::{Folder, await_that, cells, cli, peers, run, run_well, text};

const ENGINES: [&str; 2] = ["epoll", "io_uring"];

/// What the kernel says of each thread of a process, by its name and number.
fn threads(process: u32) -> BTreeMap<String, BTreeMap<String, String>> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap().map(Result::unwrap);
    let status = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("status")).unwrap();
        let fields = text.lines().filter_map(|line| line.split_once(":\t"));
        let fields: BTreeMap<_, _> =
            fields.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect();
        (format!("{} {}", fields["Name"], fields["Pid"]), fields)
    };
    tasks.map(status).collect()
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// All that starts threads: workers, an agent door, a log file, a syslog server, statistics.
fn everything(engine: &str, folder: &Folder, server: &str) -> String {
    format!(
        "[global]\nworkers = 2\nengine = \"{engine}\"\n\
         [log]\nfile = \"{}\"\nsyslog = \"127.0.0.1:9\"\n[stats]\nbind = [\"127.0.0.1:0\"]\n\
         [[listener]]\nname = \"tcp\"\nbind = [\"127.0.0.1:0\"]\n\
         [[listener]]\nname = \"door\"\nbind = [\"127.0.0.1:0\"]\nmode = \"agent\"\n\
         [[backend.b.server]]\naddress = \"{server}\"\ncheck = {{ interval = \"100ms\" }}\n",
        folder.path("log").display()
    )
}

#[test]
fn every_thread_has_given_up_what_it_does_not_need() {
    for engine in ENGINES {
        let server = peers::http();
        let folder = Folder::new(&format!("confined-{engine}"));
        let file = everything(engine, &folder, &server.address.to_string());
        let path = folder.write("f.toml", &file);
        let mut relay = Relay::start(&["-c", path.to_str().unwrap()]);
        for address in relay.addresses() {
            run_well("curl", &["-s", "-f", "-m", "10", &format!("http://{address}/")]);
        }
        fs::rename(folder.path("log"), folder.path("log.1")).unwrap();
        relay.signal("HUP");
        relay.await_line("reloaded");
        await_that("the log is made anew", || folder.path("log").exists());
        let threads = threads(relay.pid());
        let named = |name: &str| threads.keys().any(|key| key.starts_with(name));
        assert!(["fanin", "worker-0", "worker-1", "door-0", "log"].iter().all(|name| named(name)));
        for (name, status) in &threads {
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(status[set], "0000000000000000", "{engine}: {name}: {set}");
            }
            // An ordinary user cannot empty it.
            assert!(!is_root() || status["CapBnd"] == "0000000000000000", "{engine}: {name}");
            assert_eq!((&*status["NoNewPrivs"], &*status["Seccomp"]), ("1", "2"), "{name}");
            // Three for all, and one for its kind; doors are started by a thread that has its own.
            let filters =
                if name.starts_with("door") || name.starts_with("passwords") { 5 } else { 4 };
            assert_eq!(status["Seccomp_filters"], filters.to_string(), "{engine}: {name}");
        }
        // Not dumpable: what shows its memory is root's.
        let owner = fs::metadata(format!("/proc/{}/maps", relay.pid())).unwrap().uid();
        assert_eq!(owner, 0, "{engine}");
        // The parent is outside.
        let parent = &self::threads(relay.parent());
        assert!(parent.values().all(|status| status["Seccomp"] == "0"));
    }
}

/// The number of the thread of this name.
#[cfg(target_arch = "x86_64")]
fn thread(process: u32, name: &str) -> u32 {
    let threads = threads(process);
    let found = threads.values().find(|status| status["Name"] == name);
    found.unwrap_or_else(|| panic!("{name}: {:?}", threads.keys()))["Pid"].parse().unwrap()
}

/// A ring that nobody has restricted makes connections and opens files past every filter. Each call is made
/// with arguments that an unconfined thread would be told are wrong, which is seen first.
#[cfg(target_arch = "x86_64")]
#[test]
fn whoever_takes_a_thread_over_gets_neither_a_ring_nor_what_the_thread_does_not_need() {
    use crate::support::intruder::call;
    use nix::errno::Errno;
    use nix::libc::{
        AT_FDCWD, CLONE_THREAD, O_WRONLY, SYS_clone, SYS_io_uring_register, SYS_io_uring_setup,
        SYS_openat,
    };

    if !is_root() {
        eprintln!("SKIPPED: to trace what is not dumpable takes root");
        return;
    }
    let here = u64::from(AT_FDCWD.cast_unsigned());
    let (writing, thread_only) = (O_WRONLY as u64, CLONE_THREAD as u64);
    for engine in ENGINES {
        let server = peers::http();
        let folder = Folder::new(&format!("taken-{engine}"));
        let file = everything(engine, &folder, &server.address.to_string());
        let path = folder.write("f.toml", &file);
        let path = path.to_str().unwrap();
        let open = Relay::start(&["-c", path, "--no-sandbox"]);
        let door = thread(open.pid(), "door-0");
        assert_eq!(call(door, SYS_io_uring_setup, [8, 0, 0]), Err(Errno::EFAULT), "{engine}");
        assert_eq!(call(door, SYS_openat, [here, 0, 0]), Err(Errno::EFAULT), "{engine}");
        // Without what would have to be shared with it.
        assert_eq!(call(door, SYS_clone, [thread_only, 0, 0]), Err(Errno::EINVAL), "{engine}");

        let relay = Relay::start(&["-c", path]);
        for name in ["fanin", "worker-0", "door-0", "passwords", "log"] {
            let thread = thread(relay.pid(), name);
            let refused = |number, arguments| {
                let answer = call(thread, number, arguments);
                assert_eq!(answer, Err(Errno::ENOSYS), "{engine}: {name}: call {number}");
            };
            refused(SYS_io_uring_setup, [8, 0, 0]);
            refused(SYS_io_uring_register, [0, 0, 0]);
            if name != "fanin" {
                refused(SYS_clone, [thread_only, 0, 0]);
            }
            if !["fanin", "log"].contains(&name) {
                refused(SYS_openat, [here, 0, 0]);
                refused(SYS_openat, [here, 0, writing]);
            }
        }
        for address in relay.addresses() {
            run_well("curl", &["-s", "-f", "-m", "10", &format!("http://{address}/")]);
        }
    }
}

#[test]
fn what_is_in_force_is_said_and_can_be_left_out() {
    let server = peers::name("here").address.to_string();
    let ring = Relay::between(&[], &["--server", &server, "--engine", "io_uring"]);
    let said = text(&ring.ask("status").stdout);
    let line = said.lines().find(|line| line.starts_with("sandbox")).unwrap().to_owned();
    let port = server.rsplit(':').next().unwrap();
    for part in ["no capabilities", "seccomp", "landlock files", "ring restrictions", port] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let status = ring.status();
    assert_eq!(status["sandbox"]["on"], true);
    let part = |name: &str| {
        let parts = status["sandbox"]["parts"].as_array().unwrap();
        parts.iter().any(|part| part["name"] == name && part["in_force"] == true)
    };
    assert!(part("seccomp") && part("no_capabilities") && part("ring_restrictions"));

    let mut open = Relay::between(&[], &["--server", &server, "--no-sandbox"]);
    let said = text(&open.ask("status").stdout);
    assert!(said.contains("sandbox        OFF (--no-sandbox"), "{said}");
    assert!(open.log().contains("sandbox: OFF"), "{}", open.log());
    assert!(threads(open.pid()).values().all(|status| status["Seccomp"] == "0"));
    assert_eq!(open.status()["sandbox"]["parts"].as_array().unwrap().len(), 0);
    assert!(open.await_line("sandbox: OFF").contains("warn"), "nobody overlooks it");
}

fn with(servers: &[&str], more: &str) -> String {
    let servers: Vec<_> = servers
        .iter()
        .map(|server| format!("[[backend.b.server]]\naddress = \"{server}\"\n"))
        .collect();
    format!("{more}\n[[listener]]\nbind = [\"127.0.0.1:0\"]\n{}", servers.concat())
}

/// The sandbox of a process cannot be widened. Its successor's is made for the new configuration.
#[test]
fn a_reload_beyond_the_sandbox_is_for_another_process_and_one_within_is_not() {
    let (one, two) = (peers::echo(), peers::name("two"));
    let (one, two) = (one.address.to_string(), two.address.to_string());
    let folder = Folder::new("beyond");
    let path = folder.write("f.toml", &with(&[&one], ""));
    let mut relay = Relay::start(&["-c", path.to_str().unwrap()]);
    let first = relay.pid();
    // Another address with the same port.
    let (_, port) = one.rsplit_once(':').unwrap();
    folder.write("f.toml", &with(&[&one, &format!("127.0.0.2:{port}")], ""));
    assert!(relay.ask("reload").status.success());
    assert_eq!(relay.generations(), [first]);
    folder.write("f.toml", &with(&[&two], ""));
    let answer = relay.ask("reload");
    assert!(answer.status.success(), "{}", text(&answer.stderr));
    relay.await_line("renewed (the ports and folders that the sandbox lets");
    assert_ne!(relay.pid(), first);
    assert_eq!(peers::exchange(relay.address(), b"").unwrap(), b"two");
}

#[test]
fn a_reload_that_no_process_could_be_confined_for_keeps_what_ran() {
    if !is_root() {
        eprintln!("SKIPPED: to become another user takes root");
        return;
    }
    let server = peers::name("still here");
    let address = server.address.to_string();
    let folder = Folder::new("nobody");
    let path = folder.write("f.toml", &with(&[&address], ""));
    let mut relay = Relay::start(&["-c", path.to_str().unwrap()]);
    folder.write("f.toml", &with(&[&address], "[global]\nuser = \"no-such-user\""));
    let answer = relay.ask("reload");
    let said = text(&answer.stderr);
    assert!(!answer.status.success());
    assert!(said.contains("no-such-user") && said.contains("what ran before runs on"), "{said}");
    relay.await_line("what ran before runs on");
    assert_eq!(peers::exchange(relay.address(), b"").unwrap(), b"still here");
    let output = run(BINARY, &["run", "-c", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78), "{}", text(&output.stderr));
}

#[test]
fn root_becomes_the_user_that_is_named_and_reloads_and_logs_as_that_one() {
    if !is_root() {
        eprintln!("SKIPPED: to become another user takes root");
        return;
    }
    for engine in ENGINES {
        let server = peers::name("as nobody");
        let address = server.address.to_string();
        let folder = Folder::new(&format!("as-{engine}"));
        let logs = folder.path("logs");
        fs::create_dir(&logs).unwrap();
        chown(&logs, Some(65_534), Some(65_534)).unwrap();
        let file = |more: &str| {
            let global = format!(
                "[global]\nuser = \"65534\"\nengine = \"{engine}\"\n{more}\n\
                 [log]\nfile = \"{}\"\n",
                logs.join("log").display()
            );
            with(&[&address], &global)
        };
        let path = folder.write("f.toml", &file(""));
        let mut relay = Relay::start(&["-c", path.to_str().unwrap()]);
        assert_eq!(peers::exchange(relay.address(), b"").unwrap(), b"as nobody");
        for (name, status) in threads(relay.pid()) {
            let ids: Vec<_> = status["Uid"].split_whitespace().collect();
            assert_eq!(ids, ["65534"; 4], "{name}");
            let ids: Vec<_> = status["Gid"].split_whitespace().collect();
            assert_eq!(ids, ["65534"; 4], "{name}");
            assert_eq!(status["Groups"], "65534", "{name}");
            assert_eq!(status["CapBnd"], "0000000000000000", "{name}");
        }
        fs::rename(logs.join("log"), logs.join("log.1")).unwrap();
        folder.write("f.toml", &file("maxconn = 50"));
        // As a person would who sees that process alone.
        run_well("kill", &["-HUP", &relay.pid().to_string()]);
        relay.await_line("reloaded");
        await_that("the log is made anew", || {
            fs::metadata(logs.join("log")).is_ok_and(|log| log.uid() == 65_534)
        });
        assert_eq!(relay.status()["maxconn"], 50);
        assert!(!relay.log().contains("runs as root"), "{}", relay.log());
    }
}

#[test]
fn an_ordinary_user_is_told_that_only_root_may_become_another() {
    if !is_root() {
        eprintln!("SKIPPED: to become another user takes root");
        return;
    }
    let folder = Folder::new("not-root");
    let path = folder.write("f.toml", &with(&["192.0.2.1:443"], "[global]\nuser = \"root\""));
    let id = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut command = Command::new("setpriv");
    let output = command.args(id).args([BINARY, "run", "-c"]).arg(path).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{said}");
    assert!(said.contains("only root may become somebody else"), "{said}");
}

/// By another program of the very same user, and not by an accident of how it was started: without the
/// sandbox it is let in.
#[test]
fn its_own_user_neither_traces_it_nor_reads_its_memory() {
    if !is_root() {
        eprintln!("SKIPPED: to become another user takes root");
        return;
    }
    let id = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let by_user = |program: &[&str]| run("setpriv", &[&id[..], program].concat());
    for engine in ENGINES {
        let start = |more: &[&str]| {
            let mut command = Command::new("setpriv");
            command.args(id).args([BINARY, "run", "--listen", "127.0.0.1:0"]);
            command.args(["--server", "192.0.2.1:443", "--engine", engine]).args(more);
            Relay::start_by(command)
        };
        let reads = |relay: &Relay, file: &str| {
            let file = format!("/proc/{}/{file}", relay.pid());
            by_user(&["sh", "-c", &format!(": <{file}")]).status.success()
        };
        let open = start(&["--no-sandbox"]);
        assert!(reads(&open, "mem") && reads(&open, "maps"), "{engine}: the test shows nothing");
        let relay = start(&[]);
        for file in ["mem", "maps", "environ", "fd/0"] {
            assert!(!reads(&relay, file), "{engine}: {file}");
        }
        let said = by_user(&["strace", "-p", &relay.pid().to_string()]);
        let said = text(&said.stderr);
        assert!(said.contains("Operation not permitted"), "{engine}: {said}");
    }
}

/// HAProxy's CLI, names, checks, every change that needs no other process: none of it takes more than
/// the sandbox grants.
#[test]
fn an_administrator_finds_nothing_missing() {
    let server = peers::http();
    let folder = Folder::new("administered");
    let address = format!("localhost:{}", server.address.port());
    let path = folder.write("f.toml", &with(&[&address], "[stats]\nbind = [\"127.0.0.1:0\"]\n"));
    let relay = Relay::start(&["-c", path.to_str().unwrap()]);
    run_well("curl", &["-s", "-f", "-m", "10", &format!("http://{}/", relay.address())]);
    assert!(cells(&cli(relay.control(), "show stat")).len() > 50);
    cli(relay.control(), "disable server b/localhost");
    cli(relay.control(), "enable server b/localhost");
    for command in [["ends"], ["reload"], ["status"]] {
        assert!(relay.ask_with(&command).status.success(), "{command:?}");
    }
}
