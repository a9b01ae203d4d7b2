//! rtnetlink for a caller that is not asynchronous: a runtime on this thread that lives for one piece of work.
//!
//! The socket belongs to the network namespace of the calling thread.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType,
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::NetError;

/// The kernel answers rtnetlink in the sending system call; a wait of this length means a broken kernel.
const DEADLINE: Duration = Duration::from_secs(10);

/// An open rtnetlink socket.
pub(super) struct Netlink(pub(super) Handle);

/// What is asked of an interface.
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) up: bool,
    pub(super) hardware: Vec<u8>,
}

/// An IPv4 route of the main table, reduced to what we ever set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Route {
    pub(super) destination: Ipv4Addr,
    pub(super) prefix: u8,
    pub(super) gateway: Option<Ipv4Addr>,
    pub(super) source: Option<Ipv4Addr>,
}

/// Opens a socket, does the work, closes it.
pub(super) fn run<T>(
    subject: &str,
    work: impl AsyncFnOnce(&Netlink) -> Result<T, NetError>,
) -> Result<T, NetError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(NetError::system("start an event loop for", subject))?;
    runtime.block_on(async {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(NetError::system("open an rtnetlink socket for", subject))?;
        // Ends when the last handle is dropped, at the latest with the runtime.
        tokio::spawn(connection);
        match tokio::time::timeout(DEADLINE, work(&Netlink(handle))).await {
            Ok(result) => result,
            Err(_) => Err(NetError::Netlink {
                action: "finish rtnetlink requests",
                subject: subject.to_owned(),
                found: format!("no answer within {} s", DEADLINE.as_secs()),
            }),
        }
    })
}

