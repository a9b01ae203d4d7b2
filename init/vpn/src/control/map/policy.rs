//! The packet filters by name, and whether they are a policy at all.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::drops::MapDrops;
use crate::control::harmless;
use crate::control::wire::Table;
use crate::filter::Filter;
use crate::netmap::NamedFilters;

/// The name of the filter that `PacketFilter` stands for (`tailcfg.go`, `MapResponse.PacketFilters`).
const BASE: &str = "base";
/// With `null`: all filters go, before the others of the same message are taken.
const ALL: &str = "*";
/// More names than any server has.
const MAX_NAMES: usize = 256;
/// The bytes of all filters, names and texts: they are kept as they came, over all messages of a stream. A rule that names each of
/// 3,000 peers takes 100 kB.
const MAX_BYTES: usize = 4 << 20;

/// What a map's filter is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyState {
    /// Rules, or none: what no rule allows is denied.
    #[default]
    Policy,
    /// The server has no policy: everybody may send us everything.
    AllowAll,
    /// The same, refused since the document requires a policy: everything is denied.
    AllowAllRefused,
    /// The filters do not read: everything is denied.
    Unreadable,
}

#[derive(Debug, Default)]
pub(super) struct Policy {
    named: Arc<NamedFilters>,
    filter: Arc<Filter>,
    state: PolicyState,
    unreadable: bool,
    stale: bool,
}

impl Policy {
    /// A stream begins: no filters, which denies.
    pub(super) fn clear(&mut self) {
        self.named = Arc::default();
        self.unreadable = false;
        self.stale = true;
    }

    pub(super) fn apply(
        &mut self,
        base: Option<Box<RawValue>>,
        named: Option<Box<RawValue>>,
        require_policy: bool,
        drops: &mut MapDrops,
    ) {
        if let Some(base) = base {
            self.set(BASE.to_owned(), Some(base), drops);
        }
        if let Some(named) = named {
            match serde_json::from_str::<Table<String, Option<Box<RawValue>>, MAX_NAMES>>(named.get()) {
                Ok(Table { items: named, unreadable: 0, beyond: 0 }) => {
                    // A good set after an unreadable one counts from nothing: what the unreadable one said is not known.
                    self.stale |= self.unreadable;
                    self.unreadable = false;
                    if matches!(named.get(ALL), Some(None)) {
                        self.named = Arc::default();
                        self.stale = true;
                    }
                    for (name, raw) in named {
                        if name != ALL || raw.is_some() {
                            self.set(name, raw, drops);
                        }
                    }
                    if self.unreadable {
                        // What of them had room is no set that anybody meant.
                        self.named = Arc::default();
                    }
                }
                _ => {
                    self.named = Arc::default();
                    self.unreadable = true;
                    self.stale = true;
                }
            }
        }
        if self.stale {
            self.compile(require_policy, drops);
        }
    }

    fn set(&mut self, name: String, raw: Option<Box<RawValue>>, drops: &mut MapDrops) {
        let same = match (&raw, self.named.get(&name)) {
            (Some(new), Some(old)) => new.get() == old.get(),
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        self.stale = true;
        let named = Arc::make_mut(&mut self.named);
        match raw {
            Some(raw) if named.len() < MAX_NAMES || named.contains_key(&name) => {
                named.insert(name, raw);
            }
            Some(_) => {
                named.clear();
                self.unreadable = true;
            }
            None => {
                named.remove(&name);
            }
        }
        if named.iter().map(|(name, raw)| name.len() + raw.get().len()).sum::<usize>() > MAX_BYTES {
            if let Some(unsaid) = drops.line() {
                tracing::warn!(
                    unsaid,
                    "the map's filters are longer than {MAX_BYTES} bytes: everything is denied"
                );
            }
            named.clear();
            self.unreadable = true;
        }
    }

    fn compile(&mut self, require_policy: bool, drops: &mut MapDrops) {
        self.stale = false;
        if self.unreadable {
            // Also what `PacketFilter` says since: it is one filter of a set that is not known.
            self.filter = Arc::new(Filter::deny_all());
            self.state = PolicyState::Unreadable;
            return;
        }
        let allow_all = self.named.values().any(|raw| is_allow_all(raw));
        if allow_all && require_policy {
            // Not even the texts are kept: a restart must not compile them.
            self.filter = Arc::new(Filter::deny_all());
            self.state = PolicyState::AllowAllRefused;
            if let Some(unsaid) = drops.line() {
                tracing::error!(
                    unsaid,
                    "the server has no policy and lets everybody in: everything is denied"
                );
            }
            return;
        }
        let compiled = Filter::compile(self.named.iter().map(|(name, raw)| (name.as_str(), &**raw)));
        for problem in &compiled.problems {
            if let Some(unsaid) = drops.line() {
                tracing::warn!(problem = harmless(&problem.to_string()), unsaid, "the map's filter");
            }
        }
        let unreadable = compiled.is_unreadable();
        self.filter = Arc::new(compiled.whole());
        self.state = match (unreadable, allow_all) {
            (true, _) => PolicyState::Unreadable,
            (_, true) => PolicyState::AllowAll,
            _ => PolicyState::Policy,
        };
        if allow_all && let Some(unsaid) = drops.line() {
            tracing::warn!(unsaid, "the server has no policy: every peer may send us everything");
        }
    }

    /// The filter, and the texts that it was compiled from.
    pub(super) fn compiled(&self) -> (Arc<Filter>, Arc<NamedFilters>) {
        let named = match self.state {
            PolicyState::AllowAllRefused | PolicyState::Unreadable => Arc::default(),
            _ => Arc::clone(&self.named),
        };
        (Arc::clone(&self.filter), named)
    }

    pub(super) const fn state(&self) -> PolicyState {
        self.state
    }
}

/// Whether a filter lets everybody in everywhere, as that of a server without a policy does (`tailcfg.FilterAllowAll`): by what it
/// compiles to, since a spelling that only one of two readers understands would pass.
fn is_allow_all(raw: &RawValue) -> bool {
    Filter::compile(std::iter::once(("base", raw))).filter.allow_all()
}
