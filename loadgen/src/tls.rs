//! TLS as agents speak it with the upstream, end to end: the relay passes it on and sees nothing.
//!
//! Each connection shakes hands anew. v5 agents keep no TLS sessions between their connections, and
//! Go's transport resumes none unless told to; besides, thousands of agents are thousands of caches.

use crate::failure::Failure;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

/// Whom agents trust, and whom they expect.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Trust {
    /// Trust in the authorities of a PEM file, or without one in the system's, towards the holder of
    /// `name`: a host's name or an address.
    ///
    /// # Errors
    /// With the file or the name, and what is wrong with it.
    pub(crate) fn new(authorities: Option<&Path>, name: &str) -> Result<Self, String> {
        let roots = match authorities {
            Some(file) => from_file(file)?,
            None => of_system()?,
        };
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be set up: {error}"))?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.resumption = Resumption::disabled();
        let name = ServerName::try_from(name.to_owned()).map_err(|_| {
            format!("'{name}' is no name that a certificate can hold; give --server-name NAME")
        })?;
        Ok(Self { config: Arc::new(config), name })
    }

    /// The agent's side of a new connection.
    pub(crate) fn talk(&self) -> Result<Talk, rustls::Error> {
        let mut client = ClientConnection::new(Arc::clone(&self.config), self.name.clone())?;
        client.set_buffer_limit(None);
        Ok(Talk(client))
    }
}

fn from_file(file: &Path) -> Result<RootCertStore, String> {
    let cannot =
        |why: String| format!("--ca-file {}: {why}; it holds certificates in PEM", file.display());
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(file).map_err(|error| cannot(error.to_string()))?;
    for certificate in found {
        let certificate = certificate.map_err(|error| cannot(error.to_string()))?;
        roots.add(certificate).map_err(|error| cannot(error.to_string()))?;
    }
    if roots.is_empty() { Err(cannot("no certificate in it".to_owned())) } else { Ok(roots) }
}

fn of_system() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    // A few that cannot be read are no reason to trust none.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(
            "this system trusts no certificate authority; install ca-certificates, or give \
                    --ca-file FILE"
                .to_owned(),
        );
    }
    Ok(roots)
}

/// One connection's TLS: bytes in, bytes out, no socket.
#[derive(Debug)]
pub(crate) struct Talk(ClientConnection);

/// What became of bytes that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// More may come.
    Bytes,
    /// The peer has said that nothing more comes.
    End,
}

impl Talk {
    /// Whether the handshake goes on.
    pub(crate) fn is_shaking(&self) -> bool {
        self.0.is_handshaking()
    }

    /// What is to be sent now.
    pub(crate) fn outgoing(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.0.wants_write() {
            // Writing to memory cannot fail.
            let _ = self.0.write_tls(&mut bytes);
        }
        bytes
    }

    /// What is to be sent so that the peer reads this.
    pub(crate) fn wrap(&mut self, plain: &[u8]) -> Vec<u8> {
        // There is no limit on what is kept.
        let _ = self.0.writer().write_all(plain);
        self.outgoing()
    }

    /// Takes what has come, and adds what it says to `plain`.
    ///
    /// # Errors
    /// When it is no TLS, or not that of the expected peer.
    pub(crate) fn unwrap(
        &mut self,
        sealed: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<Heard, rustls::Error> {
        let mut rest = sealed;
        let mut heard = Heard::Bytes;
        while !rest.is_empty() {
            // From memory; an error means that records pile up unread, which they do not.
            let taken = self.0.read_tls(&mut rest).unwrap_or_default();
            let state = self.0.process_new_packets()?;
            match self.0.reader().read_to_end(plain) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => heard = Heard::End,
            }
            if taken == 0 || state.peer_has_closed() {
                break;
            }
        }
        Ok(heard)
    }
}

/// What an error of TLS means.
pub(crate) fn failure(error: &rustls::Error) -> Failure {
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            Failure::TlsCertificate
        }
        _ => Failure::TlsHandshake,
    }
}
