//! The real [`Host`]: a Linux guest.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use casemate_measure::manifest::ModuleGroup;
use casemate_measure::section::Network;
use casemate_measure::status::{Reason, Stage};
use casemate_measure::{MeasuredConfig, MrConfigId, Register};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use sha2::{Digest as _, Sha256};

use crate::boot::{Failure, Host, Measured, Shared};
use crate::net;
use crate::net::dhcp::Report;
use crate::status;
use processes::{Happening, Health, Processes, Recipe};

mod address;
mod cgroup;
mod document;
#[cfg(feature = "danger-faults")]
mod faults;
mod initramfs;
mod lock;
mod lockdown;
mod memory;
mod modules;
mod mounts;
mod power;
mod processes;
mod settings;
mod steady;
mod tee;
mod time;
mod vpn;
mod watchdog;
mod workload;

const INIT: &str = "/init";
/// The first pid namespace of every machine (include/linux/proc_ns.h, `PROC_PID_INIT_INO`).
const FIRST_NAMESPACE: &str = "pid:[4026531836]";
const CGROUPS: &str = "/sys/fs/cgroup";

/// The machine.
#[derive(Debug)]
pub struct Guest {
    stage: Stage,
    deadline: Duration,
    watchdog: watchdog::Watchdog,
    signals: SignalFd,
    buttons: Vec<File>,
    processes: Option<Processes>,
    tee: Option<tee::GuestTee>,
    lock: Option<casemate_egress::Lock>,
    link: Option<String>,
    lease: Option<Report>,
    lease_ends: Option<Duration>,
    clock: Option<time::GuestClock>,
    namespaces: Vec<net::namespace::ServiceNet>,
    vpn: Option<vpn::GuestVpn>,
    shutdown: bool,
    document: status::Document,
    printed: status::Document,
    #[cfg(feature = "danger-faults")]
    faults: faults::Faults,
}

/// Whether the kernel of a machine started this process as its first. The first process of a container is none: who starts
/// `casemate-init vpn` as one wants a node, and a guest's settings would be those of the machine around it.
pub fn is_first_process() -> bool {
    // No /proc, as at the start of a guest, where nothing is mounted, is no sign of a container.
    let namespace = || std::fs::read_link("/proc/self/ns/pid");
    std::process::id() == 1 && namespace().map_or(true, |found| found == Path::new(FIRST_NAMESPACE))
}

/// Boots, runs and powers off. Never returns.
pub fn run() -> ! {
    power::install_panic_hook();
    let mut guest = match Guest::new() {
        Ok(guest) => guest,
        Err(error) => {
            let failure = Failure::errno(Reason::EarlyFailed, "PID 1", &error);
            power::off_because(Stage::Early, failure.reason, failure.detail, failure.digest);
        }
    };
    match crate::boot::run(&mut guest) {
        Ok(measured) => guest.run_steady(&measured),
        Err((stage, failure)) => {
            crate::log::print("casemate", &format!("{}: {failure}", stage.words()));
            power::off_because(stage, failure.reason, failure.detail, failure.digest)
        }
    }
}

impl Guest {
    fn new() -> io::Result<Self> {
        // Blocked before any thread starts, so that every signal comes through the descriptor.
        let mut mask = SigSet::empty();
        mask.extend([Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT]);
        SigSet::all().thread_block()?;
        crate::log::keep()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let document = status::Document {
            version: 1,
            flavor: if cfg!(feature = "dev") { "dev" } else { "prod" },
            versions: status::Versions {
                casemate: env!("CARGO_PKG_VERSION"),
                kernel: nix::sys::utsname::uname()?.release().to_string_lossy().into_owned(),
            },
            tee: "none yet",
            trust: "nobody yet",
            ..Default::default()
        };
        Ok(Self {
            stage: Stage::Early,
            deadline: Duration::ZERO,
            watchdog: watchdog::Watchdog::start()?,
            signals,
            buttons: Vec::new(),
            processes: None,
            tee: None,
            lock: None,
            link: None,
            lease: None,
            lease_ends: None,
            clock: None,
            namespaces: Vec::new(),
            vpn: None,
            shutdown: false,
            printed: document.clone(),
            document,
            #[cfg(feature = "danger-faults")]
            faults: faults::Faults::default(),
        })
    }

