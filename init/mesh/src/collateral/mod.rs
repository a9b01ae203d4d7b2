//! Collateral: what is known of platforms, ours and those of peers. It is signed, so it may come from anyone: a PCCS that the
//! document names, a peer that serves its own, whoever brings it. Nothing is kept that did not verify, with a genuine quote of such a
//! platform.

mod fetch;
mod offer;

use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::{Buf, Bytes};
use casemate_verify::collateral::{self as evidence, Kept, VerifiedCollateral};
use casemate_verify::ratls;
use casemate_verify::tls::Clock;
use casemate_verify::{EvidenceError, PlatformKind, TrustAnchor, Verifier, VerifyError};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::Response;
use hyper::body::Body;
use hyper::http::StatusCode;
use hyper::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use self::fetch::FetchError;
use self::offer::Offer;
use crate::body::ResponseBody;
use crate::config::Pccs;
use crate::identity::{Certificate, CurrentCertificate};
use crate::own_paths::{Asker, Turns};
use crate::{answer, limits};

/// Where it is given and taken.
pub(crate) const PATH: &str = "/.well-known/casemate/collateral";

/// The collateral of one process: what its verifiers look up, and everything that gets in there.
pub struct Collateral {
    verifier: Arc<Verifier>,
    anchor: TrustAnchor,
    clock: Clock,
    /// How long ago it may have been issued, in seconds; `None`: the simulator's is as old as the simulator.
    max_age: Option<u64>,
    own: RwLock<Option<Own>>,
    /// What we served last.
    served: Mutex<Option<Served>>,
    offers: Turns,
    fetches: Semaphore,
    /// The latest time at which anything that is kept was signed.
    proven: watch::Sender<u64>,
}

/// Our own platform.
#[derive(Clone, Debug)]
struct Own {
    quote: Arc<[u8]>,
    platform: PlatformKind,
}

struct Served {
    of: Arc<VerifiedCollateral>,
    json: Bytes,
    tag: HeaderValue,
}

/// Why collateral is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Form(#[from] EvidenceError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error(
        "collateral: expected one that was issued at most {days} days ago, found {issued} (Unix seconds), now is {now}"
    )]
    TooOld { days: u64, issued: u64, now: u64 },
}

impl Collateral {
    /// What these verifiers look up, under the one root that they believe.
    pub(crate) fn new(
        verifier: Arc<Verifier>,
        anchor: TrustAnchor,
        clock: Clock,
        max_age: Option<u64>,
    ) -> Self {
        Self {
            verifier,
            anchor,
            clock,
            max_age,
            own: RwLock::default(),
            served: Mutex::default(),
            offers: Turns::new(limits::OFFERS_OF_STRANGERS, limits::OFFERS_OF_APPS),
            fetches: Semaphore::new(limits::FETCHES),
            proven: watch::Sender::new(0),
        }
    }

    /// Takes in which platform is ours, by our certificate. The simulated one has its collateral built in.
    pub(crate) fn speak_for(&self, certificate: &Certificate) {
        let leaf = certificate.leaf().map_or(&[][..], |leaf| leaf);
        let own = ratls::from_certificate(leaf).and_then(|evidence| {
            let quote = evidence.attestation.quote;
            Ok(Own { platform: PlatformKind::of_quote(&quote)?, quote: quote.into() })
        });
        match own {
            Ok(own) => {
                #[cfg(feature = "simulator")]
                if self.anchor == TrustAnchor::Simulator
                    && let Some(collateral) = casemate_verify::simulator::collateral()
                    && let Err(error) = self.offer(&own.quote, collateral)
                {
                    tracing::warn!(%error, "the simulator's collateral is not its own");
                }
                *self.own.write().unwrap_or_else(PoisonError::into_inner) = Some(own);
            }
            Err(error) => tracing::warn!(%error, "our certificate does not say which platform is ours"),
        }
    }

    /// Keeps our own fresh, from the PCCS if there is one, and tells what time all of it proves. For ever.
    pub(crate) async fn run(
        &self,
        own: Arc<CurrentCertificate>,
        pccs: Option<Pccs>,
        proves: impl Fn(u64) + Send,
    ) {
        tokio::join!(self.tell(proves), self.renew(own, pccs));
    }

