//! Two network namespaces joined by a veth pair: `eth0` in the guest's, `host0` in the host's. They end with the test.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test's rig: what fails here fails the test")]
#![allow(dead_code, reason = "each test file uses its part")]

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};

pub(crate) const LINK: &str = "eth0";
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

pub(crate) struct Rig {
    guest: OwnedFd,
    host: OwnedFd,
}

impl Rig {
    /// `None`, said loudly, where the machine cannot do it; under CI=true that is a failure.
    pub(crate) fn new() -> Option<Self> {
        let missing = if !nix::unistd::geteuid().is_root() {
            "needs root for network namespaces"
        } else if Command::new("ip").arg("-V").output().is_err() {
            "needs the ip command (iproute2)"
        } else {
            let (guest, host) = (namespace(), namespace());
            let rig = Self { guest, host };
            rig.in_guest(|| {
                ip("link add eth0 type veth peer name host0");
                // `ip` opens a name with a slash as a path.
                let path = format!("/proc/{}/fd/{}", std::process::id(), rig.host.as_raw_fd());
                ip(&format!("link set host0 netns {path}"));
            });
            rig.in_host(|| {
                ip("link set lo up");
                ip(&format!("address add {HOST}/24 dev host0"));
                ip("link set host0 up");
            });
            return Some(rig);
        };
        skip(missing);
        None
    }

    pub(crate) fn in_guest<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.guest, work)
    }

    pub(crate) fn in_host<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.host, work)
    }
}

pub(crate) fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "SKIPPED under CI=true: {why}");
    eprintln!("SKIPPED: {why}");
}

fn namespace() -> OwnedFd {
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
        File::open("/proc/thread-self/ns/net").unwrap().into()
    })
    .join()
    .unwrap()
}

pub(crate) fn inside<T: Send>(namespace: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).expect("setns");
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs `ip` in this thread's namespace and returns what it printed.
pub(crate) fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

pub(crate) fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A setting of this thread's namespace.
pub(crate) fn sysctl(name: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap().trim().to_owned()
}

/// The link's IPv4 addresses and routes, one a line, as another program reads them.
pub(crate) fn addresses(link: &str) -> Vec<String> {
    json(&format!("-4 -j address show dev {link}"))
        .iter()
        .flat_map(|link| link["addr_info"].as_array().cloned().unwrap_or_default())
        .map(|one| format!("{}/{}", text(&one["local"]), one["prefixlen"]))
        .collect()
}

/// Of all tables but the kernel's own `local`.
pub(crate) fn routes() -> Vec<String> {
    let mut routes: Vec<_> = json("-4 -j route show table all")
        .iter()
        .filter(|route| route["table"] != "local")
        .map(|route| {
            let via =
                route.get("gateway").map(|gateway| format!(" via {}", text(gateway))).unwrap_or_default();
            let source = route.get("prefsrc").map(|from| format!(" src {}", text(from))).unwrap_or_default();
            format!("{}{via} dev {}{source}", text(&route["dst"]), text(&route["dev"]))
        })
        .collect();
    routes.sort();
    routes
}

fn json(arguments: &str) -> Vec<serde_json::Value> {
    // Without any entry, `ip -j` prints nothing or an empty list, by version.
    let printed = ip(arguments);
    if printed.trim().is_empty() { Vec::new() } else { serde_json::from_str(&printed).unwrap() }
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().expect("a string").to_owned()
}
