//! The mesh's own paths: on every listener, for everybody, and never a backend's.

use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Buf;
use casemate_measure::AppId;
use hyper::body::Body;
use hyper::http::{Method, StatusCode};
use hyper::{Request, Response};

use crate::answer;
use crate::body::ResponseBody;
use crate::challenge::{self, Binding, Challenges};
use crate::collateral::{self, Collateral};
use crate::logs::{self, Logs, Permitted};
use crate::patience::Patience;
use crate::shares::Shares;
use crate::tunnel::Keep;

/// What answers them.
#[derive(Debug)]
pub(crate) struct OwnPaths {
    pub(crate) logs: Arc<Logs>,
    /// `None`: peers are judged without.
    pub(crate) collateral: Option<Arc<Collateral>>,
    pub(crate) challenges: Challenges,
}

/// A connection, as far as these paths are concerned.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) asker: Asker,
    pub(crate) logs: Option<Permitted>,
    pub(crate) binding: Binding,
    /// How long it may last; `None`: as long as it is used.
    pub(crate) patience: Option<Patience>,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// Nobody that we know, from there.
    Stranger(IpAddr),
    /// That app.
    App(AppId),
}

/// Places of something dear: so many for strangers, shared among the addresses that they come from, and so many for apps.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    strangers: Arc<Shares<IpAddr>>,
    apps: Arc<Shares<AppId>>,
}

impl Turns {
    pub(crate) fn new(strangers: usize, apps: usize) -> Self {
        Self { strangers: Shares::new(strangers), apps: Shares::new(apps) }
    }

    /// A place, if there is one for whoever asks. It is given back when what is returned is dropped.
    pub(crate) fn try_take(&self, asker: &Asker) -> Option<Keep> {
        match asker {
            Asker::Stranger(from) => self.strangers.try_take(from).map(|place| Arc::new(place) as Keep),
            Asker::App(app) => self.apps.try_take(app).map(|place| Arc::new(place) as Keep),
        }
    }
}

impl OwnPaths {
    /// Answers a request for one of them.
    pub(crate) async fn answer<B>(&self, request: Request<B>, session: &Session) -> Response<ResponseBody>
    where
        B: Body<Data: Buf + Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send,
    {
        let (head, body) = request.into_parts();
        if let Some(asked) = logs::asked(&head.uri) {
            return match session.logs {
                Some(permitted) => self.logs.answer(permitted, &head.method, asked, &head.uri),
                None => answer::text(
                    StatusCode::FORBIDDEN,
                    "this is not for you: logs.readers does not name your app",
                ),
            };
        }
        match (head.uri.path(), &head.method, &self.collateral) {
            (collateral::PATH, _, None) => {
                answer::text(StatusCode::NOT_FOUND, "there is no collateral here: peers are judged without")
            }
            (collateral::PATH, &Method::GET, Some(collateral)) => collateral.show(&head.headers),
            (collateral::PATH, &Method::POST, Some(collateral)) => {
                collateral.take(body, &session.asker).await
            }
            (collateral::PATH, ..) => answer::other_method("GET, POST"),
            (challenge::PATH, &Method::GET, _) => self.challenges.answer(head.uri.query(), session).await,
            (challenge::PATH, ..) => answer::other_method("GET"),
            _ => answer::text(StatusCode::NOT_FOUND, "not implemented in this version"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_a_place_for_another() {
        let turns = Turns::new(2, 4);
        let stranger = |last| Asker::Stranger([192, 0, 2, last].into());
        let first = turns.try_take(&stranger(1)).unwrap();
        assert!(turns.try_take(&stranger(1)).is_none());
        let second = turns.try_take(&stranger(2)).unwrap();
        assert!(turns.try_take(&stranger(3)).is_none(), "all are taken");
        // Apps have their own.
        let app = Asker::App(AppId([1; 20]));
        let _apps = [turns.try_take(&app).unwrap(), turns.try_take(&app).unwrap()];
        assert!(turns.try_take(&app).is_none());
        drop((first, second));
        assert!(turns.try_take(&stranger(3)).is_some());
    }
}
