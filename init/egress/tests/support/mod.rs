//! Network namespaces of a test's own, wired like a guest: `guest` has the link `eth0` and `svc1`, `svc2`; `outside` is
//! the other end of `eth0`; each service has its end of a veth pair. Everything goes away with the last thread in it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot be set up must fail"
)]
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod traffic;

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use casemate_egress::{Backend, Ifname, Lock, Mode, Policy, Service, Uids, ruleset};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Uid, gettid, setfsuid};

/// The gateway, and a host that no policy here allows unless it says so.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// A mesh target, and the allowlist's entry.
pub(crate) const LISTED: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// The named time server.
pub(crate) const TIMES: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 4);
/// Never listed.
pub(crate) const UNLISTED: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 3);
/// The guest's address.
pub(crate) const OWN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 15);
pub(crate) const MESH: u32 = 103;
pub(crate) const AGENT: u32 = 101;
pub(crate) const TIME: u32 = 107;
pub(crate) const DHCP_MARK: u32 = 0x0da1;

/// A network namespace, held open by a thread that sleeps in it.
pub(crate) struct Netns {
    file: File,
    tid: i32,
    stop: Option<Sender<()>>,
    holder: Option<JoinHandle<()>>,
}

impl Netns {
    /// `None` where the machine does not let us; said loudly, and fatal where CI says so.
    pub(crate) fn new() -> Option<Self> {
        let (ready, is_ready) = channel();
        let (stop, stopped) = channel::<()>();
        let holder = std::thread::spawn(move || {
            let made = unshare(CloneFlags::CLONE_NEWNET)
                .map_err(std::io::Error::from)
                .and_then(|()| File::open("/proc/thread-self/ns/net"));
            ready.send(made.map(|file| (file, gettid().as_raw()))).unwrap();
            let _dropped = stopped.recv();
        });
        match is_ready.recv().unwrap() {
            Ok((file, tid)) => {
                let ns = Self { file, tid, stop: Some(stop), holder: Some(holder) };
                ns.ip("link set lo up");
                Some(ns)
            }
            Err(why) => {
                eprintln!("SKIPPED: no network namespace can be made: {why}");
                assert!(std::env::var("CI").as_deref() != Ok("true"), "a test was skipped in CI: {why}");
                None
            }
        }
    }

    /// Runs something inside.
    pub(crate) fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        self.run_as(0, inside)
    }

    /// Runs something inside as another uid: sockets and files that it creates are that uid's.
    pub(crate) fn run_as<T: Send>(&self, uid: u32, inside: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).unwrap();
                setfsuid(Uid::from_raw(uid));
                inside()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// For `ip link … netns`.
    pub(crate) fn id(&self) -> i32 {
        self.tid
    }

    pub(crate) fn ip(&self, arguments: &str) {
        self.command("ip", &arguments.split(' ').collect::<Vec<_>>());
    }

    pub(crate) fn nft(&self, program: &str) -> String {
        self.command("nft", &[program])
    }

    /// Runs a program inside; it must succeed.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(|| Command::new(program).args(arguments).output().expect(program));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program} {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn sysctl(&self, name: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/net/{name}"), value)).expect(name);
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(holder) = self.holder.take() {
            let _ended = holder.join();
        }
    }
}

/// The whole bench; `lock` comes first, as in the guest.
pub(crate) struct Bench {
    pub(crate) lock: Lock,
    pub(crate) guest: Netns,
    pub(crate) outside: Netns,
    pub(crate) services: Vec<Netns>,
}

pub(crate) fn link() -> Ifname {
    "eth0".parse().unwrap()
}

pub(crate) fn policy(mode: Mode) -> Policy {
    let service = |number, name: &str| Service { number, name: name.parse().unwrap() };
    Policy {
        mode,
        link: link(),
        services: vec![service(1, "web"), service(2, "db")],
        inbound: vec![443],
        mesh_targets: vec![(LISTED, 443).into()],
        time_servers: vec![(TIMES, 4460).into()],
        backends: vec![Backend { service: 1, port: 8000 }],
        tunnel: None,
        uids: Uids { agent: AGENT, vpn: 102, mesh: MESH, vpc: 104, dhcp: 105, time: TIME },
        dhcp_mark: Some(DHCP_MARK),
    }
}

