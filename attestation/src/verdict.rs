//! The one answer.

use crate::error::{Reason, VerifyError};
use crate::peer::{AuthenticPeer, VerifiedPeer};

/// What a policy says about evidence.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Authentic and acceptable.
    Trusted(Box<VerifiedPeer>),
    /// Not acceptable, for these reasons; at least one.
    NotTrusted {
        /// Who it is; `None` if it is not authentic.
        peer: Option<Box<AuthenticPeer>>,
        /// Everything that was found wrong.
        reasons: Vec<Reason>,
    },
    /// There is nothing to judge by: collateral is missing. Not trusted, and worth another try.
    Undecided(VerifyError),
}

impl Verdict {
    /// The peer, if it is trusted.
    pub fn trusted(&self) -> Option<&VerifiedPeer> {
        match self {
            Self::Trusted(peer) => Some(peer),
            Self::NotTrusted { .. } | Self::Undecided(_) => None,
        }
    }
}
