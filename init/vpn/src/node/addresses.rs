//! Our own addresses that peers may try: those of the machine's interfaces, without the tailnet's own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// How many of them are told to peers.
const MAX_ADDRESSES: usize = 32;

/// The addresses of this machine's interfaces that are up, in order.
///
/// # Errors
/// If the kernel does not list them.
pub(super) fn local(interface: &str, prefixes: &[IpNet]) -> nix::Result<Vec<IpAddr>> {
    let found = getifaddrs()?.filter(|entry| {
        entry.interface_name != interface
            && entry.flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING)
    });
    let addresses = found.filter_map(|entry| {
        let address = entry.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    Ok(worth_telling(addresses, prefixes))
}

/// Those that a peer could reach: neither loopback nor link-local (a peer does not know the link), nor the tailnet's, nor
/// the ones between us and our services (design section 5).
fn worth_telling(addresses: impl Iterator<Item = IpAddr>, prefixes: &[IpNet]) -> Vec<IpAddr> {
    let kept: BTreeSet<IpAddr> = addresses
        .filter(|address| {
            let usable = match address {
                IpAddr::V4(v4) => {
                    let [first, second, ..] = v4.octets();
                    let service_link = first == 198 && second & 0xfe == 18;
                    !(v4.is_loopback()
                        || v4.is_link_local()
                        || v4.is_unspecified()
                        || v4.is_multicast()
                        || service_link)
                }
                IpAddr::V6(v6) => {
                    !(v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || is_link_local(*v6))
                }
            };
            usable && !prefixes.iter().any(|prefix| prefix.contains(address))
        })
        .collect();
    kept.into_iter().take(MAX_ADDRESSES).collect()
}

/// fe80::/10 (RFC 4291 section 2.5.6).
const fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
mod tests {
    use super::*;

    #[test]
    fn peers_are_told_what_they_could_reach() {
        let all = [
            "127.0.0.1",
            "10.0.0.2",
            "10.0.0.2",
            "169.254.1.1",
            "198.18.1.1",
            "198.19.0.1",
            "198.20.0.1",
            "100.64.0.1",
            "100.100.100.100",
            "0.0.0.0",
            "::1",
            "fe80::1",
            "fd7a:115c:a1e0::1",
            "2001:db8::1",
            "224.0.0.1",
        ];
        let prefixes: Vec<IpNet> =
            vec!["100.64.0.0/10".parse().unwrap(), "fd7a:115c:a1e0::/48".parse().unwrap()];
        let told = worth_telling(all.iter().map(|text| text.parse().unwrap()), &prefixes);
        let told: Vec<String> = told.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["10.0.0.2", "198.20.0.1", "2001:db8::1"]);
    }
}
