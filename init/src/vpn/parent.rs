//! The privileged parent: what it makes, and how it serves the node that it starts.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use casemate_egress::{Lock, LockError, guard_ruleset};
use casemate_vpn::parent::message::{Answer, LONGEST, Message, Report};
use casemate_vpn::parent::network::{self, NAMES_V4, NAMES_V6, Refusal};
use casemate_vpn::parent::slots::{self, Slots};
use casemate_vpn::parent::{AuthKey, Config as Told, Descriptors, Keys, LoginServer};
use casemate_vpn::registration::Registration;
use casemate_vpn::status::Request;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid};

use super::kept::Kept;
use super::names::refuse_names;
use super::resolv::{self, Back, ResolvConf};
use super::sockets::{StatusSocket, ask_and_leave, bind_names, bind_peers, open_tun};
use super::{Config, say};
use crate::handover::{HEARTBEAT, READY};
use crate::log::Budget;
use crate::net::tailnet::{self, Tailnet};
use crate::roles::{self, VpnHandover};
use crate::supervise::{Exit, Next, PACE, Restarts, SILENCE, START_LIMIT, STOP_GRACE};
use crate::sys::{self, Namespaces, Spawn};

/// DNS (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;
/// How often it is looked whether there is another key to join with.
const KEY_EVERY: Duration = Duration::from_secs(2);
/// How often it is looked whether there is something to save that nobody spoke of: the word may have found no room.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Between two saves: how often a disk is written is not the node's to say.
const SAVE_PACE: Duration = Duration::from_secs(1);
/// Messages of the node in a second: a beat, a report and what it asks for, with room.
const MESSAGES: usize = 64;

/// What ends us in order: asked to, by hand, and by a terminal that goes.
const ENDS: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];

/// Runs until SIGTERM, SIGINT, SIGHUP or SIGQUIT.
///
/// # Errors
/// What cannot be made, or is there already: then nothing is left of what was.
pub(super) fn run(config: &Config) -> anyhow::Result<()> {
    ensure!(geteuid().is_root(), "expected to be root: interfaces and routes are to be made");
    // From here on these wait for the loop: what was made is removed in any case.
    let mut signals = SigSet::empty();
    for signal in ENDS.into_iter().chain([Signal::SIGCHLD]) {
        signals.add(signal);
    }
    signals.thread_block().context("signals")?;
    let signals =
        SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("signals")?;
    refuse_neighbours(config)?;
    let made = Made::make(config)?;
    // Once there are sockets where names are asked for.
    let (resolv, resolvers) = resolv_conf(config)?;
    refuse_names(config, &resolvers)?;
    let serving = Serving::new(config, &made, resolv, resolvers)?;
    say(format_args!(
        "{} is up, MTU {}, {} queues; UDP port {}; questions at {}",
        config.interface,
        config.mtu,
        config.queues,
        config.port,
        config.status_socket.display()
    ));
    for warning in config.warnings() {
        say(format_args!("warning: {warning}"));
    }
    if let (Some(file), None) = (&config.authkey_file, &config.login_server.authkey) {
        say(format_args!("no pre-auth key at {} (yet): only what is kept", file.display()));
    }
    serving.serve(&signals)
}

/// Where the node registers, in memory of its own: a document is long.
fn registration(registration: &Registration) -> anyhow::Result<OwnedFd> {
    let text = serde_json::to_vec(registration).context("registration")?;
    sys::memfd("registration", &text).context("registration")
}

/// Whether another node of this kind lives here.
fn refuse_neighbours(config: &Config) -> anyhow::Result<()> {
    let interface = &config.interface;
    ensure!(!Path::new("/sys/class/net").join(interface).exists(), "interface: {interface} exists already");
    for address in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
        match UdpSocket::bind((address, config.port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => bail!(
                "port: UDP port {} is taken, perhaps by a tailscaled: stop it, or choose another",
                config.port
            ),
            // Anything else, such as no IPv6, is the node's to find out.
            _ => {}
        }
    }
    // Also if we do not answer names: two nodes on one machine take each other's routes.
    if let Some(link) = tailnet::who_has_names().context("addresses and routes of this machine")? {
        bail!("100.100.100.100 is {link}'s already: another node lives here, perhaps a tailscaled; stop it");
    }
    if let Some((link, net)) =
        tailnet::who_is_inside(&config.prefixes).context("addresses and routes of this machine")?
    {
        bail!(
            "prefixes: expected what no other interface has, found {net} on {link}: whom it belongs to would not be known"
        );
    }
    Ok(())
}

