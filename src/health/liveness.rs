//! Liveness probes of the services of this container.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, IpAddr, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use crate::model::{LivenessProbe, Page};
use crate::process::{port_holder, proc_table};

/// Bytes that are read of a response: its status line, or the beginning of a list of jobs, is enough.
const MAX_RESPONSE: u64 = 64 * 1024;

/// Probes a service once. The caller sets the time limit. Whether the service itself listens on its port is checked only if
/// `is_new`: on a machine with much memory the kernel takes ten milliseconds to list the connections, and a port does not
/// change hands while its process listens.
///
/// # Errors
/// If the service is unreachable, closes the connection early, or does not answer with HTTP.
pub async fn probe_once(probe: &LivenessProbe, pid: i32, is_new: bool) -> io::Result<()> {
    match probe {
        LivenessProbe::Http { port, path, tls, .. } => {
            http_request(*port, *tls, &head(path)).await?;
            match !is_new || port_holder::holder(*port).is_none_or(|holder| holder.group.as_raw() == pid) {
                true => Ok(()),
                false => Err(io::Error::other(format!("another process listens on port {port}"))),
            }
        }
        LivenessProbe::JobQueue { port } => {
            // Only listing the jobs shows that the queue's own lock is free; a fault of a queue without that method
            // counts as a response.
            let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, *port))).await?;
            let response = http_exchange(stream, &list_jobs()).await?;
            if lists_jobs(&response) && has_no_child(pid) {
                return Err(io::Error::other("jobs are waiting, but none is running"));
            }
            Ok(())
        }
        LivenessProbe::Inotify if holds_inotify(pid)? => Ok(()),
        LivenessProbe::Inotify => Err(io::Error::other("no directory is watched")),
    }
}

/// Whether the service must serve a page.
pub fn has_page(probe: &LivenessProbe) -> bool {
    matches!(probe, LivenessProbe::Http { .. })
}

/// The error of the page that a service must serve; `None` for a service without pages. The caller sets the time limit.
pub async fn page_error(probe: &LivenessProbe) -> Option<String> {
    let LivenessProbe::Http { port, page: Page { host, path }, tls, .. } = probe else { return None };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bots-ctl\r\nConnection: close\r\n\r\n");
    match http_request(*port, *tls, &request).await {
        Ok(response) => {
            let status = response.get(b"HTTP/1.1 ".len()..).and_then(|rest| rest.get(..3)).unwrap_or_default();
            status.starts_with(b"5").then(|| format!("GET {path} returned HTTP {}", String::from_utf8_lossy(status)))
        }
        Err(error) => Some(format!("GET {path} failed: {error}")),
    }
}

/// An empty list is the number 0.
fn lists_jobs(response: &[u8]) -> bool {
    memchr::memmem::find(response, b"<array>").is_some()
}

/// Whether this process has no child, which is also true for a moment between two jobs.
fn has_no_child(pid: i32) -> bool {
    proc_table::list().is_some_and(|all| all.iter().all(|process| process.parent.as_raw() != pid))
}

fn list_jobs() -> String {
    const CALL: &str = "<?xml version='1.0'?><methodCall><methodName>listjobs</methodName><params/></methodCall>";
    let length = CALL.len();
    format!(
        "POST /RPC2 HTTP/1.0\r\nHost: localhost\r\nUser-Agent: bots-ctl\r\nContent-Type: text/xml\r\n\
         Content-Length: {length}\r\n\r\n{CALL}"
    )
}

fn holds_inotify(pid: i32) -> io::Result<bool> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
    let mut targets = descriptors.filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok());
    Ok(targets.any(|target| target.to_string_lossy().contains("inotify")))
}

fn head(path: &str) -> String {
    format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bots-ctl\r\nConnection: close\r\n\r\n")
}

async fn http_request(port: u16, tls: bool, request: &str) -> io::Result<Vec<u8>> {
    let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    if !tls {
        return http_exchange(stream, request).await;
    }
    let connector = TlsConnector::from(Arc::new(any_certificate()?));
    let name = ServerName::IpAddress(IpAddr::from(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST)));
    http_exchange(connector.connect(name, stream).await?, request).await
}

async fn http_exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    // Read to the end: closing with unread bytes would be a reset, which the service may log.
    let mut response = Vec::new();
    let ended = stream.take(MAX_RESPONSE).read_to_end(&mut response).await;
    // Many servers close TLS without close_notify, which is an error only if no data was read.
    if response.starts_with(b"HTTP/") {
        return Ok(response);
    }
    ended?;
    Err(io::Error::other("the response is not HTTP"))
}

fn any_certificate() -> io::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let config = config.map_err(io::Error::other)?.dangerous();
    Ok(config.with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(provider))).with_no_client_auth())
}

/// The certificate is issued for the public name, by any CA; on loopback, to a child of bots-ctl, verification has no
/// benefit.
#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