    fn processes(&mut self) -> Result<&mut Processes, Failure> {
        self.processes.as_mut().ok_or_else(|| Failure::new(Reason::EarlyFailed, "processes before mounts"))
    }

    fn tee(&mut self) -> Result<&mut tee::GuestTee, Failure> {
        self.tee.as_mut().ok_or_else(|| Failure::new(Reason::NoTee, "no TEE was found"))
    }

    /// Waits once for anything to happen, at most `timeout`, and takes it in.
    fn turn(&mut self, timeout: Duration) -> Vec<Happening> {
        let mut happenings = Vec::new();
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO);
        let mut watched = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        watched.extend(self.buttons.iter().map(|b| PollFd::new(b.as_fd(), PollFlags::POLLIN)));
        let children = self.processes.iter().flat_map(Processes::watched);
        watched.extend(children.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        // A failed poll is a turn in which nothing was seen to happen; everything is tried below all the same.
        _ = poll(&mut watched, timeout);
        while let Ok(Some(signal)) = self.signals.read_signal() {
            let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
            self.shutdown |= number == libc::SIGTERM || number == libc::SIGINT;
        }
        for button in &mut self.buttons {
            self.shutdown |= power::pressed(button);
        }
        if let Some(processes) = &mut self.processes {
            processes.after_poll(&mut happenings);
            processes.restart_due();
        }
        power::retell();
        self.break_what_is_due();
        for happening in &happenings {
            self.take_in(happening);
        }
        happenings
    }

    fn take_in(&mut self, happening: &Happening) {
        match happening {
            Happening::Reported { name, bytes } if name == "dhcp" => self.take_lease(bytes),
            Happening::Reported { name, bytes } if name == time::NAME => self.take_time(bytes),
            Happening::Reported { name, bytes } if name == "mesh" => self.take_proof(bytes),
            Happening::Reported { name, bytes } if name == vpn::NAME => self.take_vpn(bytes),
            Happening::Reported { .. } => {}
            Happening::Ended { name, exit, next: Some(next) } => {
                let digest = Sha256::digest(name).into();
                for reason in exit.reason().into_iter().chain(next.reason(*exit)) {
                    power::tell(self.stage, reason, exit.number(), digest);
                }
            }
            Happening::Ended { next: None, .. } => {}
        }
    }

    /// No user's image has faults on order.
    #[cfg(not(feature = "danger-faults"))]
    #[expect(
        clippy::unused_self,
        clippy::needless_pass_by_ref_mut,
        reason = "the signature of the one that breaks things"
    )]
    const fn break_what_is_due(&mut self) {}

    /// Turns until `done`, a shutdown request, or the stage's deadline.
    fn wait_for(&mut self, reason: Reason, what: &str, done: impl Fn(&Self) -> bool) -> Result<(), Failure> {
        self.break_what_is_due();
        while !done(self) {
            if power::uptime() > self.deadline {
                return Err(Failure::new(reason, format!("{what}: not in time")));
            }
            if self.shutdown {
                return Err(Failure::new(Reason::Stopping, format!("{what}: shutdown was asked for")));
            }
            self.turn(Duration::from_millis(200));
        }
        Ok(())
    }

    fn leaf(name: &str, limits: cgroup::Limits, reason: Reason) -> Result<cgroup::Leaf, Failure> {
        cgroup::Leaf::create(Path::new(CGROUPS), name, limits)
            .map_err(|error| Failure::errno(reason, format!("cgroup {name}"), &error))
    }

    /// Starts one of our own processes and waits until it says that it is ready.
    fn start_own(&mut self, recipe: Recipe, reason: Reason) -> Result<(), Failure> {
        let name = recipe.name.clone();
        self.processes()?.start(recipe).map_err(|error| Failure::errno(reason, &name, &error))?;
        self.wait_for(reason, &name, |guest| guest.processes.as_ref().is_some_and(|p| p.is_ready(&name)))
    }
}

