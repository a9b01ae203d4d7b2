//! Hosts in network namespaces around a switch, some behind NATs of their own. All of it ends with the test, whatever ends
//! the test: what a killed run left behind is removed by the next.

use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use casemate_tests::scratch::Scratch;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::process::Process;
use crate::wait::s;

/// All namespaces of these tests begin so, then comes the run that made them.
const PREFIX: &str = "casemate-tailnet-";
/// Where `ip netns exec` looks for files that a namespace has instead of the machine's.
const FILES: &str = "/etc/netns";
/// Here each run has a file by its name, locked as long as it lives.
const RUNS: &str = "/run/casemate-tailnet";
/// A router's end of the wire to a machine.
pub(crate) const WIRE: &str = "lan";

/// A switch and everybody on it.
#[derive(Debug)]
pub(crate) struct Net {
    prefix: String,
    kind: Segment,
    hosts: u8,
    lans: u8,
    namespaces: Vec<String>,
    /// Of the namespaces, those with a port of the switch.
    on_switch: Vec<String>,
    /// Hosts behind routers, and the routers' addresses.
    routed: Vec<(Ipv4Addr, Ipv4Addr)>,
    folder: Scratch,
}

/// What the addresses on the switch look like to those who have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// A network of somebody's own: 192.168.77.0/24 and fd77::/64.
    Private,
    /// The internet: 203.0.113.0/24 and 2001:db8:77::/64.
    Public,
}

/// How a NAT treats UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nat {
    /// Another outer port for each destination.
    pub(crate) random: bool,
    /// Drops what comes to the NAT itself unasked. Where it does not, such a packet, which comes before the inner host has
    /// sent anything to there, is a flow to the NAT itself that takes the port.
    pub(crate) drops_unasked: bool,
}

/// A network of its own, at a router.
#[derive(Debug)]
pub(crate) struct Place {
    router: String,
    /// The router's address on the switch.
    pub(crate) outside: Ipv4Addr,
    inner: Ipv4Addr,
    /// Of whoever comes.
    pub(crate) v4: Ipv4Addr,
}

/// Whoever has a network namespace.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    namespace: String,
    pub(crate) v4: Ipv4Addr,
    /// For its files and logs.
    pub(crate) folder: PathBuf,
    /// The namespace of the router or NAT that it is behind.
    router: Option<String>,
}

