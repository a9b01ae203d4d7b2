//! How a TCP connection to a server comes about: whoever owns sockets (their marks, their network namespace, their resolver)
//! implements [`Dial`]; the clients of the coordination server and of the relays only ask.

mod dialer;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;

pub use dialer::{Dialer, Locked};

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

    /// The addresses of a host: itself, if it is one in text. Whoever asks sets a limit.
    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// Whether a connection's own address is one of this machine still. What cannot be found out, is.
pub(crate) fn has_source(local: SocketAddr) -> bool {
    let mut any_port = local;
    any_port.set_port(0);
    let bound = std::net::UdpSocket::bind(any_port);
    !bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
}

/// Tries one target after the other, each a little after the one before, or when one has failed, and takes the first that succeeds
/// (RFC 8305 section 5): an address that swallows packets costs [`STAGGER`] and no more.
pub(crate) async fn first_of<A, T, F>(
    targets: impl IntoIterator<Item = A>,
    dial: impl Fn(A) -> F,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut targets: VecDeque<A> = targets.into_iter().collect();
    // A handful at most: each is polled whenever one of them moves.
    let mut under_way: Vec<Pin<Box<F>>> = Vec::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "there is no address");
    loop {
        if let Some(target) = targets.pop_front() {
            under_way.push(Box::pin(dial(target)));
        }
        if under_way.is_empty() {
            return Err(last);
        }
        let more = !targets.is_empty();
        let stagger = async {
            match more {
                true => tokio::time::sleep(STAGGER).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            (at, done) = std::future::poll_fn(|context| poll_any(&mut under_way, context)) => match done {
                Ok(done) => return Ok(done),
                Err(error) => {
                    drop(under_way.swap_remove(at));
                    last = error;
                }
            },
            () = stagger => {}
        }
    }
}

/// The first of these that is ready, and its place.
fn poll_any<F: Future>(futures: &mut [Pin<Box<F>>], context: &mut Context<'_>) -> Poll<(usize, F::Output)> {
    let ready = futures.iter_mut().enumerate().find_map(|(at, future)| match future.as_mut().poll(context) {
        Poll::Ready(done) => Some((at, done)),
        Poll::Pending => None,
    });
    ready.map_or(Poll::Pending, Poll::Ready)
}

/// The families in turn, so that one without a route does not hold up the other (RFC 8305 section 4).
pub(crate) fn in_turn(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let first_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let count = addresses.len();
    let (mut first, mut second): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_v6);
    let mut turns = Vec::with_capacity(count);
    while turns.len() < count {
        turns.extend(first.pop_front());
        turns.extend(second.pop_front());
    }
    turns
}

/// Between two attempts (RFC 8305 section 5, "Connection Attempt Delay").
const STAGGER: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

    use std::sync::Mutex;

    use tokio::time::timeout;

    use super::*;

    /// Dials numbers: 0 never answers, odd ones succeed, other even ones fail. What was dialled.
    async fn dialled(targets: &[u32]) -> (io::Result<u32>, Vec<u32>) {
        let tried = Mutex::new(Vec::new());
        let dial = |target: u32| {
            tried.lock().unwrap().push(target);
            async move {
                match target {
                    0 => std::future::pending().await,
                    _ if target % 2 == 1 => Ok(target),
                    _ => Err(io::Error::other(target.to_string())),
                }
            }
        };
        let first = timeout(Duration::from_secs(20), first_of(targets.to_vec(), dial)).await;
        (first.expect("one that never answers holds up the others"), tried.into_inner().unwrap())
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_does_not_hold_up_the_next() {
        assert_eq!(dialled(&[0, 0, 2, 3, 5]).await.1, [0, 0, 2, 3]);
        assert_eq!(dialled(&[0, 3]).await.0.unwrap(), 3);
        // Whoever answers is not followed by another.
        assert_eq!(dialled(&[1, 3]).await.1, [1]);
        assert_eq!(dialled(&[2, 4]).await.0.unwrap_err().to_string(), "4");
        assert_eq!(dialled(&[]).await.0.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn families_take_turns() {
        let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2"];
        let turns = in_turn(all.iter().map(|text| text.parse().unwrap()).collect());
        let turns: Vec<_> = turns.iter().map(ToString::to_string).collect();
        assert_eq!(turns, ["192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2", "192.0.2.3"]);
        assert_eq!(in_turn(Vec::new()), Vec::<IpAddr>::new());
    }

    #[test]
    fn an_address_that_is_gone_is_noticed() {
        assert!(has_source("127.0.0.1:80".parse().unwrap()), "a port of another socket does not matter");
        // TEST-NET-1 (RFC 5737): nobody has it.
        assert!(!has_source("192.0.2.1:80".parse().unwrap()));
    }
}