/// Takes `/etc/resolv.conf`, where that is wanted. Also whom it named.
fn resolv_conf(config: &Config) -> anyhow::Result<(Option<ResolvConf>, Vec<SocketAddr>)> {
    let path = Path::new(resolv::PATH);
    if config.resolv_conf {
        // With `internal_only` too: the names of servers are asked of them as well.
        let needed = config.dns.resolvers.is_empty();
        let (taken, resolvers) =
            ResolvConf::take(path, &config.interface, needed).context("dns.resolv_conf")?;
        let before = taken.before().display();
        say(format_args!("{} is ours; what was there before is {before}", path.display()));
        return Ok((Some(taken), resolvers));
    }
    Ok((None, Vec::new()))
}

/// What is removed at the end. The TUN goes with its last descriptor, and addresses and routes with it.
struct Made {
    tun: Vec<OwnedFd>,
    tailnet: Tailnet,
    udp: Vec<UdpSocket>,
    dns: Vec<(SocketAddr, UdpSocket, TcpListener)>,
    status: StatusSocket,
    state: OwnedFd,
    /// What keeps the network's addresses to the TUN, and so goes last; `None` where the kernel has no nf_tables.
    _guard: Option<Lock>,
}

impl Made {
    fn make(config: &Config) -> anyhow::Result<Self> {
        // Before there is an address to speak to.
        let guard = guard(config)?;
        let tun = open_tun(&config.interface, config.queues)?;
        let tailnet = Tailnet::bring_up(&config.interface, &config.prefixes, config.mtu, config.dns.listen)
            .context("interface")?;
        let udp = bind_peers(config.port).with_context(|| format!("port: {}", config.port))?;
        let mut dns = Vec::new();
        for address in tailnet.names() {
            let address = SocketAddr::new(*address, DNS_PORT);
            let (udp, tcp) = bind_names(address).with_context(|| format!("dns.listen: {address}"))?;
            dns.push((address, udp, tcp));
        }
        let status = StatusSocket::bind(&config.status_socket)
            .with_context(|| format!("status_socket: {}", config.status_socket.display()))?;
        let state = slots::create().context("memory for the state")?;
        Ok(Self { tun, tailnet, udp, dns, status, state, _guard: guard })
    }
}

/// Keeps who is on this machine's other links from speaking in the name of a peer, or to what listens at our addresses in the network.
/// It goes with its socket, whatever becomes of us.
fn guard(config: &Config) -> anyhow::Result<Option<Lock>> {
    let interface = config.interface.parse().context("interface")?;
    let names = [IpAddr::V4(NAMES_V4), IpAddr::V6(NAMES_V6)];
    match Lock::install(&guard_ruleset(&interface, &config.prefixes, &names)) {
        Ok(lock) => Ok(Some(lock)),
        // Somebody's table is in the place of ours, perhaps another node's.
        Err(error @ LockError::Refused { errno: Errno::EPERM | Errno::EEXIST | Errno::EBUSY, .. }) => {
            Err(anyhow::Error::new(error).context("nf_tables"))
        }
        Err(error) => {
            let error = anyhow::Error::new(error);
            say(format_args!(
                "warning: nf_tables: {error:#}: neighbours on this machine's links can send in the name of peers"
            ));
            Ok(None)
        }
    }
}

/// The node that runs.
struct Child {
    pid: Pid,
    report: File,
    since: Instant,
    heard: Instant,
    ready: bool,
    /// It was ended for its silence.
    hung: bool,
    /// Its share of our time.
    messages: Budget,
}

struct Serving<'a> {
    config: &'a Config,
    made: &'a Made,
    slots: Slots,
    kept: Option<Kept>,
    binary: File,
    null: File,
    begin: Instant,
    child: Option<Child>,
    restarts: Restarts,
    /// When it is started again.
    due: Option<Instant>,
    /// When it was asked to end.
    stopping: Option<Instant>,
    /// What it said last.
    report: Option<Report>,
    /// What it may join with.
    authkey: Option<AuthKey>,
    /// When it is looked whether there is something to save.
    save_due: Instant,
    /// When it was looked last.
    saved: Option<Instant>,
    /// When the key's file is looked at again.
    key_due: Instant,
    /// What is wrong with that file, if it was said.
    key_trouble: Option<String>,
    /// The machine's resolver configuration, while it is ours.
    resolv: Option<ResolvConf>,
    /// Whom it named before.
    resolvers: Vec<SocketAddr>,
}