impl Net {
    pub(crate) fn new(kind: Segment) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "needs root for network namespaces");
        let run = &run().0;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut net = Self {
            prefix: format!("{PREFIX}{run}-{number}-"),
            kind,
            hosts: 0,
            lans: 0,
            namespaces: Vec::new(),
            on_switch: Vec::new(),
            routed: Vec::new(),
            folder: Scratch::new("casemate-tailnet.").unwrap(),
        };
        let switch = net.namespace("switch");
        ip(&switch, "link add br0 type bridge");
        ip(&switch, "link set br0 up");
        net
    }

    fn namespace(&mut self, name: &str) -> String {
        let namespace = format!("{}{name}", self.prefix);
        done("ip", &["netns", "add", &namespace]);
        self.namespaces.push(namespace.clone());
        ip(&namespace, "link set lo up");
        namespace
    }

    /// A namespace with `eth0` on the switch.
    fn plugged(&mut self, name: &str) -> (String, Ipv4Addr) {
        self.hosts += 1;
        let (namespace, switch) = (self.namespace(name), format!("{}switch", self.prefix));
        let port = format!("port{}", self.hosts);
        ip(&namespace, &format!("link add eth0 type veth peer name {port} netns {switch}"));
        ip(&switch, &format!("link set {port} master br0 up"));
        let (v4, v6) = match self.kind {
            Segment::Private => ([192, 168, 77, self.hosts], [0xfd77, 0, 0]),
            Segment::Public => ([203, 0, 113, self.hosts], [0x2001, 0xdb8, 0x77]),
        };
        let v4 = Ipv4Addr::from(v4);
        let v6 = Ipv6Addr::from([v6[0], v6[1], v6[2], 0, 0, 0, 0, self.hosts.into()]);
        ip(&namespace, &format!("address add {v4}/24 dev eth0"));
        ip(&namespace, &format!("address add {v6}/64 dev eth0 nodad"));
        ip(&namespace, "link set eth0 up");
        self.on_switch.push(namespace.clone());
        (namespace, v4)
    }

    /// A host on the switch.
    pub(crate) fn host(&mut self, name: &str) -> Host {
        let (namespace, v4) = self.plugged(name);
        let folder = self.folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        Host { name: name.to_owned(), namespace, v4, folder, router: None }
    }

    /// A host behind a NAT of its own, with IPv4 only.
    pub(crate) fn host_behind(&mut self, nat: Nat, name: &str) -> Host {
        let (host, _) = self.host_at_router(name);
        host.router_rules(&nat.rules());
        host
    }

    /// The same without a host: one may move there.
    pub(crate) fn place_behind(&mut self, nat: Nat, name: &str) -> Place {
        let place = self.place(name);
        limited(&place.router, s(10), "nft").arg(nat.rules()).succeed();
        place
    }

    /// A host behind a router of its own that everybody knows the way to, with IPv4 only. Who was there before does not.
    pub(crate) fn host_routed(&mut self, name: &str) -> Host {
        let (host, router) = self.host_at_router(name);
        self.announce(&host.router.clone().unwrap(), host.v4, router);
        host
    }

    /// The router of a machine that is somebody else's to run: the router's end of its wire is the TAP [`WIRE`], the machine's address
    /// ends in 2 where the router's ends in 1. Everybody knows the way; who comes later does not.
    pub(crate) fn machine_routed(&mut self, name: &str) -> Host {
        self.lans += 1;
        let (router, outer) = self.plugged(&format!("router-{name}"));
        let (inner, v4) = (Ipv4Addr::new(10, 0, self.lans, 1), Ipv4Addr::new(10, 0, self.lans, 2));
        let folder = self.folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        let host = Host {
            name: name.to_owned(),
            namespace: router.clone(),
            v4,
            folder,
            router: Some(router.clone()),
        };
        host.ip(&format!("tuntap add {WIRE} mode tap"));
        // The machine's wire is judged: nothing of the router's own is to be on it.
        host.at_router("sysctl").args(["-qw", &format!("net.ipv6.conf.{WIRE}.disable_ipv6=1")]).succeed();
        host.at_router("sysctl").args(["-qw", "net.ipv4.ip_forward=1"]).succeed();
        host.ip(&format!("address add {inner}/24 dev {WIRE}"));
        host.ip(&format!("link set {WIRE} up"));
        self.announce(&router, v4, outer);
        host
    }

    /// Whoever is on the switch learns the way to a host behind a router.
    fn announce(&mut self, own: &str, v4: Ipv4Addr, router: Ipv4Addr) {
        for namespace in self.namespaces.iter().filter(|one| *one != own && self.on_switch.contains(one)) {
            ip(namespace, &format!("route add {v4}/32 via {router}"));
        }
        for (other, via) in &self.routed {
            ip(own, &format!("route add {other}/32 via {via}"));
        }
        self.routed.push((v4, router));
    }

    /// A host with a router of its own to the switch, and the router's address there.
    fn host_at_router(&mut self, name: &str) -> (Host, Ipv4Addr) {
        let place = self.place(name);
        let namespace = self.namespace(name);
        let folder = self.folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        place.wire(&namespace);
        let Place { router, v4, outside, .. } = place;
        (Host { name: name.to_owned(), namespace, v4, folder, router: Some(router) }, outside)
    }

    /// A router to the switch, with nobody behind it.
    fn place(&mut self, name: &str) -> Place {
        self.lans += 1;
        let (router, outside) = self.plugged(&format!("router-{name}"));
        limited(&router, s(10), "sysctl").args(["-qw", "net.ipv4.ip_forward=1"]).succeed();
        let [inner, v4] = [1, 2].map(|last| Ipv4Addr::new(10, 0, self.lans, last));
        Place { router, outside, inner, v4 }
    }
}

impl Place {
    /// A host leaves the network that it is in, and comes to this one.
    pub(crate) fn receives(&self, host: &Host) {
        host.ip("link delete eth0");
        self.wire(&host.namespace);
    }

