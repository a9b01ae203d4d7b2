//! The service behind a mesh: it counts what reaches it, by the byte, and remembers each request.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What has reached a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) connections: usize,
    pub(crate) bytes: usize,
    /// Heads of requests, as they came.
    pub(crate) heads: Vec<String>,
}

impl Seen {
    /// Not so much as a connection.
    pub(crate) fn nothing() -> Self {
        Self::default()
    }
}

pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Backend {
    /// Answers every request with this text.
    pub(crate) async fn answering(text: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                shared.lock().unwrap().connections += 1;
                tokio::spawn(talk(stream, Arc::clone(&shared), text));
            }
        });
        Self { address, seen }
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// The only request so far, over the only connection, and nothing beside it.
    pub(crate) fn only_request(&self) -> String {
        let Seen { connections, bytes, heads } = self.seen();
        assert_eq!((connections, heads.len()), (1, 1), "{heads:?}");
        assert_eq!(bytes, heads[0].len(), "{heads:?}");
        heads[0].clone()
    }
}

/// Requests without bodies, one after the other.
async fn talk(mut stream: TcpStream, seen: Arc<Mutex<Seen>>, text: &str) {
    let mut pending = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        seen.lock().unwrap().bytes += length;
        pending.extend_from_slice(&chunk[..length]);
        while let Some(end) = pending.windows(4).position(|four| four == b"\r\n\r\n") {
            let head: Vec<u8> = pending.drain(..end + 4).collect();
            seen.lock().unwrap().heads.push(String::from_utf8(head).unwrap());
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// The values of a field in a head, in order.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    fields.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}
