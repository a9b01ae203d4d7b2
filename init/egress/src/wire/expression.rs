//! Expressions: the instructions of a rule.

use super::attribute::{Attributes, WireError, Writer, text};

/// A data register of 16 bytes (`enum nft_registers`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    R1 = 1,
    R2 = 2,
}

/// `NFT_REG_VERDICT`.
const VERDICT_REGISTER: u32 = 0;

/// `enum nft_meta_keys`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetaKey {
    Length = 0,
    Protocol = 1,
    Mark = 3,
    InputIndex = 4,
    InputName = 6,
    OutputName = 7,
    SocketUid = 10,
    Nfproto = 15,
    L4proto = 16,
}

/// `enum nft_ct_keys`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CtKey {
    State = 0,
    Direction = 1,
    Mark = 3,
}

/// `enum nft_payload_bases`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Link = 0,
    Network = 1,
    Transport = 2,
}

/// `enum nft_cmp_ops`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CmpOp {
    Equal = 0,
    NotEqual = 1,
    AtLeast = 5,
}

/// Where a packet goes on (`NF_DROP`, `NF_ACCEPT` of linux/netfilter.h, `enum nft_verdicts`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Drop,
    Accept,
    Jump(String),
    Goto(String),
}

const JUMP: u32 = (-3i32).cast_unsigned();
const GOTO: u32 = (-4i32).cast_unsigned();

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expression {
    Meta {
        key: MetaKey,
        to: Register,
    },
    SetMeta {
        key: MetaKey,
        from: Register,
    },
    Ct {
        key: CtKey,
        to: Register,
    },
    SetCt {
        key: CtKey,
        from: Register,
    },
    Payload {
        base: Base,
        offset: u32,
        length: u32,
        to: Register,
    },
    Compare {
        register: Register,
        op: CmpOp,
        value: Vec<u8>,
    },
    /// `register = register & mask`.
    Mask {
        register: Register,
        mask: Vec<u8>,
    },
    Lookup {
        set: String,
        register: Register,
    },
    Load {
        to: Register,
        value: Vec<u8>,
    },
    Verdict(Verdict),
    /// A named counter of the table.
    Counter(String),
    Masquerade {
        flags: u32,
        ports: Option<(Register, Register)>,
    },
    /// What the routing table takes the destination for (`RTN_*` of linux/rtnetlink.h).
    DestinationType {
        to: Register,
    },
}

macro_rules! from_u32 {
    ($type:ident, $what:literal: $($variant:ident),+) => {
        impl $type {
            fn read(found: u32) -> Result<Self, WireError> {
                match found {
                    $(v if v == Self::$variant as u32 => Ok(Self::$variant),)+
                    _ => Err(WireError::Value { what: $what, found: found.into() }),
                }
            }
        }
    };
}
from_u32!(Register, "register": R1, R2);
from_u32!(MetaKey, "meta key": Length, Protocol, Mark, InputIndex, InputName, OutputName, SocketUid, Nfproto, L4proto);
from_u32!(CtKey, "ct key": State, Direction, Mark);
from_u32!(Base, "payload base": Link, Network, Transport);
from_u32!(CmpOp, "cmp operation": Equal, NotEqual, AtLeast);

/// `NFT_OBJECT_COUNTER`.
pub(super) const OBJECT_COUNTER: u32 = 1;

/// `NFT_FIB_RESULT_ADDRTYPE` and `NFTA_FIB_F_DADDR` (linux/netfilter/nf_tables.h).
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_DESTINATION: u32 = 2;

