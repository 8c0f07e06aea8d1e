//! A relay of one kind or another as a process.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

pub const MODES: [&str; 5] =
    ["epoll-copy", "epoll-splice", "uring-copy", "uring-splice", "haproxy"];

const PATIENCE: Duration = Duration::from_secs(20);

pub struct Relay {
    child: Child,
    folder: PathBuf,
    pub address: SocketAddr,
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Relay {
    pub fn start(fanin: &Path, mode: &str, server: SocketAddr) -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("fanin-diff-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        if mode == "haproxy" {
            return Self::haproxy(folder, server);
        }
        let (engine, path) = mode.split_once('-').unwrap_or((mode, "copy"));
        let engine = if engine == "uring" { "io_uring" } else { engine };
        let splice = if path == "splice" { "always" } else { "never" };
        let mut child = Command::new(fanin)
            .args(["run", "--listen", "127.0.0.1:0", "--workers", "1", "--engine", engine])
            .args(["--splice", splice, "--server", &server.to_string(), "--control"])
            .arg(folder.join("control.sock"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let mut said = String::new();
        let address = loop {
            let Some(line) = lines.next().transpose()? else {
                return Err(io::Error::other(format!("fanin did not start:\n{said}")));
            };
            let found = line.split("listening on ").nth(1).and_then(|rest| rest.split(' ').next());
            if let Some(address) = found.and_then(|address| address.parse().ok()) {
                break address;
            }
            said += &line;
        };
        thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, folder, address })
    }

    fn haproxy(folder: PathBuf, server: SocketAddr) -> io::Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let file = folder.join("haproxy.cfg");
        fs::write(
            &file,
            format!(
                "global\n    maxconn 1000\ndefaults\n    mode tcp\n    timeout connect 5s\n    \
                 timeout client 120s\n    timeout server 120s\n    timeout client-fin 30s\n    \
                 timeout server-fin 30s\nlisten all\n    bind {address}\n    server one {server}\n"
            ),
        )?;
        let mut child =
            Command::new("haproxy").arg("-db").arg("-f").arg(&file).spawn().map_err(|error| {
                io::Error::other(format!("haproxy: {error}; apt-get install haproxy"))
            })?;
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            if Instant::now() > deadline || child.try_wait()?.is_some() {
                return Err(io::Error::other("HAProxy did not start"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { child, folder, address })
    }
}
