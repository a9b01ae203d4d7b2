//! The server's URL: scheme, host, port, and nothing behind them.

use std::net::IpAddr;
use std::str::FromStr;

use hyper::Uri;
use hyper::http::uri::Scheme;
use thiserror::Error;

/// Where the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    /// Whether it speaks TLS.
    pub https: bool,
    /// Its host, by name or address (without brackets).
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// A text that is not a server's URL.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("expected http:// or https:// with a host and nothing behind it")]
pub struct UrlError;

impl FromStr for ServerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (url, path) = parse(text).ok_or(UrlError)?;
        if path == "/" { Ok(url) } else { Err(UrlError) }
    }
}

impl ServerUrl {
    /// A server and what is behind it in a URL: path and query.
    pub(crate) fn with_path(text: &str) -> Option<(Self, String)> {
        parse(text)
    }

    /// Host and port as HTTP writes them.
    pub fn authority(&self) -> String {
        let default = if self.https { 443 } else { 80 };
        match (self.host.contains(':'), self.port == default) {
            (false, true) => self.host.clone(),
            (false, false) => format!("{}:{}", self.host, self.port),
            (true, true) => format!("[{}]", self.host),
            (true, false) => format!("[{}]:{}", self.host, self.port),
        }
    }

    /// Whether it names this machine.
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
    }

    /// The path and query of a URL, if it is one of this server's.
    pub(super) fn own_path(&self, text: &str) -> Option<String> {
        let (url, path) = parse(text)?;
        (url.https == self.https && url.port == self.port && url.host.eq_ignore_ascii_case(&self.host))
            .then_some(path)
    }
}

fn parse(text: &str) -> Option<(ServerUrl, String)> {
    let uri: Uri = text.parse().ok()?;
    let https = match uri.scheme()? {
        scheme if *scheme == Scheme::HTTPS => true,
        scheme if *scheme == Scheme::HTTP => false,
        _ => return None,
    };
    let authority = uri.authority()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let behind = authority.as_str().strip_prefix(authority.host())?;
    if !behind.is_empty() && authority.port_u16().is_none() {
        return None;
    }
    let host = authority.host();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() {
        return None;
    }
    let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    Some((ServerUrl { https, host: host.to_owned(), port }, path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_scheme_host_and_port() {
        let url: ServerUrl = "https://hs.example.com".parse().unwrap();
        assert_eq!((url.https, url.port, url.authority()), (true, 443, "hs.example.com".into()));
        let url: ServerUrl = "http://[::1]:8080/".parse().unwrap();
        assert_eq!(
            (url.host.as_str(), url.authority(), url.is_loopback()),
            ("::1", "[::1]:8080".into(), true)
        );
        for bad in
            ["", "hs", "ftp://hs", "http://", "http://u@h", "http://h/path", "http://h/?q", "http://h:99999"]
        {
            assert_eq!(bad.parse::<ServerUrl>(), Err(UrlError), "{bad}");
        }
    }

    #[test]
    fn only_the_servers_own_urls_have_a_path() {
        let url: ServerUrl = "http://127.0.0.1:8080".parse().unwrap();
        assert_eq!(url.own_path("http://127.0.0.1:8080/machine/x?id=1").unwrap(), "/machine/x?id=1");
        for other in [
            "https://127.0.0.1:8080/",
            "http://127.0.0.1/",
            "http://127.0.0.2:8080/",
            "/x",
            "http://u@127.0.0.1:8080/",
        ] {
            assert_eq!(url.own_path(other), None, "{other}");
        }
        assert!(!"http://localhost.example".parse::<ServerUrl>().unwrap().is_loopback());
    }
}