    fn wire(&self, namespace: &str) {
        ip(&self.router, &format!("link add lan type veth peer name eth0 netns {namespace}"));
        ip(&self.router, &format!("address add {}/24 dev lan", self.inner));
        ip(&self.router, "link set lan up");
        ip(namespace, &format!("address add {}/24 dev eth0", self.v4));
        ip(namespace, "link set eth0 up");
        ip(namespace, &format!("route add default via {}", self.inner));
    }
}

impl Nat {
    fn rules(self) -> String {
        let ports = if self.random { "fully-random" } else { "" };
        let unasked = if self.drops_unasked {
            r#"chain input { type filter hook input priority 0; iifname "eth0" ct state new drop; }"#
        } else {
            ""
        };
        format!(
            r#"table ip nat {{
                chain out {{ type nat hook postrouting priority 100; oifname "eth0" masquerade {ports}; }}
            }}
            table ip filter {{
                chain forward {{
                    type filter hook forward priority 0;
                    iifname "eth0" ct state != {{ established, related }} drop;
                }}
                {unasked}
            }}"#
        )
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            remove(namespace);
        }
    }
}

impl Host {
    /// A program in this namespace, killed after a while if it does not end.
    pub(crate) fn command(&self, limit: Duration, program: impl AsRef<OsStr>) -> Command {
        limited(&self.namespace, limit, program)
    }

    /// A program on this host's router.
    fn at_router(&self, program: &str) -> Command {
        limited(self.router.as_deref().unwrap(), s(10), program)
    }

    /// nftables' rules of this host's router.
    pub(crate) fn router_rules(&self, rules: &str) {
        self.at_router("nft").arg(rules).succeed();
    }

    /// The NAT gives other outer ports from now on, to flows that there are too: as one does that was restarted.
    pub(crate) fn move_mappings(&self) {
        self.router_rules(
            r#"flush table ip nat
            table ip nat {
                chain out {
                    oifname "eth0" meta l4proto udp masquerade to :20000-29999
                    oifname "eth0" masquerade
                }
            }"#,
        );
        self.at_router("conntrack").arg("--flush").succeed();
    }

    /// nftables' rules of this host.
    pub(crate) fn rules(&self, rules: &str) {
        self.command(s(10), "nft").arg(rules).succeed();
    }

    /// `ip`, in this namespace.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        ip(&self.namespace, arguments)
    }

    /// Starts a program in this namespace that goes on.
    pub(crate) fn start(&self, name: &str, program: &Path, change: impl FnOnce(&mut Command)) -> Process {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]);
        // Both of them become the program that follows; it ends with the thread that started it.
        command.args(["setpriv", "--pdeathsig", "KILL"]).arg(program);
        change(&mut command);
        Process::start(
            &format!("{name} of {}", self.name),
            &self.folder.join(format!("{name}.log")),
            &mut command,
        )
    }

    /// What brings a program into this namespace.
    pub(crate) fn through(&self) -> String {
        format!("ip netns exec {}", self.namespace)
    }

    /// Does something in this namespace: whatever sockets it makes stay there.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.namespace, work)
    }

    pub(crate) fn inside_router<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(self.router.as_deref().unwrap(), work)
    }

    /// Programs that are started from now on ask these for names.
    pub(crate) fn resolvers(&self, addresses: &[&str]) {
        let folder = Path::new(FILES).join(&self.namespace);
        fs::create_dir_all(&folder).unwrap();
        let lines: String = addresses.iter().map(|one| format!("nameserver {one}\n")).collect();
        fs::write(folder.join("resolv.conf"), format!("{lines}options timeout:1 attempts:2\n")).unwrap();
    }

    /// Whether a few of a handful of pings come back.
    pub(crate) fn pings(&self, what: &str) -> bool {
        let mut ping = self.command(s(15), "ping");
        ping.args(["-q", "-c", "3", "-i", "0.3", "-W", "2", what]).output().unwrap().status.success()
    }

    /// Pings until something comes back.
    pub(crate) fn pings_soon(&self, limit: Duration, what: &str) {
        let mut ping = self.command(limit, "sh");
        let script = "until ping -q -c 1 -W 1 \"$1\"; do sleep 0.2; done";
        let output = ping.args(["-c", script, "sh", what]).output().unwrap();
        assert!(output.status.success(), "{}: no ping to {what} within {limit:?}", self.name);
    }

    /// Gigabits a second by one TCP stream to another host's address, or from there.
    pub(crate) fn iperf(&self, server: &Self, address: &str, reverse: bool) -> f64 {
        let mut command = server.start("iperf3", Path::new("iperf3"), |iperf| {
            iperf.args(["--server", "--one-off", "--bind", address]);
        });
        let mut client = self.command(s(30), "iperf3");
        client.args(["--client", address, "--time", "2", "--json", "--connect-timeout", "5000"]);
        if reverse {
            client.arg("--reverse");
        }
        let output = crate::wait::until(s(10), "the server of iperf3", || {
            let output = client.output().unwrap();
            let refused = String::from_utf8_lossy(&output.stdout).contains("Connection refused");
            (!refused).then_some(output)
        });
        command.end(s(10));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(output.status.success(), "iperf3: {}", report["error"]);
        report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap() / 1e9
    }
}

