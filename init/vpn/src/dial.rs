//! How a TCP connection to a server comes about: whoever owns sockets (their marks, their network namespace, their resolver)
//! implements [`Dial`]; the clients of the coordination server and of the relays only ask.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;

use tokio::net::{TcpStream, lookup_host};

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Opens TCP connections.
pub trait Dial: Send + Sync + 'static {
    /// Connects to `port` of `ip`, or of what `host` resolves to if there is none. `host` may itself be an address in text.
    fn dial<'a>(
        &'a self,
        host: &'a str,
        ip: Option<IpAddr>,
        port: u16,
    ) -> BoxFuture<'a, io::Result<TcpStream>>;
}

/// Dials by the system's resolver and ordinary sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDial;

impl Dial for SystemDial {
    fn dial<'a>(
        &'a self,
        host: &'a str,
        ip: Option<IpAddr>,
        port: u16,
    ) -> BoxFuture<'a, io::Result<TcpStream>> {
        Box::pin(async move {
            let stream = match ip {
                Some(ip) => TcpStream::connect((ip, port)).await?,
                None => connect_any(host, port).await?,
            };
            stream.set_nodelay(true)?;
            Ok(stream)
        })
    }
}

async fn connect_any(host: &str, port: u16) -> io::Result<TcpStream> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in lookup_host((bare, port)).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
