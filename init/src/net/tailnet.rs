//! The TUN of the private network: its addresses, its routes, and where names are asked for.
//!
//! Addresses come from the VPN process, which asks for them; whoever calls this has checked them
//! ([`casemate_vpn::parent::network::check`]). Everything here goes when the TUN goes.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use casemate_vpn::parent::network::{NAMES_V4, NAMES_V6};
use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType,
};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};

use super::netlink::{self, Netlink, failed};
use super::{NetError, sysctl};

/// For ever (include/net/addrconf.h, `INFINITY_LIFE_TIME`).
const FOR_EVER: u32 = u32::MAX;

/// A TUN that is up.
#[derive(Clone, Debug)]
pub struct Tailnet {
    link: String,
    prefixes: Vec<IpNet>,
    names: Vec<IpAddr>,
    ipv6: bool,
}

impl Tailnet {
    /// Brings up a TUN that was just made, with the addresses where names are asked for, if they are, and no others yet. IPv6
    /// only where the kernel has it and `prefixes` has one of it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn bring_up(link: &str, prefixes: &[IpNet], mtu: u16, names: bool) -> Result<Self, NetError> {
        let ipv6 = prefixes.iter().any(|prefix| matches!(prefix, IpNet::V6(_))) && enable_ipv6(link);
        let mut tailnet =
            Self { link: link.to_owned(), prefixes: prefixes.to_vec(), names: Vec::new(), ipv6 };
        if names {
            tailnet.names.push(IpAddr::V4(NAMES_V4));
            tailnet.names.extend(ipv6.then_some(IpAddr::V6(NAMES_V6)));
        }
        netlink::run(link, async |netlink| {
            let index = netlink.link(link).await?.index;
            let message = LinkUnspec::new_with_index(index).mtu(mtu.into()).up().build();
            netlink.0.link().set(message).execute().await.map_err(failed("bring up", link))
        })?;
        tailnet.set(&[])?;
        Ok(tailnet)
    }

    /// Whether it takes IPv6.
    pub const fn ipv6(&self) -> bool {
        self.ipv6
    }

    /// The addresses where names are asked for.
    pub fn names(&self) -> &[IpAddr] {
        &self.names
    }

    /// Gives it these addresses and no others, and routes to the prefixes from them. What stays is not touched; what is new comes
    /// before what was goes, so that no connection of an address that stays notices. Reads all of it back.
    ///
    /// # Errors
    /// What the kernel says, or something else than what was set.
    pub fn set(&self, addresses: &[IpNet]) -> Result<(), NetError> {
        let mut wanted: Vec<IpAddr> = addresses.iter().map(IpNet::addr).collect();
        wanted.retain(|address| self.ipv6 || address.is_ipv4());
        let mut routes: Vec<(IpNet, IpAddr)> = Vec::new();
        for prefix in &self.prefixes {
            let of_family = |address: &&IpAddr| address.is_ipv4() == matches!(prefix, IpNet::V4(_));
            routes.extend(wanted.iter().find(of_family).map(|source| (*prefix, *source)));
        }
        wanted.extend(&self.names);
        wanted.sort_unstable();
        routes.sort_unstable();
        netlink::run(&self.link, async |netlink| self.apply(netlink, &wanted, &routes).await)
    }

    async fn apply(
        &self,
        netlink: &Netlink,
        wanted: &[IpAddr],
        routes: &[(IpNet, IpAddr)],
    ) -> Result<(), NetError> {
        let index = netlink.link(&self.link).await?.index;
        let before = netlink.all_addresses(&self.link, index).await?;
        for address in wanted {
            if !before.iter().any(|message| local(message) == Some(*address)) {
                let names = self.names.contains(address);
                netlink.add_single(&self.link, index, *address, names).await?;
            }
        }
        let found = netlink.all_routes(&self.link, index).await?;
        for (prefix, source) in routes {
            if !found.iter().any(|message| route(message) == Some((*prefix, Some(*source)))) {
                netlink.route_from(&self.link, index, *prefix, *source).await?;
            }
        }
        for message in netlink.all_routes(&self.link, index).await? {
            let ours =
                route(&message).is_some_and(|(net, _)| routes.iter().any(|(prefix, _)| *prefix == net));
            if !ours {
                netlink
                    .0
                    .route()
                    .del(message)
                    .execute()
                    .await
                    .map_err(failed("remove a route", &self.link))?;
            }
        }
        for message in before {
            if !local(&message).is_some_and(|address| wanted.contains(&address)) {
                netlink
                    .0
                    .address()
                    .del(message)
                    .execute()
                    .await
                    .map_err(failed("remove an address", &self.link))?;
            }
        }
        let mut found_addresses: Vec<IpAddr> =
            netlink.all_addresses(&self.link, index).await?.iter().filter_map(local).collect();
        found_addresses.sort_unstable();
        let mut found_routes: Vec<_> =
            netlink.all_routes(&self.link, index).await?.iter().filter_map(route).collect();
        found_routes.sort_unstable();
        let same_routes =
            found_routes.iter().copied().eq(routes.iter().map(|(net, from)| (*net, Some(*from))));
        if found_addresses == wanted && same_routes {
            return Ok(());
        }
        Err(NetError::ReadBack {
            link: self.link.clone(),
            expected: format!("addresses {wanted:?} and routes {routes:?}"),
            found: format!("addresses {found_addresses:?} and routes {found_routes:?}"),
        })
    }
}

