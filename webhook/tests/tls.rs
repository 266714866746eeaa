//! Certificates that are rotated under a running server, its own and its clients' authority, as the kubelet changes a
//! mounted secret.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::RefCell;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tidegate_webhook::serve::{Limits, Transport, serve};
use tidegate_webhook::tls::Certificates;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use warp::Filter;

struct Issued {
    certificate: String,
    key: String,
    der: CertificateDer<'static>,
}

fn issue() -> Issued {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    Issued { certificate: made.cert.pem(), key: made.signing_key.serialize_pem(), der: made.cert.der().clone() }
}

/// Signs clients' certificates, and others that are none.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, usage: ExtendedKeyUsagePurpose) -> Issued {
        let mut params = CertificateParams::new(vec!["api-server".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &self.0).unwrap();
        Issued { certificate: made.pem(), key: key.serialize_pem(), der: made.der().clone() }
    }

    fn client(&self) -> Issued {
        self.issue(ExtendedKeyUsagePurpose::ClientAuth)
    }
}

/// A mounted secret: `tls.crt` and `tls.key` lead through `..data` to a folder of one version, and one
/// rename of `..data` changes both.
struct Mount {
    dir: PathBuf,
    version: u32,
}

impl Mount {
    fn new(name: &str, first: &Issued) -> Self {
        let dir = std::env::temp_dir().join(format!("tidegate-mount-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let mut mount = Self { dir, version: 0 };
        mount.put(&first.certificate, &first.key);
        for file in ["tls.crt", "tls.key"] {
            std::os::unix::fs::symlink(Path::new("..data").join(file), mount.dir.join(file)).unwrap();
        }
        mount
    }

    fn put(&mut self, certificate: &str, key: &str) {
        self.version += 1;
        let version = format!("..version-{}", self.version);
        std::fs::create_dir(self.dir.join(&version)).unwrap();
        std::fs::write(self.dir.join(&version).join("tls.crt"), certificate).unwrap();
        std::fs::write(self.dir.join(&version).join("tls.key"), key).unwrap();
        std::os::unix::fs::symlink(&version, self.dir.join("..data_tmp")).unwrap();
        std::fs::rename(self.dir.join("..data_tmp"), self.dir.join("..data")).unwrap();
    }

    async fn load(&self) -> Arc<Certificates> {
        Arc::new(Certificates::load(&self.dir.join("tls.crt"), &self.dir.join("tls.key")).await.unwrap())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// One HTTPS connection that trusts exactly this certificate.
struct Connection(TlsStream<TcpStream>);

impl Connection {
    async fn open(address: SocketAddr, trusted: &Issued) -> Result<Self, std::io::Error> {
        Self::open_as(None, address, trusted).await
    }

    async fn open_as(own: Option<&Issued>, address: SocketAddr, trusted: &Issued) -> Result<Self, std::io::Error> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(trusted.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            None => config.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
                config.with_client_auth_cert(vec![own.der.clone()], key).unwrap()
            }
        };
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        Ok(Self(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
    }

    async fn is_served(&mut self) -> bool {
        self.ask().await.unwrap()
    }

    async fn ask(&mut self) -> Result<bool, std::io::Error> {
        self.0.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
        let mut answer = vec![0; 1024];
        let read = tokio::time::timeout(Duration::from_secs(5), self.0.read(&mut answer)).await.unwrap()?;
        Ok(answer[..read].starts_with(b"HTTP/1.1 200"))
    }

    fn sees(&self) -> CertificateDer<'static> {
        self.0.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }
}

async fn serving(certificates: Arc<Certificates>) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = warp::service(warp::path!("healthz").map(|| "ok\n"));
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(listener, Transport::Tls(certificates), service, Limits::default(), std::future::pending()));
    (address, tasks)
}

thread_local! {
    static TOLD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What this test's thread logged. One subscriber for all of them: a message that a thread without one comes by first
/// is taken for one that nobody wants.
struct Log;

impl Log {
    fn start() -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| tracing_subscriber::fmt().with_writer(|| Log).with_ansi(false).init());
        Log
    }

