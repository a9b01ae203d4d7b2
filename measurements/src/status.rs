//! Status frames: what PID 1 tells the host over the `casemate.status` virtio port, guest to host only, in a fixed
//! schema without free text (design section 5).
//!
//! ```text
//! 0  magic "CMSF"      4  version 1      5  flavour     6  stage     7  reason
//! 8  sequence u32      12 dropped frames u32            16 uptime in ms u64
//! 24 detail u64        32 digest, 32 bytes              all integers little endian
//! ```

/// Length of a frame in bytes.
pub const FRAME_LEN: usize = 64;
/// The name of the virtio port.
pub const PORT_NAME: &str = "casemate.status";

const MAGIC: &[u8; 4] = b"CMSF";
const VERSION: u8 = 1;

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which binary speaks.
    pub flavour: Flavour,
    /// Where the boot is.
    pub stage: Stage,
    /// Why this frame was sent.
    pub reason: Reason,
    /// Counts frames, from 0.
    pub sequence: u32,
    /// How many frames found no room so far.
    pub dropped: u32,
    /// Milliseconds since the kernel started.
    pub uptime_ms: u64,
    /// A number that belongs to the reason: an errno, an exit status, a count; else 0.
    pub detail: u64,
    /// The compose hash once it is known; for a manifest mismatch SHA-256 of the path; for a process SHA-256 of its name;
    /// else zero.
    pub digest: [u8; 32],
}

/// `dev` or `prod`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Development: simulated TEE, console.
    Dev,
    /// Production.
    Prod,
}

macro_rules! coded {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal, $word:literal;)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $code,)+ }

        impl $name {
            /// All of them, in order of code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// In a few plain words.
            pub const fn words(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The code in a frame.
            pub const fn code(self) -> u8 {
                match self { $(Self::$variant => $code,)+ }
            }

            /// From the code in a frame.
            pub fn from_code(code: u8) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.code() == code)
            }
        }
    };
}

coded!(
    /// The boot's stages, in order.
    Stage {
        /// Signals, descriptors, limits.
        Early = 1, "early set-up";
        /// /dev, /proc, /sys, cgroups, tmpfs.
        Mounts = 2, "mounts";
        /// Every file of the initramfs against the manifest.
        Manifest = 3, "initramfs manifest";
        /// Kernel settings, each read back.
        Sysctls = 4, "kernel settings";
        /// The kernel's random number generator.
        Entropy = 5, "entropy";
        /// Finding the TEE.
        Tee = 6, "TEE";
        /// Hashing the document and extending RTMR3.
        Measure = 7, "measuring the document";
        /// Reading the document.
        Document = 8, "reading the document";
        /// The egress lock.
        Lock = 9, "egress lock";
        /// Modules, then no more of them.
        Modules = 10, "modules";
        /// Loopback and the physical link.
        Links = 11, "links";
        /// Its address.
        Address = 12, "address";
        /// A first authenticated time, where the document asks for one.
        Time = 13, "authenticated time";
        /// The guest agent.
        Agent = 14, "guest agent";
        /// The workload.
        Services = 15, "services";
        /// The mesh proxy.
        Mesh = 16, "mesh";
        /// Everything runs.
        Ready = 17, "ready";
        /// Going down in order.
        Shutdown = 18, "shutdown";
    }
);

