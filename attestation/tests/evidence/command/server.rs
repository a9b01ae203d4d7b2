//! A server on a loopback port, whose answers a test says.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use casemate_verify::challenge::{EXPORTER_LABEL, EXPORTER_LEN};
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Status, more headers, body.
pub(super) type Answer = (u16, String, Vec<u8>);

/// What is asked: the path, and the connection's exporter.
pub(super) type Asked<'a> = (&'a str, [u8; EXPORTER_LEN]);

pub(super) const fn ok(body: Vec<u8>) -> Answer {
    (200, String::new(), body)
}

pub(super) const fn none() -> Answer {
    (404, String::new(), Vec::new())
}

/// Serves TLS, one request a connection, until the test ends.
pub(super) fn serve(
    key: &KeyPair,
    certificate: Vec<u8>,
    answer: impl Fn(Asked<'_>) -> Answer + Send + 'static,
) -> SocketAddr {
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(certificate)], key.into())
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            while connection.is_handshaking() && connection.complete_io(&mut stream).is_ok() {}
            let exporter = connection.export_keying_material([0; EXPORTER_LEN], EXPORTER_LABEL, Some(&[]));
            let Ok(exporter) = exporter else { continue };
            let mut stream = StreamOwned::new(connection, stream);
            // A client that only looks at the certificate asks nothing.
            let _asked = exchange(&mut stream, |path| answer((path, exporter)));
            stream.conn.send_close_notify();
            let _sent = stream.flush();
        }
    });
    address
}

/// The same without TLS.
pub(super) fn serve_plainly(answer: impl Fn(&str) -> Answer + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _asked = exchange(&mut stream.unwrap(), &answer);
        }
    });
    address
}

fn exchange(stream: &mut (impl Read + Write), answer: impl Fn(&str) -> Answer) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut reader = BufReader::new(&mut *stream);
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.strip_prefix("GET ").and_then(|rest| rest.split(' ').next()).unwrap();
    let (status, headers, body) = answer(path);
    write!(stream, "HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\n\r\n", body.len())?;
    stream.write_all(&body)
}
