//! From one service to other apps, and to the guest agent: the plain HTTP/1.1 listener inside the service's network namespace.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use casemate_measure::AppId;
use hyper::body::Incoming;
use hyper::http::StatusCode;
use hyper::{Request, Response};
use tokio::net::TcpListener;

use crate::body::ResponseBody;
use crate::dstack::Dstack;
use crate::exchange::Exchange;
use crate::failure::Failure;
use crate::io::{Idle, accept};
use crate::shares::Shares;
use crate::target::{Target, names_target, target};
use crate::tunnel::Keep;
use crate::upstream::Upstream;
use crate::{answer, limits, message, serve};

/// The measured targets, shared by all services: the far end sees the appliance, not the service.
#[derive(Debug)]
pub(crate) struct Targets {
    pub(crate) addresses: BTreeMap<AppId, SocketAddr>,
    pub(crate) upstreams: BTreeMap<AppId, Arc<Upstream>>,
}

/// One service's listener.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) service: String,
    pub(crate) targets: Arc<Targets>,
    /// Of all services.
    pub(crate) connections: Arc<Shares<String>>,
    /// Who answers a request that names no target; `None`: nobody.
    pub(crate) dstack: Option<Dstack>,
}

impl Outbound {
    /// Accepts for ever.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener) {
        loop {
            let place = self.connections.take(&self.service).await;
            let (stream, _) = accept(&listener).await;
            let (outbound, keep): (_, Keep) = (Arc::clone(&self), Arc::new(place));
            tokio::spawn(async move {
                let answer = move |request| {
                    let (outbound, keep) = (Arc::clone(&outbound), Arc::clone(&keep));
                    async move { outbound.answer(request, keep).await }
                };
                serve::many(false, Idle::new(stream, limits::IDLE), answer).await;
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>, keep: Keep) -> Response<ResponseBody> {
        if let Some(dstack) = &self.dstack
            && !names_target(request.headers())
        {
            return dstack.answer(request).await;
        }
        let wanted = match target(request.headers(), &self.targets.addresses) {
            Ok(wanted) => wanted,
            Err(why) => {
                tracing::info!(service = self.service, %why, "request refused");
                let status = if why.is_forbidden() { StatusCode::FORBIDDEN } else { StatusCode::BAD_REQUEST };
                return answer::text(status, why);
            }
        };
        match self.relay(request, wanted, keep).await {
            Ok(response) => response,
            Err(failure) => {
                let (app, status, why) = (wanted.app, failure.status(), serve::chain(&failure));
                tracing::info!(service = self.service, %app, status = status.as_u16(), why, "not relayed");
                answer::text(status, format_args!("app {app}: {why}"))
            }
        }
    }

    async fn relay(
        &self,
        mut request: Request<Incoming>,
        wanted: Target,
        keep: Keep,
    ) -> Result<Response<ResponseBody>, Failure> {
        let upstream = self.targets.upstreams.get(&wanted.app);
        let upstream = upstream.ok_or(Failure::Bad("the target has no measured address"))?;
        let upgrade = hyper::upgrade::on(&mut request);
        let (mut head, body) = request.into_parts();
        let wishes = message::forwardable(&mut head)?;
        let upgrade = wishes.websocket.then_some(upgrade);
        Exchange { head, body, wishes, upgrade, instance: wanted.instance, keep }.run(upstream).await
    }
}