impl<'a> Serving<'a> {
    fn new(
        config: &'a Config,
        made: &'a Made,
        resolv: Option<ResolvConf>,
        resolvers: Vec<SocketAddr>,
    ) -> anyhow::Result<Self> {
        let slots = Slots::new(made.state.try_clone().context("state")?).context("state")?;
        let kept = match &config.state {
            None => None,
            Some(path) => {
                let kept = Kept::load(path, &slots).with_context(|| format!("state: {}", path.display()))?;
                Some(kept)
            }
        };
        let now = Instant::now();
        Ok(Self {
            config,
            made,
            slots,
            kept,
            binary: File::open("/proc/self/exe").context("/proc/self/exe")?,
            null: File::options().read(true).write(true).open("/dev/null").context("/dev/null")?,
            begin: now,
            child: None,
            restarts: Restarts::for_ever(PACE),
            due: Some(now),
            stopping: None,
            report: None,
            authkey: config.login_server.authkey.clone(),
            save_due: now + LOOK_EVERY,
            saved: None,
            key_due: now + KEY_EVERY,
            key_trouble: None,
            resolv,
            resolvers,
        })
    }

    fn serve(mut self, signals: &SignalFd) -> anyhow::Result<()> {
        loop {
            let now = Instant::now();
            if self.stopping.is_some() && self.child.is_none() {
                self.save();
                say(format_args!("stopped"));
                return Ok(());
            }
            if self.stopping.is_none() && self.due.is_some_and(|due| due <= now) {
                let is_first = self.due == Some(self.begin);
                match self.start() {
                    // Want of memory, of descriptors, of a place for one more process: what is made stays, and so do its connections.
                    Err(error) if !is_first => {
                        let wait = PACE.longest;
                        say(format_args!(
                            "the node is not started: {error:#}; again in {} s",
                            wait.as_secs()
                        ));
                        self.due = now.checked_add(wait);
                    }
                    done => done?,
                }
            }
            self.look_after_silence(now);
            self.look_at_key(now);
            self.look_at_domain(now);
            if now >= self.save_due {
                self.save_due = now + LOOK_EVERY;
                self.saved = Some(now);
                self.save();
            }
            self.turn(signals, self.until(now))?;
        }
    }

    /// How long nothing of its own is to be done.
    fn until(&self, now: Instant) -> Duration {
        let due = self.due.map(|due| due.saturating_duration_since(now));
        let child = self.child.as_ref().map(|_| Duration::from_secs(1));
        let save = self.save_due.saturating_duration_since(now);
        [due, child, Some(save)].into_iter().flatten().min().unwrap_or(LOOK_EVERY)
    }

    fn start(&mut self) -> anyhow::Result<()> {
        self.due = None;
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .context("report socket")?;
        // A beat that finds no room is dropped: its event loop must not wait for us, nor we for it.
        sys::non_blocking(&ours).context("report socket")?;
        sys::non_blocking(&theirs).context("report socket")?;
        let handover = sys::memfd("handover", &serde_json::to_vec(&self.told()).context("handover")?)
            .context("handover")?;
        let mut descriptors = vec![handover.as_fd(), theirs.as_fd(), self.made.state.as_fd()];
        descriptors.push(self.made.status.listener.as_fd());
        descriptors.extend(self.made.udp.iter().map(UdpSocket::as_fd));
        for (_, udp, tcp) in &self.made.dns {
            descriptors.extend([udp.as_fd(), tcp.as_fd()]);
        }
        descriptors.extend(self.made.tun.iter().map(OwnedFd::as_fd));
        let registration = self.config.registration.as_ref().map(registration).transpose()?;
        descriptors.extend(registration.as_ref().map(OwnedFd::as_fd));
        let stderr = io::stderr();
        let pid = sys::spawn(&Spawn {
            binary: self.binary.as_fd(),
            role: roles::VPN,
            stdin: self.null.as_fd(),
            output: stderr.as_fd(),
            descriptors: &descriptors,
            cgroup: None,
            namespaces: Namespaces::Shared,
            uid: Some(self.config.uid),
        })
        .context("start the node")?;
        let now = Instant::now();
        self.child = Some(Child {
            pid,
            report: File::from(ours),
            since: now,
            heard: now,
            ready: false,
            hung: false,
            messages: Budget::new(MESSAGES),
        });
        Ok(())
    }

