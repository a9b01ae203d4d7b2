//! A conversion that there is not.

use casemate_verify::{AuthenticPeer, VerifiedPeer};

pub fn judge(peer: AuthenticPeer) -> VerifiedPeer {
    VerifiedPeer::from(peer)
}
