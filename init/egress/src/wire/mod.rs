//! The subset of the nf_tables netlink protocol that the lock uses: encoder and decoder of the same types, so that
//! what the kernel says back can be compared with what was meant. Numbers are those of linux/netfilter/nf_tables.h.

mod attribute;
mod expression;
mod message;
mod object;

#[cfg(test)]
mod tests;

pub use attribute::WireError;
pub(crate) use expression::{Base, CmpOp, CtKey, Expression, MetaKey, Register, Verdict};
pub(crate) use message::{Incoming, Kind, Outgoing, batch, dump_request, incoming};
pub(crate) use object::{
    BaseChain, ChainObject, ChainType, CounterObject, ElementsObject, Family, Hook, Object, Policy,
    RuleObject, SetObject, SetType, TableObject, table_of,
};
