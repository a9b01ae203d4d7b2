//! Objects: tables, chains, rules, sets with their elements, counters. Each is written into the body of one message
//! and read from the body of one.

use super::attribute::{Attributes, WireError, Writer, fixed, text};
use super::expression::{Expression, OBJECT_COUNTER};

/// `NFPROTO_*` of linux/netfilter.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Inet = 1,
    Netdev = 5,
}

/// A table of ours. It is owned by the socket that made it (`NFT_TABLE_F_OWNER`; Linux 5.12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableObject {
    pub(crate) name: String,
    /// The netlink port of the owner. The kernel fills it in: not written, and `None` in what we meant.
    pub(crate) owner: Option<u32>,
    /// Whether it outlives that socket (`NFT_TABLE_F_PERSIST`; Linux 6.9): if that were ever lost, a lock stays.
    pub(crate) persist: bool,
}

const OWNED: u32 = 0x2;
const OWNED_AND_PERSISTENT: u32 = OWNED | 0x4;

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChainObject {
    pub(crate) table: String,
    pub(crate) name: String,
    pub(crate) base: Option<BaseChain>,
}

/// Where a chain is hooked in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BaseChain {
    pub(crate) kind: ChainType,
    pub(crate) hook: Hook,
    pub(crate) priority: i32,
    pub(crate) policy: Policy,
}

/// `type` of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainType {
    Filter,
    Nat,
}

/// A hook: `enum nf_inet_hooks`, and `NF_NETDEV_EGRESS` with its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
    Egress(String),
}

/// What becomes of a packet that no rule decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Drop = 0,
    Accept = 1,
}

/// A rule; its place is the order in its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleObject {
    pub(crate) table: String,
    pub(crate) chain: String,
    pub(crate) expressions: Vec<Expression>,
}

/// A set of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetObject {
    pub(crate) table: String,
    pub(crate) name: String,
    pub(crate) kind: SetType,
}

/// What a set holds; the numbers are nft's own (`TYPE_IPADDR`, `TYPE_IP6ADDR` of its datatype.h), so that it can print them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetType {
    Ipv4 = 7,
    Ipv6 = 8,
}

impl SetType {
    const fn key_length(self) -> u32 {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 => 16,
        }
    }
}

/// Elements of a set, as key bytes in network order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ElementsObject {
    pub(crate) table: String,
    pub(crate) set: String,
    pub(crate) keys: Vec<Vec<u8>>,
}

/// A named counter. The values are the kernel's: written as zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CounterObject {
    pub(crate) table: String,
    pub(crate) name: String,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// Any of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    Table(TableObject),
    Chain(ChainObject),
    Rule(RuleObject),
    Set(SetObject),
    Elements(ElementsObject),
    Counter(CounterObject),
}

/// Attribute numbers (`NFTA_*`).
mod nfta {
    /// `NFTA_{CHAIN,RULE,SET,SET_ELEM_LIST,OBJ}_TABLE` and `NFTA_TABLE_NAME` are all 1.
    pub(super) const ANY_TABLE: u16 = 1;
    pub(super) const LIST_ELEM: u16 = 1;
    pub(super) const TABLE_FLAGS: u16 = 2;
    pub(super) const TABLE_OWNER: u16 = 7;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const HOOK_HOOKNUM: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const HOOK_DEV: u16 = 3;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const SET_NAME: u16 = 2;
    pub(super) const SET_FLAGS: u16 = 3;
    pub(super) const SET_KEY_TYPE: u16 = 4;
    pub(super) const SET_KEY_LEN: u16 = 5;
    pub(super) const SET_ID: u16 = 10;
    pub(super) const LIST_SET: u16 = 2;
    pub(super) const LIST_ELEMENTS: u16 = 3;
    pub(super) const ELEM_KEY: u16 = 1;
    pub(super) const ELEM_FLAGS: u16 = 3;
    pub(super) const DATA_VALUE: u16 = 1;
    pub(super) const OBJ_NAME: u16 = 2;
    pub(super) const OBJ_TYPE: u16 = 3;
    pub(super) const OBJ_DATA: u16 = 4;
    pub(super) const COUNTER_BYTES: u16 = 1;
    pub(super) const COUNTER_PACKETS: u16 = 2;
}

