//! Which peer an address belongs to: the longest matching prefix.

use std::net::IpAddr;

use ipnet::IpNet;

/// Prefixes and what they lead to, built as a whole and then only read.
///
/// The prefixes are cut into ranges that do not overlap, each with the longest prefix over it; a look-up is one binary search,
/// whatever the lengths. Of equal prefixes the one given first holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes<T> {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
    targets: Vec<T>,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self { v4: Ranges::default(), v6: Ranges::default(), targets: Vec::new() }
    }
}

impl<T> Routes<T> {
    /// Builds the table. Host bits of a prefix are ignored.
    pub fn build(routes: impl IntoIterator<Item = (IpNet, T)>) -> Self {
        let (mut v4, mut v6, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for (net, target) in routes {
            let index = targets.len();
            targets.push(target);
            match net {
                IpNet::V4(net) => {
                    v4.push(Prefix { first: net.network().to_bits(), last: net.broadcast().to_bits(), index })
                }
                IpNet::V6(net) => {
                    v6.push(Prefix { first: net.network().to_bits(), last: net.broadcast().to_bits(), index })
                }
            }
        }
        let v4 = Ranges::build(v4, |last| last.checked_add(1));
        let v6 = Ranges::build(v6, |last| last.checked_add(1));
        Self { v4, v6, targets }
    }

    /// What the longest prefix over the address leads to.
    pub fn lookup(&self, address: IpAddr) -> Option<&T> {
        let index = match address {
            IpAddr::V4(address) => self.v4.lookup(address.to_bits()),
            IpAddr::V6(address) => self.v6.lookup(address.to_bits()),
        };
        self.targets.get(index?)
    }

    /// How many prefixes it was built from.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether it was built from none.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }
}

/// One family: where each range begins, and its target; the range ends where the next begins.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ranges<A> {
    starts: Vec<A>,
    indices: Vec<Option<usize>>,
}

impl<A> Default for Ranges<A> {
    fn default() -> Self {
        Self { starts: Vec::new(), indices: Vec::new() }
    }
}

/// A prefix as its range, and the place of its target.
#[derive(Clone, Copy)]
struct Prefix<A> {
    first: A,
    last: A,
    index: usize,
}

impl<A: Copy + Ord> Ranges<A> {
    fn build(mut prefixes: Vec<Prefix<A>>, after: impl Fn(A) -> Option<A>) -> Self {
        // A prefix stands before those inside it; prefixes nest or are apart, they never cross.
        prefixes.sort_unstable_by(|a, b| (a.first, b.last, a.index).cmp(&(b.first, a.last, b.index)));
        prefixes.dedup_by_key(|prefix| (prefix.first, prefix.last));
        let mut ranges = Self::default();
        let mut open: Vec<Prefix<A>> = Vec::new();
        for prefix in prefixes {
            ranges.close(&mut open, Some(prefix.first), &after);
            ranges.begin(prefix.first, Some(prefix.index));
            open.push(prefix);
        }
        ranges.close(&mut open, None, &after);
        ranges
    }

    /// Ends the open prefixes that lie before `next`, and takes up the one around each.
    fn close(&mut self, open: &mut Vec<Prefix<A>>, next: Option<A>, after: impl Fn(A) -> Option<A>) {
        while let Some(ended) = open.pop_if(|prefix| next.is_none_or(|next| prefix.last < next)) {
            if let Some(start) = after(ended.last) {
                self.begin(start, open.last().map(|around| around.index));
            }
        }
    }

    fn begin(&mut self, start: A, index: Option<usize>) {
        match (self.starts.last(), self.indices.last_mut()) {
            (Some(last), Some(current)) if *last == start => *current = index,
            _ => {
                self.starts.push(start);
                self.indices.push(index);
            }
        }
    }