impl Host for Guest {
    fn enter(&mut self, stage: Stage, deadline: Duration) {
        self.stage = stage;
        let now = power::uptime();
        self.deadline = now.saturating_add(deadline);
        self.watchdog.arm(stage, deadline);
        self.document.stage = stage.words();
        let entered_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.document.stages.push(status::StageTime { stage: stage.words(), entered_ms });
        power::tell(stage, Reason::Entered, 0, [0; 32]);
        // Before /sys is there, nothing can be on order.
        if stage > Stage::Mounts {
            self.break_what_is_due();
        }
    }

    fn early(&mut self) -> Result<(), Failure> {
        let failed = |what: &str, error: nix::Error| Failure::errno(Reason::EarlyFailed, what, &error.into());
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
        nix::unistd::sethostname("casemate").map_err(|e| failed("sethostname", e))?;
        setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|e| failed("RLIMIT_CORE", e))?;
        setrlimit(Resource::RLIMIT_NOFILE, SOFT_FILES, HARD_FILES).map_err(|e| failed("RLIMIT_NOFILE", e))?;
        // Ctrl-Alt-Del becomes SIGINT to us instead of an immediate reset.
        nix::sys::reboot::set_cad_enabled(false).map_err(|e| failed("reboot", e))
    }

    fn mounts(&mut self) -> Result<(), Failure> {
        mounts::mount_all()?;
        standard_streams()
            .map_err(|error| Failure::errno(Reason::EarlyFailed, "standard streams", &error))?;
        cgroup::enable_controllers(Path::new(CGROUPS))
            .map_err(|error| Failure::errno(Reason::MountFailed, "cgroup controllers", &error))?;
        self.processes =
            Some(Processes::new().map_err(|e| Failure::errno(Reason::EarlyFailed, "/proc/self/exe", &e))?);
        Ok(())
    }

    fn check_manifest(&mut self) -> Result<(), Failure> {
        initramfs::check(Path::new("/"), Path::new(INIT))
    }

    fn sysctls(&mut self) -> Result<(), Failure> {
        settings::apply(Path::new("/proc/sys"))?;
        lockdown::check()?;
        self.start_clock(Path::new(INIT))
    }

    fn entropy(&mut self) -> Result<(), Failure> {
        settings::wait_for_entropy()
    }

    fn find_tee(&mut self) -> Result<(), Failure> {
        let tee = tee::GuestTee::find()?;
        (self.document.tee, self.document.trust) = tee.words();
        self.document.registers = Some(tee.launch());
        self.tee = Some(tee);
        Ok(())
    }

    fn baked_document(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        document::baked(Path::new("/"))
    }

    fn shared_document(&mut self) -> Result<Shared, Failure> {
        self.read_share()
    }

    fn extend(&mut self, digest: &Register) -> Result<(), Failure> {
        self.tee()?.extend(digest)
    }

    fn mr_config_id(&mut self) -> Result<MrConfigId, Failure> {
        Ok(self.tee()?.mr_config_id())
    }

    fn instance_seed(&mut self) -> Result<[u8; 20], Failure> {
        settings::random_seed()
    }

    fn load_modules(&mut self, group: ModuleGroup) -> Result<(), Failure> {
        let before = power::uptime();
        modules::load(Path::new("/"), group)?;
        let took = power::uptime().saturating_sub(before);
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.document.module_ms = self.document.module_ms.saturating_add(ms);
        Ok(())
    }

    fn disable_modules(&mut self) -> Result<(), Failure> {
        settings::disable_modules(Path::new("/proc/sys"))?;
        self.buttons = power::buttons();
        Ok(())
    }

    fn lock(&mut self, config: &MeasuredConfig) -> Result<(), Failure> {
        self.document.egress.mode = lock::mode_word(config);
        if cfg!(feature = "danger-without-lock") {
            return Ok(());
        }
        self.lock = Some(lock::install(config)?);
        self.document.egress.locked = true;
        Ok(())
    }

    fn links(&mut self, config: &MeasuredConfig) -> Result<(), Failure> {
        let failed = |error: net::NetError| Failure::new(Reason::LinkFailed, error.to_string());
        net::links::bring_up_loopback().map_err(failed)?;
        let link = net::links::physical_link().map_err(failed)?;
        net::links::prepare_sysctls(&link).map_err(failed)?;
        if let Some(lock) = &mut self.lock {
            lock::attach(lock, config, &link)?;
        }
        net::links::enable_forwarding().map_err(failed)?;
        net::links::up(&link).map_err(failed)?;
        self.link = Some(link);
        self.make_tun(config)
    }

    fn address(&mut self, config: &MeasuredConfig) -> Result<(), Failure> {
        match &config.section().network {
            Network::Static { address, gateway } => self.apply_address(address.addr(), *gateway),
            Network::Dhcp => {
                let recipe = self.dhcp_recipe()?;
                self.processes()?
                    .start(recipe)
                    .map_err(|error| Failure::errno(Reason::NoAddress, "DHCP client", &error))?;
                self.wait_for(Reason::NoAddress, "DHCP", |guest| {
                    matches!(guest.lease, Some(Report::Lease(_)))
                })?;
                self.apply_lease()
            }
        }
    }

    fn time(&mut self, config: &MeasuredConfig) -> Result<(), Failure> {
        self.obtain_time(config)
    }

    fn agent(&mut self, measured: &Measured) -> Result<(), Failure> {
        no_packet_sockets()?;
        let recipe = self.agent_recipe(measured)?;
        self.start_own(recipe, Reason::AgentFailed)?;
        self.document.vpn = vpn::status(measured.config.section());
        // The agent has its keys.
        self.start_vpn(measured)
    }

    fn services(&mut self, measured: &Measured) -> Result<(), Failure> {
        self.start_services(measured)?;
        self.break_what_is_due();
        Ok(())
    }

    fn mesh(&mut self, measured: &Measured) -> Result<(), Failure> {
        let recipe = self.mesh_recipe(measured)?;
        self.start_own(recipe, Reason::MeshFailed)
    }

    fn ready(&mut self, measured: &Measured) {
        self.watchdog.arm(Stage::Ready, watchdog::STUCK);
        self.stage = Stage::Ready;
        self.document.stage = Stage::Ready.words();
        let entered_ms = u64::try_from(power::uptime().as_millis()).unwrap_or(u64::MAX);
        self.document.stages.push(status::StageTime { stage: Stage::Ready.words(), entered_ms });
        power::tell(Stage::Ready, Reason::Ready, 0, measured.config.compose_hash().0);
    }
}