/// The table that a dumped object belongs to (for a table: its name).
pub(crate) fn table_of(body: &[u8]) -> Result<String, WireError> {
    Attributes::parse("object", body)?.name(nfta::ANY_TABLE, "NFTA_*_TABLE")
}

impl TableObject {
    pub(crate) fn write(&self) -> Result<Vec<u8>, WireError> {
        let flags = if self.persist { OWNED_AND_PERSISTENT } else { OWNED };
        let mut w = Writer::default();
        w.name(nfta::ANY_TABLE, "table", &self.name).u32(nfta::TABLE_FLAGS, "flags", flags);
        w.finish()
    }

    pub(crate) fn read(body: &[u8]) -> Result<Self, WireError> {
        let a = Attributes::parse("table", body)?;
        let persist = match a.u32(nfta::TABLE_FLAGS, "NFTA_TABLE_FLAGS")? {
            OWNED_AND_PERSISTENT => true,
            OWNED => false,
            found => return Err(WireError::Value { what: "table flags", found: found.into() }),
        };
        Ok(Self {
            name: a.name(nfta::ANY_TABLE, "NFTA_TABLE_NAME")?,
            owner: a.optional_u32(nfta::TABLE_OWNER, "NFTA_TABLE_OWNER")?,
            persist,
        })
    }
}

impl ChainObject {
    pub(crate) fn write(&self) -> Result<Vec<u8>, WireError> {
        let mut w = Writer::default();
        w.name(nfta::ANY_TABLE, "table", &self.table).name(nfta::CHAIN_NAME, "chain", &self.name);
        if let Some(base) = &self.base {
            base.write(&mut w);
        }
        w.finish()
    }

    pub(crate) fn read(body: &[u8]) -> Result<Self, WireError> {
        let a = Attributes::parse("chain", body)?;
        let base = a.get(nfta::CHAIN_HOOK).map(|_| BaseChain::read(&a)).transpose()?;
        Ok(Self {
            table: a.name(nfta::ANY_TABLE, "NFTA_CHAIN_TABLE")?,
            name: a.name(nfta::CHAIN_NAME, "NFTA_CHAIN_NAME")?,
            base,
        })
    }
}

impl BaseChain {
    fn write(&self, w: &mut Writer) {
        let (number, device) = match &self.hook {
            Hook::Prerouting => (0, None),
            Hook::Input => (1, None),
            Hook::Forward => (2, None),
            Hook::Output => (3, None),
            Hook::Postrouting => (4, None),
            Hook::Egress(device) => (1, Some(device)),
        };
        w.nest(nfta::CHAIN_HOOK, "hook", |h| {
            h.u32(nfta::HOOK_HOOKNUM, "hook", number);
            h.bytes(nfta::HOOK_PRIORITY, "priority", &self.priority.to_be_bytes());
            if let Some(device) = device {
                h.name(nfta::HOOK_DEV, "device", device);
            }
        });
        w.u32(nfta::CHAIN_POLICY, "policy", self.policy as u32);
        w.name(nfta::CHAIN_TYPE, "type", self.kind.name());
    }

