//! Asking a resolver, and believing only the answer to what was asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::answer::{Forward, Transport};
use super::peers::Peers;
use crate::key::fill_random;

/// Asks the resolvers one after the other; what the first to answer says, made the answer to our asker. `None`: nobody answered.
pub(super) async fn forward(forward: &Forward, transport: Transport) -> Option<Vec<u8>> {
    let Forward { upstreams, query, question, peers, .. } = forward;
    let reply = ask(upstreams, query, question, transport, peers.as_ref()).await?;
    Some(forward.finish(reply))
}

/// Asks the resolvers one after the other; what the first to answer says, as it says it.
pub(super) async fn ask(
    upstreams: &[SocketAddr],
    query: &Message,
    question: &Query,
    transport: Transport,
    peers: Option<&Peers>,
) -> Option<Vec<u8>> {
    let attempts = upstreams.iter().cycle().take(upstreams.len().clamp(MIN_ATTEMPTS, MAX_ATTEMPTS));
    for upstream in attempts {
        let id = random_id()?;
        let mut query = query.clone();
        query.metadata.id = id;
        let query = query.to_vec().ok()?;
        let attempt = async {
            match transport {
                Transport::Udp => ask_udp(*upstream, &query, id, question, peers).await,
                Transport::Tcp => ask_tcp(*upstream, &query, id, question, peers).await,
            }
        };
        if let Ok(Ok(reply)) = timeout(ATTEMPT, attempt).await
            && peers.is_none_or(|peers| peers.may_say(&reply))
        {
            return Some(reply);
        }
    }
    None
}

/// From a port that the kernel picks for this one question; the kernel drops what comes from elsewhere.
async fn ask_udp(
    upstream: SocketAddr,
    query: &[u8],
    id: u16,
    question: &Query,
    peers: Option<&Peers>,
) -> std::io::Result<Vec<u8>> {
    let any: IpAddr =
        if upstream.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    peers.map_or(Ok(()), |peers| peers.asked_from(socket.local_addr()?))?;
    socket.send(query).await?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    // Whoever guesses has so many guesses, and then we ask again from another port.
    for _ in 0..MAX_WRONG_REPLIES {
        let length = socket.recv(&mut buffer).await?;
        if let Some(reply) = buffer.get(..length)
            && answers(reply, id, question)
        {
            return Ok(reply.to_vec());
        }
    }
    Err(std::io::ErrorKind::InvalidData.into())
}

async fn ask_tcp(
    upstream: SocketAddr,
    query: &[u8],
    id: u16,
    question: &Query,
    peers: Option<&Peers>,
) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    peers.map_or(Ok(()), |peers| peers.asked_from(stream.local_addr()?))?;
    stream.set_nodelay(true)?;
    let length = u16::try_from(query.len()).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await?;
    if answers(&reply, id, question) { Ok(reply) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}

/// Whether a message is the answer to our question, whole and well formed.
pub(super) fn answers(reply: &[u8], id: u16, question: &Query) -> bool {
    let Some(&[id_high, id_low, _, _, 0, 1, ..]) = reply.first_chunk::<12>() else { return false };
    if u16::from_be_bytes([id_high, id_low]) != id {
        return false;
    }
    Message::from_vec(reply).is_ok_and(|message| {
        message.metadata.message_type == MessageType::Response
            && message.metadata.op_code == OpCode::Query
            && matches!(message.queries.as_slice(), [asked] if asked == question)
    })
}

pub(super) fn random_id() -> Option<u16> {
    let mut bytes = [0; 2];
    fill_random(&mut bytes).ok()?;
    Some(u16::from_be_bytes(bytes))
}

/// Below a stub resolver's five seconds in sum (`resolv.conf(5)`, `timeout`).
const ATTEMPT: Duration = Duration::from_millis(1500);
const MIN_ATTEMPTS: usize = 2;
const MAX_ATTEMPTS: usize = 3;
const MAX_WRONG_REPLIES: usize = 16;
const MAX_DATAGRAM: usize = 4096;
