//! The node: everything put together. (For the lead: this is only the signature that `casemate-init` calls.)

use std::convert::Infallible;

use thiserror::Error;

use crate::parent::Handover;

/// Why the node ended.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The parent is gone.
    #[error("the parent is gone")]
    Orphaned,
}

/// Runs until something ends it that a restart may mend. `ready` is called once, when its sockets are open and nothing hostile
/// was read yet: the caller then closes what only a start needs, and says that the process is up.
///
/// # Errors
/// What a restart may mend.
pub async fn run(handover: Handover, ready: impl FnOnce() + Send) -> Result<Infallible, NodeError> {
    ready();
    // Nothing reads what it was given, and nothing is lost while it stands still.
    let never = std::future::pending().await;
    drop(handover);
    never
}
