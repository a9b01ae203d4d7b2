//! `casemate-init vpn --config FILE`, in network namespaces: what it makes, what it refuses, what is left of it.
//!
//! The node itself needs a coordination server; with real ones it is tested in `tests/tailnet`.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A network namespace that goes with this.
struct Namespace(String);

impl Namespace {
    fn new(test: &str) -> Self {
        let name = format!("casemate-vpn-{test}-{}", std::process::id());
        ip(&["netns", "add", &name]);
        let namespace = Self(name);
        namespace.ip("link set lo up");
        namespace
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }

    fn ip(&self, line: &str) -> String {
        let done = self.command("ip").args(line.split_whitespace()).output().unwrap();
        assert!(done.status.success(), "ip {line}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    fn start(&self, config: &Path) -> Running {
        let mut command = self.command(env!("CARGO_BIN_EXE_casemate-init"));
        command.args(["vpn", "--config"]).arg(config);
        Running(command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap())
    }

    fn refused(&self, config: &Path) -> String {
        // Whoever waits instead of refusing ends with another status.
        let mut command = self.command("timeout");
        command.args(["20", env!("CARGO_BIN_EXE_casemate-init"), "vpn", "--config"]);
        let done: Output = command.arg(config).output().unwrap();
        let words = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(1), "{words}");
        assert_eq!(words.lines().count(), 1, "{words}");
        words
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.0]);
    }
}

fn ip(arguments: &[&str]) {
    assert!(Command::new("ip").args(arguments).status().unwrap().success(), "ip {arguments:?}");
}

struct Running(Child);

impl Running {
    fn stop(self) -> String {
        self.stop_by(Signal::SIGTERM)
    }

