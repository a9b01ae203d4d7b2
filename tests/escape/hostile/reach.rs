//! How an attempt to reach somebody over the network is made.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use libc::{EACCES, ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EPERM, ETIMEDOUT};

use crate::case::HTTP;
use crate::files::errno;

/// `casemate_measure::section::OUTBOUND_PORT`.
pub(crate) const OUTBOUND_PORT: u16 = 8888;
/// How long an answer may take.
const WAIT: Duration = Duration::from_millis(1500);
/// How long the outbound proxy may take: it is there, and says no.
const PATIENCE: Duration = Duration::from_secs(20);
/// How an attempt ends that is not to succeed.
pub(crate) const NOBODY: &[i32] = &[ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, EPERM, EACCES];

fn timed_out(error: io::Error) -> i32 {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => ETIMEDOUT,
        _ => errno(error),
    }
}

/// By TCP.
pub(crate) fn connect(to: impl Into<SocketAddr>) -> Result<String, i32> {
    TcpStream::connect_timeout(&to.into(), WAIT).map(|_| "connected".into()).map_err(timed_out)
}

/// By UDP. That nothing comes back is no proof that nothing arrived: whoever listens there says whether something did.
pub(crate) fn send(to: impl Into<SocketAddr>, bytes: &[u8]) -> Result<String, i32> {
    let to = to.into();
    let from: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(from).map_err(errno)?;
    // Connected, it hears of it if somebody says that nobody is there.
    socket.connect(to).map_err(errno)?;
    socket.set_read_timeout(Some(WAIT)).map_err(errno)?;
    socket.send(bytes).map_err(errno)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).map_err(timed_out)?;
    Ok(format!("an answer of {length} bytes"))
}

/// Gives the service's own outbound proxy these bytes. What it refuses has its status code as an errno, see [`HTTP`].
pub(crate) fn ask_outbound(request: &str) -> Result<String, i32> {
    let proxy = SocketAddr::from((Ipv4Addr::LOCALHOST, OUTBOUND_PORT));
    let mut stream = TcpStream::connect_timeout(&proxy, PATIENCE).map_err(timed_out)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(errno)?;
    stream.write_all(request.as_bytes()).map_err(errno)?;
    let mut answer = [0; 256];
    let length = stream.read(&mut answer).map_err(timed_out)?;
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse::<i32>().ok());
    match status {
        Some(status @ 400..600) => Err(HTTP + status),
        _ => Ok(format!("{answer:?}")),
    }
}