    fn times(&self, text: &str) -> usize {
        TOLD.with_borrow(|told| String::from_utf8_lossy(told).matches(text).count())
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        TOLD.with_borrow_mut(|told| told.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_rotated_certificate_serves_new_connections_and_a_broken_one_none() {
    let log = Log::start();

    let (first, second, third) = (issue(), issue(), issue());
    let mut mount = Mount::new("rotate", &first);
    let (address, _serving) = serving(mount.load().await).await;
    let mut old = Connection::open(address, &first).await.unwrap();
    assert!(old.is_served().await);
    assert_eq!(old.sees(), first.der);

    mount.put(&second.certificate, &second.key);
    let mut new = Connection::open(address, &second).await.unwrap();
    assert!(new.is_served().await);
    assert_eq!(new.sees(), second.der);
    assert!(Connection::open(address, &first).await.is_err(), "the old certificate is served no more");
    assert!(old.is_served().await, "an open connection goes on");

    for (name, certificate, key) in [
        ("no certificate", "broken", third.key.as_str()),
        ("no key", third.certificate.as_str(), ""),
        ("the key of another", third.certificate.as_str(), first.key.as_str()),
    ] {
        mount.put(certificate, key);
        let told = log.times("the last good one goes on serving");
        for _ in 0..2 {
            let mut kept = Connection::open(address, &second).await.unwrap();
            assert!(kept.is_served().await, "{name}");
        }
        assert_eq!(log.times("the last good one goes on serving"), told + 1, "{name}: told once");
    }
    mount.put(&third.certificate, &third.key);
    assert!(Connection::open(address, &third).await.unwrap().is_served().await, "and it recovers");
    assert!(old.is_served().await && new.is_served().await);
}

/// In TLS 1.3 a client hears only after its own handshake that its certificate was not taken.
async fn takes(address: SocketAddr, trusted: &Issued, client: Option<&Issued>) -> bool {
    match Connection::open_as(client, address, trusted).await {
        Ok(mut connection) => connection.ask().await.unwrap_or(false),
        Err(_) => false,
    }
}

#[tokio::test]
async fn only_clients_of_the_authority_in_force_are_served() {
    Log::start();
    let (server, ours, theirs, next) = (issue(), Authority::new(), Authority::new(), Authority::new());
    let mount = Mount::new("clients", &server);
    let clients = mount.dir.join("clients.crt");
    std::fs::write(&clients, ours.0.pem()).unwrap();
    let (certificate, key) = (mount.dir.join("tls.crt"), mount.dir.join("tls.key"));
    let loaded = Certificates::load_for_clients_of(&clients, &certificate, &key).await.unwrap();
    let (address, _serving) = serving(Arc::new(loaded)).await;

    let (client, new) = (ours.client(), next.client());
    assert!(takes(address, &server, Some(&client)).await, "one of its own");
    for (name, other) in [
        ("no certificate", None),
        ("another authority's", Some(theirs.client())),
        ("one that is signed by nobody", Some(issue())),
        ("a server's of the same authority", Some(ours.issue(ExtendedKeyUsagePurpose::ServerAuth))),
    ] {
        assert!(!takes(address, &server, other.as_ref()).await, "{name}");
    }

    for (name, text) in [("no certificate", "broken".to_owned()), ("nothing", String::new())] {
        std::fs::write(&clients, text).unwrap();
        assert!(takes(address, &server, Some(&client)).await, "{name}: the last good authority goes on");
        assert!(!takes(address, &server, None).await, "{name}: and lets nobody in for it");
    }
    std::fs::remove_file(&clients).unwrap();
    assert!(!takes(address, &server, None).await, "nor does a file that is gone");

    // Rotated by way of both, so that no moment takes neither.
    assert!(!takes(address, &server, Some(&new)).await);
    std::fs::write(&clients, format!("{}{}", ours.0.pem(), next.0.pem())).unwrap();
    assert!(takes(address, &server, Some(&client)).await && takes(address, &server, Some(&new)).await, "both");
    std::fs::write(&clients, next.0.pem()).unwrap();
    assert!(takes(address, &server, Some(&new)).await, "the new one");
    assert!(!takes(address, &server, Some(&client)).await, "the old one no more");
}

#[tokio::test]
async fn a_guard_that_cannot_tell_its_clients_does_not_start() {
    let server = issue();
    let mount = Mount::new("no-clients", &server);
    let (certificate, key) = (mount.dir.join("tls.crt"), mount.dir.join("tls.key"));
    let clients = mount.dir.join("clients.crt");
    for text in [None, Some(""), Some("broken")] {
        if let Some(text) = text {
            std::fs::write(&clients, text).unwrap();
        }
        let refused = Certificates::load_for_clients_of(&clients, &certificate, &key).await.err().unwrap();
        assert!(refused.to_string().contains("clients.crt"), "{text:?}: {refused}");
    }
}
