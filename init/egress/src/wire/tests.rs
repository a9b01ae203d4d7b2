//! decode(encode(x)) = x for everything that we can write, and no panic for anything that we can read.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::attribute::{Attributes, Writer};
use super::*;

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9:_.-]{1,64}"
}

fn register() -> impl Strategy<Value = Register> {
    prop_oneof![Just(Register::R1), Just(Register::R2)]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 1..=16)
}

fn meta_key() -> impl Strategy<Value = MetaKey> {
    use MetaKey::*;
    proptest::sample::select(vec![
        Length, Protocol, Mark, InputIndex, InputName, OutputName, SocketUid, Nfproto, L4proto,
    ])
}

fn expression() -> impl Strategy<Value = Expression> {
    let ct_key = proptest::sample::select(vec![CtKey::State, CtKey::Direction, CtKey::Mark]);
    let base = proptest::sample::select(vec![Base::Link, Base::Network, Base::Transport]);
    let op = proptest::sample::select(vec![CmpOp::Equal, CmpOp::NotEqual, CmpOp::AtLeast]);
    let verdict = prop_oneof![
        Just(Verdict::Drop),
        Just(Verdict::Accept),
        name().prop_map(Verdict::Jump),
        name().prop_map(Verdict::Goto),
    ];
    prop_oneof![
        (meta_key(), register()).prop_map(|(key, to)| Expression::Meta { key, to }),
        (meta_key(), register()).prop_map(|(key, from)| Expression::SetMeta { key, from }),
        (ct_key.clone(), register()).prop_map(|(key, to)| Expression::Ct { key, to }),
        (ct_key, register()).prop_map(|(key, from)| Expression::SetCt { key, from }),
        (base, any::<u32>(), any::<u32>(), register())
            .prop_map(|(base, offset, length, to)| Expression::Payload { base, offset, length, to }),
        (register(), op, value()).prop_map(|(register, op, value)| Expression::Compare {
            register,
            op,
            value
        }),
        (register(), value()).prop_map(|(register, mask)| Expression::Mask { register, mask }),
        (name(), register()).prop_map(|(set, register)| Expression::Lookup { set, register }),
        (register(), value()).prop_map(|(to, value)| Expression::Load { to, value }),
        verdict.prop_map(Expression::Verdict),
        name().prop_map(Expression::Counter),
        (any::<u32>(), option::of((register(), register())))
            .prop_map(|(flags, ports)| Expression::Masquerade { flags, ports }),
        register().prop_map(|to| Expression::DestinationType { to }),
    ]
}

fn chain() -> impl Strategy<Value = ChainObject> {
    let hook = prop_oneof![
        Just(Hook::Prerouting),
        Just(Hook::Input),
        Just(Hook::Forward),
        Just(Hook::Output),
        Just(Hook::Postrouting),
        name().prop_map(Hook::Egress),
    ];
    let kind = prop_oneof![Just(ChainType::Filter), Just(ChainType::Nat)];
    let policy = prop_oneof![Just(Policy::Drop), Just(Policy::Accept)];
    let base = (kind, hook, any::<i32>(), policy).prop_map(|(kind, hook, priority, policy)| BaseChain {
        kind,
        hook,
        priority,
        policy,
    });
    (name(), name(), option::of(base)).prop_map(|(table, name, base)| ChainObject { table, name, base })
}

fn rule() -> impl Strategy<Value = RuleObject> {
    (name(), name(), vec(expression(), 0..20)).prop_map(|(table, chain, expressions)| RuleObject {
        table,
        chain,
        expressions,
    })
}

