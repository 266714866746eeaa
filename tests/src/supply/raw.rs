//! Requests written byte by byte over TLS, for what no HTTP library would send: two lengths, half a body, headers given
//! twice. It reports every answer that came back and judges nothing.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::rig::pki::Issued;

/// A body that does not come may be waited for at the other end.
const LONGEST: Duration = Duration::from_secs(30);
/// After an answer, for another one that nobody asked for.
const SILENCE: Duration = Duration::from_millis(500);

/// How the end of the body is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    /// `Content-Length`, truly.
    Length,
    /// Chunks of 64 KiB.
    Chunked,
    /// `Content-Length`, but only half of it comes and the rest is waited for.
    Half,
    /// `Content-Length`, and after half of it the sender hangs up.
    Cut,
    /// These headers, the body as it is, and the connection kept open for what the other end makes of it.
    Raw(Vec<(String, String)>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub framing: Framing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// By lower-case name.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Request {
    pub fn post(path: &str, body: Vec<u8>) -> Self {
        let (method, path) = ("POST".to_owned(), path.to_owned());
        Self { method, path, headers: Vec::new(), body, framing: Framing::Length }
    }

    /// In the place of what is there of this name.
    pub fn header(self, name: &str, value: &str) -> Self {
        self.without(name).also(name, value)
    }

    /// Beside what is there of this name.
    pub fn also(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(found, _)| found != name);
        self
    }

    pub fn at(self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    pub fn framed(self, framing: Framing) -> Self {
        Self { framing, ..self }
    }

    fn bytes(&self, host: &str) -> Vec<u8> {
        let length = ("content-length".to_owned(), self.body.len().to_string());
        let (framing, half) = match &self.framing {
            Framing::Length => (vec![length], false),
            Framing::Half | Framing::Cut => (vec![length], true),
            Framing::Chunked => (vec![("transfer-encoding".to_owned(), "chunked".to_owned())], false),
            Framing::Raw(headers) => (headers.clone(), false),
        };
        let mut bytes = format!("{} {} HTTP/1.1\r\nhost: {host}\r\n", self.method, self.path).into_bytes();
        for (name, value) in self.headers.iter().chain(&framing) {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if !matches!(self.framing, Framing::Raw(_)) {
            bytes.extend_from_slice(b"connection: close\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        match (&self.framing, half) {
            (_, true) => bytes.extend_from_slice(&self.body[..self.body.len() / 2]),
            (Framing::Chunked, _) => {
                for chunk in self.body.chunks(64 * 1024) {
                    bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
            _ => bytes.extend_from_slice(&self.body),
        }
        bytes
    }
}

/// Where the requests go.
pub struct Raw {
    address: String,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl Raw {
    /// `host` is an address, `ca_pem` what the certificate there is checked against.
    pub fn to(host: &str, port: u16, ca_pem: &str) -> Result<Self> {
        Self::showing(None, host, port, ca_pem)
    }

    /// The same by a client that shows this certificate to whoever asks for one.
    pub fn showing(shown: Option<&Issued>, host: &str, port: u16, ca_pem: &str) -> Result<Self> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(certificate?)?;
        }
        let config = rustls::ClientConfig::builder().with_root_certificates(roots);
        let config = match shown {
            None => config.with_no_client_auth(),
            Some(shown) => {
                let chain = CertificateDer::pem_slice_iter(shown.certificate.as_bytes()).collect::<Result<_, _>>()?;
                config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(shown.key.as_bytes())?)?
            }
        };
        let name = ServerName::try_from(host.to_owned())?;
        Ok(Self { address: format!("{host}:{port}"), name, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Every answer to `request`, until the other end hangs up or is silent.
    pub async fn send(&self, request: &Request) -> Result<Vec<Answer>> {
        let stream = TcpStream::connect(&self.address).await.with_context(|| format!("connect to {}", self.address))?;
        let stream = self.tls.connect(self.name.clone(), stream).await.context("TLS")?;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let bytes = request.bytes(&self.address);
        let write = async {
            // An answer may come, and the connection end, before all is written.
            let _ = writer.write_all(&bytes).await;
            let _ = writer.flush().await;
            if request.framing == Framing::Cut {
                let _ = writer.shutdown().await;
            }
            std::future::pending::<Infallible>().await
        };
        let read = async {
            let (mut all, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
            loop {
                let patience = if answers(&all).is_empty() { LONGEST } else { SILENCE };
                match timeout(patience, reader.read(&mut buffer)).await {
                    Ok(Ok(count)) if count > 0 => all.extend_from_slice(&buffer[..count]),
                    _ => return answers(&all),
                }
            }
        };
        tokio::select! {
            answers = read => Ok(answers),
            never = write => match never {},
        }
    }
}

/// The complete answers in `bytes`.
fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut found = Vec::new();
    while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or_default();
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length: usize = headers.get("content-length").and_then(|value| value.parse().ok()).unwrap_or_default();
        let Some(body) = bytes.get(end + 4..end + 4 + length) else { break };
        found.push(Answer { status, headers, body: String::from_utf8_lossy(body).into_owned() });
        bytes = &bytes[end + 4 + length..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_answers_are_told_apart_and_half_a_one_is_none() {
        let text =
            "HTTP/1.1 401 Unauthorized\r\nContent-Length: 3\r\n\r\nno\nHTTP/1.1 400 Bad Request\r\n\r\nHTTP/1.1 200";
        let found = answers(text.as_bytes());
        let seen: Vec<_> = found.iter().map(|answer| (answer.status, answer.body.as_str())).collect();
        assert_eq!(seen, [(401, "no\n"), (400, "")]);
        assert!(answers(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab").is_empty());
    }

    #[test]
    fn chunks_are_framed() {
        let request = Request::post("/x", b"hello".to_vec()).framed(Framing::Chunked);
        let text = String::from_utf8(request.bytes("h")).unwrap();
        assert!(text.ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n") && !text.contains("content-length"), "{text}");
    }
}
