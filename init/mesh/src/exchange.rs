//! One request to a backend or target, and its answer.

use std::sync::Arc;
use std::time::Duration;

use casemate_measure::InstanceId;
use hyper::body::{Body as _, Incoming};
use hyper::http::{StatusCode, request};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response};
use tokio::time::timeout;

use crate::body::{Progress, RequestBody, ResponseBody};
use crate::failure::Failure;
use crate::message::{self, Wishes};
use crate::upstream::{Connection, Lease, Upstream};
use crate::{go_ahead, header, limits, tunnel};

/// A request whose head [`message::forwardable`] and our own fields have made ready.
pub(crate) struct Exchange {
    pub(crate) head: request::Parts,
    pub(crate) body: Incoming,
    pub(crate) wishes: Wishes,
    /// The caller's side of a switch of protocols; given only if the request wishes one.
    pub(crate) upgrade: Option<OnUpgrade>,
    /// Only this instance may answer.
    pub(crate) instance: Option<InstanceId>,
    /// What is kept until the last byte of the answer has left: its place among those under way, and that of the caller's
    /// connection.
    pub(crate) keep: tunnel::Keep,
}

impl Exchange {
    /// Sends it and returns as soon as the answer begins.
    pub(crate) async fn run(self, upstream: &Arc<Upstream>) -> Result<Response<ResponseBody>, Failure> {
        let mut attempt = Attempt::first(self.head, self.body, self.wishes);
        let progress = Arc::clone(&attempt.progress);
        let (mut connection, mut rested) = match upstream.rested() {
            Some(connection) => (connection, true),
            None => (upstream.connect().await?, false),
        };
        let response = loop {
            if let Some(instance) = self.instance
                && connection.peer.as_ref().and_then(|peer| peer.instance()) != Some(instance)
            {
                return Err(Failure::OtherInstance);
            }
            let again = rested && attempt.spare.is_some();
            match send(&mut connection, attempt.request, &progress, limits::RESPONSE).await {
                Ok(response) => break response,
                Err(Unsent::Failed(failure)) => return Err(failure),
                Err(Unsent::Returned(request, _)) if rested => {
                    attempt =
                        Attempt { request: *request, progress: Arc::clone(&progress), spare: attempt.spare };
                }
                Err(Unsent::Returned(_, error)) => {
                    upstream.broke();
                    return Err(Failure::Broken(error));
                }
                Err(Unsent::Lost(error)) => match attempt.spare {
                    Some(head) if again => {
                        let request = Request::from_parts(head, RequestBody::empty(Arc::clone(&progress)));
                        attempt = Attempt { request, progress: Arc::clone(&progress), spare: None };
                    }
                    _ => {
                        if !rested {
                            upstream.broke();
                        }
                        return Err(Failure::Broken(error));
                    }
                },
            }
            // A connection that had rested was closed at the other end meanwhile: once more, on a new one.
            (connection, rested) = (upstream.connect().await?, false);
        };
        let lease = Lease::new(Arc::clone(upstream), connection, progress, self.keep);
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return switched(response, self.upgrade.ok_or(Failure::Switched)?, lease);
        }
        let (mut head, body) = response.into_parts();
        message::returnable(&mut head);
        Ok(Response::from_parts(head, ResponseBody::relayed(body, lease)))
    }
}

struct Attempt {
    request: Request<RequestBody>,
    progress: Arc<Progress>,
    /// For a second attempt: only a request without a body whose repetition does no harm (RFC 9110 section 9.2.2).
    spare: Option<request::Parts>,
}

impl Attempt {
    fn first(head: request::Parts, body: Incoming, wishes: Wishes) -> Self {
        let spare = (body.is_end_stream() && head.method.is_idempotent()).then(|| head.clone());
        let (gate, opener) = if wishes.go_ahead && !body.is_end_stream() {
            let (gate, opener) = go_ahead::gate();
            (Some(gate), Some(opener))
        } else {
            (None, None)
        };
        let (body, progress) = RequestBody::new(body, gate);
        let mut request = Request::from_parts(head, body);
        if let Some(opener) = opener {
            opener.watch(&mut request);
        }
        Self { request, progress, spare }
    }
}

enum Unsent {
    /// Not one byte of it left.
    Returned(Box<Request<RequestBody>>, hyper::Error),
    /// Perhaps it left, perhaps it was acted on.
    Lost(hyper::Error),
    /// There is no use in trying again.
    Failed(Failure),
}

async fn send(
    connection: &mut Connection,
    request: Request<RequestBody>,
    progress: &Progress,
    limit: Duration,
) -> Result<Response<Incoming>, Unsent> {
    let mut answer = std::pin::pin!(connection.sender.try_send_request(request));
    loop {
        let before = progress.frames();
        match timeout(limit, &mut answer).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(mut error)) => {
                return Err(match error.take_message() {
                    Some(request) => Unsent::Returned(Box::new(request), error.into_error()),
                    None => Unsent::Lost(error.into_error()),
                });
            }
            Err(_) if progress.frames() != before => {}
            Err(_) => return Err(Unsent::Failed(Failure::Slow)),
        }
    }
}

fn switched(
    mut response: Response<Incoming>,
    caller: OnUpgrade,
    lease: Lease,
) -> Result<Response<ResponseBody>, Failure> {
    if !header::is_websocket(response.headers()) {
        return Err(Failure::Switched);
    }
    let callee = hyper::upgrade::on(&mut response);
    tokio::spawn(tunnel::run(caller, callee, lease.switched()));
    let (mut head, _) = response.into_parts();
    message::returnable(&mut head);
    header::set_websocket(&mut head.headers);
    Ok(Response::from_parts(head, ResponseBody::empty()))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::dial::Dial;

    async fn silent_backend() -> (TcpListener, Arc<Upstream>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, Upstream::new(Dial::Service(address), &Arc::new(Semaphore::new(1))))
    }

    #[tokio::test]
    async fn a_backend_that_never_answers_is_given_up() {
        let (_listener, upstream) = silent_backend().await;
        let mut connection = upstream.connect().await.unwrap();
        let progress = Arc::new(Progress::default());
        let request = Request::new(RequestBody::empty(Arc::clone(&progress)));
        let answer = send(&mut connection, request, &progress, Duration::from_millis(50)).await;
        assert!(matches!(answer, Err(Unsent::Failed(Failure::Slow))));
        assert_eq!(Failure::Slow.status(), StatusCode::GATEWAY_TIMEOUT);
    }

    #[tokio::test]
    async fn dropping_a_connection_cuts_it() {
        let (listener, upstream) = silent_backend().await;
        let connection = upstream.connect().await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        drop(connection);
        let mut rest = Vec::new();
        assert_eq!(tokio::io::AsyncReadExt::read_to_end(&mut accepted, &mut rest).await.unwrap(), 0);
    }
}
