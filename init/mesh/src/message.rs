//! Request and response heads on their way through: HTTP/1.1 or HTTP/2 in, HTTP/1.1 out. Pure.

use hyper::http::header::{COOKIE, EXPECT, HOST, HeaderMap, HeaderValue};
use hyper::http::uri::{Authority, PathAndQuery, Uri};
use hyper::http::{Extensions, Method, Version, request, response};

use crate::failure::Failure;
use crate::header;

/// What else the request asked for, read before its fields were removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// A WebSocket (RFC 6455), over HTTP/1.1 only.
    pub(crate) websocket: bool,
    /// `Expect: 100-continue` (RFC 9110 section 10.1.1), over HTTP/1.1 only.
    pub(crate) go_ahead: bool,
}

/// Makes a received request head one that may be sent on: origin form, exactly one `Host`, HTTP/1.1, nothing of the
/// last hop, none of our names. Whoever calls this adds our own fields afterwards.
pub(crate) fn forwardable(head: &mut request::Parts) -> Result<Wishes, Failure> {
    if head.method == Method::CONNECT {
        return Err(Failure::Connect);
    }
    let http1 = matches!(head.version, Version::HTTP_11);
    let wishes = Wishes {
        websocket: http1 && head.method == Method::GET && header::is_websocket(&head.headers),
        go_ahead: http1 && header::has_token(&head.headers, &EXPECT, "100-continue"),
    };
    let host = host(head)?;
    let path = path(head)?;

    header::remove_hop_by_hop(&mut head.headers);
    header::remove_reserved(&mut head.headers);
    if head.version == Version::HTTP_2 {
        join_cookies(&mut head.headers)?;
    }
    head.headers.insert(HOST, host);
    if wishes.websocket {
        header::set_websocket(&mut head.headers);
    }
    head.uri = path.into();
    head.version = Version::HTTP_11;
    // hyper keeps the upgrade handle and HTTP/2 details here: of the last hop, all of it.
    head.extensions = Extensions::new();
    Ok(wishes)
}

/// Makes a received response head one that may be sent back.
pub(crate) fn returnable(head: &mut response::Parts) {
    header::remove_hop_by_hop(&mut head.headers);
    header::remove_reserved(&mut head.headers);
    head.version = Version::HTTP_11;
    head.extensions = Extensions::new();
}

/// RFC 9112 section 3.2: exactly one `Host` in HTTP/1.1, overruled by an absolute-form target; RFC 9113 section 8.3.1:
/// `:authority`, which a `Host` beside it must equal.
fn host(head: &request::Parts) -> Result<HeaderValue, Failure> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(Failure::Bad("Host: expected once, found twice"));
    }
    if host.is_none() && head.version == Version::HTTP_11 {
        return Err(Failure::Bad("Host: expected once, found none"));
    }
    if let Some(host) = host
        && !host.is_empty()
        && !host.to_str().is_ok_and(|h| h.parse::<Authority>().is_ok_and(|a| plain(&a)))
    {
        return Err(Failure::Bad("Host: expected a host and perhaps a port"));
    }
    match (head.uri.authority(), host) {
        (Some(authority), _) if !plain(authority) => {
            Err(Failure::Bad("authority: user information is not allowed"))
        }
        (Some(authority), Some(host)) if head.version == Version::HTTP_2 && host != authority.as_str() => {
            Err(Failure::Bad("Host: differs from :authority"))
        }
        (Some(authority), _) => {
            HeaderValue::from_str(authority.as_str()).map_err(|_| Failure::Bad("authority: not a host"))
        }
        (None, Some(host)) => Ok(host.clone()),
        (None, None) => Ok(HeaderValue::from_static("")),
    }
}

fn plain(authority: &Authority) -> bool {
    !authority.as_str().contains('@')
}

/// Origin form, or `*` for OPTIONS (RFC 9112 section 3.2.4).
fn path(head: &request::Parts) -> Result<PathAndQuery, Failure> {
    let path = head.uri.path_and_query().ok_or(Failure::Bad("target: expected a path"))?;
    let asterisk = head.method == Method::OPTIONS && path.as_str() == "*";
    if path.path().starts_with('/') || asterisk {
        Ok(path.clone())
    } else {
        Err(Failure::Bad("target: expected a path"))
    }
}