    fn read(a: &Attributes<'_>) -> Result<Self, WireError> {
        let hook = a.nested(nfta::CHAIN_HOOK, "NFTA_CHAIN_HOOK")?;
        let device = hook.get(nfta::HOOK_DEV).map(|name| text("NFTA_HOOK_DEV", name)).transpose()?;
        let number = hook.u32(nfta::HOOK_HOOKNUM, "NFTA_HOOK_HOOKNUM")?;
        let priority = hook.required(nfta::HOOK_PRIORITY, "NFTA_HOOK_PRIORITY")?;
        let kind = a.name(nfta::CHAIN_TYPE, "NFTA_CHAIN_TYPE")?;
        Ok(Self {
            hook: match (number, device) {
                (0, None) => Hook::Prerouting,
                (1, None) => Hook::Input,
                (2, None) => Hook::Forward,
                (3, None) => Hook::Output,
                (4, None) => Hook::Postrouting,
                (1, Some(device)) => Hook::Egress(device),
                (found, _) => return Err(WireError::Value { what: "hook", found: found.into() }),
            },
            priority: i32::from_be_bytes(fixed("NFTA_HOOK_PRIORITY", priority)?),
            policy: match a.u32(nfta::CHAIN_POLICY, "NFTA_CHAIN_POLICY")? {
                0 => Policy::Drop,
                1 => Policy::Accept,
                found => return Err(WireError::Value { what: "policy", found: found.into() }),
            },
            kind: match kind.as_str() {
                "filter" => ChainType::Filter,
                "nat" => ChainType::Nat,
                _ => return Err(WireError::Name { what: "chain type" }),
            },
        })
    }
}

impl ChainType {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

impl RuleObject {
    pub(crate) fn write(&self) -> Result<Vec<u8>, WireError> {
        let mut w = Writer::default();
        w.name(nfta::ANY_TABLE, "table", &self.table).name(nfta::RULE_CHAIN, "chain", &self.chain);
        w.nest(nfta::RULE_EXPRESSIONS, "rule", |list| {
            for expression in &self.expressions {
                list.nest(nfta::LIST_ELEM, "expression", |e| expression.write(e));
            }
        });
        w.finish()
    }

    pub(crate) fn read(body: &[u8]) -> Result<Self, WireError> {
        let a = Attributes::parse("rule", body)?;
        let expressions = match a.get(nfta::RULE_EXPRESSIONS) {
            Some(list) => {
                let list = Attributes::parse("NFTA_RULE_EXPRESSIONS", list)?;
                list.iter().map(|(_, bytes)| Expression::read(bytes)).collect::<Result<_, _>>()?
            }
            None => Vec::new(),
        };
        Ok(Self {
            table: a.name(nfta::ANY_TABLE, "NFTA_RULE_TABLE")?,
            chain: a.name(nfta::RULE_CHAIN, "NFTA_RULE_CHAIN")?,
            expressions,
        })
    }
}

impl SetObject {
    /// `id` names the set inside one transaction; the kernel asks for it and does not keep it.
    pub(crate) fn write(&self, id: u32) -> Result<Vec<u8>, WireError> {
        let mut w = Writer::default();
        w.name(nfta::ANY_TABLE, "table", &self.table)
            .name(nfta::SET_NAME, "set", &self.name)
            .u32(nfta::SET_FLAGS, "flags", 0)
            .u32(nfta::SET_KEY_TYPE, "key type", self.kind as u32)
            .u32(nfta::SET_KEY_LEN, "key length", self.kind.key_length())
            .u32(nfta::SET_ID, "id", id);
        w.finish()
    }

    pub(crate) fn read(body: &[u8]) -> Result<Self, WireError> {
        let a = Attributes::parse("set", body)?;
        if let Some(flags) = a.optional_u32(nfta::SET_FLAGS, "NFTA_SET_FLAGS")?.filter(|&f| f != 0) {
            return Err(WireError::Value { what: "set flags", found: flags.into() });
        }
        let kind = match a.u32(nfta::SET_KEY_TYPE, "NFTA_SET_KEY_TYPE")? {
            7 => SetType::Ipv4,
            8 => SetType::Ipv6,
            found => return Err(WireError::Value { what: "set key type", found: found.into() }),
        };
        match a.u32(nfta::SET_KEY_LEN, "NFTA_SET_KEY_LEN")? {
            length if length == kind.key_length() => {}
            found => return Err(WireError::Value { what: "set key length", found: found.into() }),
        }
        Ok(Self {
            table: a.name(nfta::ANY_TABLE, "NFTA_SET_TABLE")?,
            name: a.name(nfta::SET_NAME, "NFTA_SET_NAME")?,
            kind,
        })
    }
}

impl ElementsObject {
    /// Without keys the body names the set only: in a delete message that means all of its elements.
    pub(crate) fn write(&self) -> Result<Vec<u8>, WireError> {
        let mut w = Writer::default();
        w.name(nfta::ANY_TABLE, "table", &self.table).name(nfta::LIST_SET, "set", &self.set);
        if !self.keys.is_empty() {
            w.nest(nfta::LIST_ELEMENTS, "elements", |list| {
                for key in &self.keys {
                    list.nest(nfta::LIST_ELEM, "element", |e| {
                        e.nest(nfta::ELEM_KEY, "key", |k| {
                            k.bytes(nfta::DATA_VALUE, "key", key);
                        });
                    });
                }
            });
        }
        w.finish()
    }