/// Attribute numbers (`NFTA_*`).
mod nfta {
    pub(super) const EXPR_NAME: u16 = 1;
    pub(super) const EXPR_DATA: u16 = 2;
    pub(super) const DATA_VALUE: u16 = 1;
    pub(super) const DATA_VERDICT: u16 = 2;
    pub(super) const VERDICT_CODE: u16 = 1;
    pub(super) const VERDICT_CHAIN: u16 = 2;
    pub(super) const META_DREG: u16 = 1;
    pub(super) const META_KEY: u16 = 2;
    pub(super) const META_SREG: u16 = 3;
    pub(super) const CT_DREG: u16 = 1;
    pub(super) const CT_KEY: u16 = 2;
    pub(super) const CT_SREG: u16 = 4;
    pub(super) const PAYLOAD_DREG: u16 = 1;
    pub(super) const PAYLOAD_BASE: u16 = 2;
    pub(super) const PAYLOAD_OFFSET: u16 = 3;
    pub(super) const PAYLOAD_LEN: u16 = 4;
    pub(super) const CMP_SREG: u16 = 1;
    pub(super) const CMP_OP: u16 = 2;
    pub(super) const CMP_DATA: u16 = 3;
    pub(super) const BITWISE_SREG: u16 = 1;
    pub(super) const BITWISE_DREG: u16 = 2;
    pub(super) const BITWISE_LEN: u16 = 3;
    pub(super) const BITWISE_MASK: u16 = 4;
    pub(super) const BITWISE_XOR: u16 = 5;
    pub(super) const BITWISE_OP: u16 = 6;
    pub(super) const LOOKUP_SET: u16 = 1;
    pub(super) const LOOKUP_SREG: u16 = 2;
    pub(super) const LOOKUP_FLAGS: u16 = 5;
    pub(super) const IMMEDIATE_DREG: u16 = 1;
    pub(super) const IMMEDIATE_DATA: u16 = 2;
    pub(super) const OBJREF_IMM_TYPE: u16 = 1;
    pub(super) const OBJREF_IMM_NAME: u16 = 2;
    pub(super) const MASQ_FLAGS: u16 = 1;
    pub(super) const MASQ_REG_PROTO_MIN: u16 = 2;
    pub(super) const MASQ_REG_PROTO_MAX: u16 = 3;
    pub(super) const FIB_DREG: u16 = 1;
    pub(super) const FIB_RESULT: u16 = 2;
    pub(super) const FIB_FLAGS: u16 = 3;
}
use nfta::*;

impl Expression {
    /// Writes `NFTA_EXPR_NAME` and `NFTA_EXPR_DATA`.
    pub(crate) fn write(&self, out: &mut Writer) {
        let name = self.name();
        out.name(EXPR_NAME, "NFTA_EXPR_NAME", name);
        out.nest(EXPR_DATA, name, |d| self.write_data(d));
    }

