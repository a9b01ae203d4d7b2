//! Where a service wants its request to go: the `x-dstack-target-*` fields of dstack-vpc. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use casemate_measure::{AppId, InstanceId};
use hyper::http::header::HeaderMap;

/// A measured destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) app: AppId,
    /// If given: only this instance of the app.
    pub(crate) instance: Option<InstanceId>,
}

/// Why there is none. The text is the answer to the service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoTarget {
    #[error("no target: expected the header {TARGET_APP} with 40 hex digits")]
    Absent,
    #[error("{0}: expected once, found twice")]
    Twice(&'static str),
    #[error("{header}: expected {expected}")]
    Malformed { header: &'static str, expected: &'static str },
    #[error("{TARGET_APP}: app {0} is not among the measured targets (casemate.mesh.targets)")]
    NotMeasured(AppId),
    #[error("{TARGET_PORT}: the measured target of app {app} has port {measured}, found {found}")]
    OtherPort { app: AppId, measured: u16, found: u16 },
}

impl NoTarget {
    /// Whether the request was well-formed and is not permitted, rather than malformed.
    pub(crate) const fn is_forbidden(&self) -> bool {
        matches!(self, Self::NotMeasured(_) | Self::OtherPort { .. })
    }
}

/// Whether a request says anything of a target. One that says half of it is not for anybody else.
pub(crate) fn names_target(headers: &HeaderMap) -> bool {
    [TARGET_APP, TARGET_PORT, TARGET_INSTANCE, USE_TLS].iter().any(|name| headers.contains_key(*name))
}

/// Reads the target fields and looks the app up among the measured targets.
pub(crate) fn target(
    headers: &HeaderMap,
    measured: &BTreeMap<AppId, SocketAddr>,
) -> Result<Target, NoTarget> {
    let app = one(headers, TARGET_APP, "40 hex digits", AppId::from_hex)?.ok_or(NoTarget::Absent)?;
    let port = one(headers, TARGET_PORT, "a port from 1 to 65535", port)?;
    let instance = one(headers, TARGET_INSTANCE, "40 hex digits", InstanceId::from_hex)?;
    one(headers, USE_TLS, "true, because the mesh never goes without TLS", |v| (v == "true").then_some(()))?;
    let address = measured.get(&app).ok_or(NoTarget::NotMeasured(app))?;
    match port {
        Some(found) if found != address.port() => {
            Err(NoTarget::OtherPort { app, measured: address.port(), found })
        }
        _ => Ok(Target { app, instance }),
    }
}

fn one<T>(
    headers: &HeaderMap,
    header: &'static str,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, NoTarget> {
    let mut values = headers.get_all(header).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(NoTarget::Twice(header));
    }
    let parsed = value.to_str().ok().and_then(parse).ok_or(NoTarget::Malformed { header, expected })?;
    Ok(Some(parsed))
}

/// Digits only: `u16::from_str` also takes a sign.
fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

const TARGET_APP: &str = "x-dstack-target-app";
const TARGET_PORT: &str = "x-dstack-target-port";
const TARGET_INSTANCE: &str = "x-dstack-target-instance";
const USE_TLS: &str = "x-dstack-use-tls";

#[cfg(test)]
mod tests {
    use hyper::http::HeaderValue;

    use super::*;

    const APP: &str = "0707070707070707070707070707070707070707";

    fn judge(fields: &[(&'static str, &'static str)]) -> Result<Target, NoTarget> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        target(&headers, &BTreeMap::from([(AppId([7; 20]), SocketAddr::from(([10, 0, 0, 1], 443)))]))
    }

    #[test]
    fn a_measured_app_is_found() {
        let app = AppId([7; 20]);
        assert_eq!(judge(&[(TARGET_APP, APP)]), Ok(Target { app, instance: None }));
        let all = [(TARGET_APP, APP), (TARGET_PORT, "443"), (TARGET_INSTANCE, APP), (USE_TLS, "true")];
        assert_eq!(judge(&all), Ok(Target { app, instance: Some(InstanceId([7; 20])) }));
    }

    #[test]
    fn anything_else_is_named() {
        let expect = |fields: &[(&'static str, &'static str)], text: &str, forbidden| {
            let error = judge(fields).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
            assert_eq!(error.is_forbidden(), forbidden, "{error}");
        };
        expect(&[], "no target", false);
        expect(&[(TARGET_APP, "07")], "x-dstack-target-app: expected 40 hex digits", false);
        expect(&[(TARGET_APP, APP), (TARGET_APP, APP)], "found twice", false);
        expect(&[(TARGET_APP, "0000000000000000000000000000000000000001")], "not among the measured", true);
        expect(&[(TARGET_APP, APP), (TARGET_PORT, "+443")], "x-dstack-target-port: expected a port", false);
        expect(&[(TARGET_APP, APP), (TARGET_PORT, "0")], "expected a port", false);
        expect(&[(TARGET_APP, APP), (TARGET_PORT, "8443")], "has port 443, found 8443", true);
        expect(&[(TARGET_APP, APP), (TARGET_INSTANCE, "x")], "x-dstack-target-instance: expected", false);
        expect(&[(TARGET_APP, APP), (USE_TLS, "false")], "never goes without TLS", false);
    }
}
