//! A policy's answer, made up.

use casemate_verify::{AuthenticPeer, VerifiedPeer};

pub fn judge(peer: AuthenticPeer) -> VerifiedPeer {
    VerifiedPeer { peer, tags: Vec::new() }
}