/// Our own unprivileged processes: not enough to starve PID 1. The mesh has a memory limit of its own, which its own limits fit in.
const OWN_LIMITS: cgroup::Limits =
    cgroup::Limits { memory_max: Some(256 << 20), pids_max: Some(64), cpu_max: None };

/// Descriptors that a process may have without asking: what `select` can hold.
const SOFT_FILES: u64 = 1024;
/// Descriptors that a process may ask for: the mesh needs some 2,000 at its limits.
const HARD_FILES: u64 = 65_536;

/// Packet sockets pass below the lock's `inet` chains, and nothing of ours has one: the link is up, DHCP has run, and
/// still there must be none.
fn no_packet_sockets() -> Result<(), Failure> {
    match net::links::packet_sockets() {
        Ok(0) => Ok(()),
        Ok(found) => {
            Err(Failure::new(Reason::LinkFailed, format!("packet sockets: expected none, found {found}")))
        }
        Err(error) => Err(Failure::new(Reason::LinkFailed, error.to_string())),
    }
}

/// Development: the console. Production: nothing.
fn standard_streams() -> io::Result<()> {
    let path = if cfg!(feature = "dev") { "/dev/console" } else { "/dev/null" };
    let stream = File::options().read(true).write(true).open(path)?;
    nix::unistd::dup2_stdin(&stream)?;
    nix::unistd::dup2_stdout(&stream)?;
    nix::unistd::dup2_stderr(&stream)?;
    Ok(())
}