    /// What the node is told.
    fn told(&self) -> VpnHandover {
        let config = self.config;
        let mut dns = config.dns.clone();
        if dns.resolvers.is_empty() {
            dns.resolvers.clone_from(&self.resolvers);
        }
        VpnHandover {
            guest: false,
            relay_ports: Vec::new(),
            node: Told {
                login_server: LoginServer { authkey: self.authkey.clone(), ..config.login_server.clone() },
                hostname: config.hostname.clone(),
                prefixes: config.prefixes.clone(),
                derp_pins: config.derp_pins.clone(),
                require_policy: config.require_policy,
                expected_tag: None,
                interface: config.interface.clone(),
                port: config.port,
                mtu: config.mtu,
                ipv6: self.made.tailnet.ipv6(),
                dns,
                roots: config.roots.clone(),
                keys: Keys::Random,
                debug_use_derp_http: config.debug_use_derp_http,
                descriptors: Descriptors {
                    status: true,
                    udp: self.made.udp.len(),
                    dns: self.made.dns.iter().map(|(address, ..)| *address).collect(),
                    queues: self.made.tun.len(),
                    registration: config.registration.is_some(),
                },
            },
        }
    }

    fn turn(&mut self, signals: &SignalFd, wait: Duration) -> anyhow::Result<()> {
        let mut watched = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let now = self.milliseconds();
        // Without a share left it waits in its socket; the next turn is within a second.
        let child = self.child.as_ref().filter(|child| child.messages.left(now) > 0);
        watched.extend(child.map(|child| PollFd::new(child.report.as_fd(), PollFlags::POLLIN)));
        // Rounded up: a turn a little too early would only be followed by another.
        let wait = u16::try_from(wait.as_millis().saturating_add(1)).unwrap_or(u16::MAX);
        match poll(&mut watched, PollTimeout::from(wait)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        drop(watched);
        while let Some(signal) = signals.read_signal().context("signals")? {
            let signal =
                i32::try_from(signal.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
            if signal.is_some_and(|signal| ENDS.contains(&signal)) {
                self.stop();
            }
        }
        self.hear();
        self.reap();
        Ok(())
    }

    /// What the budget of messages counts by.
    fn milliseconds(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Everything that the node has said, as far as its share of our time goes.
    fn hear(&mut self) {
        let now = self.milliseconds();
        loop {
            let Some(child) = self.child.as_mut().filter(|child| child.messages.left(now) > 0) else {
                return;
            };
            child.messages.take(1, now);
            let mut bytes = [0; LONGEST + 1];
            let length = match child.report.read(&mut bytes) {
                Ok(0) | Err(_) => return,
                Ok(length) => length,
            };
            child.heard = Instant::now();
            match bytes.get(..length).unwrap_or_default() {
                READY => child.ready = true,
                HEARTBEAT => {}
                message => self.take(message),
            }
        }
    }

    fn take(&mut self, message: &[u8]) {
        match Message::decode(message) {
            Ok(Message::SetNetwork(request)) => {
                let outcome = network::check(&self.config.prefixes, &request.addresses)
                    .and_then(|()| self.set(&request.addresses));
                self.answer(Answer { sequence: request.sequence, outcome });
            }
            // Here is no lock on the way to the server.
            Ok(Message::SetServer(request)) => {
                self.answer(Answer { sequence: request.sequence, outcome: Err(Refusal::Fixed) });
            }
            Ok(Message::Report(report)) => {
                if self.report.as_ref().map(|last| last.standing) != Some(report.standing) {
                    say(format_args!("{}, {} peers", report.standing.word(), report.peers));
                }
                self.report = Some(report);
            }
            Ok(Message::Kept) => {
                let now = Instant::now();
                let due = self.saved.map_or(now, |saved| saved + SAVE_PACE);
                self.save_due = self.save_due.min(due);
            }
            Err(error) => say(format_args!("from the node: {error}")),
        }
    }

    /// Names of the network can be said without its domain.
    fn look_at_domain(&mut self, now: Instant) {
        let (Some(resolv), Some(report)) = (&mut self.resolv, &self.report) else { return };
        match resolv.follow(&report.domain, now) {
            // It says so itself, and is no longer ours.
            Ok(Back::Changed) => self.resolv = None,
            Ok(_) => {}
            Err(error) => say(format_args!("{}: {error}", resolv::PATH)),
        }
    }

    fn answer(&mut self, answer: Answer) {
        if let Err(refusal) = answer.outcome {
            say(format_args!("addresses that the node asked for are refused: {refusal}"));
        }
        if let Some(child) = &mut self.child {
            // It does not read, or is gone: then it does not need the answer.
            drop(child.report.write(&answer.encode()));
        }
    }

    fn set(&self, addresses: &[ipnet::IpNet]) -> Result<(), Refusal> {
        self.made.tailnet.set(addresses).map_err(|error| {
            say(format_args!("{:#}", anyhow::Error::new(error)));
            Refusal::Kernel
        })
    }

    fn save(&mut self) {
        if let Some(kept) = &mut self.kept
            && let Err(error) = kept.save(&self.slots)
        {
            let path = self.config.state.as_deref().unwrap_or_else(|| Path::new("state"));
            say(format_args!("state: {}: {error}", path.display()));
        }
    }

    fn stop(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(Instant::now());
        self.due = None;
        // While there is still somebody who answers.
        self.resolv = None;
        if let Some(child) = &self.child {
            kill(child.pid, Signal::SIGTERM).ok();
        }
    }

    /// A key that was written to its file since is the node's, without a new start. One that is gone from there stays.
    fn look_at_key(&mut self, now: Instant) {
        let Some(path) = &self.config.authkey_file else { return };
        if now < self.key_due || self.stopping.is_some() {
            return;
        }
        self.key_due = now + KEY_EVERY;
        let trouble = match super::config::authkey(path) {
            Ok(Some(key)) if self.authkey.as_ref() != Some(&key) => self.offer(key).err(),
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        if let Some(trouble) = trouble.as_deref().filter(|now| self.key_trouble.as_deref() != Some(*now)) {
            say(format_args!("login_server.authkey: {trouble}"));
        }
        self.key_trouble = trouble;
    }

    fn offer(&mut self, key: AuthKey) -> Result<(), String> {
        if self.child.is_some() {
            let request = Request::Offer { authkey: key.clone() };
            ask_and_leave(&self.config.status_socket, &request).map_err(|error| error.to_string())?;
        }
        say(format_args!("there is another key to join with"));
        self.authkey = Some(key);
        Ok(())
    }

    /// Ends a node that says nothing, or does not end when it is asked to.
    fn look_after_silence(&mut self, now: Instant) {
        let Some(child) = &mut self.child else { return };
        let limit = if child.ready { SILENCE } else { START_LIMIT };
        let silent = now.saturating_duration_since(child.heard) > limit;
        let patience_over =
            self.stopping.is_some_and(|since| now.saturating_duration_since(since) > STOP_GRACE);
        if (silent || patience_over) && !child.hung {
            child.hung = silent;
            kill(child.pid, Signal::SIGKILL).ok();
        }
    }

    fn reap(&mut self) {
        loop {
            let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal as i32)),
                Err(Errno::EINTR) => continue,
                _ => return,
            };
            // What it said before its end counts.
            self.hear();
            let Some(child) = self.child.take_if(|child| child.pid == pid) else { continue };
            self.save();
            let exit = exit.told_apart(false, child.hung);
            if self.stopping.is_some() {
                continue;
            }
            let now = Instant::now();
            let ended = self.restarts.ended(
                exit,
                child.since.saturating_duration_since(self.begin),
                now.saturating_duration_since(self.begin),
            );
            if let Next::RestartAt(at) = ended {
                self.due = self.begin.checked_add(at);
                let wait = self.due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now));
                say(format_args!("the node ended ({exit}); again in {} s", wait.as_secs_f32().round()));
                self.restarts.started_again();
            }
        }
    }
}
