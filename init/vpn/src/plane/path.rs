//! How a peer is reached, read by every batch without a lock.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Mutex, PoisonError};

use crate::netmap::RegionId;
use crate::path::Route;

const DIRECT: u64 = 1;
const V6: u64 = 2;
const RELAY: u64 = 4;

/// A [`Route`] that one writer at a time replaces: readers read again if the version moved meanwhile.
#[derive(Debug, Default)]
pub(super) struct RouteCell {
    version: AtomicU64,
    words: [AtomicU64; 4],
    writer: Mutex<()>,
}

impl RouteCell {
    pub(super) fn load(&self) -> Route {
        loop {
            let before = self.version.load(Ordering::Acquire);
            let words = self.words.each_ref().map(|word| word.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
                return decode(words);
            }
            std::hint::spin_loop();
        }
    }

    /// Returns what was there.
    pub(super) fn store(&self, route: Route) -> Route {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = decode(self.words.each_ref().map(|word| word.load(Ordering::Relaxed)));
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, value) in self.words.iter().zip(encode(route)) {
            word.store(value, Ordering::Relaxed);
        }
        self.version.store(version.wrapping_add(2), Ordering::Release);
        before
    }
}

fn encode(route: Route) -> [u64; 4] {
    let mut head = 0;
    let mut address = [0; 2];
    let mut scope = 0;
    if let Some(direct) = route.direct {
        head |= DIRECT | u64::from(direct.port()) << 16;
        let bits = match direct {
            SocketAddr::V4(v4) => u128::from(v4.ip().to_bits()),
            SocketAddr::V6(v6) => {
                head |= V6;
                scope = u64::from(v6.scope_id());
                v6.ip().to_bits()
            }
        };
        let bytes = bits.to_be_bytes();
        let (halves, _) = bytes.as_chunks::<8>();
        for (word, half) in address.iter_mut().zip(halves) {
            *word = u64::from_be_bytes(*half);
        }
    }
    if let Some(RegionId(region)) = route.relay {
        head |= RELAY | u64::from(region) << 32;
    }
    let [high, low] = address;
    [head, high, low, scope]
}

fn decode([head, high, low, scope]: [u64; 4]) -> Route {
    let bytes = head.to_be_bytes();
    let [r0, r1, r2, r3, p0, p1, _, _] = bytes;
    let bits = u128::from(high) << 64 | u128::from(low);
    let port = u16::from_be_bytes([p0, p1]);
    let direct = (head & DIRECT != 0).then(|| {
        if head & V6 == 0 {
            let ip = Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(0));
            SocketAddr::new(IpAddr::V4(ip), port)
        } else {
            let scope = u32::try_from(scope).unwrap_or(0);
            SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from_bits(bits), port, 0, scope))
        }
    });
    let relay = (head & RELAY != 0).then(|| RegionId(u32::from_be_bytes([r0, r1, r2, r3])));
    Route { direct, relay }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
mod tests {
    use super::*;

    fn routes() -> Vec<Route> {
        let addresses =
            [None, Some("1.2.3.4:5"), Some("255.255.255.255:65535"), Some("[fe80::1%7]:99"), Some("[::]:0")];
        let mut routes = Vec::new();
        for relay in [None, Some(RegionId(0)), Some(RegionId(u32::MAX))] {
            for address in addresses {
                routes.push(Route { direct: address.map(|address| address.parse().unwrap()), relay });
            }
        }
        routes
    }

    #[test]
    fn a_route_is_read_as_it_was_stored() {
        let cell = RouteCell::default();
        let mut last = Route::default();
        for route in routes() {
            assert_eq!(cell.store(route), last);
            assert_eq!(cell.load(), route);
            last = route;
        }
    }

    #[test]
    fn a_reader_never_sees_half_of_one() {
        let cell = RouteCell::default();
        let all = routes();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..2000 {
                    for &route in &all {
                        cell.store(route);
                    }
                }
            });
            for _ in 0..20_000 {
                assert!(all.contains(&cell.load()));
            }
        });
    }
}
