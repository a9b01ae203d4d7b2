//! One network namespace per service, made by PID 1 and kept for ever: it outlives restarts of the service and of mesh
//! (design section 5).

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::packet_route::address::AddressScope;

use super::netlink::{self, Route};
use super::{NetError, links, sysctl};

/// The service's interface in its own namespace.
const INSIDE: &str = "eth0";
/// The services' addresses: 198.18.*n*.1 is ours, 198.18.*n*.2 the service's, both /30 (RFC 2544 reserves 198.18.0.0/15
/// for benchmarks, so no real peer has one).
const PREFIX: u8 = 30;

/// A service's network, as PID 1 keeps it.
#[derive(Debug)]
pub struct ServiceNet {
    number: u8,
    netns: OwnedFd,
    outbound: OwnedFd,
}

impl ServiceNet {
    /// The service's number, from 1, in document order.
    pub const fn number(&self) -> u8 {
        self.number
    }

    /// The namespace, for [`enter`]. It lives as long as this.
    pub fn netns(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }

    /// The TCP listener of the outbound mesh proxy on 127.0.0.1 inside the namespace, non-blocking, for mesh. Which
    /// listener accepted tells mesh which service is calling.
    pub fn outbound(&self) -> BorrowedFd<'_> {
        self.outbound.as_fd()
    }

    /// The name of our end of the pair.
    pub fn link(number: u8) -> String {
        format!("svc{number}")
    }

    /// The service's own address.
    pub const fn address(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, number, 2)
    }

    /// Our address, which is the service's gateway.
    pub const fn gateway(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, number, 1)
    }
}

/// Makes the namespace of service `number` with its veth pair, addresses, settings and the outbound proxy's listener.
///
/// # Errors
/// Number 0, a pair of that name that exists already, what the kernel says, a setting that reads back differently. Then
/// nothing is left behind: the namespace goes with its descriptor, and the pair with the namespace.
pub fn create(number: u8, outbound_port: u16) -> Result<ServiceNet, NetError> {
    if number == 0 {
        return Err(NetError::ServiceNumber);
    }
    let near = ServiceNet::link(number);
    let netns = new_namespace(&near)?;
    netlink::run(&near, async |netlink| netlink.add_veth(&near, INSIDE, netns.as_fd()).await)?;
    sysctl::harden_ipv4(&near)?;
    sysctl::disable_ipv6(&near)?;
    sysctl::set(&format!("ipv4/conf/{near}/rp_filter"), "1")?;
    netlink::run(&near, async |netlink| {
        // Scope host: otherwise the kernel takes it as the source of a DHCP request while the physical link has no address
        // (`inet_select_addr`, net/ipv4/devinet.c), and the link's own lock drops that.
        netlink.add_address(&near, ServiceNet::gateway(number), PREFIX, AddressScope::Host).await?;
        netlink.up(&near).await
    })?;
    let outbound = within(netns.as_fd(), &near, || furnish(number, outbound_port))?;
    Ok(ServiceNet { number, netns, outbound })
}

/// Moves the calling thread into a namespace. For the service shim, which has one thread.
///
/// # Errors
/// What the kernel says.
pub fn enter(netns: BorrowedFd<'_>) -> Result<(), NetError> {
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(NetError::system("enter", "network namespace"))
}

/// What is done inside: everything but our end of the pair.
fn furnish(number: u8, outbound_port: u16) -> Result<OwnedFd, NetError> {
    // Before the others: a new namespace may inherit forwarding, and turning it off turns redirects on.
    sysctl::set("ipv4/ip_forward", "0")?;
    links::prepare_sysctls(INSIDE)?;
    sysctl::set(&format!("ipv4/conf/{INSIDE}/rp_filter"), "1")?;
    links::bring_up_loopback()?;
    let default = Route {
        destination: Ipv4Addr::UNSPECIFIED,
        prefix: 0,
        gateway: Some(ServiceNet::gateway(number)),
        source: None,
    };
    netlink::run(INSIDE, async |netlink| {
        netlink.add_address(INSIDE, ServiceNet::address(number), PREFIX, AddressScope::Universe).await?;
        netlink.up(INSIDE).await?;
        netlink.set_route(INSIDE, &default).await
    })?;
    let subject = format!("127.0.0.1:{outbound_port} of service {number}");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, outbound_port))
        .map_err(NetError::system("listen on", &subject))?;
    listener.set_nonblocking(true).map_err(NetError::system("make non-blocking", &subject))?;
    Ok(listener.into())
}

/// A new, empty namespace. Made on a thread that then ends, so that PID 1 itself never leaves its own.
fn new_namespace(subject: &str) -> Result<OwnedFd, NetError> {
    on_thread(subject, || {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(NetError::system("make a network namespace for", subject))?;
        // Of this thread: /proc/self/ns is the first thread's.
        let path = "/proc/thread-self/ns/net";
        Ok(File::open(path).map_err(NetError::system("open", path))?.into())
    })
}

/// Does the work on a thread inside the namespace; the thread ends with it.
fn within<T: Send>(
    netns: BorrowedFd<'_>,
    subject: &str,
    work: impl FnOnce() -> Result<T, NetError> + Send,
) -> Result<T, NetError> {
    on_thread(subject, || {
        enter(netns)?;
        work()
    })
}

fn on_thread<T: Send>(
    subject: &str,
    work: impl FnOnce() -> Result<T, NetError> + Send,
) -> Result<T, NetError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .spawn_scoped(scope, work)
            .map_err(NetError::system("start a helper thread for", subject))?;
        thread.join().unwrap_or_else(|_| Err(NetError::Thread { subject: subject.to_owned() }))
    })
}