    fn stop_by(mut self, signal: Signal) -> String {
        let pid = i32::try_from(self.0.id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
        let status = self.0.wait().unwrap();
        let mut words = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            stderr.read_to_string(&mut words).unwrap();
        }
        assert_eq!(status.code(), Some(0), "{words}");
        words
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn config(dir: &Path, changes: &[(&str, Value)]) -> std::path::PathBuf {
    let mut config = json!({
        "login_server": {"url": "http://127.0.0.1:1"},
        "hostname": "node-1",
        "interface": "cm0",
        "queues": 2,
        "status_socket": dir.join("status"),
        "state": dir.join("state"),
    });
    for (key, value) in changes {
        config.as_object_mut().unwrap().insert((*key).to_owned(), value.clone());
    }
    let path = dir.join("config.json");
    fs::write(&path, config.to_string()).unwrap();
    path
}

fn until(what: &str, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_it_makes_is_gone_after_sigterm() {
    let (dir, namespace) = (tempfile::tempdir().unwrap(), Namespace::new("makes"));
    let before = (namespace.ip("address"), namespace.ip("route show table all"));
    let socket = dir.path().join("run/casemate/status");
    let running = namespace.start(&config(dir.path(), &[("status_socket", json!(socket))]));
    until("a status socket", || socket.exists());
    let link = namespace.ip("-details link show cm0");
    assert!(link.contains("mtu 1280") && link.contains("multi_queue"), "{link}");
    assert!(link.contains("numqueues 2") || link.contains("UP"), "{link}");
    let addresses = namespace.ip("address show dev cm0");
    assert!(addresses.contains("inet 100.100.100.100/32 scope host"), "{addresses}");
    assert!(addresses.contains("inet6 fd7a:115c:a1e0::53/128"), "{addresses}");
    let sockets = namespace.command("cat").args(["/proc/net/udp", "/proc/net/tcp"]).output().unwrap();
    let sockets = String::from_utf8(sockets.stdout).unwrap();
    assert_eq!(sockets.matches("64646464:0035").count(), 2, "{sockets}");
    // No address yet: no route either, and nobody's packets go into it.
    let routes = namespace.ip("route show table main");
    assert!(!routes.contains("cm0"), "{routes}");
    let words = running.stop();
    assert!(words.contains("cm0 is up, MTU 1280, 2 queues"), "{words}");
    assert_eq!((namespace.ip("address"), namespace.ip("route show table all")), before);
    assert!(!dir.path().join("run").exists());
}

#[test]
fn a_second_node_is_refused_in_one_line() {
    let (dir, namespace) = (tempfile::tempdir().unwrap(), Namespace::new("second"));
    let elsewhere = tempfile::tempdir().unwrap();
    let _running = namespace.start(&config(dir.path(), &[]));
    until("a status socket", || dir.path().join("status").exists());
    let refused = |changes: &[(&str, Value)]| namespace.refused(&config(elsewhere.path(), changes));
    assert!(refused(&[]).contains("interface: cm0 exists already"));
    let other = ("interface", json!("cm1"));
    assert!(refused(std::slice::from_ref(&other)).contains("port: UDP port 41641 is taken"));
    let port = ("port", json!(41642));
    let names = refused(&[other.clone(), port.clone()]);
    assert!(names.contains("100.100.100.100 is cm0's already"), "{names}");
    // Its routes would be the first one's, also without names.
    let no_names = ("dns", json!({"listen": false}));
    assert!(refused(&[other, port, no_names]).contains("100.100.100.100 is cm0's already"));
    // The first one is as it was.
    assert!(namespace.ip("address show dev cm0").contains("100.100.100.100"));
}

/// As in a container; and as nobody, so that a guest that started there could do nothing.
#[test]
fn the_first_process_of_a_container_is_no_guest() {
    let dir = tempfile::tempdir().unwrap();
    // Where nobody reads it, too.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("casemate-init");
    fs::copy(env!("CARGO_BIN_EXE_casemate-init"), &program).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
    command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
    let done = command.args(["vpn", "--config", "/no/such/file"]).output().unwrap();
    let words = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "{words}");
    assert!(words.starts_with("casemate-init vpn: /no/such/file: "), "{words}");
}

#[test]
fn a_terminal_that_goes_ends_it_in_order() {
    let (dir, namespace) = (tempfile::tempdir().unwrap(), Namespace::new("terminal"));
    let running = namespace.start(&config(dir.path(), &[("prefixes", json!(["100.128.0.0/10"]))]));
    until("a status socket", || dir.path().join("status").exists());
    // The loop runs, and everything before it was said.
    until("a node", || !nodes(running.0.id()).is_empty());
    let words = running.stop_by(Signal::SIGHUP);
    assert_eq!(
        words.matches("warning: prefixes: 100.128.0.0/10 is public address space").count(),
        1,
        "{words}"
    );
    assert!(!dir.path().join("status").exists());
    assert!(!namespace.ip("link").contains("cm0"));
}

#[test]
fn a_server_by_name_needs_somebody_to_ask() {
    let (dir, namespace) = (tempfile::tempdir().unwrap(), Namespace::new("names"));
    let server = |url: &str| ("login_server", json!({ "url": url }));
    let words = namespace.refused(&config(dir.path(), &[server("https://headscale.example:8443")]));
    assert!(words.contains("login_server.url: expected an address as host, or in dns.resolvers"), "{words}");
    assert!(!dir.path().join("status").exists() && !namespace.ip("link").contains("cm0"));
    let asks = ("dns", json!({ "resolvers": ["192.0.2.53:53"] }));
    for changes in [vec![server("https://headscale.example:8443"), asks], vec![server("https://[::1]:8443")]]
    {
        let running = namespace.start(&config(dir.path(), &changes));
        until("a status socket", || dir.path().join("status").exists());
        running.stop();
    }
}

#[test]
fn a_status_socket_that_is_answered_at_is_left_alone() {
    let (dir, namespace) = (tempfile::tempdir().unwrap(), Namespace::new("status"));
    let path = dir.path().join("status");
    let refused = || assert!(namespace.refused(&config(dir.path(), &[])).contains("status_socket: "));
    let taken = UnixListener::bind(&path).unwrap();
    refused();
    assert!(path.exists());
    // Also by one that has no room for a question.
    let _waits = UnixStream::connect(&path).unwrap();
    nix::sys::socket::listen(&taken, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    refused();
    assert!(path.exists());
    drop(taken);
    fs::remove_file(&path).unwrap();
    // Another program's, of another kind: nobody connects there, and somebody is there.
    let _taken = UnixDatagram::bind(&path).unwrap();
    refused();
    assert!(path.exists());
}

/// Asks for a name at the place where names are asked for; says whether anybody answered within a second.
fn is_answered(namespace: &Namespace) -> bool {
    let ask = "import socket; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(1); \
               s.sendto(bytes.fromhex('123401000001000000000000016107696e7465726e616c0000010001'),('100.100.100.100',53)); \
               s.recv(512)";
    let done = namespace.command("python3").args(["-c", ask]).output().unwrap();
    done.status.success()
}

#[test]
fn who_is_on_another_link_does_not_reach_what_is_in_the_network() {
    let (dir, namespace) = (tempfile::tempdir().unwrap(), Namespace::new("guard"));
    let neighbour = Namespace::new("neighbour");
    namespace.ip(&format!("link add v0 type veth peer name v1 netns {}", neighbour.0));
    namespace.ip("address add 10.7.0.1/24 dev v0");
    namespace.ip("link set v0 up");
    neighbour.ip("address add 10.7.0.2/24 dev v1");
    neighbour.ip("link set v1 up");
    neighbour.ip("route add 100.100.100.100/32 via 10.7.0.1");
    let running = namespace.start(&config(dir.path(), &[]));
    until("an answer to ourselves", || is_answered(&namespace));
    assert!(!is_answered(&neighbour));
    let words = running.stop();
    assert!(!words.contains("nf_tables"), "{words}");
}

#[test]
fn a_tailscaled_is_noticed_by_its_port_and_by_its_route() {
    let (dir, namespace) = (tempfile::tempdir().unwrap(), Namespace::new("tailscaled"));
    namespace.ip("link add tailscale0 type veth peer name peer0");
    namespace.ip("link set tailscale0 up");
    namespace.ip("route add 100.100.100.100/32 dev tailscale0 table 52");
    let words = namespace.refused(&config(dir.path(), &[]));
    assert!(words.contains("100.100.100.100 is tailscale0's already"), "{words}");
    let holder = "import socket,time; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('0.0.0.0',41641)); print('bound',flush=True); time.sleep(60)";
    let mut python = namespace.command("python3");
    let mut holder = python.args(["-c", holder]).stdout(Stdio::piped()).spawn().unwrap();
    holder.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
    let words = namespace.refused(&config(dir.path(), &[]));
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(words.contains("port: UDP port 41641 is taken"), "{words}");
}

#[test]
fn a_state_that_others_can_read_is_refused_and_nothing_is_left() {
    let (dir, namespace) = (tempfile::tempdir().unwrap(), Namespace::new("state"));
    fs::write(dir.path().join("state"), "x").unwrap();
    let words = namespace.refused(&config(dir.path(), &[]));
    assert!(words.contains("state: ") && words.contains("expected a file of mode 0600"), "{words}");
    assert!(!dir.path().join("status").exists());
    assert!(!namespace.ip("link").contains("cm0"));
}

/// The nodes of this parent, by what /proc says of them.
fn nodes(parent: u32) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        if status.contains(&format!("\nPPid:\t{parent}\n")) && !status.contains("State:\tZ") {
            found.push((pid, status));
        }
    }
    found
}

#[test]
fn the_node_has_no_privileges_and_is_started_again_while_the_tun_stays() {
    let (dir, namespace) = (tempfile::tempdir().unwrap(), Namespace::new("again"));
    let running = namespace.start(&config(dir.path(), &[("uid", json!(64999))]));
    // `ip netns exec` becomes the parent.
    let parent = running.0.id();
    until("a node", || nodes(parent).iter().any(|(_, status)| status.contains("Uid:\t64999")));
    let (first, status) = nodes(parent).remove(0);
    for line in [
        "Uid:\t64999\t64999\t64999\t64999",
        "Gid:\t64999\t64999\t64999\t64999",
        "CapInh:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    assert_eq!(fs::read(format!("/proc/{first}/environ")).unwrap(), b"");
    assert_eq!(fs::read(format!("/proc/{first}/cmdline")).unwrap(), b"casemate-vpn\0");
    let link = namespace.ip("-o link show cm0");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(first).unwrap());
    nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
    until("another node", || nodes(parent).iter().any(|(pid, _)| *pid != first));
    assert_eq!(namespace.ip("-o link show cm0").split(':').next(), link.split(':').next());
    assert!(namespace.ip("address show dev cm0").contains("100.100.100.100"));
    let words = running.stop();
    assert!(words.contains("the node ended (signal 9); again in 1 s"), "{words}");
}

#[test]
fn a_node_that_cannot_be_started_again_takes_nothing_along() {
    let (dir, namespace) = (tempfile::tempdir().unwrap(), Namespace::new("wants"));
    let log = dir.path().join("log");
    let mut command = namespace.command(env!("CARGO_BIN_EXE_casemate-init"));
    command.args(["vpn", "--config"]).arg(config(dir.path(), &[])).stdin(Stdio::null());
    let running = Running(command.stderr(fs::File::create(&log).unwrap()).spawn().unwrap());
    let parent = running.0.id();
    until("a node", || !nodes(parent).is_empty());
    let limit = Command::new("prlimit").args(["--nofile=8", "--pid", &parent.to_string()]).status().unwrap();
    assert!(limit.success());
    let (node, _) = nodes(parent).remove(0);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(node).unwrap()), Signal::SIGKILL)
        .unwrap();
    until("a start that fails", || {
        fs::read_to_string(&log).unwrap().contains("the node is not started: report socket: EMFILE")
    });
    assert!(namespace.ip("address show dev cm0").contains("100.100.100.100"));
    running.stop();
    assert!(!namespace.ip("link").contains("cm0"));
}

