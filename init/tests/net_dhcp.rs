//! The DHCP child as it runs in the machine: another process, uid 105, no capabilities, on a socket that PID 1's part
//! opened, against a server in another network namespace.

#![expect(clippy::unwrap_used, reason = "a test's rig: what fails here fails the test")]

mod net_rig;
mod net_server;

use std::net::UdpSocket;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use casemate_init::handover::HEARTBEAT;
use casemate_init::net::dhcp::{self, Lease, Report};
use casemate_init::net::links;
use net_rig::{HOST, LINK, Rig, addresses, ip, routes, run, skip, sysctl};
use net_server::{ACK, Answer, NAK, OFFER, Seen, Server};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};

const MARK: u32 = 0x0da1;
const CHILD_UID: u32 = 105;
const PATIENCE: Duration = Duration::from_secs(20);

/// PID 1's side, in the guest's namespace.
struct Guest {
    child: Child,
    reports: OwnedFd,
}

impl Guest {
    fn start(rig: &Rig) -> Self {
        rig.in_guest(|| {
            links::prepare_sysctls(LINK).unwrap();
            links::up(LINK).unwrap();
            let socket = dhcp::open_socket(LINK, MARK).unwrap();
            let (reports, theirs) =
                socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
            let mac = links::hardware_address(LINK).unwrap();
            // Not by path: the child's uid may not be able to walk to it.
            let child = Command::new("/proc/self/exe")
                .args(["--exact", "the_child_process", "--ignored", "--nocapture"])
                .env(
                    "CHILD_MAC",
                    u64::from_be_bytes(std::array::from_fn(|i| if i < 2 { 0 } else { mac[i - 2] }))
                        .to_string(),
                )
                .stdin(Stdio::from(socket))
                .stderr(Stdio::from(theirs))
                .stdout(Stdio::null())
                .uid(CHILD_UID)
                .gid(CHILD_UID)
                .spawn()
                .unwrap();
            Self { child, reports }
        })
    }

    /// What it reports within that time.
    fn report(&self, patience: Duration) -> Option<Report> {
        let until = Instant::now() + patience;
        loop {
            match self.message(until.saturating_duration_since(Instant::now()))?.as_slice() {
                HEARTBEAT => {}
                report => return Some(Report::decode(report).unwrap()),
            }
        }
    }

    /// What it says within that time, heartbeats too.
    fn message(&self, patience: Duration) -> Option<Vec<u8>> {
        let wait = PollTimeout::try_from(patience).unwrap();
        if poll(&mut [PollFd::new(self.reports.as_fd(), PollFlags::POLLIN)], wait).unwrap() == 0 {
            return None;
        }
        let mut message = [0; 64];
        let len = nix::unistd::read(&self.reports, &mut message).unwrap();
        assert_ne!(len, 0, "the child is gone");
        Some(message[..len].to_vec())
    }