/// Commands that must succeed.
pub(crate) trait Succeed {
    /// What it printed.
    fn succeed(&mut self) -> String;
}

impl Succeed for Command {
    fn succeed(&mut self) -> String {
        let output = self.stdin(Stdio::null()).output();
        let Output { status, stdout, stderr } = output.unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let errors = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{self:?}: {status}\n{}{errors}", String::from_utf8_lossy(&stdout));
        String::from_utf8(stdout).unwrap()
    }
}

fn limited(namespace: &str, limit: Duration, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, "timeout", "--foreground", "--kill-after=5"]);
    command.arg(limit.as_secs_f32().to_string()).arg(program).stdin(Stdio::null());
    command
}

fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let path = Path::new("/run/netns").join(namespace);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(fs::File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn ip(namespace: &str, arguments: &str) -> String {
    let words: Vec<_> = ["-n", namespace].into_iter().chain(arguments.split_whitespace()).collect();
    done("ip", &words)
}

fn done(program: &str, arguments: &[&str]) -> String {
    Command::new(program).args(arguments).succeed()
}

/// A namespace and whatever runs in it.
fn remove(namespace: &str) {
    let Ok(pids) = Command::new("ip").args(["netns", "pids", namespace]).output() else { return };
    for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
        if let Ok(pid) = pid.parse() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    drop(Command::new("ip").args(["netns", "delete", namespace]).output());
    drop(fs::remove_dir_all(Path::new(FILES).join(namespace)));
}

/// The name of this run, which others see to live. What runs left that were killed is removed first.
fn run() -> &'static (String, fs::File) {
    static RUN: OnceLock<(String, fs::File)> = OnceLock::new();
    RUN.get_or_init(|| {
        fs::create_dir_all(RUNS).unwrap();
        // One at a time: a file that was just made is not locked yet, and `ip` sets up its folder when it first makes a
        // namespace.
        let turn = fs::File::create(Path::new(RUNS).join(".turn")).unwrap();
        turn.lock().unwrap();
        sweep();
        let prefix = format!("{}-", std::process::id());
        let file = tempfile::Builder::new().prefix(&prefix).tempfile_in(RUNS).unwrap();
        let name = file.path().file_name().unwrap().to_string_lossy().into_owned();
        let file = file.keep().unwrap().0;
        file.lock().unwrap();
        (name, file)
    })
}

/// Whether a run goes on. The kernel unlocks its file when it ends, however it does.
fn lives(run: &str) -> bool {
    let file = Path::new(RUNS).join(run);
    let Ok(open) = fs::File::open(&file) else {
        // Its file is gone with the rest of /run, or it never had one: its process may be there.
        return run.split('-').next().is_some_and(|pid| Path::new("/proc").join(pid).exists());
    };
    match open.try_lock() {
        Ok(()) => {
            drop(fs::remove_file(file));
            false
        }
        Err(_) => true,
    }
}

/// Removes what runs of this test left that were killed.
fn sweep() {
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in names {
        let name = name.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let run: Vec<_> = rest.split('-').take(2).collect();
        if !lives(&run.join("-")) {
            remove(&name);
        }
    }
    for run in fs::read_dir(RUNS).unwrap().flatten() {
        let run = run.file_name().to_string_lossy().into_owned();
        if !run.starts_with('.') {
            lives(&run);
        }
    }
}
