//! A hostile service in a real machine: it tries each documented way out of its confinement, and gets nowhere. The same
//! service in a machine whose services are not confined gets somewhere, and is noticed.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests and their rig: what fails here fails the test"
)]

#[path = "../boot/console.rs"]
mod console;
#[path = "../boot/https.rs"]
mod https;
#[path = "../boot/images.rs"]
#[expect(dead_code, reason = "the rig of the boot tests, of which not all is needed here")]
mod images;
mod judge;
#[path = "../boot/machine.rs"]
#[expect(dead_code, reason = "the rig of the boot tests, of which not all is needed here")]
mod machine;

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use casemate_image::assemble::InitBinary;
use casemate_measure::image::Flavor;
use serde_json::Value;

use crate::console::process;
use crate::images::{Image, busybox, init, place, workspace};
use crate::machine::{Ended, Machine, Options, qemu};

/// The victim is the second service: its address is in hostile/victim.rs. The limits are in hostile/limits.rs. HOST is where the
/// test listens on the host.
const DOCUMENT: &str = r#"{
  "manifest_version": 2, "name": "escape", "runner": "casemate", "key_provider": "none", "secure_time": false,
  "casemate": {
    "version": 1, "role": "node", "node": { "name": "escape", "type": "test" },
    "network": { "mode": "dhcp" }, "vpn": { "mode": "direct" }, "egress": { "mode": "internal-only" },
    "mesh": {
      "backends": [{ "listen": 443, "kind": "http", "to": "web:8000", "allow": ["any"] }],
      "verify": "quote", "images": ["same"]
    },
    "services": [
      {
        "name": "web", "rootfs": "web", "uid": 1000, "ports": [8000], "restart": "always",
        "exec": ["/bin/httpd", "-f", "-p", "8000", "-h", "/www"]
      },
      { "name": "victim", "rootfs": "victim", "uid": 1001, "restart": "always", "exec": ["/bin/hostile", "victim"] },
      {
        "name": "hostile", "rootfs": "hostile", "uid": 1002, "restart": "never", "exec": ["/bin/hostile", "attack"],
        "pids_max": 64, "memory_max": "128M", "tmpfs": { "/tmp": "1M" }, "env": { "HOST_PORT": "HOST" }
      },
      {
        "name": "glutton", "rootfs": "hostile", "uid": 1003, "restart": "never", "exec": ["/bin/hostile", "eat"],
        "memory_max": "16M"
      },
      {
        "name": "neighbour", "rootfs": "hostile", "uid": 1004, "restart": "always",
        "exec": ["/bin/hostile", "neighbour"]
      }
    ]
  }
}"#;

/// How long the attack may take: each case has a child of its own, and some wait for who does not come.
const ATTACK: Duration = Duration::from_secs(600);

const TARGET: &str = "x86_64-unknown-linux-gnu";

#[test]
fn a_hostile_service_gets_nowhere() {
    if !qemu() {
        return;
    }
    let hostile = Hostile::compile();
    let host = Host::listen();
    let ended = hostile.attack("escape", init(Flavor::Dev), &host, unharmed);
    ended.assert_orderly();
    // The others could have been reached, and were not; the glutton was ended before it had enough.
    for words in ["the victim can be", "the victim's IPC can be", "the victim's lock and its steps can be"] {
        assert!(ended.console_says(&format!("victim: {words}")), "{words}: {ended}");
    }
    assert!(!ended.console_says("the victim was reached"), "{ended}");
    assert!(ended.console_says("glutton: the glutton eats"), "{ended}");
    assert!(!ended.console_says("glutton ESCAPED"), "{ended}");
    assert_eq!(host.reached(), Vec::<String>::new(), "{ended}");
    let wrong = judge::wrong(&hostile.names(), said(&ended, "hostile"));
    assert!(wrong.is_empty(), "{}\n{ended}", wrong.join("\n"));
    // What a document does that gives two services one root (init/README.md).
    assert!(ended.console_says("neighbour: the neighbour's lock and its steps can be seen"), "{ended}");
    for words in ["a lock", "events"] {
        assert!(ended.console_says(&format!("known: {words} of a service with the same root")), "{ended}");
    }
    said(&ended, "hostile").take(hostile.names().len()).for_each(|line| println!("{line}"));
    println!("{} cases, all refused", hostile.names().len());
}

/// The same machine, but for Landlock and the filters of services.
#[test]
fn a_service_that_is_not_confined_is_noticed() {
    if !qemu() {
        return;
    }
    let hostile = Hostile::compile();
    let host = Host::listen();
    let ended = hostile.attack("escape-unconfined", &unconfined(), &host, |_, _| ());
    let wrong = judge::wrong(&hostile.names(), said(&ended, "hostile"));
    for name in ["keyctl", "aslr-off", "userfaultfd", "mptcp"] {
        let noticed = wrong.iter().any(|line| line.starts_with(&format!("{name}: ESCAPED: ")));
        assert!(noticed, "{name} was refused all the same: {}\n{ended}", wrong.join("\n"));
    }
    // Nor is there a lock in it: what listens on the host could be reached.
    assert_eq!(host.reached(), ["TCP", "UDP"], "{}\n{ended}", wrong.join("\n"));
}