impl Bench {
    /// Lock, link, lock of the link, addresses: the guest's order.
    pub(crate) fn new(policy: &Policy) -> Option<Self> {
        let mut bench = Self::without_address(policy)?;
        let guest = &bench.guest;
        guest.ip("addr add 10.9.0.15/32 dev eth0");
        guest.ip("route add 10.9.0.1 dev eth0 scope link");
        guest.ip("route add default via 10.9.0.1 dev eth0");
        bench.lock.set_own_addresses(&link(), &[IpAddr::V4(OWN)], Some(IpAddr::V4(GATEWAY))).unwrap();
        Some(bench)
    }

    pub(crate) fn without_address(policy: &Policy) -> Option<Self> {
        let guest = Netns::new()?;
        let outside = Netns::new()?;
        let services = [Netns::new()?, Netns::new()?];
        let mut lock = guest.run(|| Lock::install(&ruleset(policy))).unwrap();
        guest.sysctl("ipv4/ip_forward", "1");
        // Its multicast chatter would be counted among what the tests count.
        guest.sysctl("ipv6/conf/all/disable_ipv6", "1");
        guest.sysctl("ipv6/conf/default/disable_ipv6", "1");
        guest.sysctl("ipv4/ip_unprivileged_port_start", "0");

        guest.ip(&format!("link add eth0 type veth peer name wan netns {}", outside.tid));
        lock.attach_link(&link(), policy.dhcp_mark).unwrap();
        guest.ip("link set eth0 up");
        for address in [GATEWAY, LISTED, UNLISTED, TIMES] {
            outside.ip(&format!("addr add {address}/24 dev wan"));
        }
        outside.ip("link set wan up");
        // Whatever leaks past the lock would find its way, and an answer.
        outside.ip("route add 198.18.0.0/15 via 10.9.0.15");

        for (n, service) in (1..).zip(&services) {
            guest.ip(&format!("link add svc{n} type veth peer name eth0 netns {}", service.tid));
            // Scope host: or the kernel would choose it as the source of a DHCP request on a link without address.
            guest.ip(&format!("addr add 198.18.{n}.1/30 dev svc{n} scope host"));
            guest.ip(&format!("link set svc{n} up"));
            service.ip(&format!("addr add 198.18.{n}.2/30 dev eth0"));
            service.ip("link set eth0 up");
            service.ip(&format!("route add default via 198.18.{n}.1"));
        }
        Some(Self { lock, guest, outside, services: services.into() })
    }

    /// One more link that the policy does not know, without ARP to wait for, and an ear at the outside.
    pub(crate) fn second_link(&self) -> traffic::Ear {
        self.guest.ip(&format!(
            "link add eth1 address 02:00:00:00:00:11 type veth peer name wan2 netns {}",
            self.outside.tid
        ));
        self.guest.ip("link set eth1 up arp off");
        self.guest.ip("addr add 10.8.0.2/32 dev eth1");
        self.outside.ip("link set wan2 up arp off");
        traffic::listen(&self.outside)
    }

    pub(crate) fn service(&self, number: usize) -> &Netns {
        &self.services[number - 1]
    }

    /// Whether a counter sees as many packets, soon: what crosses from one namespace to another is counted when the kernel comes to it.
    pub(crate) fn reaches(&mut self, name: &str, packets: u64) -> bool {
        let end = Instant::now() + Duration::from_secs(2);
        while self.count(name) < packets {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// The packets that a counter has seen.
    pub(crate) fn count(&mut self, name: &str) -> u64 {
        let counters = self.lock.counters().unwrap();
        let found = counters.iter().find(|c| c.name == name);
        found.unwrap_or_else(|| panic!("no counter {name}, only {counters:?}")).packets
    }
}
