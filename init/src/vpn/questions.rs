//! The socket where the node answers questions, as the parent has it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use casemate_vpn::status::Request;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// The socket and its file.
pub(super) struct StatusSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

impl StatusSocket {
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        // A socket that nobody answers at is left over from a parent that was killed.
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() && UnixStream::connect(path).is_err() => {
                fs::remove_file(path)?;
            }
            Ok(_) => return Err(io::Error::other("exists already")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(path)?;
        let socket = Self { listener, path: path.to_owned() };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        socket.listener.set_nonblocking(true)?;
        Ok(socket)
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

/// Says something to the node where it answers questions, and does not wait for it: it may hang.
pub(super) fn ask_and_leave(path: &Path, request: &Request) -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &UnixAddr::new(path)?)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    File::from(socket).write_all(&line)
}
