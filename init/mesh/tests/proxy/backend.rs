//! Backends: some speak by the byte, so that a test sees exactly what reaches them.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Backend {
    /// Hands each connection to `talk`.
    pub(crate) async fn raw<F, A>(talk: F) -> Self
    where
        F: Fn(TcpStream) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(talk(stream));
            }
        });
        Self { address, connections }
    }

    /// Answers each request with its own head, byte by byte as it came, and keeps the connection.
    pub(crate) async fn reflecting() -> Self {
        Self::raw(|mut stream| async move {
            while let Some(head) = head(&mut stream).await {
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        })
        .await
    }

    /// Answers each request with its own body and trailers, as they come.
    pub(crate) async fn echoing() -> Self {
        Self::raw(|stream| async move {
            let echo = service_fn(|request: Request<Incoming>| async move {
                let trailer = request.headers().get("trailer").cloned();
                let mut response = Response::new(request.into_body());
                if let Some(trailer) = trailer {
                    response.headers_mut().insert("trailer", trailer);
                }
                Ok::<_, Infallible>(response)
            });
            // Ends with an error when the proxy cuts the connection.
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), echo).await);
        })
        .await
    }

    /// How many connections it has accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Reads one head; `None` at the end of the connection.
pub(crate) async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
