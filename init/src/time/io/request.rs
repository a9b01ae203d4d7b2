//! Requests: one UDP socket for each round, connected to one measured address, so that the kernel passes no datagram of
//! anybody else.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use super::since_boot;
use crate::sys;
use crate::time::nts::key_exchange::NTP_PORT;
use crate::time::nts::{Answer, Association, Nonces, Request};
use crate::time::{Sample, TimeError};

/// Requests in a round, each with a cookie of its own.
const TRIES: u32 = 3;
/// How long each is waited for. An answer that took longer would be off by more than is believed.
const WAIT: Duration = Duration::from_millis(2000);
/// Datagrams that are looked at for each request: who floods us does not keep us from asking again.
const LOOKS: u32 = 16;
/// One byte more than is read, so that a longer one is seen as such.
const BUFFER: usize = 2049;

/// Asks a server for the time.
pub(in crate::time) fn ask(
    association: &mut Association,
    server: IpAddr,
    pivot: Duration,
) -> Result<Sample, TimeError> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(TimeError::io("open a UDP socket"))?;
    socket.connect((server, NTP_PORT)).map_err(TimeError::io("connect by UDP"))?;
    let mut last = TimeError::exchange("a cookie", "none");
    for _ in 0..TRIES {
        let Some(request) = association.request(&nonces()?)? else { break };
        match once(&socket, &request, association, pivot) {
            // The server has spoken: asking again is what it does not want.
            Err(TimeError::Kiss { code, authentic: true }) => {
                return Err(TimeError::Kiss { code, authentic: true });
            }
            Err(error) => last = error,
            sample => return sample,
        }
    }
    Err(last)
}

fn once(
    socket: &UdpSocket,
    request: &Request,
    association: &mut Association,
    pivot: Duration,
) -> Result<Sample, TimeError> {
    let sent = since_boot()?;
    socket.send(request.bytes()).map_err(TimeError::io("send a request"))?;
    let mut refused = None;
    let mut buffer = [0; BUFFER];
    for _ in 0..LOOKS {
        let left = sent.saturating_add(WAIT).saturating_sub(since_boot()?);
        if left.is_zero() {
            break;
        }
        socket.set_read_timeout(Some(left)).map_err(TimeError::io("wait for an answer"))?;
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            // An ICMP error, which anybody may send: it ends the wait, and the next request is another try.
            Err(error) => return Err(TimeError::io("receive an answer")(error)),
        };
        let received = since_boot()?;
        match Answer::open(buffer.get(..length).unwrap_or_default(), request, association.keys()) {
            Ok(answer) => {
                let sample = answer.sample(sent, received, pivot)?;
                association.refill(answer.cookies);
                return Ok(sample);
            }
            Err(error @ TimeError::Kiss { authentic: true, .. }) => return Err(error),
            // Anybody may have sent it. The server's own answer may still come.
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.unwrap_or_else(|| TimeError::io("receive an answer")(ErrorKind::TimedOut.into())))
}

fn nonces() -> Result<Nonces, TimeError> {
    let mut nonces = Nonces { unique_id: [0; 32], origin: [0; 8], aead: [0; 16] };
    for bytes in [&mut nonces.unique_id[..], &mut nonces.origin, &mut nonces.aead] {
        sys::random(bytes, false).map_err(TimeError::io("getrandom"))?;
    }
    Ok(nonces)
}
