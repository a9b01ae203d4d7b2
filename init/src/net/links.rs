//! The links of the network namespace that PID 1 lives in: loopback and the one virtio NIC.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use rtnetlink::packet_route::address::AddressScope;

use super::netlink::{self, Netlink, Route};
use super::{NetError, sysctl};

/// The loopback interface's name, drivers/net/loopback.c.
const LOOPBACK: &str = "lo";
/// The driver of a virtio NIC, drivers/net/virtio_net.c.
const VIRTIO_DRIVER: &str = "virtio_net";

/// Brings `lo` up.
///
/// # Errors
/// What the kernel says, or a link that stays down.
pub fn bring_up_loopback() -> Result<(), NetError> {
    up(LOOPBACK)
}

/// The name of the one network device.
///
/// A device is an interface with a `device` entry in sysfs; veth, loopback and the like have none. Several devices are
/// an error: the host chooses how many it plugs in, and the measured configuration names none of them.
///
/// # Errors
/// None or several devices (named), or one whose driver is not virtio_net.
pub fn physical_link() -> Result<String, NetError> {
    physical_link_in(Path::new("/sys/class/net"))
}

fn physical_link_in(class: &Path) -> Result<String, NetError> {
    let subject = class.display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir(class).map_err(NetError::system("list", &subject))? {
        let entry = entry.map_err(NetError::system("list", &subject))?;
        if entry.path().join("device").exists() {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found.sort();
    let [link] = found.as_slice() else { return Err(NetError::PhysicalLinks { found }) };
    let driver = fs::read_link(class.join(link).join("device/driver")).unwrap_or_default();
    let driver = driver.file_name().unwrap_or_default().to_string_lossy();
    if driver != VIRTIO_DRIVER {
        return Err(NetError::NotVirtio { link: link.clone(), found: driver.into_owned() });
    }
    Ok(link.clone())
}

/// The Ethernet address of a link, which the DHCP child needs.
///
/// # Errors
/// No such link, or one without a 6-byte address.
pub fn hardware_address(link: &str) -> Result<[u8; 6], NetError> {
    let bytes = netlink::run(link, async |netlink| Ok(netlink.link(link).await?.hardware))?;
    <[u8; 6]>::try_from(bytes.as_slice()).map_err(|_| NetError::ReadBack {
        link: link.to_owned(),
        expected: "an Ethernet address of 6 bytes".to_owned(),
        found: format!("{} bytes", bytes.len()),
    })
}

/// The kernel's network settings before any link is up, each read back.
///
/// Reverse-path filtering: the kernel takes the maximum of `conf.all` and the link's own value
/// (include/linux/inetdevice.h, `IN_DEV_RPFILTER`), and with 1 an address-less link drops the DHCP offer. So `all` is 0
/// for ever, `default` is 1 for links made later, and this link is 0 until [`set_address`].
///
/// # Errors
/// A setting that cannot be written or reads back differently.
pub fn prepare_sysctls(link: &str) -> Result<(), NetError> {
    sysctl::set("ipv4/conf/all/rp_filter", "0")?;
    sysctl::set("ipv4/conf/default/rp_filter", "1")?;
    sysctl::set(&format!("ipv4/conf/{link}/rp_filter"), "0")?;
    for conf in ["all", "default", LOOPBACK, link] {
        sysctl::harden_ipv4(conf)?;
        sysctl::disable_ipv6(conf)?;
    }
    sysctl::set("ipv4/ip_unprivileged_port_start", "0")
}

/// Lets packets pass between the services' links and the physical one. Only after the egress lock is in place: from
/// here on its forward chains are what holds the services.
///
/// # Errors
/// A setting that cannot be written or reads back differently.
pub fn enable_forwarding() -> Result<(), NetError> {
    sysctl::set("ipv4/ip_forward", "1")?;
    // The kernel writes this one as a side effect (net/ipv4/devinet.c, `inet_forward_change`).
    sysctl::expect("ipv4/conf/all/accept_redirects", "0")
}

/// Brings a link up and reads that back.
///
/// # Errors
/// What the kernel says, or a link that stays down.
pub fn up(link: &str) -> Result<(), NetError> {
    netlink::run(link, async |netlink| netlink.up(link).await)
}

/// Gives the link this one address, as a /32, with one on-link route to the gateway and everything else through it;
/// whatever address or route it had before is gone. Reads all of it back, then turns the reverse-path filter on.
///
/// A /32 because the egress lock lets ARP through for the gateway only: with a wider prefix the kernel would want to ask
/// for neighbours, and would not answer them.
///
/// # Errors
/// What the kernel says; a gateway equal to the address; a state that reads back differently.
pub fn set_address(link: &str, address: Ipv4Addr, gateway: Ipv4Addr) -> Result<(), NetError> {
    if address == gateway {
        return Err(NetError::GatewayIsSelf { link: link.to_owned(), address });
    }
    let on_link = Route { destination: gateway, prefix: 32, gateway: None, source: Some(address) };
    let through = Route {
        destination: Ipv4Addr::UNSPECIFIED,
        prefix: 0,
        gateway: Some(gateway),
        source: Some(address),
    };
    let mut routes = [on_link, through];
    netlink::run(link, async |netlink| {
        netlink.add_address(link, address, 32, AddressScope::Universe).await?;
        // The on-link route first: the kernel refuses a gateway that it cannot reach.
        for route in &routes {
            netlink.set_route(link, route).await?;
        }
        netlink.remove_routes(link, &routes).await?;
        netlink.remove_addresses(link, Some((address, 32))).await?;
        routes.sort_unstable();
        read_back(netlink, link, &[(address, 32)], &routes).await
    })?;
    sysctl::set(&format!("ipv4/conf/{link}/rp_filter"), "1")
}

/// Takes every IPv4 address and route off the link, when a lease is lost; the link can then hear a DHCP offer again.
///
/// # Errors
/// What the kernel says; a state that reads back differently.
pub fn clear_address(link: &str) -> Result<(), NetError> {
    netlink::run(link, async |netlink| {
        netlink.remove_routes(link, &[]).await?;
        netlink.remove_addresses(link, None).await?;
        read_back(netlink, link, &[], &[]).await
    })?;
    sysctl::set(&format!("ipv4/conf/{link}/rp_filter"), "0")
}

/// How many packet sockets exist in this thread's network namespace. PID 1 asserts 0: a packet socket sees neither the
/// `inet` chains nor reverse-path filtering.
///
/// # Errors
/// If /proc cannot be read.
pub fn packet_sockets() -> Result<usize, NetError> {
    // Not /proc/net, which is /proc/self/net: the namespace of the process's first thread.
    let path = "/proc/thread-self/net/packet";
    let table = fs::read_to_string(path).map_err(NetError::system("read", path))?;
    // One heading line, then one line a socket (net/packet/af_packet.c, `packet_seq_show`).
    Ok(table.lines().skip(1).count())
}

async fn read_back(
    netlink: &Netlink,
    link: &str,
    addresses: &[(Ipv4Addr, u8)],
    routes: &[Route],
) -> Result<(), NetError> {
    let found_addresses = netlink.addresses(link).await?;
    let found_routes = netlink.routes(link).await?;
    if found_addresses == addresses && found_routes == routes {
        return Ok(());
    }
    Err(NetError::ReadBack {
        link: link.to_owned(),
        expected: format!("addresses {addresses:?} and routes {routes:?}"),
        found: format!("addresses {found_addresses:?} and routes {found_routes:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn class_with(devices: &[(&str, Option<&str>)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, driver) in devices {
            let interface = dir.path().join(name);
            fs::create_dir(&interface).unwrap();
            let Some(driver) = driver else { continue };
            fs::create_dir(interface.join("device")).unwrap();
            if !driver.is_empty() {
                symlink(
                    Path::new("../../../bus/virtio/drivers").join(driver),
                    interface.join("device/driver"),
                )
                .unwrap();
            }
        }
        dir
    }

    #[test]
    fn the_one_virtio_nic_is_chosen() {
        let dir = class_with(&[("lo", None), ("svc1", None), ("eth0", Some("virtio_net"))]);
        assert_eq!(physical_link_in(dir.path()).unwrap(), "eth0");
    }

    #[test]
    fn none_several_or_another_driver_is_an_error_that_names_them() {
        for (devices, message) in [
            (&[("lo", None)][..], "/sys/class/net: expected exactly one network device, found none"),
            (
                &[("lo", None), ("eth1", Some("virtio_net")), ("eth0", Some("virtio_net"))],
                "/sys/class/net: expected exactly one network device, found eth0, eth1",
            ),
            (
                &[("eth0", Some("e1000"))],
                "eth0: expected a device of driver virtio_net, found driver \"e1000\"",
            ),
            (&[("eth0", Some(""))], "eth0: expected a device of driver virtio_net, found driver \"\""),
        ] {
            let dir = class_with(devices);
            assert_eq!(physical_link_in(dir.path()).unwrap_err().to_string(), message);
        }
    }
}