    fn lease(&self, patience: Duration) -> Lease {
        match self.report(patience) {
            Some(Report::Lease(lease)) => lease,
            other => panic!("expected a lease within {patience:?}, found {other:?}"),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _gone = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Not a test: the process that [`Guest::start`] makes of this binary.
#[test]
#[ignore = "the DHCP child's process, started by the tests"]
fn the_child_process() {
    let Some(mac) = std::env::var("CHILD_MAC").ok().and_then(|text| text.parse::<u64>().ok()) else { return };
    let [_, _, mac @ ..] = mac.to_be_bytes();
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let report = std::io::stderr().as_fd().try_clone_to_owned().unwrap();
    assert_eq!(nix::unistd::getuid().as_raw(), CHILD_UID);
    // Neither mark nor link is the child's to change.
    assert_eq!(setsockopt(&socket, sockopt::Mark, &1), Err(nix::Error::EPERM));
    assert_eq!(setsockopt(&socket, sockopt::BindToDevice, &"lo".into()), Err(nix::Error::EPERM));
    let Err(error) = dhcp::child(socket, report, mac, [42; 32]);
    panic!("{error}");
}

#[test]
fn it_says_that_it_is_alive_with_and_without_a_lease() {
    let Some(rig) = Rig::new() else { return };
    let grant = Arc::new(AtomicBool::new(false));
    let granted = Arc::clone(&grant);
    let server = Server::start(&rig, move |seen| match seen {
        _ if !granted.load(Ordering::SeqCst) => vec![],
        Seen::Discover(m) => vec![Answer::to(m, OFFER).bytes()],
        Seen::Request(m) => vec![Answer::to(m, ACK).bytes()],
    });
    let guest = Guest::start(&rig);
    let three_beats = || (0..3).for_each(|_| assert_eq!(guest.message(PATIENCE).as_deref(), Some(HEARTBEAT)));
    three_beats();
    grant.store(true, Ordering::SeqCst);
    guest.lease(3 * PATIENCE);
    three_beats();
    drop(server);
}

/// The control, and the whole way: discover, address, traffic, no packet socket.
#[test]
fn a_lease_becomes_the_links_address() {
    let Some(rig) = Rig::new() else { return };
    let server = Server::start(&rig, |seen| match seen {
        Seen::Discover(m) => vec![Answer::to(m, OFFER).bytes()],
        Seen::Request(m) => vec![Answer::to(m, ACK).bytes()],
    });
    let guest = Guest::start(&rig);
    let lease = guest.lease(PATIENCE);
    assert_eq!((lease.address().octets(), lease.prefix()), ([10, 9, 0, 50], 24));
    assert_eq!((lease.gateway(), lease.seconds()), (HOST, 3600));
    rig.in_guest(|| {
        links::set_address(LINK, lease.address(), lease.gateway()).unwrap();
        assert_eq!(addresses(LINK), ["10.9.0.50/32"]);
        assert_eq!(
            routes(),
            ["10.9.0.1 dev eth0 src 10.9.0.50", "default via 10.9.0.1 dev eth0 src 10.9.0.50"]
        );
        assert_eq!(sysctl("ipv4/conf/eth0/rp_filter"), "1");
        assert_eq!(links::packet_sockets().unwrap(), 0, "while the child runs");
    });
    let listener = rig.in_host(|| UdpSocket::bind((HOST, 7000)).unwrap());
    listener.set_read_timeout(Some(PATIENCE)).unwrap();
    rig.in_guest(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"hello", (HOST, 7000)).unwrap());
    assert_eq!(listener.recv_from(&mut [0; 9]).unwrap().1.ip(), lease.address());
    // Every message came from 0.0.0.0:68, as the egress lock expects.
    assert!(server.sources().iter().all(|from| from.to_string() == "0.0.0.0:68"), "{:?}", server.sources());
}

#[test]
fn hostile_answers_are_ignored_and_hostile_options_change_nothing() {
    let Some(rig) = Rig::new() else { return };
    let server = Server::start(&rig, |seen| match seen {
        Seen::Discover(m) => {
            let good = Answer::to(m, OFFER);
            let mut all: Vec<Vec<u8>> = (0..500).map(|n| vec![b'x'; n * 2]).collect();
            all.extend(net_server::hostile_variants(&good));
            all.push(net_server::with_hostile_options(good).bytes());
            all
        }
        Seen::Request(m) => {
            let good = Answer::to(m, ACK);
            let mut all = net_server::hostile_variants(&good);
            // Endless, with every option that would give the host more than an address.
            all.push(net_server::with_hostile_options(good.with(51, Some(&[255; 4]))).bytes());
            // And what comes after it is late.
            all.push(Answer::to(m, ACK).with(3, Some(&[10, 9, 0, 66])).bytes());
            all.push(Answer::to(m, NAK).bytes());
            all
        }
    });
    let guest = Guest::start(&rig);
    let before = rig.in_guest(|| ip("-o link show dev eth0"));
    let lease = guest.lease(PATIENCE);
    assert_eq!((lease.address().octets(), lease.gateway()), ([10, 9, 0, 50], HOST));
    assert_eq!((lease.prefix(), lease.seconds()), (24, Lease::MAX_SECONDS));
    rig.in_guest(|| {
        links::set_address(LINK, lease.address(), lease.gateway()).unwrap();
        assert_eq!(addresses(LINK), ["10.9.0.50/32"]);
        assert_eq!(routes().len(), 2, "{:?}", routes());
        assert_eq!(ip("-o link show dev eth0"), before, "MTU and the rest of the link");
    });
    // Nothing of it made a second report, neither a lease nor a loss.
    assert_eq!(guest.report(Duration::from_millis(200)), None);
    assert!(server.requests() > 0);
}

#[test]
fn a_nak_makes_it_start_over_after_a_pause() {
    let Some(rig) = Rig::new() else { return };
    let mut naks = 0;
    let server = Server::start(&rig, move |seen| match seen {
        Seen::Discover(m) => vec![Answer::to(m, OFFER).bytes()],
        Seen::Request(m) if naks < 2 => {
            naks += 1;
            // Twice each: the second belongs to no request any more.
            vec![Answer::to(m, NAK).bytes(), Answer::to(m, NAK).bytes()]
        }
        Seen::Request(m) => vec![Answer::to(m, ACK).bytes()],
    });
    let started = Instant::now();
    let guest = Guest::start(&rig);
    assert_eq!(guest.lease(PATIENCE).address().octets(), [10, 9, 0, 50]);
    assert!(server.requests() >= 3, "two refused, one granted");
    // 1 s and 2 s, each at least three quarters.
    assert!(started.elapsed() > Duration::from_millis(2200), "{:?}", started.elapsed());
}

#[test]
fn the_first_message_may_be_lost() {
    let Some(rig) = Rig::new() else { return };
    let mut heard = 0;
    let _server = Server::start(&rig, move |seen| match seen {
        Seen::Discover(m) => {
            heard += 1;
            if heard == 1 { Vec::new() } else { vec![Answer::to(m, OFFER).bytes()] }
        }
        Seen::Request(m) => vec![Answer::to(m, ACK).bytes()],
    });
    assert_eq!(Guest::start(&rig).lease(PATIENCE).gateway(), HOST);
}

/// What the egress lock does: everything is dropped but the mark, and a socket of the child's own would not have it.
#[test]
fn the_handed_over_socket_is_judged_by_its_mark() {
    let Some(rig) = Rig::new() else { return };
    if Command::new("nft").arg("-v").output().is_err() {
        return skip("needs the nft command");
    }
    let _server = Server::start(&rig, |seen| match seen {
        Seen::Discover(m) => vec![Answer::to(m, OFFER).bytes()],
        Seen::Request(m) => vec![Answer::to(m, ACK).bytes()],
    });
    rig.in_guest(|| {
        run("nft", "add table inet lock");
        run("nft", "add chain inet lock out { type filter hook output priority 0 ; policy drop ; }");
        run(
            "nft",
            "add rule inet lock out meta mark 0xda1 ip daddr 255.255.255.255 udp dport 67 counter accept",
        );
    });
    let guest = Guest::start(&rig);
    guest.lease(PATIENCE);
    rig.in_guest(|| {
        let ruleset = run("nft", "list ruleset");
        let packets = ruleset.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
        // Two, or more if the server took its time and was asked again.
        assert!(packets.unwrap().parse::<u32>().unwrap() >= 2, "{ruleset}");
        let own = UdpSocket::bind("0.0.0.0:0").unwrap();
        own.set_broadcast(true).unwrap();
        let error = own.send_to(b"x", ("255.255.255.255", 67)).unwrap_err();
        // Dropped, or there is no route for a socket that is not bound to the link.
        assert!(matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENETUNREACH)), "{error}");
    });
}

/// From the address itself, answered to the address itself, through a link that has a /32 and filters reverse paths.
/// Half of the shortest lease is half a minute.
#[test]
fn a_lease_is_renewed_by_unicast() {
    let Some(rig) = Rig::new() else { return };
    let server = Server::start(&rig, |seen| match seen {
        Seen::Discover(m) => vec![Answer::to(m, OFFER).bytes()],
        Seen::Request(m) if m.ciaddr().is_unspecified() => {
            vec![Answer::to(m, ACK).with(51, Some(&[0, 0, 0, 60])).bytes()]
        }
        Seen::Request(m) => vec![Answer::to(m, ACK).with(51, Some(&[0, 0, 0, 120])).bytes()],
    });
    let guest = Guest::start(&rig);
    let lease = guest.lease(PATIENCE);
    assert_eq!(lease.seconds(), 60);
    rig.in_guest(|| links::set_address(LINK, lease.address(), lease.gateway()).unwrap());
    assert_eq!(guest.lease(Duration::from_secs(30) + PATIENCE).seconds(), 120);
    let from: Vec<_> = server.sources().iter().map(ToString::to_string).collect();
    assert_eq!(from.last().map(String::as_str), Some("10.9.0.50:68"));
}