coded!(
    /// Why a frame was sent. From 32 on: why the machine powers off.
    Reason {
        /// The stage has begun.
        Entered = 0, "entered";
        /// Everything runs.
        Ready = 1, "ready";
        /// Something that is restarted has ended; detail: its exit status; digest, as for every reason about a process:
        /// SHA-256 of its name.
        Restarting = 2, "a process ended and is started again";
        /// Shutdown was asked for.
        Stopping = 3, "shutdown was asked for";
        /// The last frame of an orderly shutdown.
        PoweredOff = 4, "powered off in order";
        /// Why a process ended, before the frame that says what follows: the kernel took it for memory.
        OutOfMemory = 5, "a process ran out of memory";
        /// The same: it made a system call that it must not make (SIGSYS).
        ForbiddenCall = 6, "a process made a forbidden system call";
        /// The same: PID 1 ended it, because its event loop did not turn.
        Hung = 7, "a process hung and was ended";
        /// A process has failed and stays down, as its restart rule says; detail: its exit status.
        Ended = 8, "a process failed and stays down";
        /// A service used up its crash budget and stays down; detail: its exit status.
        GivenUp = 9, "a process failed too often and stays down";
        /// Said regularly once the machine is ready; detail: how many processes that should be ready are not.
        Alive = 10, "alive";
        /// A mount failed; detail: errno.
        MountFailed = 32, "a mount failed";
        /// /init carries no readable manifest.
        NoManifest = 33, "the init binary carries no manifest";
        /// A file is not what the manifest says; digest: SHA-256 of its path.
        ManifestMismatch = 34, "a file of the initramfs is not what the manifest says";
        /// A kernel setting did not read back; detail: errno or 0.
        SysctlFailed = 35, "a kernel setting could not be made";
        /// No entropy in time.
        NoEntropy = 36, "the kernel has no entropy";
        /// A production image without a TEE, or a TEE that does not answer.
        NoTee = 37, "there is no TEE that this image can use";
        /// RTMR3 could not be extended; detail: errno.
        ExtendFailed = 38, "RTMR3 could not be extended";
        /// There is no document.
        NoDocument = 39, "there is no measured document";
        /// The document was refused.
        DocumentRefused = 40, "the measured document was refused";
        /// MRCONFIGID does not match.
        ConfigIdMismatch = 41, "MRCONFIGID does not match the document";
        /// The egress lock could not be set or read back; detail: errno.
        LockFailed = 42, "the egress lock could not be set";
        /// A module failed to load, or loading could not be disabled; detail: errno.
        ModuleFailed = 43, "a kernel module failed";
        /// A link could not be set up; detail: errno.
        LinkFailed = 44, "a network link could not be set up";
        /// No address in time.
        NoAddress = 45, "no address was obtained";
        /// The guest agent did not come up.
        AgentFailed = 46, "the guest agent failed";
        /// A service could not be set up; detail: its number.
        ServiceFailed = 47, "a service could not be set up";
        /// The mesh proxy did not come up.
        MeshFailed = 48, "the mesh proxy failed";
        /// A stage passed its deadline.
        Deadline = 49, "a stage passed its deadline";
        /// PID 1 panicked.
        Panic = 50, "PID 1 panicked";
        /// PID 1's own set-up failed; detail: errno.
        EarlyFailed = 51, "PID 1's own set-up failed";
        /// The TEE is there and does not answer as it must; detail: errno or 0.
        TeeSilent = 52, "the TEE does not answer as it must";
        /// The agent's way to the TEE could not be made, or others have one, too; detail: errno or 0.
        TeeAccess = 53, "the agent's way to the TEE could not be made";
        /// A production image in a TD whose attribute DEBUG is set.
        TeeDebug = 54, "the host can read this TD's memory";
        /// The kernel says that it is not locked down for confidentiality; detail: errno or 0.
        NotLockedDown = 55, "the kernel is not locked down";
        /// The document asks for an authenticated time, and none was obtained in time; detail: samples refused by PID 1.
        NoTime = 56, "no authenticated time was obtained";
        /// The clock could not be set; detail: errno.
        ClockFailed = 57, "the clock could not be set";
        /// The host share was refused; detail: why, as `init/README.md` numbers it.
        ShareRefused = 60, "the host share was refused";
        /// The host offers its share in a way that the guest does not take: 9p.
        ShareUnsupported = 61, "the host share is 9p; a block device labelled DSTACKSHR is needed";
        /// The host gave an app id that is not the document's, and no KMS vouches for it; digest: the compose hash.
        AppIdMismatch = 62, "the app id is not the document's";
        /// The process that reads the share died, hung or gave no sound answer; detail: its exit status.
        ShareReader = 63, "the process that reads the host share failed";
        /// The private network's interface could not be made, or its process did not come up; detail: errno or 0.
        VpnFailed = 65, "the VPN process failed";
    }
);

impl Reason {
    /// Whether the machine powers off because of it.
    pub const fn is_failure(self) -> bool {
        self.code() >= 32
    }
}

impl Frame {
    /// The bytes.
    pub fn encode(&self) -> [u8; FRAME_LEN] {
        let flavour = match self.flavour {
            Flavour::Dev => 0,
            Flavour::Prod => 1,
        };
        let head = [VERSION, flavour, self.stage.code(), self.reason.code()];
        let parts = MAGIC
            .iter()
            .copied()
            .chain(head)
            .chain(self.sequence.to_le_bytes())
            .chain(self.dropped.to_le_bytes())
            .chain(self.uptime_ms.to_le_bytes())
            .chain(self.detail.to_le_bytes())
            .chain(self.digest);
        let mut frame = [0; FRAME_LEN];
        frame.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        frame
    }

    /// From bytes that a guest wrote; `None` if they are no frame of this version.
    pub fn decode(bytes: &[u8; FRAME_LEN]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let ([version, flavour, stage, reason], rest) = rest.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<4>()?;
        let (dropped, rest) = rest.split_first_chunk::<4>()?;
        let (uptime_ms, rest) = rest.split_first_chunk::<8>()?;
        let (detail, rest) = rest.split_first_chunk::<8>()?;
        let digest: [u8; 32] = rest.try_into().ok()?;
        if magic != MAGIC || *version != VERSION {
            return None;
        }
        Some(Self {
            flavour: match flavour {
                0 => Flavour::Dev,
                1 => Flavour::Prod,
                _ => return None,
            },
            stage: Stage::from_code(*stage)?,
            reason: Reason::from_code(*reason)?,
            sequence: u32::from_le_bytes(*sequence),
            dropped: u32::from_le_bytes(*dropped),
            uptime_ms: u64::from_le_bytes(*uptime_ms),
            detail: u64::from_le_bytes(*detail),
            digest,
        })
    }
}