    /// The kernel's name of the expression's type.
    const fn name(&self) -> &'static str {
        match self {
            Self::Meta { .. } | Self::SetMeta { .. } => "meta",
            Self::Ct { .. } | Self::SetCt { .. } => "ct",
            Self::Payload { .. } => "payload",
            Self::Compare { .. } => "cmp",
            Self::Mask { .. } => "bitwise",
            Self::Lookup { .. } => "lookup",
            Self::Load { .. } | Self::Verdict(_) => "immediate",
            Self::Counter(_) => "objref",
            Self::Masquerade { .. } => "masq",
            Self::DestinationType { .. } => "fib",
        }
    }

    fn write_data(&self, d: &mut Writer) {
        match self {
            Self::Meta { key, to } => {
                d.u32(META_DREG, "register", *to as u32).u32(META_KEY, "key", *key as u32);
            }
            Self::SetMeta { key, from } => {
                d.u32(META_SREG, "register", *from as u32).u32(META_KEY, "key", *key as u32);
            }
            Self::Ct { key, to } => {
                d.u32(CT_DREG, "register", *to as u32).u32(CT_KEY, "key", *key as u32);
            }
            Self::SetCt { key, from } => {
                d.u32(CT_SREG, "register", *from as u32).u32(CT_KEY, "key", *key as u32);
            }
            Self::Payload { base, offset, length, to } => {
                d.u32(PAYLOAD_DREG, "register", *to as u32)
                    .u32(PAYLOAD_BASE, "base", *base as u32)
                    .u32(PAYLOAD_OFFSET, "offset", *offset)
                    .u32(PAYLOAD_LEN, "length", *length);
            }
            Self::Compare { register, op, value } => {
                d.u32(CMP_SREG, "register", *register as u32).u32(CMP_OP, "operation", *op as u32);
                write_value(d, CMP_DATA, value);
            }
            Self::Mask { register, mask } => {
                let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
                d.u32(BITWISE_SREG, "register", *register as u32)
                    .u32(BITWISE_DREG, "register", *register as u32)
                    .u32(BITWISE_LEN, "length", length);
                write_value(d, BITWISE_MASK, mask);
                write_value(d, BITWISE_XOR, &vec![0; mask.len()]);
            }
            Self::Lookup { set, register } => {
                d.name(LOOKUP_SET, "set", set).u32(LOOKUP_SREG, "register", *register as u32);
            }
            Self::Load { to, value } => {
                d.u32(IMMEDIATE_DREG, "register", *to as u32);
                write_value(d, IMMEDIATE_DATA, value);
            }
            Self::Verdict(verdict) => {
                d.u32(IMMEDIATE_DREG, "register", VERDICT_REGISTER);
                d.nest(IMMEDIATE_DATA, "verdict", |d| {
                    d.nest(DATA_VERDICT, "verdict", |v| verdict.write(v));
                });
            }
            Self::Counter(name) => {
                d.u32(OBJREF_IMM_TYPE, "type", OBJECT_COUNTER).name(OBJREF_IMM_NAME, "name", name);
            }
            Self::Masquerade { flags, ports } => {
                d.u32(MASQ_FLAGS, "flags", *flags);
                if let Some((min, max)) = ports {
                    d.u32(MASQ_REG_PROTO_MIN, "register", *min as u32);
                    d.u32(MASQ_REG_PROTO_MAX, "register", *max as u32);
                }
            }
            Self::DestinationType { to } => {
                d.u32(FIB_DREG, "register", *to as u32).u32(FIB_RESULT, "result", FIB_ADDRESS_TYPE).u32(
                    FIB_FLAGS,
                    "flags",
                    FIB_DESTINATION,
                );
            }
        }
    }

    /// Reads one `NFTA_LIST_ELEM` of a rule.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, WireError> {
        let outer = Attributes::parse("expression", bytes)?;
        let name = text("NFTA_EXPR_NAME", outer.required(EXPR_NAME, "NFTA_EXPR_NAME")?)?;
        let data = outer.required(EXPR_DATA, "NFTA_EXPR_DATA")?;
        match name.as_str() {
            "meta" => read_meta(&Attributes::parse("meta", data)?),
            "ct" => read_ct(&Attributes::parse("ct", data)?),
            "payload" => read_payload(&Attributes::parse("payload", data)?),
            "cmp" => read_compare(&Attributes::parse("cmp", data)?),
            "bitwise" => read_mask(&Attributes::parse("bitwise", data)?),
            "lookup" => read_lookup(&Attributes::parse("lookup", data)?),
            "immediate" => read_immediate(&Attributes::parse("immediate", data)?),
            "objref" => read_counter(&Attributes::parse("objref", data)?),
            "masq" => read_masquerade(&Attributes::parse("masq", data)?),
            "fib" => read_destination_type(&Attributes::parse("fib", data)?),
            _ => Err(WireError::UnknownExpression(name)),
        }
    }
}

impl Verdict {
    fn write(&self, out: &mut Writer) {
        let (code, chain) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Jump(chain) => (JUMP, Some(chain)),
            Self::Goto(chain) => (GOTO, Some(chain)),
        };
        out.u32(VERDICT_CODE, "code", code);
        if let Some(chain) = chain {
            out.name(VERDICT_CHAIN, "chain", chain);
        }
    }

    fn read(a: &Attributes<'_>) -> Result<Self, WireError> {
        a.only(&[VERDICT_CODE, VERDICT_CHAIN])?;
        let chain = || a.name(VERDICT_CHAIN, "NFTA_VERDICT_CHAIN");
        match a.u32(VERDICT_CODE, "NFTA_VERDICT_CODE")? {
            0 => Ok(Self::Drop),
            1 => Ok(Self::Accept),
            JUMP => Ok(Self::Jump(chain()?)),
            GOTO => Ok(Self::Goto(chain()?)),
            found => Err(WireError::Value { what: "verdict", found: found.into() }),
        }
    }
}

