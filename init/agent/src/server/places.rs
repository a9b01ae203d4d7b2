//! How many connections there are, and whose.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::limits::{CONNECTIONS_MAX, CONNECTIONS_OF_ONE_UID};

/// Connections by uid.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<HashMap<u32, usize>>>);

/// One connection's place; given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    uid: u32,
}

impl Places {
    /// A place for a connection of this uid, if there is one.
    pub(super) fn take(&self, uid: u32) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_uid = taken.get(&uid).copied().unwrap_or_default();
        if of_uid >= CONNECTIONS_OF_ONE_UID || taken.values().sum::<usize>() >= CONNECTIONS_MAX {
            return None;
        }
        taken.insert(uid, of_uid + 1);
        drop(taken);
        Some(Place { places: self.clone(), uid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_uid) = taken.get_mut(&self.uid) {
            *of_uid -= 1;
            if *of_uid == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_uid_cannot_take_the_places_of_others() {
        let places = Places::default();
        let one: Vec<_> = std::iter::from_fn(|| places.take(1000)).collect();
        assert_eq!(one.len(), CONNECTIONS_OF_ONE_UID);
        let all: Vec<_> = (0..).map_while(|n| places.take(2000 + n)).collect();
        assert_eq!(one.len() + all.len(), CONNECTIONS_MAX);
        assert!(places.take(103).is_none());
        drop(one);
        assert!(places.take(1000).is_some());
        drop(all);
        assert!(places.0.lock().unwrap().is_empty(), "uids that left are forgotten");
    }
}
