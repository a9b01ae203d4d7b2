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
use crate::server::{Callers, May, serve_to};

/// The uid of the mesh proxy (design section 5), the only caller besides PID 1 that may ask for anything, until services may have a
/// socket.
pub const MESH_UID: u32 = 103;

/// The uid of the VPN process (design section 5): only its own keys are for it.
const VPN_UID: u32 = 102;

/// What the paths of the VPN process's keys begin with.
const VPN_KEYS: &str = "casemate/vpn/";

/// PID 1.
const INIT_UID: u32 = 0;

/// Serves `socket` to PID 1, the mesh proxy and, for its own keys, the VPN process, for ever, on one thread beside which quotes are made; calls `ready` once a caller can
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
        let callers =
            [(INIT_UID, May::Everything), (MESH_UID, May::Everything), (VPN_UID, May::KeysUnder(VPN_KEYS))];
        serve_to(listener, agent, Callers::Uids(callers.into())).await
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
