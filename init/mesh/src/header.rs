//! Which header fields pass the proxy. Pure.

use hyper::http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, TE, UPGRADE};

/// Hex app id of the caller, set by us on requests to a backend (dstack-vpc's name for it).
pub const APP_ID: HeaderName = HeaderName::from_static("x-dstack-app-id");
/// Hex compose hash of the caller, set by us beside [`APP_ID`].
pub const COMPOSE_HASH: HeaderName = HeaderName::from_static("x-casemate-compose-hash");

/// Names that only the mesh may write or that only the first proxy may read. A trailing `-` is a prefix. The targets
/// are among them so that a backend which passes headers on cannot be made to call an app of the caller's choice.
const RESERVED: [&str; 4] = ["x-dstack-app-id", "x-dstack-target-", "x-dstack-use-tls", "x-casemate-"];

/// Fields of one hop (RFC 9110 section 7.6.1, RFC 9112 appendix C.2.2). `Trailer` stays: it announces fields that we pass on.
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Whether a name is ours. CGI and its heirs (RFC 3875 section 4.1.18) fold every character that is neither letter nor
/// digit into `_`, so that `x_dstack_app_id` and `x.dstack.app.id` would reach a backend as our header: all of them are.
pub(crate) fn is_reserved(name: &HeaderName) -> bool {
    let folded = |name: &str, reserved: &str| {
        let mut bytes = name.bytes();
        let head = reserved.bytes().all(|want| match bytes.next() {
            Some(found) if want == b'-' => !found.is_ascii_alphanumeric(),
            found => found == Some(want),
        });
        head && (reserved.ends_with('-') || bytes.next().is_none())
    };
    RESERVED.iter().any(|reserved| folded(name.as_str(), reserved))
}

/// Removes what is ours, in whatever spelling.
pub(crate) fn remove_reserved(headers: &mut HeaderMap) {
    let reserved: Vec<HeaderName> = headers.keys().filter(|name| is_reserved(name)).cloned().collect();
    for name in reserved {
        headers.remove(name);
    }
}

/// Removes the fields of one hop, those that `Connection` nominates among them. What we set is set afterwards, so
/// nominating it removes nothing of ours. `TE: trailers` is renewed for the next hop.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let trailers = has_token(headers, &TE, "trailers");
    let nominated: Vec<HeaderName> = tokens(headers, &CONNECTION)
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .filter(|name| *name != CONNECTION)
        .collect();
    for name in nominated {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

/// Whether a message wants, or confirms, a WebSocket (RFC 6455 section 4). No other protocol is passed through: `h2c`
/// above all would carry requests past us.
pub(crate) fn is_websocket(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(UPGRADE).iter();
    has_token(headers, &CONNECTION, "upgrade")
        && protocols.next().is_some_and(|p| p.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket"))
        && protocols.next().is_none()
}

/// Renews the wish, or its confirmation, for the next hop.
pub(crate) fn set_websocket(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Whether a list field has a token, in any case.
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|t| t.eq_ignore_ascii_case(token.as_bytes()))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).iter().flat_map(|v| v.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static(value));
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn every_spelling_of_our_names_is_removed() {
        let mut headers = map(&[
            ("X-DSTACK-APP-ID", "1"),
            ("x-dstack-app-id", "2"),
            ("x_dstack_app_id", "3"),
            ("x.dstack~app!id", "4"),
            ("x-casemate-compose-hash", "5"),
            ("X_Casemate_Anything", "6"),
            ("x-dstack-target-app", "7"),
            ("x-dstack-target_port", "8"),
            ("x-dstack-use-tls", "9"),
            ("x-dstack-app-id-2", "stays"),
            ("x-dstack", "stays"),
            ("xdstackappid", "stays"),
            ("x-casemate", "stays"),
        ]);
        remove_reserved(&mut headers);
        assert_eq!(names(&headers), ["x-casemate", "x-dstack", "x-dstack-app-id-2", "xdstackappid"]);
    }

    #[test]
    fn fields_of_one_hop_are_removed_and_the_nominated_with_them() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Secret,, ,te"),
            ("connection", "x-other"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "AA"),
            ("te", "gzip"),
            ("trailer", "x-sum"),
            ("accept", "*/*"),
        ]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(names(&headers), ["accept", "http2-settings", "trailer"]);
    }

    #[test]
    fn te_trailers_is_renewed() {
        let mut headers = map(&[("te", "gzip, Trailers"), ("connection", "te")]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("te", "trailers"), ("connection", "te")]));
    }

    #[test]
    fn only_a_websocket_is_an_upgrade() {
        let upgrade =
            |protocol| is_websocket(&map(&[("connection", "keep-alive, Upgrade"), ("upgrade", protocol)]));
        assert!(upgrade("websocket"));
        assert!(upgrade("WebSocket"));
        assert!(!upgrade("h2c"));
        assert!(!upgrade("websocket, h2c"));
        assert!(!is_websocket(&map(&[("upgrade", "websocket")])));
        let twice = [("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")];
        assert!(!is_websocket(&map(&twice)));
    }

    #[test]
    fn a_nomination_that_is_no_name_is_ignored() {
        let mut headers = map(&[("connection", "\"quoted\", a b, connection"), ("a", "1")]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(names(&headers), ["a"]);
    }
}
