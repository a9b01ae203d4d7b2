//! An attestation for this connection and this moment: the verifier's nonce, what TLS exports from this very connection, and the
//! key of the certificate that it showed. The evidence in a certificate proves the key, not the place: it could be shown by
//! whoever has taken that key elsewhere. An answer that is fetched through another connection does not fit this one.

use std::sync::Arc;

use casemate_verify::challenge::{EXPORTER_LABEL, EXPORTER_LEN, NONCE_LEN, Nonce, report_data};
use hyper::Response;
use hyper::http::StatusCode;
use hyper::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use rustls::{ProtocolVersion, ServerConnection};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::body::ResponseBody;
use crate::identity::{Attest, Certificate};
use crate::own_paths::{Session, Turns};
use crate::{answer, json, limits};

/// Where it is asked for.
pub(crate) const PATH: &str = "/.well-known/casemate/attestation";

/// What an answer is bound to beside the nonce.
#[derive(Debug)]
pub(crate) struct Binding {
    own: Arc<Certificate>,
    /// `None` below TLS 1.3, where it would not be unique (RFC 9266 section 4.2).
    exporter: Option<[u8; EXPORTER_LEN]>,
    /// One at a time.
    turn: Semaphore,
}

impl Binding {
    /// That of a connection whose handshake is complete and showed this certificate.
    pub(crate) fn of(connection: &ServerConnection, own: Arc<Certificate>) -> Result<Self, rustls::Error> {
        let exporter = match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => {
                Some(connection.export_keying_material([0; EXPORTER_LEN], EXPORTER_LABEL, Some(&[]))?)
            }
            _ => None,
        };
        Ok(Self { own, exporter, turn: Semaphore::new(1) })
    }
}

/// Answers challenges, a few at a time: each costs the TEE a quote.
pub(crate) struct Challenges {
    source: Arc<dyn Attest>,
    turns: Turns,
}

impl std::fmt::Debug for Challenges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Challenges").field("turns", &self.turns).finish_non_exhaustive()
    }
}

#[derive(Debug, Serialize)]
struct Answer {
    version: u32,
    attestation: String,
}

impl Challenges {
    pub(crate) fn new(source: Arc<dyn Attest>) -> Self {
        Self { source, turns: Turns::new(limits::ATTESTATIONS_OF_STRANGERS, limits::ATTESTATIONS_OF_APPS) }
    }

    /// Answers a request with that query.
    pub(crate) async fn answer(&self, query: Option<&str>, session: &Session) -> Response<ResponseBody> {
        let Some(nonce) = nonce(query) else {
            return answer::text(StatusCode::BAD_REQUEST, "nonce: expected once, 64 hex digits");
        };
        let Binding { own, exporter, turn } = &session.binding;
        let Some(exporter) = exporter else {
            return answer::text(
                StatusCode::BAD_REQUEST,
                "an attestation is bound to a connection of TLS 1.3",
            );
        };
        let busy = || answer::text(StatusCode::SERVICE_UNAVAILABLE, "too many attestations are under way");
        let Ok(_turn) = turn.try_acquire() else { return busy() };
        let Some(place) = self.turns.try_take(&session.asker) else { return busy() };
        if let Some(patience) = &session.patience {
            patience.put_off_once(limits::ATTESTATION);
        }
        let report_data = report_data(&nonce, exporter, own.spki_der());
        let none = |why: &dyn std::fmt::Display| {
            tracing::warn!(%why, "no attestation for a challenge");
            answer::text(StatusCode::SERVICE_UNAVAILABLE, "there is no attestation now")
        };
        // Whoever hangs up ends neither the TEE's work nor our call for it: the place is taken until that is over.
        let (source, taken) = (Arc::clone(&self.source), Arc::clone(&place));
        let attesting = tokio::spawn(async move {
            let attestation = source.attest(report_data).await;
            drop(taken);
            attestation
        });
        let attestation = match timeout(limits::ATTESTATION, attesting).await {
            Ok(Ok(Ok(attestation))) => attestation,
            Ok(Ok(Err(error))) => return none(&error),
            Ok(Err(error)) => return none(&error),
            Err(_) => return none(&"not in time"),
        };
        if attestation.len() > limits::ATTESTATION_BYTES {
            return none(&format_args!("it has {} bytes", attestation.len()));
        }
        let Ok(bytes) = json::plain(&Answer { version: 1, attestation: hex::encode(attestation) }) else {
            return none(&"not JSON");
        };
        let mut response = Response::new(ResponseBody::held(bytes, place));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// `nonce=` and nothing else.
fn nonce(query: Option<&str>) -> Option<Nonce> {
    let digits = query?.strip_prefix("nonce=")?;
    let mut nonce = [0; NONCE_LEN];
    hex::decode_to_slice(digits, &mut nonce).ok()?;
    Some(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_exact() {
        let good = format!("nonce={}", "0aF1".repeat(16));
        assert_eq!(nonce(Some(&good)).unwrap()[..2], [0x0a, 0xf1]);
        let twice = format!("{good}&{good}");
        for bad in [
            None,
            Some(""),
            Some("nonce"),
            Some("nonce="),
            Some(&good[..good.len() - 1]),
            Some(&format!("{good}0")),
            Some(&format!("{good}00")),
            Some(&twice),
            Some(&good.replace('F', "g")),
            Some(&good.replace("nonce", "NONCE")),
            Some(&format!("x=1&{good}")),
            Some(&format!("{good}&")),
        ] {
            assert_eq!(nonce(bad), None, "{bad:?}");
        }
    }
}
