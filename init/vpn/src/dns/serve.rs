//! The server: sockets, limits and times around [`answer`].

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::answer::{Answer, Forward, MAX_QUERY, Outcome, Transport, answer};
use super::forward::forward;
use super::{Counters, Zone};
use crate::published::Published;

/// What the server listens on. The sockets must be bound to one address each, so that answers come from where they were asked.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For datagrams.
    pub udp: Vec<UdpSocket>,
    /// For connections.
    pub tcp: Vec<TcpListener>,
}

/// Answers queries until it is dropped; all that it began ends with it.
pub async fn serve(listeners: Listeners, zone: Arc<Published<Zone>>, counters: Arc<Counters>) {
    let server = Arc::new(Server {
        zone,
        counters,
        forwards: Arc::new(Semaphore::new(MAX_FORWARDS)),
        forwards_of: Askers::new(MAX_FORWARDS_EACH),
        connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        connections_of: Askers::new(MAX_CONNECTIONS_EACH),
    });
    let mut tasks = JoinSet::new();
    for socket in listeners.udp {
        tasks.spawn(Arc::clone(&server).datagrams(Arc::new(socket)));
    }
    for listener in listeners.tcp {
        tasks.spawn(Arc::clone(&server).connections(listener));
    }
    while tasks.join_next().await.is_some() {}
}

struct Server {
    zone: Arc<Published<Zone>>,
    counters: Arc<Counters>,
    forwards: Arc<Semaphore>,
    forwards_of: Arc<Askers>,
    connections: Arc<Semaphore>,
    connections_of: Arc<Askers>,
}

/// How many of a thing each address has: one must not have all of them.
#[derive(Debug)]
struct Askers {
    most: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// A place of one of them, until it is dropped.
#[derive(Debug)]
struct Place {
    askers: Arc<Askers>,
    address: IpAddr,
}

impl Askers {
    fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, counts: Mutex::default() })
    }

    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place { askers: Arc::clone(self), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.askers.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

impl Server {
    async fn datagrams(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut running = JoinSet::new();
        let mut buffer = vec![0; MAX_QUERY + 1];
        loop {
            while running.try_join_next().is_some() {}
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
                // An ICMP error of an earlier answer, or no memory: neither is a reason to stop.
                sleep(PAUSE).await;
                continue;
            };
            let Some(query) = buffer.get(..length) else { continue };
            match answer(query, &self.zone.load(), Transport::Udp) {
                Answer::Ignore => {}
                Answer::Reply { message, outcome } => {
                    self.counters.count(outcome);
                    send(&socket, &message, from).await;
                }
                Answer::Forward(query) => match self.place_to_forward(from.ip()) {
                    Some(place) => {
                        let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
                        running.spawn(async move {
                            let reply = server.ask(&query, Transport::Udp).await;
                            drop(place);
                            send(&socket, &reply, from).await;
                        });
                    }
                    None => {
                        self.counters.count(Outcome::Failed);
                        send(&socket, &query.failure(), from).await;
                    }
                },
            }
        }
    }

    /// A connection has one at a time, so that those of an address are few.
    fn place_to_forward(&self, asker: IpAddr) -> Option<(OwnedSemaphorePermit, Place)> {
        Arc::clone(&self.forwards).try_acquire_owned().ok().zip(self.forwards_of.enter(asker))
    }

    async fn connections(self: Arc<Self>, listener: TcpListener) {
        let mut running = JoinSet::new();
        loop {
            while running.try_join_next().is_some() {}
            // The next one waits in the kernel's queue until there is room.
            let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, from)) => {
                    // One too many is closed at once, unread.
                    let Some(place) = self.connections_of.enter(from.ip()) else { continue };
                    let server = Arc::clone(&self);
                    running.spawn(async move {
                        // A connection that breaks has nobody left to tell.
                        let _ended = timeout(CONNECTION, server.connection(stream)).await;
                        drop((place, permit));
                    });
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// One query after the other (RFC 7766 lets us answer in order), each with a limit of its own.
    async fn connection(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut buffer = vec![0; MAX_QUERY];
        for _ in 0..MAX_QUERIES {
            let length = usize::from(timeout(IDLE, stream.read_u16()).await??);
            let Some(query) = buffer.get_mut(..length) else { return Ok(()) };
            timeout(IDLE, stream.read_exact(query)).await??;
            let reply = match answer(query, &self.zone.load(), Transport::Tcp) {
                Answer::Ignore => return Ok(()),
                Answer::Reply { message, outcome } => {
                    self.counters.count(outcome);
                    message
                }
                Answer::Forward(query) => match self.forwards.try_acquire() {
                    Ok(_permit) => self.ask(&query, Transport::Tcp).await,
                    Err(_) => {
                        self.counters.count(Outcome::Failed);
                        query.failure()
                    }
                },
            };
            let Ok(length) = u16::try_from(reply.len()) else { return Ok(()) };
            timeout(IDLE, stream.write_all(&[&length.to_be_bytes(), reply.as_slice()].concat())).await??;
        }
        Ok(())
    }

    async fn ask(&self, query: &Forward, transport: Transport) -> Vec<u8> {
        match forward(query, transport).await {
            Some(reply) => {
                self.counters.forwarded.fetch_add(1, Ordering::Relaxed);
                reply
            }
            None => {
                self.counters.count(Outcome::Failed);
                query.failure()
            }
        }
    }
}

async fn send(socket: &UdpSocket, message: &[u8], to: SocketAddr) {
    // An asker that is gone, or has no port, misses nothing.
    let _sent = socket.send_to(message, to).await;
}

/// Each holds a socket and a few kilobytes.
const MAX_FORWARDS: usize = 256;
const MAX_FORWARDS_EACH: usize = 64;
const MAX_CONNECTIONS: usize = 64;
const MAX_CONNECTIONS_EACH: usize = 8;
const MAX_QUERIES: usize = 128;
/// RFC 7766, section 6.2.3, leaves it to the server.
const IDLE: Duration = Duration::from_secs(10);
const CONNECTION: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_a_few_places_and_others_have_theirs() {
        let askers = Askers::new(MAX_CONNECTIONS_EACH);
        let [greedy, other] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        let mut places: Vec<_> = (0..MAX_CONNECTIONS).filter_map(|_| askers.enter(greedy)).collect();
        assert_eq!(places.len(), MAX_CONNECTIONS_EACH);
        assert!(askers.enter(other).is_some());
        places.pop();
        assert!(askers.enter(greedy).is_some());
        drop(places);
        assert!(askers.counts.lock().is_ok_and(|askers| askers.is_empty()), "who is gone is forgotten");
    }
}
