//! Peers judged by their quotes: the policy of the guest.

use std::collections::BTreeMap;
use std::sync::Arc;

use casemate_measure::AppId;
use casemate_verify::acceptable::Image;
use casemate_verify::collateral::Store;
use casemate_verify::policy::Freshness;
use casemate_verify::tls::{Clock, PeerVerifier, Rules};
use casemate_verify::{TrustAnchor, Verifier};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;

use crate::collateral::{self, Collateral};
use crate::config::{Config, ImageRule, Trust};
use crate::io::unix_seconds;
use crate::{MeshError, PeerIdentity, PeerPolicy};

/// Accepts whoever proves, in the handshake, to run an acceptable image under the configured root of trust.
#[derive(Debug)]
pub struct Attested {
    callers: Arc<PeerVerifier>,
    targets: BTreeMap<AppId, Arc<PeerVerifier>>,
    collateral: Arc<Collateral>,
}

impl Attested {
    /// The policy of a configuration.
    ///
    /// # Errors
    /// [`MeshError::Policy`] if something is served or called and no image is acceptable, which would refuse everybody.
    pub fn new(config: &Config) -> Result<Self, MeshError> {
        let used = !config.backends.is_empty() || !config.targets.is_empty();
        if used && config.images.is_empty() {
            return Err(MeshError::Policy(
                "images: expected at least one acceptable image, found none".to_owned(),
            ));
        }
        let store = Arc::new(Store::new());
        let proven = Arc::clone(&store);
        // What was signed later than our clock says is used at once, and PID 1 sets the clock a moment later.
        let clock: Clock = Arc::new(move || unix_seconds().max(proven.proven_time().unwrap_or(0)));
        let images: Vec<Image> = config.images.iter().map(|rule| image(rule, config)).collect();
        let days = u32::from(config.collateral.max_age_days);
        let freshness = Freshness { max_collateral_age_days: days, ..Freshness::default() };
        let rules = Rules { images, freshness, ..Rules::default() };
        let anchor = anchor(config.trust);
        let all = Arc::new(Verifier::new([anchor], store));
        let verifier = |app| {
            let (verifier, clock) = (Arc::clone(&all), Arc::clone(&clock));
            Arc::new(PeerVerifier::new(verifier, clock, rules.clone(), app, false))
        };
        let targets = config.targets.keys().map(|app| (*app, verifier(Some(*app)))).collect();
        let callers = verifier(None);
        // The simulator's is fixed, and as old as the simulator.
        let max_age = (anchor == TrustAnchor::Intel).then(|| u64::from(days).saturating_mul(collateral::DAY));
        let collateral = Arc::new(Collateral::new(all, anchor, clock, max_age));
        Ok(Self { callers, targets, collateral })
    }
}

impl PeerPolicy for Attested {
    fn callers(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::<PeerVerifier>::clone(&self.callers)
    }

    fn target(&self, app: &AppId) -> Option<Arc<dyn ServerCertVerifier>> {
        self.targets.get(app).map(|verifier| Arc::<PeerVerifier>::clone(verifier) as _)
    }

    fn identify(&self, leaf: &CertificateDer<'_>, target: Option<&AppId>) -> Result<PeerIdentity, String> {
        let verifier = match target {
            None => &self.callers,
            Some(app) => self.targets.get(app).ok_or_else(|| format!("app {app} is not a target"))?,
        };
        verifier.identify(leaf).map(|peer| PeerIdentity::from(&*peer)).map_err(|error| error.to_string())
    }

    fn collateral(&self) -> Option<Arc<Collateral>> {
        Some(Arc::clone(&self.collateral))
    }
}

const fn anchor(trust: Trust) -> TrustAnchor {
    match trust {
        Trust::Intel => TrustAnchor::Intel,
        #[cfg(feature = "simulator")]
        Trust::Simulator => TrustAnchor::Simulator,
    }
}

const fn image(rule: &ImageRule, config: &Config) -> Image {
    match rule {
        ImageRule::Same => Image::Same(config.own),
        ImageRule::Registers(registers) => Image::Explicit {
            mrtd: registers.mrtd,
            rtmr0: registers.rtmr0,
            rtmr1: registers.rtmr1,
            rtmr2: registers.rtmr2,
        },
    }
}
