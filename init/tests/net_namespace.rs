//! A service's namespace, end to end.

#![expect(clippy::unwrap_used, reason = "a test's rig: what fails here fails the test")]

mod net_rig;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use casemate_init::net::namespace::{ServiceNet, create, enter};
use casemate_init::net::{NetError, links};
use net_rig::{LINK, Rig, addresses, inside, ip, routes, sysctl};

const OUTBOUND_PORT: u16 = 8888;
const WAIT: Duration = Duration::from_secs(10);

/// What PID 1 has done before the first service.
fn prepared() -> Option<Rig> {
    let rig = Rig::new()?;
    rig.in_guest(|| {
        links::prepare_sysctls(LINK).unwrap();
        links::enable_forwarding().unwrap();
    });
    Some(rig)
}

fn ping_pong(listener: &TcpListener, mut client: TcpStream) {
    let (mut served, _) = listener.accept().unwrap();
    served.set_read_timeout(Some(WAIT)).unwrap();
    client.write_all(b"ping").unwrap();
    let mut heard = [0; 4];
    served.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"ping");
}

#[test]
fn a_service_reaches_our_end_and_we_reach_its() {
    let Some(rig) = prepared() else { return };
    let net = rig.in_guest(|| create(3, OUTBOUND_PORT)).unwrap();
    assert_eq!(net.number(), 3);
    let netns = net.netns().try_clone_to_owned().unwrap();

    let ours = rig.in_guest(|| TcpListener::bind((ServiceNet::gateway(3), 7001)).unwrap());
    let client = inside(&netns, || {
        TcpStream::connect_timeout(&(Ipv4Addr::new(198, 18, 3, 1), 7001).into(), WAIT).unwrap()
    });
    assert_eq!(client.local_addr().unwrap().ip(), ServiceNet::address(3));
    ping_pong(&ours, client);

    // Port 80 without a capability is settled by the port setting; the backend's way is from us to .2.
    let theirs = inside(&netns, || TcpListener::bind((ServiceNet::address(3), 80)).unwrap());
    let client = rig
        .in_guest(|| TcpStream::connect_timeout(&(Ipv4Addr::new(198, 18, 3, 2), 80).into(), WAIT).unwrap());
    ping_pong(&theirs, client);
}

#[test]
fn the_outbound_listener_accepts_inside_and_nowhere_else() {
    let Some(rig) = prepared() else { return };
    let (first, second) =
        rig.in_guest(|| (create(1, OUTBOUND_PORT).unwrap(), create(2, OUTBOUND_PORT).unwrap()));
    let netns = second.netns().try_clone_to_owned().unwrap();
    let client = inside(&netns, || TcpStream::connect((Ipv4Addr::LOCALHOST, OUTBOUND_PORT)).unwrap());
    let accepted = |net: &ServiceNet| {
        let listener = TcpListener::from(net.outbound().try_clone_to_owned().unwrap());
        listener.accept().map(|(_, from)| from)
    };
    // Non-blocking, and only the caller's own listener has anything: that tells mesh who calls.
    assert_eq!(accepted(&first).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(accepted(&second).unwrap(), client.local_addr().unwrap());
    rig.in_guest(|| {
        assert!(TcpStream::connect((ServiceNet::address(2), OUTBOUND_PORT)).is_err());
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, OUTBOUND_PORT)).is_err());
    });
}

#[test]
fn both_ends_have_the_promised_state() {
    let Some(rig) = prepared() else { return };
    let net = rig.in_guest(|| create(200, OUTBOUND_PORT)).unwrap();
    rig.in_guest(|| {
        assert_eq!(addresses("svc200"), ["198.18.200.1/30"]);
        for (name, value) in [
            ("ipv4/conf/svc200/rp_filter", "1"),
            ("ipv4/conf/svc200/send_redirects", "0"),
            ("ipv4/conf/svc200/accept_redirects", "0"),
            ("ipv4/conf/svc200/accept_local", "0"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv6/conf/svc200/disable_ipv6", "1"),
        ] {
            assert_eq!(sysctl(name), value, "{name}");
        }
        assert_eq!(addresses(LINK).len(), 0, "our own eth0 is not the service's");
    });
    // On a thread of its own, as the shim is a process of its own.
    std::thread::spawn(move || {
        enter(net.netns()).unwrap();
        assert_eq!(addresses("eth0"), ["198.18.200.2/30"]);
        assert_eq!(addresses("lo"), ["127.0.0.1/8"]);
        assert_eq!(
            routes(),
            ["198.18.200.0/30 dev eth0 src 198.18.200.2", "default via 198.18.200.1 dev eth0"]
        );
        for (name, value) in [
            ("ipv4/conf/eth0/rp_filter", "1"),
            ("ipv4/ip_unprivileged_port_start", "0"),
            ("ipv4/ip_forward", "0"),
            ("ipv4/conf/all/accept_redirects", "0"),
            ("ipv6/conf/all/disable_ipv6", "1"),
        ] {
            assert_eq!(sysctl(name), value, "{name}");
        }
        assert_eq!(ip("-6 address show").trim(), "");
    })
    .join()
    .unwrap();
}

#[test]
fn the_caller_stays_where_it_is() {
    let Some(rig) = prepared() else { return };
    rig.in_guest(|| {
        let here = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let before = here();
        let net = create(1, OUTBOUND_PORT).unwrap();
        assert_eq!(here(), before);
        let inside = inside(&net.netns().try_clone_to_owned().unwrap(), here);
        assert_ne!(inside, before);
    });
}

#[test]
fn what_cannot_be_made_is_an_error_and_leaves_nothing() {
    let Some(rig) = prepared() else { return };
    rig.in_guest(|| {
        assert!(matches!(create(0, OUTBOUND_PORT), Err(NetError::ServiceNumber)));
        let kept = create(1, OUTBOUND_PORT).unwrap();
        let error = create(1, OUTBOUND_PORT).unwrap_err();
        assert_eq!(error.to_string(), "svc1: could not create the veth pair");
        assert_eq!(error.errno(), Some(nix::errno::Errno::EEXIST as i32));
        assert_eq!(addresses("svc1"), ["198.18.1.1/30"]);
        // The pair goes with the last descriptor of the namespace.
        drop(kept);
        let gone = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            !ip("-br link").contains("svc1")
        });
        assert!(gone, "svc1 is still there");
    });
}