fn write_value(out: &mut Writer, kind: u16, value: &[u8]) {
    out.nest(kind, "value", |d| {
        d.bytes(DATA_VALUE, "value", value);
    });
}

fn read_value(a: &Attributes<'_>, kind: u16, attribute: &'static str) -> Result<Vec<u8>, WireError> {
    let inner = a.nested(kind, attribute)?;
    inner.only(&[DATA_VALUE])?;
    Ok(inner.required(DATA_VALUE, "NFTA_DATA_VALUE")?.to_vec())
}

fn register(a: &Attributes<'_>, kind: u16, attribute: &'static str) -> Result<Register, WireError> {
    Register::read(a.u32(kind, attribute)?)
}

fn read_meta(a: &Attributes<'_>) -> Result<Expression, WireError> {
    a.only(&[META_DREG, META_KEY, META_SREG])?;
    let key = MetaKey::read(a.u32(META_KEY, "NFTA_META_KEY")?)?;
    Ok(if a.get(META_SREG).is_some() {
        Expression::SetMeta { key, from: register(a, META_SREG, "NFTA_META_SREG")? }
    } else {
        Expression::Meta { key, to: register(a, META_DREG, "NFTA_META_DREG")? }
    })
}

fn read_ct(a: &Attributes<'_>) -> Result<Expression, WireError> {
    a.only(&[CT_DREG, CT_KEY, CT_SREG])?;
    let key = CtKey::read(a.u32(CT_KEY, "NFTA_CT_KEY")?)?;
    Ok(if a.get(CT_SREG).is_some() {
        Expression::SetCt { key, from: register(a, CT_SREG, "NFTA_CT_SREG")? }
    } else {
        Expression::Ct { key, to: register(a, CT_DREG, "NFTA_CT_DREG")? }
    })
}

fn read_payload(a: &Attributes<'_>) -> Result<Expression, WireError> {
    a.only(&[PAYLOAD_DREG, PAYLOAD_BASE, PAYLOAD_OFFSET, PAYLOAD_LEN])?;
    Ok(Expression::Payload {
        base: Base::read(a.u32(PAYLOAD_BASE, "NFTA_PAYLOAD_BASE")?)?,
        offset: a.u32(PAYLOAD_OFFSET, "NFTA_PAYLOAD_OFFSET")?,
        length: a.u32(PAYLOAD_LEN, "NFTA_PAYLOAD_LEN")?,
        to: register(a, PAYLOAD_DREG, "NFTA_PAYLOAD_DREG")?,
    })
}

fn read_compare(a: &Attributes<'_>) -> Result<Expression, WireError> {
    a.only(&[CMP_SREG, CMP_OP, CMP_DATA])?;
    Ok(Expression::Compare {
        register: register(a, CMP_SREG, "NFTA_CMP_SREG")?,
        op: CmpOp::read(a.u32(CMP_OP, "NFTA_CMP_OP")?)?,
        value: read_value(a, CMP_DATA, "NFTA_CMP_DATA")?,
    })
}

fn read_mask(a: &Attributes<'_>) -> Result<Expression, WireError> {
    a.only(&[BITWISE_SREG, BITWISE_DREG, BITWISE_LEN, BITWISE_MASK, BITWISE_XOR, BITWISE_OP])?;
    // NFT_BITWISE_MASK_XOR: older kernels leave the attribute out.
    if let Some(op) = a.optional_u32(BITWISE_OP, "NFTA_BITWISE_OP")?.filter(|&op| op != 0) {
        return Err(WireError::Value { what: "bitwise operation", found: op.into() });
    }
    let source = register(a, BITWISE_SREG, "NFTA_BITWISE_SREG")?;
    let to = register(a, BITWISE_DREG, "NFTA_BITWISE_DREG")?;
    let mask = read_value(a, BITWISE_MASK, "NFTA_BITWISE_MASK")?;
    let length = a.u32(BITWISE_LEN, "NFTA_BITWISE_LEN")?;
    if source != to {
        return Err(WireError::Value { what: "bitwise target register", found: to as u64 });
    }
    if usize::try_from(length) != Ok(mask.len()) {
        return Err(WireError::Value { what: "bitwise length", found: length.into() });
    }
    if read_value(a, BITWISE_XOR, "NFTA_BITWISE_XOR")?.iter().any(|&b| b != 0) {
        return Err(WireError::Value { what: "bitwise xor", found: 1 });
    }
    Ok(Expression::Mask { register: to, mask })
}

