//! The rule set: one table, as people think of it. [`crate::term`] turns its rules into instructions, `Display` into text.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::term::{Compiler, Term};
use crate::wire::{
    BaseChain, ChainObject, CounterObject, ElementsObject, Family, Object, Outgoing, RuleObject, SetObject,
    SetType, TableObject, Verdict,
};

/// A table with everything in it. Made by [`crate::ruleset`], [`crate::link_ruleset`] and [`crate::guard_ruleset`]; `Display` prints it in the form
/// of `nft list table`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    pub(crate) family: Family,
    pub(crate) table: String,
    /// Whether it stays if the socket that made it is gone.
    pub(crate) persist: bool,
    pub(crate) sets: Vec<Set>,
    pub(crate) counters: Vec<String>,
    pub(crate) chains: Vec<Chain>,
}

/// A set of addresses that may change while the lock stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) name: String,
    pub(crate) kind: SetType,
    pub(crate) elements: BTreeSet<IpAddr>,
}

/// A chain; hooked in if it has a `base`, else reached by jumps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: String,
    pub(crate) base: Option<BaseChain>,
    pub(crate) rules: Vec<Rule>,
}

/// What matches, what it does on the way, where the packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) terms: Vec<Term>,
    pub(crate) verdict: Option<Verdict>,
}

impl Rule {
    pub(crate) fn accept(terms: impl Into<Vec<Term>>) -> Self {
        Self { terms: terms.into(), verdict: Some(Verdict::Accept) }
    }

    /// Drops and counts: there is no drop without a counter.
    pub(crate) fn drop(terms: impl Into<Vec<Term>>, counter: impl Into<String>) -> Self {
        let mut terms = terms.into();
        terms.push(Term::Count(counter.into()));
        Self { terms, verdict: Some(Verdict::Drop) }
    }

    pub(crate) fn jump(terms: impl Into<Vec<Term>>, chain: impl Into<String>) -> Self {
        Self { terms: terms.into(), verdict: Some(Verdict::Jump(chain.into())) }
    }

    pub(crate) fn goto(terms: impl Into<Vec<Term>>, chain: impl Into<String>) -> Self {
        Self { terms: terms.into(), verdict: Some(Verdict::Goto(chain.into())) }
    }

    /// Does something and goes on with the next rule.
    pub(crate) fn then(terms: impl Into<Vec<Term>>) -> Self {
        Self { terms: terms.into(), verdict: None }
    }
}

impl Set {
    pub(crate) fn empty(name: String, kind: SetType) -> Self {
        Self { name, kind, elements: BTreeSet::new() }
    }

    pub(crate) fn object(&self, table: &str) -> ElementsObject {
        let key = |address: &IpAddr| match address {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        ElementsObject {
            table: table.to_owned(),
            set: self.name.clone(),
            keys: self.elements.iter().map(key).collect(),
        }
    }
}

impl Chain {
    pub(crate) fn object(&self, table: &str) -> ChainObject {
        ChainObject { table: table.to_owned(), name: self.name.clone(), base: self.base.clone() }
    }
}

impl Ruleset {
    pub(crate) fn new(family: Family, table: impl Into<String>) -> Self {
        Self {
            family,
            table: table.into(),
            persist: true,
            sets: Vec::new(),
            counters: Vec::new(),
            chains: Vec::new(),
        }
    }

    /// Adds a chain, and the counters that its rules name and that are not there yet.
    pub(crate) fn add(&mut self, name: impl Into<String>, base: Option<BaseChain>, rules: Vec<Rule>) {
        let named = rules.iter().flat_map(|rule| &rule.terms).filter_map(|term| match term {
            Term::Count(name) => Some(name),
            _ => None,
        });
        for counter in named {
            if !self.counters.contains(counter) {
                self.counters.push(counter.clone());
            }
        }
        self.chains.push(Chain { name: name.into(), base, rules });
    }

    /// The names of all counters, in the order of [`crate::Lock::counters`].
    pub fn counters(&self) -> impl Iterator<Item = &str> {
        self.counters.iter().map(String::as_str)
    }

    /// One rule as instructions.
    pub(crate) fn rule_object(&self, chain: &Chain, rule: &Rule) -> RuleObject {
        RuleObject {
            table: self.table.clone(),
            chain: chain.name.clone(),
            expressions: Compiler::rule(self.family, rule),
        }
    }

    pub(crate) fn set_object(&self, set: &Set) -> SetObject {
        SetObject { table: self.table.clone(), name: set.name.clone(), kind: set.kind }
    }

    /// The transaction that makes the table: what is named before what names it.
    pub(crate) fn creation(&self) -> Vec<Outgoing> {
        let mut objects =
            vec![Object::Table(TableObject { name: self.table.clone(), owner: None, persist: self.persist })];
        for set in &self.sets {
            objects.push(Object::Set(self.set_object(set)));
            if !set.elements.is_empty() {
                objects.push(Object::Elements(set.object(&self.table)));
            }
        }
        let counter = |name: &String| {
            let table = self.table.clone();
            Object::Counter(CounterObject { table, name: name.clone(), packets: 0, bytes: 0 })
        };
        objects.extend(self.counters.iter().map(counter));
        objects.extend(self.chains.iter().map(|chain| Object::Chain(chain.object(&self.table))));
        for chain in &self.chains {
            objects.extend(chain.rules.iter().map(|rule| Object::Rule(self.rule_object(chain, rule))));
        }
        objects.into_iter().map(|object| Outgoing::Add(self.family, object)).collect()
    }
}
