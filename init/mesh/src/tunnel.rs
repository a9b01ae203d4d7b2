//! An upgraded connection: bytes both ways until either side ends or both are idle.

use std::any::Any;
use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;

use crate::limits;

/// The places of an exchange and of the caller's connection: hyper's part of that connection ends with an upgrade, its place
/// must not.
pub(crate) type Keep = Arc<dyn Any + Send + Sync>;

/// Holds the places until the end. The idle limit is that of the streams below (`io::Idle`).
pub(crate) async fn run(caller: OnUpgrade, callee: OnUpgrade, _keep: Keep) {
    let (caller, callee) = match tokio::try_join!(caller, callee) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "an upgrade came to nothing");
            return;
        }
    };
    let (mut caller, mut callee) = (TokioIo::new(caller), TokioIo::new(callee));
    let size = limits::TUNNEL_BUFFER;
    if let Err(error) = copy_bidirectional_with_sizes(&mut caller, &mut callee, size, size).await {
        tracing::debug!(%error, "an upgraded connection ended");
    }
}