fn read_lookup(a: &Attributes<'_>) -> Result<Expression, WireError> {
    a.only(&[LOOKUP_SET, LOOKUP_SREG, LOOKUP_FLAGS])?;
    // NFT_LOOKUP_F_INV would turn the rule around.
    if let Some(flags) = a.optional_u32(LOOKUP_FLAGS, "NFTA_LOOKUP_FLAGS")?.filter(|&f| f != 0) {
        return Err(WireError::Value { what: "lookup flags", found: flags.into() });
    }
    Ok(Expression::Lookup {
        set: a.name(LOOKUP_SET, "NFTA_LOOKUP_SET")?,
        register: register(a, LOOKUP_SREG, "NFTA_LOOKUP_SREG")?,
    })
}

fn read_immediate(a: &Attributes<'_>) -> Result<Expression, WireError> {
    a.only(&[IMMEDIATE_DREG, IMMEDIATE_DATA])?;
    if a.u32(IMMEDIATE_DREG, "NFTA_IMMEDIATE_DREG")? == VERDICT_REGISTER {
        let data = a.nested(IMMEDIATE_DATA, "NFTA_IMMEDIATE_DATA")?;
        data.only(&[DATA_VERDICT])?;
        return Verdict::read(&data.nested(DATA_VERDICT, "NFTA_DATA_VERDICT")?).map(Expression::Verdict);
    }
    Ok(Expression::Load {
        to: register(a, IMMEDIATE_DREG, "NFTA_IMMEDIATE_DREG")?,
        value: read_value(a, IMMEDIATE_DATA, "NFTA_IMMEDIATE_DATA")?,
    })
}

fn read_counter(a: &Attributes<'_>) -> Result<Expression, WireError> {
    a.only(&[OBJREF_IMM_TYPE, OBJREF_IMM_NAME])?;
    match a.u32(OBJREF_IMM_TYPE, "NFTA_OBJREF_IMM_TYPE")? {
        OBJECT_COUNTER => Ok(Expression::Counter(a.name(OBJREF_IMM_NAME, "NFTA_OBJREF_IMM_NAME")?)),
        found => Err(WireError::Value { what: "object type", found: found.into() }),
    }
}

fn read_destination_type(a: &Attributes<'_>) -> Result<Expression, WireError> {
    a.only(&[FIB_DREG, FIB_RESULT, FIB_FLAGS])?;
    let only = |what, kind, attribute, expected| match a.u32(kind, attribute)? {
        found if found == expected => Ok(()),
        found => Err(WireError::Value { what, found: found.into() }),
    };
    only("fib result", FIB_RESULT, "NFTA_FIB_RESULT", FIB_ADDRESS_TYPE)?;
    only("fib flags", FIB_FLAGS, "NFTA_FIB_FLAGS", FIB_DESTINATION)?;
    Ok(Expression::DestinationType { to: register(a, FIB_DREG, "NFTA_FIB_DREG")? })
}

fn read_masquerade(a: &Attributes<'_>) -> Result<Expression, WireError> {
    a.only(&[MASQ_FLAGS, MASQ_REG_PROTO_MIN, MASQ_REG_PROTO_MAX])?;
    let ports = match a.get(MASQ_REG_PROTO_MIN) {
        Some(_) => Some((
            register(a, MASQ_REG_PROTO_MIN, "NFTA_MASQ_REG_PROTO_MIN")?,
            register(a, MASQ_REG_PROTO_MAX, "NFTA_MASQ_REG_PROTO_MAX")?,
        )),
        None => None,
    };
    let flags = a.optional_u32(MASQ_FLAGS, "NFTA_MASQ_FLAGS")?.unwrap_or(0);
    Ok(Expression::Masquerade { flags, ports })
}