/// The guest's settings of a link, for a TUN that was just made and is not up: as the physical one's, and no IPv6.
///
/// # Errors
/// A setting that cannot be made.
pub fn harden(link: &str) -> Result<(), NetError> {
    sysctl::harden_ipv4(link)?;
    sysctl::disable_ipv6(link)?;
    sysctl::set(&format!("ipv4/conf/{link}/rp_filter"), "1")
}

/// Which interface answers for the addresses where names are asked for already: a tailscaled's, say, which routes them to its TUN in a
/// table of its own (52).
///
/// # Errors
/// What the kernel says.
pub fn who_has_names() -> Result<Option<String>, NetError> {
    let names = [IpNet::from(IpAddr::V4(NAMES_V4)), IpNet::from(IpAddr::V6(NAMES_V6))];
    Ok(whose(|net| names.contains(net))?.map(|(link, _)| link))
}

/// Which interface has an address in one of the prefixes, or a route into it: a private network cannot have the same addresses.
///
/// # Errors
/// What the kernel says.
pub fn who_is_inside(prefixes: &[IpNet]) -> Result<Option<(String, IpNet)>, NetError> {
    whose(|net| prefixes.iter().any(|prefix| prefix.contains(net)))
}

/// The interface of the first address or, in whatever table, route of this machine that is meant, and which that is.
fn whose(is_meant: impl Fn(&IpNet) -> bool) -> Result<Option<(String, IpNet)>, NetError> {
    netlink::run("this machine", async |netlink| {
        let addresses: Vec<AddressMessage> = netlink
            .0
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(failed("list addresses", "this machine"))?;
        let addresses =
            addresses.iter().filter_map(|message| Some((message.header.index, IpNet::from(local(message)?))));
        let routes = netlink.every_route("this machine").await?;
        let routes = routes.iter().filter_map(|message| {
            let index = message.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            Some((index?, route(message)?.0))
        });
        let Some((index, net)) = addresses.chain(routes).find(|(_, net)| is_meant(net)) else {
            return Ok(None);
        };
        let link = netlink.name_of(index).await.unwrap_or_else(|| format!("interface {index}"));
        Ok(Some((link, net)))
    })
}

