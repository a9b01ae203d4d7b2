//! Which of two paths is better.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Whether path `a` is to replace path `b`: its advantage in latency, in per cent, and points for addresses that are near or cheap.
/// An advantage of 1 % alone is none (tailscale `wgengine/magicsock/endpoint.go`, `betterAddr`), nor is less than [`NOISE`] (ours).
pub(super) fn is_better(a: (SocketAddr, Duration), b: (SocketAddr, Duration)) -> bool {
    if a.0 == b.0 {
        return false;
    }
    let (mut points_a, mut points_b) = (bonus(a.0.ip()), bonus(b.0.ip()));
    let (gain_a, gain_b) = (advantage(a.1, b.1), advantage(b.1, a.1));
    points_a += gain_a;
    points_b += gain_b;
    if points_a <= 1 && points_b == 0 {
        return false;
    }
    points_a > points_b
}

/// By how many per cent `a` is quicker than `b`.
fn advantage(a: Duration, b: Duration) -> u32 {
    if b.saturating_sub(a) < NOISE {
        return 0;
    }
    let part = a.as_nanos() * 100 / b.as_nanos();
    100 - u32::try_from(part).unwrap_or(100).min(100)
}

/// What a scheduler or a driver adds to a round trip, and no path: below it two paths are as quick.
const NOISE: Duration = Duration::from_micros(500);

const fn bonus(ip: IpAddr) -> u32 {
    let near = match ip {
        IpAddr::V4(ip) => near(ip.is_loopback(), ip.is_link_local(), ip.is_private()),
        IpAddr::V6(ip) => near(ip.is_loopback(), ip.is_unicast_link_local(), ip.is_unique_local()),
    };
    if ip.is_ipv6() { near + 10 } else { near }
}

const fn near(loopback: bool, link_local: bool, private: bool) -> u32 {
    if loopback {
        50
    } else if link_local {
        30
    } else if private {
        20
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(address: &str, millis: u64) -> (SocketAddr, Duration) {
        (address.parse().unwrap(), Duration::from_millis(millis))
    }

    #[test]
    fn points_decide() {
        let cases = [
            // New, old, better?
            (path("1.1.1.1:1", 10), path("1.1.1.1:1", 100), false),
            (path("1.1.1.1:1", 10), path("2.2.2.2:1", 100), true),
            (path("1.1.1.1:1", 100), path("2.2.2.2:1", 10), false),
            (path("1.1.1.1:1", 99), path("2.2.2.2:1", 100), false),
            (path("1.1.1.1:1", 98), path("2.2.2.2:1", 100), true),
            (path("10.1.1.1:1", 100), path("2.2.2.2:1", 85), true),
            (path("10.1.1.1:1", 100), path("2.2.2.2:1", 75), false),
            (path("[2001:db8::1]:1", 100), path("2.2.2.2:1", 95), true),
            (path("[2001:db8::1]:1", 100), path("2.2.2.2:1", 85), false),
            (path("127.0.0.1:1", 100), path("10.2.2.2:1", 75), true),
            (path("169.254.1.1:1", 100), path("10.2.2.2:1", 95), true),
        ];
        for (new, old, better) in cases {
            assert_eq!(is_better(new, old), better, "{new:?} {old:?}");
            assert!(!(is_better(new, old) && is_better(old, new)), "{new:?} {old:?}");
        }
    }

    #[test]
    fn a_few_microseconds_are_no_reason() {
        let quick = |address: &str, micros| (address.parse().unwrap(), Duration::from_micros(micros));
        let six = quick("[2001:db8::1]:1", 700);
        assert!(!is_better(quick("192.0.2.1:1", 250), six));
        assert!(is_better(quick("192.0.2.1:1", 200), six));
        assert!(is_better(six, quick("192.0.2.1:1", 250)));
        assert!(!is_better(quick("192.0.2.1:1", 0), quick("192.0.2.2:1", 499)));
    }
}
