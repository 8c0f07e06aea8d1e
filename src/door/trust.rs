//! Whom a door trusts, and how it makes itself known: the one configuration of TLS that a backend's
//! servers share, with the sessions that they may resume.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

/// The authorities that a certificate may come from.
#[derive(Clone, Debug)]
pub struct Trust {
    file: Option<PathBuf>,
    roots: RootCertStore,
    config: Arc<ClientConfig>,
}

impl Trust {
    /// The authorities in a PEM file; `None` is those that the system trusts.
    ///
    /// # Errors
    /// With the file, what is wrong with it, and what to do.
    pub fn read(file: Option<PathBuf>) -> Result<Self, String> {
        let roots = match &file {
            Some(file) => of_file(file).map_err(|why| {
                format!(
                    "ca \"{}\": {why}; it must hold certificates in PEM, readable for who runs fanin",
                    file.display()
                )
            })?,
            None => of_system()?,
        };
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be set up: {error}"))?;
        let mut config = config.with_root_certificates(roots.clone()).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { file, roots, config: Arc::new(config) })
    }

    /// This one where it trusts the same authorities, so that sessions can still be resumed; else the
    /// newer.
    #[must_use]
    pub fn or_newer(self, newer: Self) -> Self {
        let same = self.file == newer.file && self.roots.roots == newer.roots.roots;
        if same { self } else { newer }
    }

    /// What connections are made with.
    pub const fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }
}

/// The name that a certificate must hold.
///
/// # Errors
/// When no certificate could.
pub fn name(text: &str) -> Result<ServerName<'static>, String> {
    // A name may end with the root's dot; certificates are without.
    let bare = text.strip_suffix('.').unwrap_or(text);
    ServerName::try_from(bare.to_owned()).map_err(|_| {
        format!(
            "no certificate can hold the name \"{text}\"; give another: tls = {{ sni = \"NAME\" }}"
        )
    })
}

fn of_file(file: &std::path::Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(file).map_err(|error| error.to_string())?;
    for certificate in found {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("no certificate in it".to_owned()) } else { Ok(roots) }
}

fn of_system() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    // A few that cannot be read are no reason to trust none.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("this system trusts no certificate authority; install its package \
                    ca-certificates, or give a file: tls = { ca = \"FILE\" }"
            .to_owned());
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_none_of_authorities_is_refused_with_its_name() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        for (file, part) in [(file, "no certificate in it"), ("/nowhere/ca.pem", "ca \"/nowhere")] {
            let error = Trust::read(Some(file.into())).unwrap_err();
            assert!(error.contains(part) && error.contains("PEM"), "{error}");
        }
    }

    #[test]
    fn a_name_is_a_hosts_or_an_address() {
        assert!(name("intake.example.com").is_ok() && name("192.0.2.7").is_ok());
        assert_eq!(name("intake.example.com.").unwrap(), name("intake.example.com").unwrap());
        assert!(name("two..dots").unwrap_err().contains("sni"));
    }
}