    async fn tell(&self, proves: impl Fn(u64) + Send) {
        let mut proven = self.proven.subscribe();
        loop {
            let time = *proven.borrow_and_update();
            if time != 0 {
                proves(time);
            }
            // The sender is ours, and stays.
            if proven.changed().await.is_err() {
                return;
            }
        }
    }

    async fn renew(&self, own: Arc<CurrentCertificate>, pccs: Option<Pccs>) {
        let Some(pccs) = pccs else { return };
        let (first, longest) = limits::OWN_COLLATERAL_RETRY;
        let mut pause = first;
        loop {
            // A machine may move to another platform, and then its certificates say so.
            self.speak_for(&own.current());
            let wait = match self.fetch_own(&pccs).await {
                Ok(left) => {
                    tracing::info!("our collateral was fetched");
                    pause = first;
                    // Well before it expires, however soon that is.
                    limits::OWN_COLLATERAL.min(Duration::from_secs(left / 2)).max(longest)
                }
                Err(error) => {
                    tracing::warn!(
                        error = crate::serve::chain(&error),
                        ?pause,
                        "our collateral was not fetched"
                    );
                    let wait = pause;
                    pause = pause.saturating_mul(2).min(longest);
                    wait
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Fetches ours, and says for how many seconds it counts.
    async fn fetch_own(&self, pccs: &Pccs) -> Result<u64, FetchError> {
        let own = self.own().ok_or(FetchError::NoPlatform)?;
        let _turn = self.fetches.acquire().await;
        let fetched = fetch::from_pccs(pccs, own.platform).await?;
        match self.offer(&own.quote, fetched)? {
            Kept::Full => return Err(FetchError::Full),
            Kept::Older => {
                tracing::warn!("what the PCCS has of our platform is older than what is here already")
            }
            Kept::Stored | Kept::Known => {}
        }
        let there = self.verifier.store().find(self.anchor, own.platform);
        Ok(there.map_or(0, |there| there.expires().saturating_sub((self.clock)())))
    }

    /// Fetches that of whoever is there, with the quote that it shows.
    pub(crate) async fn fetch_from_peer(&self, address: SocketAddr) -> Result<(), FetchError> {
        let _turn = self.fetches.acquire().await;
        let fetch = timeout(limits::COLLATERAL, fetch::from_peer(address));
        let (quote, fetched) = fetch.await.map_err(|_| FetchError::Slow)??;
        if self.offer(&quote, fetched)? == Kept::Full {
            return Err(FetchError::Full);
        }
        Ok(())
    }

    /// Brings ours to whoever is there, if there is ours and not everybody has it. Whether it is taken is for them to say.
    pub(crate) async fn introduce(&self, address: SocketAddr) -> bool {
        let (Some(own), Some(ours)) = (self.own(), self.ours()) else { return false };
        if self.is_built_in() {
            return true;
        }
        let offer = Offer::write(&own.quote, &ours.collateral().to_json());
        let bring = async {
            let _turn = self.fetches.acquire().await;
            fetch::bring(address, offer).await
        };
        match timeout(limits::COLLATERAL, bring).await.unwrap_or(Err(FetchError::Slow)) {
            Ok(()) => {
                tracing::info!(%address, "our collateral was brought");
                true
            }
            Err(error) => {
                tracing::info!(%address, error = crate::serve::chain(&error), "our collateral was not taken");
                // Nobody is there yet, or has no place for it now: that was no introduction.
                let busy = StatusCode::SERVICE_UNAVAILABLE;
                !matches!(error, FetchError::Connect(_))
                    && !matches!(error, FetchError::Status { found, .. } if found == busy)
            }
        }
    }

    /// Whether everybody who believes our root has our collateral, too.
    const fn is_built_in(&self) -> bool {
        !matches!(self.anchor, TrustAnchor::Intel)
    }

    /// Keeps collateral that verifies, and is neither too old nor older than what is there.
    ///
    /// What was signed later than our clock says proves that the clock is behind: it is judged at the time that it proves, and
    /// PID 1, which is told, sets the clock.
    pub(crate) fn offer(&self, quote: &[u8], offered: evidence::Collateral) -> Result<Kept, Refused> {
        let times = *offered.times();
        let now = (self.clock)().max(times.newest_issue);
        let verified = self.verifier.verify_collateral(quote, offered, now)?;
        if let Some(max_age) = self.max_age
            && now > times.oldest_issue.saturating_add(max_age)
        {
            return Err(Refused::TooOld { days: max_age / DAY, issued: times.oldest_issue, now });
        }
        let platform = verified.platform();
        let kept = self.verifier.store().keep(verified, now);
        if kept == Kept::Stored {
            tracing::info!(%platform, "collateral is kept");
            self.proven.send_if_modified(|proven| {
                let later = times.newest_issue > *proven;
                *proven = times.newest_issue.max(*proven);
                later
            });
        }
        Ok(kept)
    }

    /// The answer to who asks for ours.
    pub(crate) fn show(&self, headers: &HeaderMap) -> Response<ResponseBody> {
        let Some((json, tag)) = self.json() else {
            return answer::text(StatusCode::NOT_FOUND, "there is no collateral of this platform here yet");
        };
        let mut response = if headers.get_all(IF_NONE_MATCH).iter().any(|known| known == tag) {
            let mut response = Response::new(ResponseBody::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            let mut response = Response::new(ResponseBody::from(json));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        };
        response.headers_mut().insert(ETAG, tag);
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }

    fn json(&self) -> Option<(Bytes, HeaderValue)> {
        let ours = self.ours()?;
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(served) = served.as_ref().filter(|served| Arc::ptr_eq(&served.of, &ours)) {
            return Some((served.json.clone(), served.tag.clone()));
        }
        let json = Bytes::from(ours.collateral().to_json());
        let tag = HeaderValue::try_from(format!("\"{}\"", hex::encode(Sha256::digest(&json)))).ok()?;
        *served = Some(Served { of: ours, json: json.clone(), tag: tag.clone() });
        Some((json, tag))
    }

    /// Takes what somebody brings.
    pub(crate) async fn take<B>(&self, body: B, asker: &Asker) -> Response<ResponseBody>
    where
        B: Body<Data: Buf + Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send,
    {
        let Some(_turn) = self.offers.try_take(asker) else {
            return answer::text(StatusCode::SERVICE_UNAVAILABLE, "too much collateral is being brought");
        };
        let too_large = || {
            let expected = format_args!("expected at most {} bytes", limits::COLLATERAL_BYTES).to_string();
            answer::text(StatusCode::PAYLOAD_TOO_LARGE, expected)
        };
        let limit = limits::COLLATERAL_BYTES;
        if usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX) > limit {
            return too_large();
        }
        let read = timeout(limits::COLLATERAL, Limited::new(body, limit).collect());
        let json = match read.await {
            Ok(Ok(collected)) => collected.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return too_large(),
            Ok(Err(_)) => return answer::text(StatusCode::BAD_REQUEST, "the body broke off"),
            Err(_) => return answer::text(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"),
        };
        let Offer { quote, collateral } = match Offer::read(&json) {
            Ok(offer) => offer,
            Err(why) => return answer::text(StatusCode::BAD_REQUEST, why),
        };
        let offered = evidence::Collateral::from_json(collateral.as_bytes()).map_err(Refused::from);
        match offered.and_then(|offered| self.offer(&quote, offered)) {
            Ok(Kept::Stored | Kept::Known) => {
                let mut response = Response::new(ResponseBody::empty());
                *response.status_mut() = StatusCode::NO_CONTENT;
                response
            }
            Ok(Kept::Older) => answer::text(StatusCode::CONFLICT, "what is here is newer"),
            Ok(Kept::Full) => {
                answer::text(StatusCode::SERVICE_UNAVAILABLE, "there is no room for another kind of platform")
            }
            Err(error) => answer::text(StatusCode::UNPROCESSABLE_ENTITY, error),
        }
    }

    fn own(&self) -> Option<Own> {
        self.own.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ours, if there is one and it has not expired.
    fn ours(&self) -> Option<Arc<VerifiedCollateral>> {
        let there = self.verifier.store().find(self.anchor, self.own()?.platform)?;
        (there.expires() >= (self.clock)()).then_some(there)
    }
}

impl std::fmt::Debug for Collateral {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collateral")
            .field("anchor", &self.anchor)
            .field("max_age", &self.max_age)
            .finish_non_exhaustive()
    }
}

/// Seconds of a day.
pub(crate) const DAY: u64 = 24 * 3600;

#[cfg(test)]
mod tests;
