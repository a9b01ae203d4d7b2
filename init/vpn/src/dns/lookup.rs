//! The addresses of a host that we want to reach ourselves: the coordination server, a relay.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::time::timeout;

use super::answer::Transport;
use super::forward::ask;

/// More addresses of one host are not tried.
const MAX_ADDRESSES: usize = 8;
/// How long the one family is waited for once the other is known: some resolvers never answer for AAAA. RFC 8305 section 3 has 50 ms,
/// for people who wait.
pub(super) const OTHER_FAMILY: Duration = Duration::from_millis(300);

/// What the resolvers say of a host, IPv4 first; empty if they know none, or do not answer. Once one family is known, the other is
/// not waited for long.
pub async fn lookup(resolvers: &[SocketAddr], host: &str) -> Vec<IpAddr> {
    let Ok(name) = Name::from_ascii(format!("{}.", host.trim_end_matches('.'))) else { return Vec::new() };
    let mut v4 = pin!(one(resolvers, &name, RecordType::A));
    let mut v6 = pin!(one(resolvers, &name, RecordType::AAAA));
    let (v4, v6) = tokio::select! {
        found = &mut v4 => {
            let other = other(&found, v6).await;
            (found, other)
        }
        // IPv4 is waited for: most servers have it, and many machines have nothing else.
        found = &mut v6 => (v4.await, found),
    };
    v4.into_iter().chain(v6).take(MAX_ADDRESSES).collect()
}

async fn other(found: &[IpAddr], other: impl Future<Output = Vec<IpAddr>>) -> Vec<IpAddr> {
    if found.is_empty() { other.await } else { timeout(OTHER_FAMILY, other).await.unwrap_or_default() }
}

async fn one(resolvers: &[SocketAddr], name: &Name, kind: RecordType) -> Vec<IpAddr> {
    let question = Query::query(name.clone(), kind);
    let mut query = Message::new(0, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(question.clone());
    let mut reply = ask(resolvers, &query, &question, Transport::Udp, None).await;
    if reply
        .as_deref()
        .and_then(|reply| Message::from_vec(reply).ok())
        .is_some_and(|reply| reply.metadata.truncation)
    {
        reply = ask(resolvers, &query, &question, Transport::Tcp, None).await;
    }
    let Some(Ok(reply)) = reply.map(|reply| Message::from_vec(&reply)) else { return Vec::new() };
    if reply.metadata.response_code != ResponseCode::NoError {
        return Vec::new();
    }
    // Aliases were followed by the resolver: every address in the answer is one of the host's.
    let addresses = reply.answers.iter().filter_map(|record| match record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    });
    addresses.collect()
}