proptest! {
    #[test]
    fn an_expression_reads_back(x in expression()) {
        let mut w = Writer::default();
        x.write(&mut w);
        prop_assert_eq!(Expression::read(&w.finish().unwrap()), Ok(x));
    }

    #[test]
    fn a_rule_reads_back(x in rule()) {
        prop_assert_eq!(RuleObject::read(&x.write().unwrap()), Ok(x));
    }

    #[test]
    fn a_chain_reads_back(x in chain()) {
        prop_assert_eq!(ChainObject::read(&x.write().unwrap()), Ok(x));
    }

    #[test]
    fn a_set_and_its_elements_read_back(
        table in name(), set in name(), v6 in any::<bool>(), id in any::<u32>(), keys in vec(value(), 0..20),
    ) {
        let kind = if v6 { SetType::Ipv6 } else { SetType::Ipv4 };
        let x = SetObject { table: table.clone(), name: set.clone(), kind };
        prop_assert_eq!(SetObject::read(&x.write(id).unwrap()), Ok(x));
        let x = ElementsObject { table, set, keys };
        prop_assert_eq!(ElementsObject::read(&x.write().unwrap()), Ok(x));
    }

    #[test]
    fn a_counter_and_a_table_read_back(table in name(), name in name(), packets in any::<u64>(), bytes in any::<u64>()) {
        let x = TableObject { name: table.clone(), owner: None, persist: true };
        let body = x.write().unwrap();
        prop_assert_eq!(table_of(&body), Ok(table.clone()));
        prop_assert_eq!(TableObject::read(&body), Ok(x));
        let x = CounterObject { table, name, packets, bytes };
        prop_assert_eq!(CounterObject::read(&x.write().unwrap()), Ok(x));
    }

    #[test]
    fn a_batch_comes_apart_into_what_it_was_made_of(rules in vec(rule(), 1..6), first in any::<u32>()) {
        let changes: Vec<_> =
            rules.iter().map(|r| Outgoing::Add(Family::Inet, Object::Rule(r.clone()))).collect();
        let bytes = batch(first, &changes).unwrap();
        // Between the two edges (20 bytes each) the batch has the form of what the kernel sends.
        let inner = &bytes[20..bytes.len() - 20];
        let read: Vec<_> = incoming(inner).unwrap();
        prop_assert_eq!(read.len(), rules.len());
        for (i, (message, rule)) in read.iter().zip(&rules).enumerate() {
            let Incoming::Item { sequence, body, .. } = message else { panic!("{message:?}") };
            prop_assert_eq!(*sequence, first.wrapping_add(1 + u32::try_from(i).unwrap()));
            prop_assert_eq!(&RuleObject::read(body).unwrap(), rule);
        }
    }

    /// Truncation, flipped bits, noise: an error or another value, never a panic, never the same value from other bytes of
    /// an expression.
    #[test]
    fn a_changed_rule_never_passes_for_the_meant_one(x in rule(), at in any::<proptest::sample::Index>(), bit in 0u8..8) {
        let good = x.write().unwrap();
        let mut bad = good.clone();
        let i = at.index(bad.len());
        bad[i] ^= 1 << bit;
        if let Ok(y) = RuleObject::read(&bad) {
            // What may change unnoticed: padding, the nested and byte order bits of a type, the text's lost NUL.
            if y == x {
                prop_assert_eq!(y.write().unwrap(), good.clone());
            }
        }
        for length in 0..good.len() {
            let _any = RuleObject::read(&good[..length]);
        }
    }

    #[test]
    fn noise_is_no_panic(bytes in vec(any::<u8>(), 0..300)) {
        let _any = incoming(&bytes);
        let _any = RuleObject::read(&bytes);
        let _any = ChainObject::read(&bytes);
        let _any = SetObject::read(&bytes);
        let _any = ElementsObject::read(&bytes);
        let _any = CounterObject::read(&bytes);
        let _any = TableObject::read(&bytes);
    }
}

#[test]
fn what_we_do_not_write_is_named() {
    let expression = |name: &str, fill: &dyn Fn(&mut Writer)| {
        let mut w = Writer::default();
        w.name(1, "name", name).nest(2, "data", |d| fill(d));
        Expression::read(&w.finish().unwrap()).unwrap_err().to_string()
    };
    assert_eq!(expression("notrack", &|_| ()), "expression \"notrack\" is none of ours");
    let inverted = |d: &mut Writer| {
        d.name(1, "set", "own4").u32(2, "register", 1).u32(5, "flags", 1);
    };
    assert_eq!(expression("lookup", &inverted), "lookup flags: unexpected value 0x1");
    let queue = |d: &mut Writer| {
        d.u32(1, "register", 0).nest(2, "data", |v| {
            v.nest(2, "verdict", |v| {
                v.u32(1, "code", 3);
            });
        });
    };
    assert_eq!(expression("immediate", &queue), "verdict: unexpected value 0x3");
    let directional = |d: &mut Writer| {
        d.u32(1, "register", 1).u32(2, "key", 0).bytes(3, "direction", &[0]);
    };
    assert_eq!(expression("ct", &directional), "expression \"ct\" has attribute 3, which we never write");
    let shift = |d: &mut Writer| {
        d.u32(6, "operation", 1);
    };
    assert_eq!(expression("bitwise", &shift), "bitwise operation: unexpected value 0x1");
}

#[test]
fn a_table_with_other_flags_is_not_ours() {
    let mut w = Writer::default();
    w.name(1, "table", "casemate").u32(2, "flags", 1 | 2 | 4);
    let error = TableObject::read(&w.finish().unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "table flags: unexpected value 0x7");
}

#[test]
fn what_does_not_fit_is_an_error() {
    let mut w = Writer::default();
    w.nest(1, "outer", |o| {
        o.bytes(1, "inner", &vec![0; 65532]);
    });
    assert_eq!(w.finish(), Err(WireError::TooLong("inner")));
    let mut w = Writer::default();
    w.bytes(1, "most", &vec![0; 65531]);
    let bytes = w.finish().unwrap();
    assert_eq!(Attributes::parse("all", &bytes).unwrap().get(1).unwrap().len(), 65531);
}

/// A refused message of a batch: `-EPERM` for sequence 7 (from `struct nlmsgerr`).
#[test]
fn the_kernels_refusal_is_read() {
    let mut message = Vec::new();
    for word in [36u32, 2, 0, 0] {
        message.extend_from_slice(&word.to_ne_bytes());
    }
    message.extend_from_slice(&(-1i32).to_ne_bytes());
    for word in [20u32, 0, 7, 0] {
        message.extend_from_slice(&word.to_ne_bytes());
    }
    assert_eq!(incoming(&message), Ok(vec![Incoming::Refused { sequence: 7, errno: 1 }]));
    message[16..20].fill(0);
    assert_eq!(incoming(&message), Ok(vec![Incoming::Ack { sequence: 7 }]));
    assert!(matches!(incoming(&message[..30]), Err(WireError::Truncated { .. })));
}
