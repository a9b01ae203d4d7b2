//! Landlock: which files, sockets and ports a process can still reach, whatever its uid may do (Documentation/userspace-api/landlock.rst).

use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort, PathBeneath,
    PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};

use super::ConfineError;

/// Whose Landlock is required, all of it: a kernel that knows less is refused, never served with less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The pinned kernel of the image (7.3.4 has ABI 11; the library knows up to 10).
    Pinned,
    /// An older one, for tests on the machine that builds: files, TCP ports, scopes (ABI 6, Linux 6.12), but neither UDP ports
    /// nor the resolving of UNIX sockets.
    Older,
}

impl Kernel {
    const fn abi(self) -> ABI {
        match self {
            Self::Pinned => ABI::V10,
            Self::Older => ABI::V6,
        }
    }
}

/// What a process may still reach. It starts with nothing: no file, no port, no abstract UNIX socket and no signal outside
/// the process and its children. Descriptors that are open stay usable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    paths: Vec<(PathBuf, BitFlags<AccessFs>)>,
    ports: Vec<(u16, AccessNet)>,
    all_files_and_ports: bool,
    datagrams_to_any_port: bool,
}

impl Reach {
    /// Nothing.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Everything its namespaces hold: only abstract UNIX sockets and signals end at the process tree. For services, whose
    /// files and network are their own already.
    pub fn own_namespaces() -> Self {
        Self { all_files_and_ports: true, ..Self::default() }
    }

    /// UNIX sockets may be made and removed in this directory.
    #[must_use]
    pub fn sockets_in(self, directory: impl Into<PathBuf>) -> Self {
        self.path(directory, AccessFs::MakeSock | AccessFs::RemoveFile)
    }

    /// UNIX sockets in this directory, or this one socket, may be connected to.
    #[must_use]
    pub fn call(self, socket: impl Into<PathBuf>) -> Self {
        self.path(socket, AccessFs::ResolveUnix)
    }

    /// This file, or every file below this directory, may be read and written; a device also answers its ioctls.
    #[must_use]
    pub fn read_write(self, path: impl Into<PathBuf>) -> Self {
        self.path(path, AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev)
    }

    /// This file, or every file below this directory, may be read.
    #[must_use]
    pub fn read(self, path: impl Into<PathBuf>) -> Self {
        self.path(path, AccessFs::ReadFile)
    }

    /// This TCP port may be listened on.
    #[must_use]
    pub fn listen_tcp(self, port: u16) -> Self {
        self.port(port, AccessNet::BindTcp)
    }

    /// This TCP port may be connected to, on any host that the egress lock leaves.
    #[must_use]
    pub fn connect_tcp(self, port: u16) -> Self {
        self.port(port, AccessNet::ConnectTcp)
    }

    /// Datagrams may be sent to this UDP port. A socket that is not bound yet needs [`Reach::bind_udp`] of port 0, too.
    #[must_use]
    pub fn send_udp(self, port: u16) -> Self {
        self.port(port, AccessNet::ConnectSendUdp)
    }

    /// Datagrams may be sent to any port: peers of a private network have any.
    #[must_use]
    pub fn send_udp_anywhere(self) -> Self {
        Self { datagrams_to_any_port: true, ..self }
    }

    /// This UDP port may be bound; 0: whichever the kernel picks.
    #[must_use]
    pub fn bind_udp(self, port: u16) -> Self {
        self.port(port, AccessNet::BindUdp)
    }

    /// Binds the calling thread, and all that it starts later, for good. Must be called before the process has a second
    /// thread: those that run already stay free.
    ///
    /// # Errors
    /// If the kernel has less than `kernel` has, if a path cannot be opened, or if the kernel refuses. The process must end then.
    pub fn enter(&self, kernel: Kernel) -> Result<(), ConfineError> {
        let abi = kernel.abi();
        let (all_files, mut all_ports) = (AccessFs::from_all(abi), AccessNet::from_all(abi));
        if self.datagrams_to_any_port {
            all_ports.remove(AccessNet::ConnectSendUdp);
        }
        let mut rules =
            Ruleset::default().set_compatibility(CompatLevel::HardRequirement).scope(Scope::from_all(abi))?;
        if !self.all_files_and_ports {
            rules = rules.handle_access(all_files)?.handle_access(all_ports)?;
        }
        let mut rules = rules.create()?.no_new_privs(true);
        for (path, access) in &self.paths {
            // What an older kernel does not handle, it does not refuse either.
            let (path, access) = (PathFd::new(path)?, *access & all_files);
            if !access.is_empty() {
                rules = rules.add_rule(PathBeneath::new(path, access))?;
            }
        }
        for (port, access) in &self.ports {
            if all_ports.contains(*access) {
                rules = rules.add_rule(NetPort::new(*port, *access))?;
            }
        }
        match rules.restrict_self()?.ruleset {
            RulesetStatus::FullyEnforced => Ok(()),
            less => Err(ConfineError::Enforcement(less)),
        }
    }

    fn path(mut self, path: impl Into<PathBuf>, access: impl Into<BitFlags<AccessFs>>) -> Self {
        self.paths.push((path.into(), access.into()));
        self
    }

    fn port(mut self, port: u16, access: AccessNet) -> Self {
        self.ports.push((port, access));
        self
    }
}
