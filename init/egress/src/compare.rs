//! What the kernel says against what was meant. Pure.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::ruleset::Ruleset;
use crate::wire::{
    ChainObject, CounterObject, ElementsObject, RuleObject, SetObject, TableObject, WireError, table_of,
};

/// Everything of one table, as read back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) tables: Vec<TableObject>,
    pub(crate) chains: Vec<ChainObject>,
    pub(crate) rules: Vec<RuleObject>,
    pub(crate) sets: Vec<SetObject>,
    pub(crate) elements: Vec<ElementsObject>,
    pub(crate) counters: Vec<CounterObject>,
}

/// The first difference found.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{place}: expected {expected}, found {found}")]
pub struct Difference {
    /// Where: table, chain, rule.
    pub place: String,
    /// What was meant.
    pub expected: String,
    /// What the kernel has.
    pub found: String,
}

/// Decodes those bodies that belong to `table`: a dump may hold the objects of others, whose form is none of our business.
pub(crate) fn of_table<T>(
    table: &str,
    bodies: &[Vec<u8>],
    read: impl Fn(&[u8]) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let mut objects = Vec::new();
    for body in bodies {
        if table_of(body)? == table {
            objects.push(read(body)?);
        }
    }
    Ok(objects)
}

/// Fails at the first difference. `owner` is the netlink port of the socket that must own the table.
pub(crate) fn compare(meant: &Ruleset, owner: u32, found: &Found) -> Result<(), Difference> {
    let table = meant.table.as_str();
    let expected = vec![TableObject { name: table.to_owned(), owner: Some(owner), persist: meant.persist }];
    same(|| format!("table {table}"), &expected, &found.tables)?;

    let chains = meant.chains.iter().map(|chain| chain.object(table));
    named(table, "chain", chains.map(|c| (c.name.clone(), c)), found.chains.iter().map(|c| (&c.name, c)))?;

    let sets = meant.sets.iter().map(|set| meant.set_object(set));
    named(table, "set", sets.map(|s| (s.name.clone(), s)), found.sets.iter().map(|s| (&s.name, s)))?;

    let names = |counters: &mut dyn Iterator<Item = &String>| {
        let mut names: Vec<_> = counters.cloned().collect();
        names.sort();
        names
    };
    let expected = names(&mut meant.counters.iter());
    same(|| format!("counters of {table}"), &expected, &names(&mut found.counters.iter().map(|c| &c.name)))?;

    for set in &meant.sets {
        let mut expected = set.object(table).keys;
        let of_set = found.elements.iter().filter(|e| e.set == set.name);
        let mut keys: Vec<_> = of_set.flat_map(|e| e.keys.clone()).collect();
        expected.sort();
        keys.sort();
        same(|| format!("elements of set {table} {}", set.name), &expected, &keys)?;
    }

    for chain in &meant.chains {
        let expected: Vec<_> = chain.rules.iter().map(|rule| meant.rule_object(chain, rule)).collect();
        let rules: Vec<_> = found.rules.iter().filter(|rule| rule.chain == chain.name).collect();
        same(|| format!("number of rules of chain {table} {}", chain.name), &expected.len(), &rules.len())?;
        for (i, (expected, found)) in expected.iter().zip(rules).enumerate() {
            same(
                || format!("rule {} of chain {table} {}", i + 1, chain.name),
                &expected.expressions,
                &found.expressions,
            )?;
        }
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug>(
    place: impl FnOnce() -> String,
    expected: &T,
    found: &T,
) -> Result<(), Difference> {
    if expected == found {
        return Ok(());
    }
    Err(Difference { place: place(), expected: format!("{expected:?}"), found: format!("{found:?}") })
}

fn named<'a, T: PartialEq + std::fmt::Debug + 'a>(
    table: &str,
    what: &str,
    expected: impl Iterator<Item = (String, T)>,
    found: impl Iterator<Item = (&'a String, &'a T)>,
) -> Result<(), Difference> {
    let expected: BTreeMap<_, _> = expected.collect();
    let found: BTreeMap<_, _> = found.collect();
    for (name, object) in &expected {
        same(|| format!("{what} {table} {name}"), &Some(object), &found.get(name).copied())?;
    }
    match found.iter().find(|(name, _)| !expected.contains_key(**name)) {
        Some((name, object)) => same(|| format!("{what} {table} {name}"), &None, &Some(object)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Mode, Policy};
    use crate::wire::{Expression, Object, Outgoing, Verdict};
    use crate::{link_ruleset, ruleset};

    const OWNER: u32 = 77;

    /// What a faithful kernel would have.
    fn faithful(meant: &Ruleset) -> Found {
        let mut found = Found::default();
        for change in meant.creation() {
            match change {
                Outgoing::Add(_, Object::Table(t)) => {
                    found.tables.push(TableObject { owner: Some(OWNER), ..t });
                }
                Outgoing::Add(_, Object::Chain(c)) => found.chains.push(c),
                Outgoing::Add(_, Object::Rule(r)) => found.rules.push(r),
                Outgoing::Add(_, Object::Set(s)) => found.sets.push(s),
                Outgoing::Add(_, Object::Elements(e)) => found.elements.push(e),
                Outgoing::Add(_, Object::Counter(c)) => found.counters.push(c),
                Outgoing::Empty(..) => panic!("a creation empties nothing"),
            }
        }
        found
    }

    fn policy() -> Policy {
        crate::rules::tests::policy(Mode::ExternalAllowed)
    }

    #[track_caller]
    fn differs(meant: &Ruleset, change: impl FnOnce(&mut Found), place: &str) {
        let mut found = faithful(meant);
        change(&mut found);
        assert_eq!(compare(meant, OWNER, &found).unwrap_err().place, place);
    }

    #[test]
    fn the_same_is_the_same() {
        for meant in [ruleset(&policy()), link_ruleset(&policy().link, None)] {
            let mut found = faithful(&meant);
            assert_eq!(compare(&meant, OWNER, &found), Ok(()));
            // The kernel lists chains, sets and counters in its own order, and counts.
            found.chains.reverse();
            found.sets.reverse();
            found.counters.reverse();
            found.counters.iter_mut().for_each(|c| c.packets = 9);
            assert_eq!(compare(&meant, OWNER, &found), Ok(()));
        }
    }

    #[test]
    fn every_single_rule_counts() {
        let meant = ruleset(&policy());
        for i in 0..meant.chains.iter().map(|c| c.rules.len()).sum() {
            let mut missing = faithful(&meant);
            missing.rules.remove(i);
            assert!(compare(&meant, OWNER, &missing).is_err(), "rule {i} missing");
            let mut opened = faithful(&meant);
            let last = opened.rules[i].expressions.pop();
            opened.rules[i].expressions.push(Expression::Verdict(Verdict::Accept));
            if last != Some(Expression::Verdict(Verdict::Accept)) {
                assert!(compare(&meant, OWNER, &opened).is_err(), "rule {i} opened");
            }
        }
    }

    #[test]
    fn differences_are_named() {
        let meant = ruleset(&policy());
        differs(&meant, |f| f.tables.clear(), "table casemate");
        differs(&meant, |f| f.tables[0].owner = None, "table casemate");
        differs(&meant, |f| f.tables[0].owner = Some(78), "table casemate");
        differs(&meant, |f| f.tables[0].persist = false, "table casemate");
        differs(
            &meant,
            |f| f.chains[3].base.as_mut().unwrap().policy = crate::wire::Policy::Accept,
            "chain casemate output",
        );
        differs(&meant, |f| drop(f.chains.remove(3)), "chain casemate output");
        let extra = |f: &mut Found| {
            let mut chain = f.chains[3].clone();
            chain.name = "zz".to_owned();
            f.chains.push(chain);
        };
        differs(&meant, extra, "chain casemate zz");
        differs(&meant, |f| drop(f.counters.pop()), "counters of casemate");
        differs(&meant, |f| f.rules.swap(0, 1), "rule 1 of chain casemate prerouting");
        differs(
            &meant,
            |f| f.rules.insert(0, f.rules[0].clone()),
            "number of rules of chain casemate prerouting",
        );

        let link = link_ruleset(&policy().link, None);
        differs(&link, |f| drop(f.sets.pop()), "set casemate_eth0 gateway6_eth0");
        let stowaway = |f: &mut Found| {
            f.elements.push(ElementsObject {
                table: "casemate_eth0".to_owned(),
                set: "own4_eth0".to_owned(),
                keys: vec![vec![10, 9, 0, 3]],
            });
        };
        differs(&link, stowaway, "elements of set casemate_eth0 own4_eth0");
    }

    #[test]
    fn other_tables_are_not_read() {
        let ours = TableObject { name: "casemate".to_owned(), owner: None, persist: true }.write().unwrap();
        // Something of another table that is no table of our kind.
        let theirs =
            ChainObject { table: "evil".to_owned(), name: "x".to_owned(), base: None }.write().unwrap();
        assert_eq!(of_table("casemate", &[theirs.clone(), ours], TableObject::read).unwrap().len(), 1);
        assert!(of_table("evil", &[theirs], TableObject::read).is_err());
    }
}
