//! Lists and tables of which each element is read by itself: one that does not read costs only itself, and no more of them than a
//! bound are held, so that a short text makes no large memory.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::str::FromStr;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// A list of at most `MAX` elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T, const MAX: usize> {
    items: Vec<T>,
    /// Elements that are `null` or do not read.
    pub unreadable: usize,
    /// Elements past the bound: they were not looked at.
    pub beyond: usize,
}

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self { items: Vec::new(), unreadable: 0, beyond: 0 }
    }
}

impl<T, const MAX: usize> Deref for List<T, MAX> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items
    }
}

impl<T, const MAX: usize> IntoIterator for List<T, MAX> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

impl<'a, T, const MAX: usize> IntoIterator for &'a List<T, MAX> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

impl<'de, T: DeserializeOwned, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: DeserializeOwned, const MAX: usize> Visitor<'de> for Elements<T, MAX> {
            type Value = List<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
                let mut list = List::default();
                while list.items.len() + list.unreadable < MAX {
                    let Some(element) = elements.next_element::<&RawValue>()? else {
                        return Ok(list);
                    };
                    match serde_json::from_str(element.get()) {
                        Ok(item) => list.items.push(item),
                        Err(_) => list.unreadable += 1,
                    }
                }
                while elements.next_element::<IgnoredAny>()?.is_some() {
                    list.beyond += 1;
                }
                Ok(list)
            }
        }
        deserializer.deserialize_seq(Elements(PhantomData))
    }
}

/// An object of at most `MAX` members, by key.
#[derive(Clone, Debug, PartialEq)]
pub struct Table<K, V, const MAX: usize> {
    /// What reads. Of two members with one key the later holds.
    pub items: BTreeMap<K, V>,
    /// Members whose key or value does not read.
    pub unreadable: usize,
    /// Members past the bound: they were not looked at.
    pub beyond: usize,
}

impl<K, V, const MAX: usize> Default for Table<K, V, MAX> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), unreadable: 0, beyond: 0 }
    }
}

impl<'de, K: FromStr + Ord, V: DeserializeOwned, const MAX: usize> Deserialize<'de> for Table<K, V, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<K, V, const MAX: usize>(PhantomData<(K, V)>);

        impl<'de, K: FromStr + Ord, V: DeserializeOwned, const MAX: usize> Visitor<'de> for Members<K, V, MAX> {
            type Value = Table<K, V, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
                let mut table = Table::default();
                for _ in 0..MAX {
                    let Some((key, value)) = members.next_entry::<String, &RawValue>()? else {
                        return Ok(table);
                    };
                    match (key.parse(), serde_json::from_str(value.get())) {
                        (Ok(key), Ok(value)) => drop(table.items.insert(key, value)),
                        _ => table.unreadable += 1,
                    }
                }
                while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    table.beyond += 1;
                }
                Ok(table)
            }
        }
        deserializer.deserialize_map(Members(PhantomData))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_bad_element_costs_itself_and_no_more_than_the_bound_are_held() {
        let list: List<u64, 4> = serde_json::from_str(r#"[1, null, "x", 2, 3, {"a": [4]}, 5]"#).unwrap();
        assert_eq!((&*list, list.unreadable, list.beyond), (&[1, 2][..], 2, 3));
        let list: List<u64, 4> = serde_json::from_str("[]").unwrap();
        assert_eq!(list, List::default());
        serde_json::from_str::<List<u64, 4>>("[1, 2").unwrap_err();
        serde_json::from_str::<List<u64, 4>>("[1, 2, 3, 4, 5, }]").unwrap_err();
        serde_json::from_str::<List<u64, 4>>(r#"{"1": 2}"#).unwrap_err();
    }

    #[test]
    fn a_table_is_read_member_by_member() {
        let text = r#"{"1": true, "x": true, "2": 7, "\u0033": false, "4": true, "5": null}"#;
        let table: Table<u32, bool, 4> = serde_json::from_str(text).unwrap();
        assert_eq!(table.items, [(1, true), (3, false)].into());
        assert_eq!((table.unreadable, table.beyond), (2, 2));
        serde_json::from_str::<Table<u32, bool, 4>>("[]").unwrap_err();
        serde_json::from_str::<Table<u32, bool, 1>>(r#"{"1": true, "2": }"#).unwrap_err();
    }
}
