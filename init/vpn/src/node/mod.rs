//! The node: everything put together. (For the lead: this is only the signature that `casemate-init` calls.)

use std::convert::Infallible;

use thiserror::Error;

use crate::parent::Handover;

/// Why the node ended.
#[derive(Debug, Error)]
pub enum NodeError {
    /// There is none yet.
    #[error("the node is not part of this build")]
    Absent,
}

/// Runs until something ends it that a restart may mend. `ready` is called once, when its sockets are open and nothing hostile
/// was read yet: the caller then closes what only a start needs, and says that the process is up.
///
/// # Errors
/// What a restart may mend.
pub async fn run(handover: Handover, ready: impl FnOnce() + Send) -> Result<Infallible, NodeError> {
    drop((handover, ready));
    Err(NodeError::Absent)
}
