//! The forms of strings in the section. Each function is `None` for what has not the form.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};

use crate::identity::AppId;
use crate::section::DnsLabel;

/// 198.18.0.0/15 (RFC 2544): the links of the services (design section 5); nothing outside lies there.
pub(super) const SERVICE_LINKS: Ipv4Net = match Ipv4Net::new(Ipv4Addr::new(198, 18, 0, 0), 15) {
    Ok(net) => net,
    Err(_) => unreachable!(),
};

/// What the egress lock opens in no mode (`casemate_egress::NEVER`, less the links of the services; RFC 6890): a list that
/// names it would promise what never happens.
pub(super) const UNREACHABLE: [Ipv4Net; 5] = [
    Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4),
    Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// An app id: 40 hex digits, lower case, so that each app has one spelling.
pub(super) fn app_id(text: &str) -> Option<AppId> {
    lower_hex(text).then(|| AppId::from_hex(text)).flatten()
}

/// SHA-256: 64 hex digits, lower case.
pub(super) fn digest(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    (lower_hex(text) && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

/// A register: 96 hex digits, lower case.
pub(super) fn register(text: &str) -> Option<crate::Register> {
    lower_hex(text).then(|| crate::Register::from_hex(text)).flatten()
}

fn lower_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A DNS name of at most 253 bytes (RFC 1035 section 2.3.4) that cannot be read as an IPv4 address: its last label has
/// a letter (RFC 3696 section 2).
pub(super) fn dns_name(text: &str) -> Option<String> {
    let labels = text.split('.').all(|label| DnsLabel::new(label).is_some());
    let last = text.rsplit('.').next().is_some_and(|label| label.bytes().any(|b| b.is_ascii_alphabetic()));
    (text.len() <= 253 && labels && last).then(|| text.to_owned())
}

/// `IP:PORT` of one machine outside the services' links.
pub(super) fn remote_socket(text: &str) -> Option<SocketAddr> {
    let socket: SocketAddr = text.parse().ok()?;
    let ip = socket.ip().to_canonical();
    let elsewhere = match ip {
        IpAddr::V4(v4) => !v4.is_broadcast() && !SERVICE_LINKS.contains(&v4),
        IpAddr::V6(_) => true,
    };
    let one = !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback();
    (socket.port() != 0 && elsewhere && one).then_some(socket)
}

/// An IP prefix with no bit set behind its length.
pub(super) fn prefix(text: &str) -> Option<IpNet> {
    let net: IpNet = text.parse().ok()?;
    (net == net.trunc()).then_some(net)
}

/// Whether two prefixes share an address.
pub(super) fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

/// A size in bytes: a whole number without leading zero, perhaps with `K`, `M` or `G` (powers of 1024).
pub(super) fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.strip_suffix(['K', 'M', 'G']) {
        None => (text, 0),
        Some(digits) if text.ends_with('K') => (digits, 10),
        Some(digits) if text.ends_with('M') => (digits, 20),
        Some(digits) => (digits, 30),
    };
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    let number: u64 = plain.then(|| digits.parse().ok()).flatten()?;
    number.checked_mul(1_u64.checked_shl(shift)?)
}

/// An absolute path other than `/`, without empty, `.` or `..` components and without NUL.
pub(super) fn absolute_path(text: &str) -> Option<String> {
    let plain = |component: &str| !matches!(component, "" | "." | "..") && !component.contains('\0');
    text.strip_prefix('/')?.split('/').all(plain).then(|| text.to_owned())
}

/// Text that can be an argument or a value of the environment: no NUL.
pub(super) fn c_text(text: &str) -> Option<String> {
    (!text.contains('\0')).then(|| text.to_owned())
}

/// The name of an environment variable (POSIX.1-2017 base definitions 8.1), at most 128 bytes.
pub(super) fn variable(text: &str) -> Option<String> {
    let word = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let first = text.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    (word && first && text.len() <= 128).then(|| text.to_owned())
}

/// A Headscale tag: `tag:` and a DNS label.
pub(super) fn tag(text: &str) -> Option<String> {
    text.strip_prefix("tag:").and_then(DnsLabel::new).map(|_| text.to_owned())
}

/// A URL `https://HOST[:PORT][/PATH]` without user, query or fragment.
pub(super) fn https_url(text: &str) -> Option<String> {
    authority(text.strip_prefix("https://")?).map(|_| text.to_owned())
}

/// The port of such a URL; 443 if it names none (RFC 9110 section 4.2.2).
pub(super) fn https_port(text: &str) -> Option<u16> {
    let text = https_url(text)?;
    let rest = text.strip_prefix("https://")?;
    let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
    match authority.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => port.parse().ok(),
        _ => Some(443),
    }
}

/// A URL `https://HOST[:PORT]`, or `http://`: to a loopback address, or to any if that is wanted. What is behind it is the client's to
/// say (init/vpn `control::client::ServerUrl`).
pub(super) fn login_url(text: &str, plain_http: bool) -> Option<String> {
    let (https, rest) = match text.strip_prefix("http://") {
        Some(rest) => (false, rest),
        None => (true, text.strip_prefix("https://")?),
    };
    let host = authority(rest)?;
    let whole = rest.split_once('/').is_none_or(|(_, path)| path.is_empty());
    let loopback = || host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    (whole && (https || plain_http || loopback())).then(|| text.to_owned())
}

/// The host of such a URL.
pub(super) fn url_host(text: &str) -> Option<&str> {
    authority(text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?)
}

