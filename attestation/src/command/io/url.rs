//! Where collateral is fetched: the part of URLs (RFC 3986) that a PCCS needs.

use std::fmt;

/// `https://HOST[:PORT][/PATH]`; `http://` too, which is for this machine alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    /// Whether TLS protects it.
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Path and query, from the first slash.
    pub(crate) path: String,
}

impl Url {
    /// Reads it; `None` if it is no such URL.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (tls, rest) = match text.strip_prefix("https://") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("http://")?),
        };
        let printable = rest.bytes().all(|byte| byte.is_ascii_graphic());
        let (authority, path) =
            rest.split_once('/').map_or((rest, String::new()), |(a, path)| (a, format!("/{path}")));
        if !printable || rest.contains(['#', '@']) || authority.contains('?') {
            return None;
        }
        let (host, port) = match host_and_port(authority) {
            Some(found) => found,
            None if bare_host(authority) => (authority, if tls { 443 } else { 80 }),
            None => return None,
        };
        Some(Self { tls, host: host.to_owned(), port, path })
    }

    /// The URL of a path behind this base.
    pub(crate) fn join(&self, path: &str) -> Self {
        Self { path: format!("{}{path}", self.path.trim_end_matches('/')), ..self.clone() }
    }

    /// As it stands in the header `Host`.
    pub(crate) fn authority(&self) -> String {
        authority(&self.host, self.port)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.path)
    }
}

/// `HOST:PORT`, IPv6 addresses in brackets.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The other way round.
pub(crate) fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (!host.is_empty()).then_some((host, port.parse().ok()?))
}

fn bare_host(text: &str) -> bool {
    !text.is_empty() && !text.contains([':', '[', ']'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_split() {
        assert_eq!(host_and_port("localhost:8443"), Some(("localhost", 8443)));
        assert_eq!(host_and_port("[::1]:443"), Some(("::1", 443)));
        assert_eq!(authority("::1", 443), "[::1]:443");
        for bad in ["localhost", ":443", "host:", "host:70000", "host:-1", ""] {
            assert_eq!(host_and_port(bad), None, "{bad}");
        }
    }

    #[test]
    fn bases_take_paths() {
        let joined = |base: &str| Url::parse(base).unwrap().join("/sgx?ca=x").to_string();
        assert_eq!(joined("https://pccs.example"), "https://pccs.example:443/sgx?ca=x");
        assert_eq!(joined("https://pccs.example:8081/"), "https://pccs.example:8081/sgx?ca=x");
        assert_eq!(joined("http://[::1]:80/base/"), "http://[::1]:80/base/sgx?ca=x");
        for bad in ["ftp://a", "https://", "https://a:b", "https://a@b", "https://a/#b", "https://a b", "a:1"]
        {
            assert_eq!(Url::parse(bad), None, "{bad}");
        }
    }
}
