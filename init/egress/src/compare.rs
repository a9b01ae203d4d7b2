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
    let expected = vec![TableObject { name: table.to_owned(), owner: Some(owner) }];
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
