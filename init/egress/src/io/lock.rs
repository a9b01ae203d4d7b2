//! The lock: installed in one transaction, read back and compared.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use nix::errno::Errno;
use thiserror::Error;

use super::socket::Socket;
use crate::compare::{Difference, Found, compare, of_table};
use crate::names::{LOGIN_SERVER, NEVER, SERVICES, TABLE};
use crate::policy::Ifname;
use crate::rules::{gateways, link_ruleset, own_addresses};
use crate::ruleset::{Ruleset, Set};
use crate::wire::{
    ChainObject, CounterObject, ElementsObject, Kind, Outgoing, RuleObject, SetObject, SetType, TableObject,
    WireError,
};

/// The most addresses that a link may have; a lease gives one.
const MAX_ADDRESSES: usize = 16;
/// The most addresses of the coordination server.
const MAX_SERVERS: usize = 8;

/// The standing lock. It owns the netlink socket that owns the tables: as long as it lives nobody else can change them,
/// and if it is dropped they stay as they are (`NFT_TABLE_F_PERSIST`), without an owner.
#[derive(Debug)]
pub struct Lock {
    socket: Socket,
    /// The `inet` table, then one `netdev` table for each link.
    tables: Vec<Ruleset>,
}

/// One counter as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its name; see [`crate::names`].
    pub name: String,
    /// Packets it counted.
    pub packets: u64,
    /// Their bytes, from the network header on (`inet`), or of whole frames (`netdev`).
    pub bytes: u64,
}

