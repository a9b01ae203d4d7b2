//! What a connection may do, decided once, after its handshake. Pure.

use std::sync::Arc;

use hyper::Response;
use hyper::http::header::{HeaderMap, HeaderValue};
use hyper::http::{Method, StatusCode, Uri};

use crate::answer;
use crate::body::ResponseBody;
use crate::config::Caller;
use crate::header::{APP_ID, COMPOSE_HASH};
use crate::logs::{Logs, Permitted};
use crate::peer::PeerIdentity;

/// The verdict on a connection.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// It is one of those who may do something here.
    Known(Known),
    /// It may ask whether we are there. The text says why no more.
    Stranger(Arc<str>),
}

/// An attested peer, and what it may do; at least one of both.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// Calling the backend, or why not.
    pub(crate) backend: Result<Admitted, Arc<str>>,
    /// Reading the logs.
    pub(crate) logs: Option<Permitted>,
}

/// The caller as the backend will see it.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    app: HeaderValue,
    compose: HeaderValue,
}

impl Standing {
    /// Judges a verified peer, or nobody, against the `allow` list of a backend and the readers of the logs.
    pub(crate) fn of(peer: Option<&PeerIdentity>, allow: &[Caller], logs: &Logs) -> Self {
        let Some(peer) = peer else {
            return Self::Stranger("a client certificate is required".into());
        };
        let allowed = allow.iter().any(|caller| caller.admits(&peer.app()));
        let admitted = Admitted::new(peer).filter(|_| allowed);
        let backend = admitted.ok_or_else(|| format!("app {} is not allowed here", peer.app()).into());
        match (backend, logs.permit(peer)) {
            (Err(why), None) => Self::Stranger(why),
            (backend, logs) => Self::Known(Known { backend, logs }),
        }
    }
}

impl Admitted {
    fn new(peer: &PeerIdentity) -> Option<Self> {
        let value = |text: String| HeaderValue::try_from(text).ok();
        Some(Self { app: value(peer.app().to_string())?, compose: value(peer.compose().to_string())? })
    }

    /// Says who calls, in place of whatever the request said.
    pub(crate) fn introduce(&self, headers: &mut HeaderMap) {
        headers.insert(APP_ID, self.app.clone());
        headers.insert(COMPOSE_HASH, self.compose.clone());
    }
}

/// All that a stranger gets beside the mesh's own paths: the backend is out of its reach by construction, since nothing here
/// knows of one.
pub(crate) fn porch(method: &Method, uri: &Uri, why: &str) -> Response<ResponseBody> {
    match (method, uri.path()) {
        (&Method::GET, "/health") => answer::text(StatusCode::OK, "ok"),
        _ => answer::text(StatusCode::FORBIDDEN, why),
    }
}

#[cfg(test)]
mod tests {
    use casemate_measure::{AppId, ComposeHash};

    use super::*;

    fn peer(byte: u8) -> PeerIdentity {
        PeerIdentity::of_test(AppId([byte; 20]), ComposeHash([byte; 32]))
    }

    fn admitted(peer: Option<&PeerIdentity>, allow: &[Caller]) -> bool {
        matches!(
            Standing::of(peer, allow, &readers(&[])),
            Standing::Known(Known { backend: Ok(_), logs: None })
        )
    }

    #[test]
    fn only_a_listed_identity_is_admitted() {
        let listed = [Caller::App(AppId([1; 20])), Caller::App(AppId([2; 20]))];
        assert!(admitted(Some(&peer(2)), &listed));
        assert!(!admitted(Some(&peer(3)), &listed));
        assert!(admitted(Some(&peer(3)), &[Caller::Any]));
        assert!(!admitted(Some(&peer(3)), &[]));
        assert!(!admitted(None, &[Caller::Any]));
    }

    fn readers(apps: &[u8]) -> Logs {
        Logs::new(apps.iter().map(|byte| AppId([*byte; 20])).collect(), std::iter::empty())
    }

    #[test]
    fn calling_the_backend_and_reading_the_logs_are_two_permissions() {
        let standing = |peer: Option<&PeerIdentity>, allow: &[Caller], apps: &[u8]| match Standing::of(
            peer,
            allow,
            &readers(apps),
        ) {
            Standing::Known(known) => (known.backend.is_ok(), known.logs.is_some()),
            Standing::Stranger(_) => (false, false),
        };
        assert_eq!(standing(Some(&peer(1)), &[Caller::Any], &[2]), (true, false));
        assert_eq!(standing(Some(&peer(2)), &[Caller::Any], &[2]), (true, true));
        assert_eq!(standing(Some(&peer(2)), &[Caller::App(AppId([1; 20]))], &[2]), (false, true));
        assert_eq!(standing(Some(&peer(3)), &[Caller::App(AppId([1; 20]))], &[2]), (false, false));
        assert_eq!(standing(None, &[Caller::Any], &[2]), (false, false));
        assert_eq!(standing(Some(&peer(2)), &[], &[]), (false, false), "no readers: nobody");
    }

    #[test]
    fn the_introduction_replaces_every_other() {
        let standing = Standing::of(Some(&peer(0xab)), &[Caller::Any], &readers(&[]));
        let Standing::Known(Known { backend: Ok(admitted), .. }) = standing else { panic!("not admitted") };
        let mut headers = HeaderMap::new();
        headers.append(APP_ID, HeaderValue::from_static("forged"));
        headers.append(APP_ID, HeaderValue::from_static("twice"));
        admitted.introduce(&mut headers);
        assert_eq!(headers.get_all(APP_ID).iter().collect::<Vec<_>>(), [&"ab".repeat(20)]);
        assert_eq!(headers[COMPOSE_HASH], "ab".repeat(32));
    }

    #[test]
    fn a_stranger_gets_health_and_nothing_else() {
        let status =
            |method: Method, uri: &'static str| porch(&method, &Uri::from_static(uri), "no").status();
        assert_eq!(status(Method::GET, "/health"), 200);
        assert_eq!(status(Method::GET, "/health?x=1"), 200);
        for (method, uri) in [
            (Method::POST, "/health"),
            (Method::HEAD, "/health"),
            (Method::GET, "/health/"),
            (Method::GET, "/HEALTH"),
            (Method::GET, "//health"),
            (Method::GET, "/"),
            (Method::OPTIONS, "*"),
        ] {
            assert_eq!(status(method, uri), 403, "{uri}");
        }
    }
}