/// The host of what follows `//` in a URL, if all of it is plain.
fn authority(rest: &str) -> Option<&str> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'@' | b'\\' | b'"' | b'<' | b'>');
    if !path.bytes().all(plain) {
        return None;
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port)
        }
        None => {
            let (host, port) = authority.find(':').map_or((authority, ""), |at| authority.split_at(at));
            if host.parse::<Ipv4Addr>().is_err() {
                dns_name(host)?;
            }
            (host, port)
        }
    };
    let good_port = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => {
            digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok_and(|p| p != 0)
        }
    };
    good_port.then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [("1", 1), ("64K", 64 << 10), ("16M", 16 << 20), ("1G", 1 << 30)] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "K", "0", "01M", "-1", "+1", "1.5M", "1m", "1MB", " 1M", "18446744073709551615K"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn names() {
        for text in ["a", "api.example.com", "a-b.9c", "xn--a.b"] {
            assert!(dns_name(text).is_some(), "{text}");
        }
        for text in ["", ".", "a.", ".a", "a..b", "A.b", "10.0.0.1", "a_b", "-a", "a.9", "a b"] {
            assert_eq!(dns_name(text), None, "{text}");
        }
        assert_eq!(dns_name(&format!("{}.com", "a.".repeat(125) + "a")), None);
        assert!(variable("_A1").is_some());
        for text in ["", "1A", "A=B", "A B", "Ä"] {
            assert_eq!(variable(text), None, "{text}");
        }
        assert!(tag("tag:internal-only").is_some());
        for text in ["tag:", "internal-only", "tag:A", "tag:a:b"] {
            assert_eq!(tag(text), None, "{text}");
        }
    }

    #[test]
    fn addresses() {
        for text in ["203.0.113.1:443", "[2001:db8::1]:1", "10.0.2.2:8080"] {
            assert!(remote_socket(text).is_some(), "{text}");
        }
        for text in [
            "203.0.113.1",
            "203.0.113.1:0",
            "host:443",
            "0.0.0.0:1",
            "127.0.0.1:1",
            "[::1]:1",
            "224.0.0.1:1",
            "198.18.1.2:80",
            "198.19.255.255:80",
            "[::ffff:198.18.1.2]:80",
            "255.255.255.255:1",
            "203.0.113.1:65536",
        ] {
            assert_eq!(remote_socket(text), None, "{text}");
        }
        for text in ["203.0.113.0/24", "::/0", "10.1.2.3/32"] {
            assert!(prefix(text).is_some(), "{text}");
        }
        for text in ["203.0.113.1/24", "203.0.113.0", "203.0.113.0/33", "a/8"] {
            assert_eq!(prefix(text), None, "{text}");
        }
    }

    #[test]
    fn paths() {
        for text in ["/bin/httpd", "/tmp", "/a b"] {
            assert!(absolute_path(text).is_some(), "{text}");
        }
        for text in ["", "/", "bin", "/bin/", "//bin", "/./a", "/a/../b", "/..", "/a\0"] {
            assert_eq!(absolute_path(text), None, "{text}");
        }
    }

    #[test]
    fn urls() {
        for text in [
            "https://a.example",
            "https://a.example:8443/x/y",
            "https://192.0.2.1",
            "https://[2001:db8::1]:1/",
        ] {
            assert!(https_url(text).is_some(), "{text}");
        }
        let ports = [
            ("https://a.example", 443),
            ("https://a.example/x:1", 443),
            ("https://a.example:8443/x/y", 8443),
            ("https://[2001:db8::1]", 443),
            ("https://[2001:db8::1]:1/", 1),
        ];
        for (text, port) in ports {
            assert_eq!(https_port(text), Some(port), "{text}");
        }
        for text in [
            "http://a.example",
            "https://",
            "https://u@a.example",
            "https://a.example:0",
            "https://a.example:x",
            "https://a/?q",
            "https://a/#f",
            "https://a b/",
            "https://[::1",
            "HTTPS://a",
        ] {
            assert_eq!(https_url(text), None, "{text}");
        }
        for text in ["http://127.0.0.1:8080", "http://[::1]:8080", "http://localhost"] {
            assert!(login_url(text, false).is_some(), "{text}");
        }
        for text in ["https://10.0.0.1/x", "http://127.0.0.1/x", "https://a.example//", "https://u@a.example"]
        {
            assert_eq!(login_url(text, true), None, "{text}");
        }
        assert!(login_url("https://a.example:8443/", false).is_some());
        assert_eq!(login_url("http://10.0.0.1", false), None);
        assert!(login_url("http://10.0.0.1", true).is_some());
        assert_eq!(login_url("http://", true), None);
        for (text, host) in [
            ("https://192.0.2.1:8443/x", "192.0.2.1"),
            ("http://192.0.2.1", "192.0.2.1"),
            ("https://a.example:8443", "a.example"),
            ("https://[2001:db8::1]:1", "2001:db8::1"),
        ] {
            assert_eq!(url_host(text), Some(host), "{text}");
        }
        for text in ["192.0.2.1", "https://192.0.2.1.1", "https://"] {
            assert_eq!(url_host(text), None, "{text}");
        }
    }

    #[test]
    fn digests_have_one_spelling() {
        assert!(app_id(&"0a".repeat(20)).is_some());
        assert_eq!(app_id(&"0A".repeat(20)), None);
        assert_eq!(app_id(&"0a".repeat(21)), None);
        assert!(digest(&"0a".repeat(32)).is_some());
        assert_eq!(digest(&"0g".repeat(32)), None);
        assert!(register(&"00".repeat(48)).is_some());
    }
}