impl Netlink {
    async fn name_of(&self, index: u32) -> Option<String> {
        use rtnetlink::packet_route::link::LinkAttribute;
        let mut answers = std::pin::pin!(self.0.link().get().match_index(index).execute());
        let message = answers.try_next().await.ok()??;
        message.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        })
    }

    /// All addresses of a link but those that IPv6 makes for itself.
    async fn all_addresses(&self, link: &str, index: u32) -> Result<Vec<AddressMessage>, NetError> {
        let all = self.0.address().get().set_link_index_filter(index).execute();
        let all: Vec<AddressMessage> = all.try_collect().await.map_err(failed("list addresses", link))?;
        let made = |message: &AddressMessage| matches!(local(message), Some(IpAddr::V6(address)) if address.is_unicast_link_local());
        Ok(all.into_iter().filter(|message| message.header.index == index && !made(message)).collect())
    }

    /// All unicast routes of the main table through a link but those of single addresses of its own and of link-local IPv6.
    async fn all_routes(&self, link: &str, index: u32) -> Result<Vec<RouteMessage>, NetError> {
        let mut all = self.every_route(link).await?;
        all.retain(|message: &RouteMessage| {
            message.header.kind == RouteType::Unicast
                && message.header.table == RouteHeader::RT_TABLE_MAIN
                && message.attributes.contains(&RouteAttribute::Oif(index))
                && route(message).is_some_and(|(net, source)| {
                    let local = matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local());
                    // The kernel's own for an IPv6 address.
                    let single = net.prefix_len() == net.max_prefix_len() && source.is_none();
                    !local && !single
                })
        });
        Ok(all)
    }

    /// All routes of all tables.
    async fn every_route(&self, subject: &str) -> Result<Vec<RouteMessage>, NetError> {
        let mut all = self.routes_of(AddressFamily::Inet).await.map_err(failed("list routes", subject))?;
        // Without IPv6 there are none, and to ask for them may be an error.
        all.extend(self.routes_of(AddressFamily::Inet6).await.unwrap_or_default());
        Ok(all)
    }

    /// Whoever asks for a family that the kernel does not have, as for IPv6 after `ipv6.disable=1`, is given the routes of all
    /// others (net/core/rtnetlink.c: `rtnetlink_rcv_msg` falls back to `PF_UNSPEC`, whose answer is `rtnl_dump_all`).
    async fn routes_of(&self, family: AddressFamily) -> Result<Vec<RouteMessage>, rtnetlink::Error> {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        let mut found: Vec<_> = self.0.route().get(question).execute().try_collect().await?;
        found.retain(|message: &RouteMessage| message.header.address_family == family);
        Ok(found)
    }

    /// Adds one address, without the broadcast address that the library's builder would invent, and without a look whether
    /// somebody else has it: there is nobody to ask on a TUN. One where names are asked for is never taken as a source: scope
    /// host in IPv4, deprecated at once in IPv6.
    async fn add_single(&self, link: &str, index: u32, address: IpAddr, names: bool) -> Result<(), NetError> {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.0.address().add(index, address, length).replace();
        let message = request.message_mut();
        message.attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Broadcast(_)));
        if address.is_ipv6() {
            let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
            message.attributes.push(AddressAttribute::Flags(flags));
            let mut life = CacheInfo::default();
            life.ifa_valid = FOR_EVER;
            life.ifa_preferred = if names { 0 } else { FOR_EVER };
            message.attributes.push(AddressAttribute::CacheInfo(life));
        } else if names {
            message.header.scope = AddressScope::Host;
        }
        request.execute().await.map_err(failed("add an address", link))
    }

    async fn route_from(&self, link: &str, index: u32, to: IpNet, source: IpAddr) -> Result<(), NetError> {
        let message = match (to, source) {
            (IpNet::V4(to), IpAddr::V4(source)) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to.network(), to.prefix_len())
                .output_interface(index)
                .scope(RouteScope::Link)
                .pref_source(source)
                .build(),
            (IpNet::V6(to), IpAddr::V6(source)) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to.network(), to.prefix_len())
                .output_interface(index)
                .pref_source(source)
                .build(),
            // Paired by family above.
            _ => return Ok(()),
        };
        self.0.route().add(message).replace().execute().await.map_err(failed("set a route", link))
    }
}

/// Its address, as `ip address` shows it.
fn local(message: &AddressMessage) -> Option<IpAddr> {
    let of = |want_local: bool| {
        message.attributes.iter().find_map(move |attribute| match attribute {
            AddressAttribute::Local(address) if want_local => Some(*address),
            AddressAttribute::Address(address) if !want_local => Some(*address),
            _ => None,
        })
    };
    of(true).or_else(|| of(false))
}

/// Where it leads, and from which address.
fn route(message: &RouteMessage) -> Option<(IpNet, Option<IpAddr>)> {
    let (mut to, mut source) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            _ => {}
        }
    }
    Some((IpNet::new(to?, message.header.destination_prefix_length).ok()?, source))
}

const fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// Whether a link takes IPv6 now. A kernel without it, and a container that may not turn it on, have none.
fn enable_ipv6(link: &str) -> bool {
    let setting = |name: &str| format!("/proc/sys/net/ipv6/conf/{link}/{name}");
    let disabled = setting("disable_ipv6");
    // No address that nobody asked for; where it cannot be set, there is one, and it is not looked at.
    drop(fs::write(setting("addr_gen_mode"), "1"));
    match fs::read_to_string(&disabled) {
        Err(_) => false,
        Ok(value) if value.trim() == "0" => true,
        Ok(_) => {
            fs::write(&disabled, "0").is_ok()
                && fs::read_to_string(&disabled).is_ok_and(|value| value.trim() == "0")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_a_family_that_the_kernel_does_not_have_finds_no_routes() {
        // No kernel has DECnet since Linux 6.1, and no test has a kernel without IPv6.
        let found = |family| {
            netlink::run("test", async |netlink| {
                netlink.routes_of(family).await.map_err(failed("list routes", "test"))
            })
        };
        assert!(!found(AddressFamily::Inet).unwrap().is_empty(), "what an answer for all families has");
        let routes = found(AddressFamily::Decnet).unwrap();
        assert!(routes.is_empty(), "{routes:?}");
    }
}
