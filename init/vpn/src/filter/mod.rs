//! The packet filter: what peers may send us.

/// What peers may send us, compiled from the map's rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {}