impl Netlink {
    /// Looks an interface up by name.
    pub(super) async fn link(&self, name: &str) -> Result<Link, NetError> {
        let mut answers = std::pin::pin!(self.0.link().get().match_name(name).execute());
        let message = match answers.next().await {
            Some(message) => message.map_err(failed("look up", name))?,
            None => {
                return Err(NetError::Netlink {
                    action: "look up",
                    subject: name.to_owned(),
                    found: "an empty answer".to_owned(),
                });
            }
        };
        let hardware = message.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(bytes) => Some(bytes),
            _ => None,
        });
        Ok(Link {
            index: message.header.index,
            up: message.header.flags.contains(LinkFlags::Up),
            hardware: hardware.unwrap_or_default(),
        })
    }

    /// Sets an interface up and reads that back.
    pub(super) async fn up(&self, name: &str) -> Result<(), NetError> {
        let link = self.link(name).await?;
        let message = LinkUnspec::new_with_index(link.index).up().build();
        self.0.link().set(message).execute().await.map_err(failed("bring up", name))?;
        if self.link(name).await?.up {
            return Ok(());
        }
        Err(NetError::ReadBack {
            link: name.to_owned(),
            expected: "IFF_UP".to_owned(),
            found: "a link that is down".to_owned(),
        })
    }

    /// Makes a veth pair: `near` here, `far` inside `namespace`. The far end is born there, so its name never meets ours.
    pub(super) async fn add_veth(
        &self,
        near: &str,
        far: &str,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), NetError> {
        let peer: LinkMessage =
            LinkMessageBuilder::<LinkUnspec>::new().name(far).setns_by_fd(namespace.as_raw_fd()).build();
        let message = LinkVeth::new(near, far).set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
        self.0.link().add(message).execute().await.map_err(failed("create the veth pair", near))
    }

    /// Adds an IPv4 address, without the broadcast address that rtnetlink's own builder would invent.
    pub(super) async fn add_address(
        &self,
        name: &str,
        address: Ipv4Addr,
        prefix: u8,
        scope: AddressScope,
    ) -> Result<(), NetError> {
        let index = self.link(name).await?.index;
        let mut request = self.0.address().add(index, IpAddr::V4(address), prefix).replace();
        let message: &mut AddressMessage = request.message_mut();
        message.header.scope = scope;
        message.attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Broadcast(_)));
        request.execute().await.map_err(failed("add an address", name))
    }

    /// The IPv4 addresses of an interface with their prefixes, sorted.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<(Ipv4Addr, u8)>, NetError> {
        let messages = self.address_messages(name).await?;
        let mut found: Vec<_> = messages
            .iter()
            .filter_map(|message| Some((local_address(message)?, message.header.prefix_len)))
            .collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Removes every IPv4 address of an interface but `keep`.
    pub(super) async fn remove_addresses(
        &self,
        name: &str,
        keep: Option<(Ipv4Addr, u8)>,
    ) -> Result<(), NetError> {
        for message in self.address_messages(name).await? {
            let one = local_address(&message).map(|address| (address, message.header.prefix_len));
            if keep.is_some() && one == keep {
                continue;
            }
            self.0.address().del(message).execute().await.map_err(failed("remove an address", name))?;
        }
        Ok(())
    }

    /// Adds an IPv4 route through an interface to the main table, or replaces the one to the same destination.
    pub(super) async fn set_route(&self, name: &str, route: &Route) -> Result<(), NetError> {
        let index = self.link(name).await?.index;
        let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(route.destination, route.prefix)
            .output_interface(index);
        builder = match route.gateway {
            Some(gateway) => builder.gateway(gateway),
            None => builder.scope(RouteScope::Link),
        };
        if let Some(source) = route.source {
            builder = builder.pref_source(source);
        }
        self.0.route().add(builder.build()).replace().execute().await.map_err(failed("set a route", name))
    }

    /// The unicast IPv4 routes of the main table through an interface, sorted.
    pub(super) async fn routes(&self, name: &str) -> Result<Vec<Route>, NetError> {
        let mut found: Vec<_> = self.route_messages(name).await?.iter().map(route).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Removes every unicast IPv4 route of the main table through an interface that is not listed.
    pub(super) async fn remove_routes(&self, name: &str, keep: &[Route]) -> Result<(), NetError> {
        for message in self.route_messages(name).await? {
            if keep.contains(&route(&message)) {
                continue;
            }
            self.0.route().del(message).execute().await.map_err(failed("remove a route", name))?;
        }
        Ok(())
    }

    async fn address_messages(&self, name: &str) -> Result<Vec<AddressMessage>, NetError> {
        let index = self.link(name).await?.index;
        let all = self.0.address().get().set_link_index_filter(index).execute();
        let all: Vec<AddressMessage> = all.try_collect().await.map_err(failed("list addresses", name))?;
        Ok(all.into_iter().filter(|message| message.header.family == AddressFamily::Inet).collect())
    }

    async fn route_messages(&self, name: &str) -> Result<Vec<RouteMessage>, NetError> {
        let index = self.link(name).await?.index;
        let question = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let all: Vec<RouteMessage> = self
            .0
            .route()
            .get(question)
            .execute()
            .try_collect()
            .await
            .map_err(failed("list routes", name))?;
        let ours = |message: &RouteMessage| {
            message.header.kind == RouteType::Unicast
                && message.header.table == RouteHeader::RT_TABLE_MAIN
                && message.attributes.contains(&RouteAttribute::Oif(index))
        };
        Ok(all.into_iter().filter(ours).collect())
    }
}

fn local_address(message: &AddressMessage) -> Option<Ipv4Addr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })
}

fn route(message: &RouteMessage) -> Route {
    let mut route = Route {
        destination: Ipv4Addr::UNSPECIFIED,
        prefix: message.header.destination_prefix_length,
        gateway: None,
        source: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => route.destination = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => route.gateway = Some(*address),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => route.source = Some(*address),
            _ => {}
        }
    }
    route
}

/// For `map_err`: the kernel's errno if it gave one.
pub(super) fn failed(action: &'static str, subject: &str) -> impl FnOnce(rtnetlink::Error) -> NetError {
    move |error| match error {
        rtnetlink::Error::NetlinkError(message) => {
            NetError::System { action, subject: subject.to_owned(), source: message.to_io() }
        }
        other => NetError::Netlink { action, subject: subject.to_owned(), found: other.to_string() },
    }
}