/// HTTP/2 may split the field, HTTP/1.1 may not (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) -> Result<(), Failure> {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1 {
        let joined = HeaderValue::from_bytes(&crumbs.join(b"; ".as_slice()));
        headers.insert(COOKIE, joined.map_err(|_| Failure::Bad("Cookie: not readable"))?);
    }
    Ok(())
}

/// Whether a path is the mesh's own on every listener. Such a path never reaches a backend.
pub(crate) fn is_own_path(uri: &Uri) -> bool {
    uri.path().starts_with("/.well-known/casemate/")
}

#[cfg(test)]
mod tests {
    use hyper::http::{HeaderName, Request};

    use super::*;

    fn head(version: Version, method: &str, uri: &str, fields: &[(&str, &'static str)]) -> request::Parts {
        let mut request = Request::builder().version(version).method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(HeaderName::from_bytes(name.as_bytes()).unwrap(), *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn http1(method: &str, uri: &str, fields: &[(&str, &'static str)]) -> request::Parts {
        head(Version::HTTP_11, method, uri, fields)
    }

    fn refused(mut head: request::Parts) -> String {
        let failure = forwardable(&mut head).unwrap_err();
        assert!(failure.status().is_client_error() || failure.status() == 501, "{failure}");
        failure.to_string()
    }

    #[test]
    fn an_ordinary_request_passes() {
        let mut head = http1(
            "GET",
            "/a?b",
            &[("host", "x:1"), ("connection", "close, x-a"), ("x-a", "1"), ("accept", "*/*")],
        );
        assert_eq!(forwardable(&mut head).unwrap(), Wishes { websocket: false, go_ahead: false });
        assert_eq!(head.uri, "/a?b");
        assert_eq!(head.headers.len(), 2);
        assert_eq!(head.headers["host"], "x:1");
    }

    #[test]
    fn an_absolute_target_overrules_host() {
        let mut head = http1("GET", "http://right/p", &[("host", "wrong")]);
        forwardable(&mut head).unwrap();
        assert_eq!(
            (head.uri.to_string().as_str(), &head.headers["host"]),
            ("/p", &HeaderValue::from_static("right"))
        );
    }

    #[test]
    fn http2_becomes_http1() {
        let fields = [("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers")];
        let mut head = head(Version::HTTP_2, "GET", "https://svc:8/p", &fields);
        forwardable(&mut head).unwrap();
        assert_eq!(head.version, Version::HTTP_11);
        assert_eq!(head.headers["host"], "svc:8");
        assert_eq!(head.headers["cookie"], "a=1; b=2");
        assert_eq!(head.headers["te"], "trailers");
    }

    #[test]
    fn ambiguous_heads_are_refused() {
        assert!(refused(http1("GET", "/", &[])).contains("found none"));
        assert!(refused(http1("GET", "/", &[("host", "a"), ("host", "a")])).contains("found twice"));
        assert!(refused(http1("GET", "/", &[("host", "a b")])).contains("expected a host"));
        assert!(refused(http1("GET", "/", &[("host", "u@a")])).contains("expected a host"));
        assert!(refused(http1("GET", "http://u:p@a/", &[("host", "a")])).contains("user information"));
        assert!(refused(http1("CONNECT", "a:1", &[("host", "a")])).contains("CONNECT"));
        assert!(refused(http1("GET", "a:1", &[("host", "a")])).contains("expected a path"));
        assert!(refused(head(Version::HTTP_2, "GET", "https://a/", &[("host", "b")])).contains("differs"));
    }

    #[test]
    fn wishes_are_read_before_their_fields_go() {
        let fields =
            [("host", "a"), ("connection", "Upgrade"), ("upgrade", "websocket"), ("expect", "100-Continue")];
        let mut get = http1("GET", "/", &fields);
        assert_eq!(forwardable(&mut get).unwrap(), Wishes { websocket: true, go_ahead: true });
        assert_eq!(get.headers["upgrade"], "websocket");

        let mut post = http1("POST", "/", &fields);
        assert!(!forwardable(&mut post).unwrap().websocket);
        assert!(!post.headers.contains_key("upgrade"));
    }

    #[test]
    fn options_may_ask_about_the_server() {
        let mut head = http1("OPTIONS", "*", &[("host", "a")]);
        forwardable(&mut head).unwrap();
        assert_eq!(head.uri, "*");
    }
}
