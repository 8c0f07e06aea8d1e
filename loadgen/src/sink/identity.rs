//! Who the sink is when it speaks TLS: a certificate from a directory, made there if there is none.

use crate::exit::Error;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// The name in the certificate that a sink makes for itself.
pub(crate) const NAME: &str = "loadgen-sink";
/// The authority that agents are to trust, in the directory.
pub(crate) const AUTHORITY: &str = "ca.pem";
const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";

/// The certificate and key of a directory; made, with an authority of their own, if it has none.
///
/// # Errors
/// When the files cannot be read or written, or do not belong together.
pub(super) fn load(folder: &Path, addresses: &[SocketAddr]) -> Result<Arc<ServerConfig>, Error> {
    let cannot = |what: &str, why: &dyn std::fmt::Display| {
        Error::System(format!(
            "--tls {}: cannot {what}: {why}; it holds {CERTIFICATE} and {KEY}, or nothing, and then \
             they are made",
            folder.display()
        ))
    };
    let (certificate, key) = (folder.join(CERTIFICATE), folder.join(KEY));
    if !certificate.exists() && !key.exists() {
        make(folder, addresses).map_err(|why| cannot("make a certificate", &why))?;
    }
    let chain = CertificateDer::pem_file_iter(&certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|why| cannot("read the certificate", &why))?;
    let key = PrivateKeyDer::from_pem_file(&key).map_err(|why| cannot("read the key", &why))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|why| cannot("use the certificate", &why))?;
    Ok(Arc::new(config))
}

fn make(folder: &Path, addresses: &[SocketAddr]) -> Result<(), Box<dyn std::error::Error>> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "loadgen's own authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority_key = KeyPair::generate()?;
    let root = authority.self_signed(&authority_key)?;
    let mut names = vec![NAME.to_owned(), "localhost".to_owned()];
    names.extend(addresses.iter().map(|address| address.ip().to_string()));
    names.sort_unstable();
    names.dedup();
    let mut sink = CertificateParams::new(names)?;
    sink.distinguished_name.push(DnType::CommonName, NAME);
    let key = KeyPair::generate()?;
    let certificate = sink.signed_by(&key, &Issuer::new(authority, authority_key))?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    write(&folder.join(AUTHORITY), &root.pem())?;
    write(&folder.join(CERTIFICATE), &certificate.pem())?;
    write(&folder.join(KEY), &key.serialize_pem())?;
    Ok(())
}

/// A file of its owner alone.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file?.write_all(text.as_bytes())
}
