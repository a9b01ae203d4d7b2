//! A ring in a memfd: PID 1 writes it with pwrite(2) and never maps it, so that its pages are not PID 1's resident memory;
//! who reads it gets a descriptor that cannot be written.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;

use casemate_mesh::ring::{Batch, CAPACITY, Writer, file_len};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Serialize;

/// What a ring has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Lines ever.
    pub lines: u64,
    /// How many of them are not there any more.
    pub dropped: u64,
}

/// The lines of one process.
#[derive(Debug)]
pub struct Ring(Writer<File>);

impl Ring {
    /// An empty one; the name is for /proc/PID/fd.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(name: &str) -> io::Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create(format!("log-{name}").as_str(), flags)?);
        file.set_len(file_len())?;
        // A memfd has mode 0777: whoever has a descriptor could open it again for writing through /proc/self/fd.
        file.set_permissions(Permissions::from_mode(0o600))?;
        let seals = SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(Self(Writer::new(file, CAPACITY)?))
    }

    /// Adds lines in place of the oldest.
    ///
    /// # Errors
    /// What the kernel says (no memory); the lines are counted as dropped.
    pub fn append(&mut self, batch: Batch) -> io::Result<()> {
        self.0.append(batch)
    }

    /// What it has counted.
    pub const fn counts(&self) -> Counts {
        Counts { lines: self.0.lines(), dropped: self.0.dropped() }
    }

    /// A descriptor of its own for somebody who may only read. /proc must be mounted.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reader(&self) -> io::Result<OwnedFd> {
        let path = format!("/proc/self/fd/{}", self.0.store().as_raw_fd());
        Ok(File::open(path)?.into())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};

    use casemate_mesh::ring::{Limits, Reader};
    use nix::errno::Errno;

    use super::*;
    use crate::layout::MESH_UID;

    fn with_a_line() -> Ring {
        let mut ring = Ring::new("test").unwrap();
        let mut batch = Batch::default();
        batch.push(7, false, b"a line");
        ring.append(batch).unwrap();
        ring
    }

    #[test]
    fn a_reader_reads_and_cannot_write_or_resize() {
        let ring = with_a_line();
        let file = File::from(ring.reader().unwrap());
        let refused = |result: io::Result<()>| Errno::from_raw(result.unwrap_err().raw_os_error().unwrap());
        let write = std::os::unix::fs::FileExt::write_all_at(&file, b"x", 0);
        assert_eq!(refused(write), Errno::EBADF);
        assert_eq!(refused(file.set_len(0)), Errno::EINVAL);
        assert_eq!(refused(ring.0.store().set_len(0)), Errno::EPERM, "not even the writer");
        assert_eq!(fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)), Err(Errno::EPERM));
        let page = Reader::new(file).read(0, Limits { lines: 9, bytes: 99 }).unwrap();
        assert_eq!(page.lines.len(), 1);
        assert_eq!((page.lines[0].boottime_ms, page.lines[0].bytes.as_slice()), (7, b"a line".as_slice()));
    }

    /// As the mesh's uid, with the descriptor that it is given: every way to write that a file has.
    #[test]
    fn the_meshs_uid_cannot_open_it_for_writing() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: another uid than one's own needs root");
            return;
        }
        let ring = with_a_line();
        let before = ring.counts();
        let as_mesh = |script: &str| {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", script]).uid(MESH_UID).gid(MESH_UID).current_dir("/").env_clear();
            shell.stdin(Stdio::from(ring.reader().unwrap())).stdout(Stdio::null()).stderr(Stdio::null());
            shell.status().unwrap().success()
        };
        assert!(as_mesh("read first <&0"), "it can be read");
        for script in
            ["echo x >&0", "echo x >/proc/self/fd/0", "echo x >>/proc/self/fd/0", "true <>/proc/self/fd/0"]
        {
            assert!(!as_mesh(script), "{script}");
        }
        let page = Reader::new(File::from(ring.reader().unwrap())).read(0, Limits { lines: 9, bytes: 99 });
        assert_eq!((page.unwrap().lines.len(), ring.counts()), (1, before));
    }
}