/// Why the lock does not stand as it should.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LockError {
    /// The socket failed.
    #[error("cannot {action}: {errno}")]
    Io {
        /// Doing what.
        action: &'static str,
        /// Why.
        errno: Errno,
    },
    /// The kernel refused a change; nothing of its transaction took effect.
    #[error("the kernel refused {what}: {errno}")]
    Refused {
        /// Which object.
        what: String,
        /// Why.
        errno: Errno,
    },
    /// The kernel's answer, or what was to be sent, is outside what we write.
    #[error("netlink: {0}")]
    Wire(#[from] WireError),
    /// What stands is not what was meant.
    #[error("the lock differs from what was set: {0}")]
    Differs(#[from] Difference),
    /// Somebody changes tables faster than they can be read.
    #[error("the tables changed during each of {tries} attempts to read them")]
    Changing {
        /// How often it was tried.
        tries: usize,
    },
    /// The link was not attached.
    #[error("link {link}: not attached to the lock")]
    UnknownLink {
        /// Which.
        link: Ifname,
    },
    /// An address that a machine cannot have on a link, or that is another's.
    #[error("link {link}: {address} cannot be {role}")]
    Address {
        /// On which link.
        link: Ifname,
        /// The address.
        address: IpAddr,
        /// "our own address" or "the gateway".
        role: &'static str,
    },
    /// More addresses than a link may have.
    #[error("link {link}: expected at most {MAX_ADDRESSES} addresses, found {found}")]
    TooManyAddresses {
        /// On which link.
        link: Ifname,
        /// How many.
        found: usize,
    },
    /// The rule set has the coordination server's address in it, or there is no private network.
    #[error("login server: its address is not looked up under this policy")]
    NoNamedServer,
    /// An address that is no place outside.
    #[error("login server: {0} is no place outside")]
    ServerAddress(Ipv4Addr),
    /// More addresses than are believed of one name.
    #[error("login server: expected at most {MAX_SERVERS} addresses, found {0}")]
    TooManyServers(usize),
}

impl LockError {
    /// The errno behind it, for the status frame; 0 where there is none.
    pub const fn errno(&self) -> i32 {
        match self {
            Self::Io { errno, .. } | Self::Refused { errno, .. } => *errno as i32,
            _ => 0,
        }
    }
}

impl Lock {
    /// Installs the `inet` table in the calling thread's network namespace, reads it back and compares.
    ///
    /// # Errors
    /// If a table of that name exists, the kernel refuses any part, or what it has then differs. In the first two cases
    /// nothing was changed.
    pub fn install(ruleset: &Ruleset) -> Result<Self, LockError> {
        let mut lock = Self { socket: Socket::open()?, tables: Vec::new() };
        lock.add(ruleset.clone())?;
        Ok(lock)
    }

    /// Adds the `netdev` table of a link, before the link is up. The kernel binds it by name, so it may be added before the
    /// link exists (Linux 6.16 on; an older kernel answers `ENOENT`). Until [`Lock::set_own_addresses`] it lets only the DHCP
    /// child's requests out, and nothing without `dhcp_mark`.
    ///
    /// # Errors
    /// As [`Lock::install`].
    pub fn attach_link(&mut self, link: &Ifname, dhcp_mark: Option<u32>) -> Result<(), LockError> {
        self.add(link_ruleset(link, dhcp_mark))
    }

    /// Replaces our own addresses on a link and the gateway that we may ask for by ARP or ND, in one transaction; both
    /// empty when a lease ends.
    ///
    /// # Errors
    /// An address that cannot be a host's own on a link (unspecified, loopback, multicast, broadcast, inside
    /// 198.18.0.0/15) is refused: a lease is hostile input.
    pub fn set_own_addresses(
        &mut self,
        link: &Ifname,
        own: &[IpAddr],
        gateway: Option<IpAddr>,
    ) -> Result<(), LockError> {
        if own.len() > MAX_ADDRESSES {
            return Err(LockError::TooManyAddresses { link: link.clone(), found: own.len() });
        }
        let check = |&address: &IpAddr, role| match plausible(address) {
            true => Ok(()),
            false => Err(LockError::Address { link: link.clone(), address, role }),
        };
        own.iter().try_for_each(|address| check(address, "our own address"))?;
        gateway.iter().try_for_each(|address| check(address, "the gateway"))?;

        let name = link_ruleset(link, None).table;
        let known = self.tables.iter().any(|table| table.table == name);
        if !known {
            return Err(LockError::UnknownLink { link: link.clone() });
        }
        self.fill(&name, |set| {
            let fits = |a: &&IpAddr| a.is_ipv4() == (set.kind == SetType::Ipv4);
            if set.name == own_addresses(link, set.kind) {
                Some(own.iter().filter(fits).copied().collect())
            } else if set.name == gateways(link, set.kind) {
                Some(gateway.iter().filter(fits).copied().collect())
            } else {
                None
            }
        })
    }

    /// Replaces the addresses that the VPN process may connect to as its coordination server's, in one transaction.
    ///
    /// # Errors
    /// If the policy names no such server, of more than 8 addresses, and of one that no service could reach either ([`NEVER`]): who
    /// says where a name leads is not believed beyond that. Then nothing was changed.
    pub fn set_login_server(&mut self, addresses: &[Ipv4Addr]) -> Result<(), LockError> {
        let named =
            |table: &Ruleset| table.table == TABLE && table.sets.iter().any(|s| s.name == LOGIN_SERVER);
        if !self.tables.iter().any(named) {
            return Err(LockError::NoNamedServer);
        }
        if addresses.len() > MAX_SERVERS {
            return Err(LockError::TooManyServers(addresses.len()));
        }
        if let Some(wrong) = addresses.iter().find(|a| NEVER.iter().any(|net| net.contains(*a))) {
            return Err(LockError::ServerAddress(*wrong));
        }
        let elements = || addresses.iter().copied().map(IpAddr::V4).collect();
        self.fill(TABLE, |set| (set.name == LOGIN_SERVER).then(elements))
    }

    /// Replaces what is in some sets of a table, in one transaction, and reads it back.
    fn fill(
        &mut self,
        table: &str,
        elements: impl Fn(&Set) -> Option<BTreeSet<IpAddr>>,
    ) -> Result<(), LockError> {
        for current in self.tables.iter_mut().filter(|one| one.table == table) {
            let mut next = current.clone();
            let mut changes = Vec::new();
            for set in &mut next.sets {
                let Some(elements) = elements(set) else { continue };
                set.elements = elements;
                let elements = set.object(table);
                let empty = ElementsObject { keys: Vec::new(), ..elements.clone() };
                changes.push(Outgoing::Empty(next.family, empty));
                if !elements.keys.is_empty() {
                    changes.push(Outgoing::Add(next.family, crate::wire::Object::Elements(elements)));
                }
            }
            self.socket.transact(&changes)?;
            *current = next;
            check_table(&mut self.socket, current)?;
        }
        Ok(())
    }

    /// Reads every table back and compares it with what was meant.
    ///
    /// # Errors
    /// [`LockError::Differs`] names the first difference.
    pub fn verify(&mut self) -> Result<(), LockError> {
        self.tables.iter().try_for_each(|table| check_table(&mut self.socket, table))
    }

    /// All counters, table by table.
    ///
    /// # Errors
    /// If the tables cannot be read, or a counter is missing.
    pub fn counters(&mut self) -> Result<Vec<Counter>, LockError> {
        let mut counters = Vec::new();
        for table in &self.tables {
            let bodies = self.socket.dump(Kind::Counter, table.family, &table.table, None)?;
            let found = of_table(&table.table, &bodies, CounterObject::read)?;
            for name in table.counters() {
                let counter = found.iter().find(|c| c.name == name).ok_or_else(|| Difference {
                    place: format!("counter {} {name}", table.table),
                    expected: "a counter".to_owned(),
                    found: "none".to_owned(),
                })?;
                let (packets, bytes) = (counter.packets, counter.bytes);
                counters.push(Counter { name: name.to_owned(), packets, bytes });
            }
        }
        Ok(counters)
    }

    fn add(&mut self, table: Ruleset) -> Result<(), LockError> {
        self.socket.transact(&table.creation())?;
        check_table(&mut self.socket, &table)?;
        self.tables.push(table);
        Ok(())
    }
}

fn check_table(socket: &mut Socket, meant: &Ruleset) -> Result<(), LockError> {
    let (family, table) = (meant.family, meant.table.as_str());
    let mut dump = |kind| socket.dump(kind, family, table, None);
    let mut found = Found {
        tables: of_table(table, &dump(Kind::Table)?, TableObject::read)?,
        chains: of_table(table, &dump(Kind::Chain)?, ChainObject::read)?,
        rules: of_table(table, &dump(Kind::Rule)?, RuleObject::read)?,
        sets: of_table(table, &dump(Kind::Set)?, SetObject::read)?,
        elements: Vec::new(),
        counters: of_table(table, &dump(Kind::Counter)?, CounterObject::read)?,
    };
    for set in &meant.sets {
        let bodies = socket.dump(Kind::Elements, family, table, Some(&set.name))?;
        found.elements.extend(of_table(table, &bodies, ElementsObject::read)?);
    }
    Ok(compare(meant, socket.port(), &found)?)
}

/// Whether a host can have this address on a link.
fn plausible(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            let [first, ..] = a.octets();
            // 0/8, 127/8, 224/4 and 240/4 (RFC 6890), and the services' own range.
            !(first == 0 || first == 127 || first >= 224 || SERVICES.contains(&a))
        }
        IpAddr::V6(a) => {
            !(a.is_unspecified() || a.is_loopback() || a.is_multicast() || a.to_ipv4_mapped().is_some())
        }
    }
}