/// Somebody on the host, where a service would get out to.
struct Host {
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Host {
    /// By TCP and UDP, on one port.
    fn listen() -> Self {
        let both = || {
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
            let udp = UdpSocket::bind(tcp.local_addr().ok()?).ok()?;
            Some((tcp, udp))
        };
        let (tcp, udp) = (0..100).find_map(|_| both()).expect("a port that is free by TCP and UDP");
        tcp.set_nonblocking(true).unwrap();
        udp.set_nonblocking(true).unwrap();
        Self { tcp, udp }
    }

    fn port(&self) -> u16 {
        self.tcp.local_addr().unwrap().port()
    }

    /// By what somebody has come.
    fn reached(&self) -> Vec<String> {
        let tcp = self.tcp.accept().is_ok().then(|| "TCP".to_owned());
        let udp = self.udp.recv_from(&mut [0; 64]).is_ok().then(|| "UDP".to_owned());
        tcp.into_iter().chain(udp).collect()
    }
}

/// The hostile program, in a root of its own.
struct Hostile {
    program: PathBuf,
    root: PathBuf,
}

impl Hostile {
    /// Statically, as somebody would who brings it along.
    fn compile() -> Self {
        let target_dir = place("hostile-target");
        run(cargo()
            .args(["build", "--locked", "-p", "casemate-tests", "--bin", "hostile", "--target", TARGET])
            .arg("--target-dir")
            .arg(&target_dir)
            .env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols"));
        let program = target_dir.join(TARGET).join("debug/hostile");
        let root = place("hostile-root");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::copy(&program, root.join("bin/hostile")).unwrap();
        // hostile/neighbours.rs.
        for name in ["lock-of-the-victim", "lock-of-the-neighbour"] {
            fs::write(root.join(name), "x").unwrap();
        }
        Self { program, root }
    }

    fn names(&self) -> BTreeSet<String> {
        let listed = Command::new(&self.program).arg("list").output().unwrap();
        let names: Vec<String> =
            String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect();
        let set: BTreeSet<String> = names.iter().cloned().collect();
        assert_eq!(set.len(), names.len(), "a name is used twice");
        assert!(set.len() > 220, "{set:?}");
        set
    }

    /// Boots, and lets it try everything. `watch` looks at the machine while it still runs, with the first status document
    /// of everybody running.
    fn attack(
        &self,
        name: &str,
        init: &InitBinary,
        host: &Host,
        watch: impl FnOnce(&Machine, &Value),
    ) -> Ended {
        let document = place(&format!("{name}.app-compose.json"));
        fs::write(&document, DOCUMENT.replace("HOST\"", &format!("{}\"", host.port()))).unwrap();
        let roots = [("web", busybox()), ("victim", self.root.as_path()), ("hostile", self.root.as_path())];
        let image = Image::build_with(name, Flavor::Dev, Some(&document), &roots, init);
        let machine = Machine::switch_on(&image, Options::default());
        machine.wait_ready();
        let first = machine.wait_status("everybody runs", |status| process(status, "web")["pid"] != 0);
        machine.wait_within(ATTACK, "the attack's end", || {
            machine.console().iter().any(|line| line.starts_with("hostile: escapes tried: ")).then_some(())
        });
        watch(&machine, &first);
        machine.power_off()
    }
}

/// Ready, locked, everybody else alive, and only the glutton has ended.
fn unharmed(machine: &Machine, first: &Value) {
    let later =
        machine.wait_status("the glutton's end", |status| !process(status, "glutton")["last_exit"].is_null());
    machine.wait_healthy();
    for name in ["web", "victim", "hostile", "neighbour", "agent", "mesh", "dhcp"] {
        let (before, after) = (process(first, name), process(&later, name));
        assert_eq!(after["restarts"], 0, "{name}: {later}");
        assert!(after["last_exit"].is_null(), "{name}: {later}");
        assert_eq!(after["pid"], before["pid"], "{name}: {later}");
    }
    assert_ne!(process(&later, "glutton")["last_exit"], "status 0", "{later}");
    assert_eq!(later["egress"]["locked"], true, "{later}");
}

fn said<'a>(ended: &'a Ended, service: &'a str) -> impl Iterator<Item = &'a str> {
    ended.console.iter().filter_map(move |line| line.strip_prefix(service)?.strip_prefix(": "))
}

/// The development guest with `danger-unconfined`; qemu/tests/without-lock compiles the same binary in the same place, for a
/// test that cares only about the other feature.
fn unconfined() -> InitBinary {
    let target_dir = workspace().join("out/without-lock/target");
    run(cargo()
        .args([
            "build",
            "--release",
            "--locked",
            "-p",
            "casemate-init",
            "--no-default-features",
            "--target",
            TARGET,
        ])
        .args(["--features", "danger-without-lock,danger-unconfined", "--target-dir"])
        .arg(&target_dir)
        .env("RUSTFLAGS", "-C target-feature=+crt-static"));
    InitBinary::prebuilt(&target_dir.join(TARGET).join("release/casemate-init")).unwrap()
}

fn cargo() -> Command {
    let mut command = casemate_tests::cargo::cargo();
    command.current_dir(workspace()).env_remove("CARGO_TARGET_DIR");
    command
}

fn run(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&done.stderr));
}
