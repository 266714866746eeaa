//! The server's certificate and, on demand, the authority of its clients, read per accepted connection so that a
//! rotation needs no restart (inotify on secret mounts is a known trap). A new file that cannot be used is told, and the
//! last good ones go on. Never falls back to plain text, nor from demanded client certificates to none.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} holds no usable {what}: {source}")]
    Pem { path: PathBuf, what: &'static str, source: rustls::pki_types::pem::Error },
    #[error("{path} holds no certificate")]
    Empty { path: PathBuf },
    #[error("certificate {certificate} and key {key} cannot be used together: {source}")]
    Unusable { certificate: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("{path} holds a certificate that is no authority: {source}")]
    Authority { path: PathBuf, source: rustls::Error },
    #[error("client certificates cannot be checked by {path}: {source}")]
    Clients { path: PathBuf, source: VerifierBuilderError },
}

/// A certificate chain, its key, and the authority that clients' certificates must come from if they need one, as files
/// that may change at any time.
pub struct Certificates {
    paths: Paths,
    state: Mutex<State>,
}

struct Paths {
    certificate: PathBuf,
    key: PathBuf,
    clients: Option<PathBuf>,
}

struct State {
    config: Arc<ServerConfig>,
    /// Of the files that `config` was made from.
    good: [u8; 32],
    /// Of the files that were refused last, so that each is told once.
    refused: Option<[u8; 32]>,
}

impl Certificates {
    /// Fails if the files cannot be used now: a server that never had a certificate must not start.
    pub async fn load(certificate: &Path, key: &Path) -> Result<Self, CertificateError> {
        Self::of(Paths { certificate: certificate.to_owned(), key: key.to_owned(), clients: None }).await
    }

    /// The same, for clients alone that show a certificate for client authentication which an authority in `clients`
    /// (PEM) has signed. Others get no further than the handshake.
    pub async fn load_for_clients_of(clients: &Path, certificate: &Path, key: &Path) -> Result<Self, CertificateError> {
        let clients = Some(clients.to_owned());
        Self::of(Paths { certificate: certificate.to_owned(), key: key.to_owned(), clients }).await
    }

    async fn of(paths: Paths) -> Result<Self, CertificateError> {
        let files = read(&paths).await?;
        let config = configure(&paths, &files)?;
        Ok(Self { paths, state: Mutex::new(State { config, good: files.fingerprint, refused: None }) })
    }

    /// What the next connection is served with.
    pub async fn current(&self) -> Arc<ServerConfig> {
        let mut state = self.state.lock().await;
        let files = match read(&self.paths).await {
            Ok(files) => files,
            Err(error) => {
                // An unreadable file has no content to tell it by; one constant stands for them all.
                if state.refused.replace([0; 32]) != Some([0; 32]) {
                    tracing::warn!(%error, "the certificate cannot be read; the last good one goes on serving");
                }
                return state.config.clone();
            }
        };
        if files.fingerprint == state.good {
            state.refused = None;
        } else if state.refused != Some(files.fingerprint) {
            match configure(&self.paths, &files) {
                Ok(config) => {
                    let certificate = self.paths.certificate.display();
                    tracing::info!(%certificate, "a new certificate is served from now on, or new clients are");
                    *state = State { config, good: files.fingerprint, refused: None };
                }
                Err(error) => {
                    tracing::warn!(%error, "the new certificate cannot be used; the last good one goes on serving");
                    state.refused = Some(files.fingerprint);
                }
            }
        }
        state.config.clone()
    }
}

struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    clients: Vec<u8>,
    fingerprint: [u8; 32],
}

async fn read(paths: &Paths) -> Result<Files, CertificateError> {
    let bytes = async |path: &Path| {
        tokio::fs::read(path).await.map_err(|source| CertificateError::Read { path: path.to_owned(), source })
    };
    let (certificate, key) = (bytes(&paths.certificate).await?, bytes(&paths.key).await?);
    let clients = match &paths.clients {
        Some(path) => bytes(path).await?,
        None => vec![],
    };
    let mut hash = Sha256::new();
    for file in [&certificate, &key, &clients] {
        hash.update((file.len() as u64).to_be_bytes());
        hash.update(file);
    }
    Ok(Files { certificate, key, clients, fingerprint: hash.finalize().into() })
}

fn configure(paths: &Paths, files: &Files) -> Result<Arc<ServerConfig>, CertificateError> {
    let private = PrivateKeyDer::from_pem_slice(&files.key).map_err(|source| CertificateError::Pem {
        path: paths.key.clone(),
        what: "private key",
        source,
    })?;
    let chain = certificates(&paths.certificate, &files.certificate)?;
    let unusable =
        |source| CertificateError::Unusable { certificate: paths.certificate.clone(), key: paths.key.clone(), source };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match &paths.clients {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path, &files.clients)? {
                let refused = |source| CertificateError::Authority { path: path.clone(), source };
                roots.add(authority).map_err(refused)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|source| CertificateError::Clients { path: path.clone(), source })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, private).map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// At least one.
fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|source| CertificateError::Pem { path: path.to_owned(), what: "certificate", source })?;
    match found.is_empty() {
        true => Err(CertificateError::Empty { path: path.to_owned() }),
        false => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("tidegate-tls-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Dir(path)
        }

        fn write(&self) -> (PathBuf, PathBuf) {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
            let (certificate, key) = (self.0.join("tls.crt"), self.0.join("tls.key"));
            std::fs::write(&certificate, made.cert.pem()).unwrap();
            std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
            (certificate, key)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[tokio::test]
    async fn a_new_certificate_is_served_without_a_restart_and_a_broken_one_is_not() {
        let dir = Dir::new("reload");
        let (certificate, key) = dir.write();
        let certificates = Certificates::load(&certificate, &key).await.unwrap();
        let first = certificates.current().await;
        assert!(Arc::ptr_eq(&first, &certificates.current().await), "unchanged files are not parsed again");

        dir.write();
        let second = certificates.current().await;
        assert!(!Arc::ptr_eq(&first, &second), "the new certificate is served");

        std::fs::write(&certificate, "not a certificate").unwrap();
        assert!(Arc::ptr_eq(&second, &certificates.current().await), "a broken file keeps the last good one");
        std::fs::remove_file(&key).unwrap();
        assert!(Arc::ptr_eq(&second, &certificates.current().await), "so does a missing one");

        dir.write();
        assert!(!Arc::ptr_eq(&second, &certificates.current().await), "and a good one is taken again");
    }

    #[tokio::test]
    async fn a_key_that_does_not_fit_is_refused_at_the_start() {
        let (one, other) = (Dir::new("one"), Dir::new("other"));
        let (certificate, _) = one.write();
        let (_, key) = other.write();
        let refused = Certificates::load(&certificate, &key).await.err().unwrap();
        assert!(matches!(refused, CertificateError::Unusable { .. }), "{refused}");
    }
}
