//! A bad wire: two hosts whose UDP goes through a process that delays, loses, doubles and reorders it. The kernel has no
//! netem everywhere; this needs only addresses that are not its own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};

use crate::net::Host;

/// What happens to each datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weather {
    /// Of a hundred.
    pub(crate) lost: u32,
    pub(crate) doubled: u32,
    /// Of a hundred, how many come 10 ms later than those that were sent after them.
    pub(crate) late: u32,
    pub(crate) delay: Duration,
}

impl Weather {
    pub(crate) const FAIR: Self = Self { lost: 0, doubled: 0, late: 0, delay: Duration::ZERO };
    /// Nothing comes through.
    pub(crate) const OUT: Self = Self { lost: 100, ..Self::FAIR };
}

/// The wire between two hosts that are behind routers of their own. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Wire {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    weather: Mutex<(Weather, Crossed)>,
}

/// What came to the wire since its weather changed, and what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Crossed {
    pub(crate) came: u32,
    pub(crate) lost: u32,
    pub(crate) doubled: u32,
    pub(crate) late: u32,
}

/// The port of the nodes at both ends.
const PORT: u16 = 41641;
/// Where the wire's process listens on the router.
const INTO: u16 = 5001;
const OUT_OF: u16 = 5002;
/// What is late, is so by this much.
const LATE: Duration = Duration::from_millis(10);

impl Wire {
    /// Puts one at the router of `near`, for what goes between it and `far`.
    pub(crate) fn between(near: &Host, far: &Host) -> Self {
        // What the wire sends has the addresses of the ends: it must not come back to it.
        near.router_rules(&format!(
            r#"table ip wire {{
                chain raw {{
                    type filter hook output priority raw;
                    udp dport {PORT} notrack
                }}
                chain in {{
                    type nat hook prerouting priority dstnat;
                    ip saddr {near} ip daddr {far} udp dport {PORT} redirect to :{INTO}
                    ip saddr {far} ip daddr {near} udp dport {PORT} redirect to :{OUT_OF}
                }}
            }}"#,
            near = near.v4,
            far = far.v4,
        ));
        let weather = Mutex::new((Weather::FAIR, Crossed::default()));
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), weather });
        let threads = [(INTO, near.v4, far.v4), (OUT_OF, far.v4, near.v4)].map(|(port, from, to)| {
            let (listens, sends) = near.inside_router(|| {
                (UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap(), UdpSocket::from(transparent(from)))
            });
            let shared = Arc::clone(&shared);
            thread::spawn(move || carry(&shared, &listens, &sends, SocketAddrV4::new(to, PORT)))
        });
        Self { shared, threads: threads.into() }
    }

    /// From now on.
    pub(crate) fn becomes(&self, weather: Weather) {
        *self.shared.weather.lock().unwrap() = (weather, Crossed::default());
    }

    pub(crate) fn crossed(&self) -> Crossed {
        self.shared.weather.lock().unwrap().1
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// A socket with an address of somebody else's.
fn transparent(address: Ipv4Addr) -> OwnedFd {
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&fd, sockopt::IpTransparent, &true).unwrap();
    setsockopt(&fd, sockopt::ReuseAddr, &true).unwrap();
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrIn::from(SocketAddrV4::new(address, PORT))).unwrap();
    fd
}

fn carry(shared: &Shared, listens: &UdpSocket, sends: &UdpSocket, to: SocketAddrV4) {
    let mut buffer = [0; 65536];
    let mut waiting = BinaryHeap::<Reverse<(Instant, u64, Vec<u8>)>>::new();
    let (mut dice, mut number) = (0x9e37_79b9_7f4a_7c15_u64, 0_u64);
    while !shared.stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        while let Some(Reverse((due, ..))) = waiting.peek()
            && *due <= now
        {
            let Some(Reverse((_, _, datagram))) = waiting.pop() else { break };
            // What cannot be sent is lost, as on any wire.
            drop(sends.send_to(&datagram, to));
        }
        let next = waiting.peek().map_or(LATE, |Reverse((due, ..))| due.saturating_duration_since(now));
        listens.set_read_timeout(Some(next.clamp(Duration::from_millis(1), LATE))).unwrap();
        let Ok(size) = listens.recv(&mut buffer) else { continue };
        let mut under = shared.weather.lock().unwrap();
        let (weather, crossed) = &mut *under;
        // Of a hundred; Marsaglia's xorshift, the same in each run.
        let mut rolls = |of: u32| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            dice % 100 < u64::from(of)
        };
        let (lost, doubled, late) = (rolls(weather.lost), rolls(weather.doubled), rolls(weather.late));
        crossed.came += 1;
        crossed.lost += u32::from(lost);
        if lost {
            continue;
        }
        crossed.doubled += u32::from(doubled);
        crossed.late += u32::from(late);
        let due = Instant::now() + weather.delay + if late { LATE } else { Duration::ZERO };
        drop(under);
        for _ in 0..=u32::from(doubled) {
            number += 1;
            waiting.push(Reverse((due, number, buffer[..size].to_vec())));
        }
    }
}