/// systemd's `AmbientCapabilities=` and `SecureBits=no-setuid-fixup`: a change of uid alone takes nothing away.
#[test]
fn a_parent_with_ambient_capabilities_passes_none_on() {
    let (dir, namespace) = (tempfile::tempdir().unwrap(), Namespace::new("ambient"));
    let mut command = namespace.command("setpriv");
    command.args(["--inh-caps=+net_admin", "--ambient-caps=+net_admin", "--securebits=+no_setuid_fixup"]);
    command.arg(env!("CARGO_BIN_EXE_casemate-init")).args(["vpn", "--config"]);
    command.arg(config(dir.path(), &[("uid", json!(64999))]));
    let running = Running(command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap());
    let parent = running.0.id();
    // Executed, so that what the exec leaves is what is looked at.
    let executed =
        |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words == b"casemate-vpn\0");
    until("a node", || nodes(parent).iter().any(|(pid, _)| executed(*pid)));
    let (_, status) = nodes(parent).remove(0);
    for kind in ["CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(status.contains(&format!("{kind}:\t0000000000000000")), "{kind}: {status}");
    }
    running.stop();
}

#[test]
fn a_parent_that_is_killed_takes_everything_along() {
    let (dir, namespace) = (tempfile::tempdir().unwrap(), Namespace::new("killed"));
    let mut running = namespace.start(&config(dir.path(), &[]));
    let parent = running.0.id();
    until("a node", || nodes(parent).iter().any(|(_, status)| status.contains("Uid:\t65534")));
    // Also one that has not said yet whose end it follows.
    let (node, _) = nodes(parent).remove(0);
    running.0.kill().unwrap();
    running.0.wait().unwrap();
    until("the node's end", || !Path::new(&format!("/proc/{node}")).exists());
    until("the TUN's end", || !namespace.ip("link").contains("cm0"));
    // What is left is a socket that nobody answers at: no obstacle.
    let again = namespace.start(&config(dir.path(), &[]));
    until("the next", || namespace.ip("link").contains("cm0"));
    until("its node", || !nodes(again.0.id()).is_empty());
    again.stop();
}