    fn lookup(&self, address: A) -> Option<usize> {
        let behind = self.starts.partition_point(|start| *start <= address);
        self.indices.get(behind.checked_sub(1)?).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn routes(table: &[(&str, u32)]) -> Routes<u32> {
        Routes::build(table.iter().map(|(net, target)| (net.parse().unwrap(), *target)))
    }

    #[test]
    fn the_longest_prefix_holds() {
        let routes = routes(&[
            ("0.0.0.0/0", 1),
            ("100.64.0.0/10", 2),
            ("100.64.0.7/32", 3),
            ("255.255.255.255/32", 4),
            ("fd7a:115c:a1e0::/48", 5),
            ("fd7a:115c:a1e0::7/128", 6),
            ("100.64.0.7/32", 7),
        ]);
        for (address, target) in [
            ("8.8.8.8", Some(1)),
            ("100.64.0.6", Some(2)),
            ("100.64.0.7", Some(3)),
            ("100.64.0.8", Some(2)),
            ("100.128.0.0", Some(1)),
            ("255.255.255.255", Some(4)),
            ("fd7a:115c:a1e0::7", Some(6)),
            ("fd7a:115c:a1e0::8", Some(5)),
            ("fd7a:115c:a1e1::", None),
            ("::", None),
            // An IPv4 address in IPv6 clothes is another address.
            ("::ffff:100.64.0.7", None),
        ] {
            assert_eq!(routes.lookup(address.parse().unwrap()).copied(), target, "{address}");
        }
    }

    #[test]
    fn an_empty_table_leads_nowhere() {
        let routes = Routes::<u32>::build([]);
        assert!(routes.is_empty());
        assert_eq!(routes.lookup("100.64.0.1".parse().unwrap()), None);
    }

    fn any_net() -> impl Strategy<Value = IpNet> {
        // Few distinct high bits, so that prefixes nest.
        let v4 = (0_u32..64, 0_u8..=32).prop_map(|(bits, length)| {
            let spread = bits.reverse_bits() | (bits & 3);
            IpNet::new(IpAddr::V4(Ipv4Addr::from(spread)), length).unwrap()
        });
        let v6 = (0_u128..64, 0_u8..=128).prop_map(|(bits, length)| {
            let spread = bits.reverse_bits() | (bits & 3);
            IpNet::new(IpAddr::V6(Ipv6Addr::from(spread)), length).unwrap()
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_scan(nets in proptest::collection::vec(any_net(), 0..40), probes in proptest::collection::vec(any_net(), 1..40)) {
            let routes = Routes::build(nets.iter().copied().zip(0..));
            for probe in nets.iter().chain(&probes).flat_map(|net| [net.addr(), net.network(), net.broadcast()]) {
                let expected = nets.iter().zip(0..)
                    .filter(|(net, _)| net.contains(&probe))
                    .max_by_key(|(net, index)| (net.prefix_len(), -index));
                prop_assert_eq!(routes.lookup(probe).copied(), expected.map(|(_, index)| index));
            }
        }
    }

    /// Not a promise about time: `cargo test --release -p casemate-vpn route -- --ignored --nocapture` shows it.
    #[test]
    #[ignore = "prints a measurement"]
    fn measure_three_thousand_peers() {
        let nets: Vec<(IpNet, u32)> = (0..3000_u32)
            .flat_map(|n| {
                let v4 = IpNet::from(IpAddr::V4(Ipv4Addr::from(0x6440_0000 + n * 7)));
                let v6 = IpNet::from(IpAddr::V6(Ipv6Addr::from((0xfd7a_115c_a1e0 << 80) + u128::from(n))));
                [(v4, n), (v6, n)]
            })
            .collect();
        let start = std::time::Instant::now();
        let routes = Routes::build(nets.iter().copied());
        let built = start.elapsed();
        let start = std::time::Instant::now();
        let found = (0..1_000_000).filter(|n| routes.lookup(nets[n % nets.len()].0.addr()).is_some()).count();
        println!("built in {built:?}; {found} look-ups in {:?}", start.elapsed());
    }
}