    pub(crate) fn read(body: &[u8]) -> Result<Self, WireError> {
        let a = Attributes::parse("set elements", body)?;
        let keys = match a.get(nfta::LIST_ELEMENTS) {
            Some(list) => {
                let list = Attributes::parse("NFTA_SET_ELEM_LIST_ELEMENTS", list)?;
                list.iter().map(|(_, bytes)| read_key(bytes)).collect::<Result<_, _>>()?
            }
            None => Vec::new(),
        };
        Ok(Self {
            table: a.name(nfta::ANY_TABLE, "NFTA_SET_ELEM_LIST_TABLE")?,
            set: a.name(nfta::LIST_SET, "NFTA_SET_ELEM_LIST_SET")?,
            keys,
        })
    }
}

fn read_key(bytes: &[u8]) -> Result<Vec<u8>, WireError> {
    let element = Attributes::parse("set element", bytes)?;
    if let Some(flags) = element.optional_u32(nfta::ELEM_FLAGS, "NFTA_SET_ELEM_FLAGS")?.filter(|&f| f != 0) {
        // A catch-all element would match every address.
        return Err(WireError::Value { what: "set element flags", found: flags.into() });
    }
    let key = element.nested(nfta::ELEM_KEY, "NFTA_SET_ELEM_KEY")?;
    Ok(key.required(nfta::DATA_VALUE, "NFTA_DATA_VALUE")?.to_vec())
}

impl CounterObject {
    pub(crate) fn write(&self) -> Result<Vec<u8>, WireError> {
        let mut w = Writer::default();
        w.name(nfta::ANY_TABLE, "table", &self.table)
            .name(nfta::OBJ_NAME, "counter", &self.name)
            .u32(nfta::OBJ_TYPE, "type", OBJECT_COUNTER)
            .nest(nfta::OBJ_DATA, "data", |d| {
                d.bytes(nfta::COUNTER_BYTES, "bytes", &self.bytes.to_be_bytes()).bytes(
                    nfta::COUNTER_PACKETS,
                    "packets",
                    &self.packets.to_be_bytes(),
                );
            });
        w.finish()
    }

    pub(crate) fn read(body: &[u8]) -> Result<Self, WireError> {
        let a = Attributes::parse("counter", body)?;
        match a.u32(nfta::OBJ_TYPE, "NFTA_OBJ_TYPE")? {
            OBJECT_COUNTER => {}
            found => return Err(WireError::Value { what: "object type", found: found.into() }),
        }
        let data = a.nested(nfta::OBJ_DATA, "NFTA_OBJ_DATA")?;
        Ok(Self {
            table: a.name(nfta::ANY_TABLE, "NFTA_OBJ_TABLE")?,
            name: a.name(nfta::OBJ_NAME, "NFTA_OBJ_NAME")?,
            packets: data.u64(nfta::COUNTER_PACKETS, "NFTA_COUNTER_PACKETS")?,
            bytes: data.u64(nfta::COUNTER_BYTES, "NFTA_COUNTER_BYTES")?,
        })
    }
}
