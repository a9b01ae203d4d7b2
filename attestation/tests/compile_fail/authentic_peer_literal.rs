//! Authentic evidence, bound to a key that it is not for.

use casemate_verify::{AuthenticEvidence, AuthenticPeer, Binding};

pub fn bind(evidence: AuthenticEvidence, binding: Binding) -> AuthenticPeer {
    AuthenticPeer { evidence, binding, kms_root: None }
}
