//! What the mesh accepts: the measured document's images, and defaults for everything else.

use crate::acceptable::{self, Image};
use crate::error::{Class, NotTrusted, Reason};
use crate::key_provider::ProviderClaim;
use crate::peer::{AuthenticPeer, Binding, VerifiedPeer};
use crate::policy::{Freshness, TcbRules};

/// Any app without a key provider, on one of these images, on a platform of that TCB.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The images; none given: nobody is accepted.
    pub images: Vec<Image>,
    /// The platform's TCB.
    pub tcb: TcbRules,
    /// The age of collateral.
    pub freshness: Freshness,
}

impl Rules {
    /// Whether this peer is acceptable.
    ///
    /// # Errors
    /// Every difference that was found.
    pub fn judge(&self, peer: AuthenticPeer, now: u64) -> Result<VerifiedPeer, NotTrusted> {
        let mut reasons =
            acceptable::judge(&self.images, &peer).err().map_or_else(Vec::new, |NotTrusted(reasons)| reasons);
        if *peer.key_provider() != ProviderClaim::none() {
            reasons.push(Reason::new(Class::KeyProvider, "key_provider", "none", peer.key_provider()));
        }
        reasons.extend(self.tcb.judge(&peer, now));
        reasons.extend(self.freshness.judge(&peer, now));
        // In a handshake there is none; whoever asks for it all the same accepts nobody.
        if self.freshness.challenge && !matches!(peer.binding(), Binding::Challenge(..)) {
            let expected = "an answer to a challenge";
            reasons.push(Reason::new(Class::Binding, "evidence", expected, "evidence for the key alone"));
        }
        if reasons.is_empty() {
            Ok(VerifiedPeer { peer, tags: Vec::new() })
        } else {
            Err(NotTrusted(reasons))
        }
    }
}
