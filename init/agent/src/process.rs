//! The agent as a process of the guest.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use tokio::net::UnixListener;

use crate::agent::Agent;
use crate::error::AgentError;
use crate::handover::Handover;
use crate::server::{Callers, serve_to};

/// The uid of the mesh proxy (design section 5), the agent's only caller besides PID 1 until services may have a socket.
pub const MESH_UID: u32 = 103;

/// PID 1.
const INIT_UID: u32 = 0;

/// Serves `socket` to PID 1 and the mesh proxy for ever, on one thread beside which quotes are made; calls `ready` once a caller can
/// connect.
///
/// The socket file gets mode 0666, because its owner may not give it to the group of its callers. Who may call is
/// decided by the peer's uid on each connection, and who can reach the file by the directory and the mount namespace.
/// A socket that an earlier life of this process left there is replaced.
///
/// # Errors
/// If the handover is refused, the TEE does not answer, or the socket cannot be made or served.
pub fn run(handover: Handover, socket: &Path, ready: impl FnOnce()) -> Result<Infallible, AgentError> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // One for the quote that is being made, and one that the runtime may still be about to end.
    runtime.max_blocking_threads(2);
    let runtime = runtime.enable_all().build().map_err(AgentError::Runtime)?;
    let agent = Agent::new(handover)?;
    runtime.block_on(async {
        let listener = bind(socket)?;
        ready();
        serve_to(listener, agent, Callers::Uids([INIT_UID, MESH_UID].into())).await
    })
}

fn bind(socket: &Path) -> Result<UnixListener, AgentError> {
    let failed = |action| move |source| AgentError::Socket { path: socket.to_owned(), action, source };
    match fs::symlink_metadata(socket) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(socket).map_err(failed("remove"))?,
        Ok(_) => return Err(AgentError::NotASocket { path: socket.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("look at")(error)),
    }
    let listener = UnixListener::bind(socket).map_err(failed("bind"))?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666)).map_err(failed("set mode 0666"))?;
    Ok(listener)
}
