//! A server that speaks TLS, and whom to trust for it.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use super::{Folder, await_that, peers, run_well};

/// An authority and a certificate for 127.0.0.1, and a server that shows it: `openssl s_server`.
pub struct Secure {
    child: Child,
    pub address: SocketAddr,
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn openssl(folder: &Folder, arguments: &str) {
    let arguments: Vec<String> = arguments
        .split(' ')
        .map(|part| part.replace("DIR", folder.path("").to_str().unwrap()))
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run_well("openssl", &arguments);
}

/// `ca.pem` and, signed by it, `cert.pem` with its key for 127.0.0.1; `other.pem` is of another.
pub fn certificates(folder: &Folder) {
    const CURVE: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for (name, subject) in [("ca", "/CN=test"), ("other", "/CN=other")] {
        openssl(
            folder,
            &format!(
                "req -x509 {CURVE} -subj {subject} -days 2 -keyout DIR/{name}.key -out DIR/{name}.pem"
            ),
        );
    }
    openssl(folder, &format!("req {CURVE} -subj /CN=intake -keyout DIR/key.pem -out DIR/csr.pem"));
    folder.write("ext", "subjectAltName=IP:127.0.0.1,DNS:intake.example.com\n");
    openssl(
        folder,
        "x509 -req -in DIR/csr.pem -CA DIR/ca.pem -CAkey DIR/ca.key -CAcreateserial -days 2 -extfile DIR/ext -out DIR/cert.pem",
    );
}

/// Answers requests over TLS with the file that they ask for, on kept connections or not.
pub fn secure(folder: &Folder) -> Secure {
    let address = peers::nobody();
    folder
        .write("answer", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nsafe\n");
    let mut command = Command::new("openssl");
    command.current_dir(folder.path("")).args(["s_server", "-quiet", "-HTTP", "-accept"]);
    command.arg(address.to_string()).args(["-cert", "cert.pem", "-key", "key.pem"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    await_that("openssl listens", || TcpStream::connect(address).is_ok());
    Secure { child, address }
}
