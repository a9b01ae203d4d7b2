//! How many there are of something, and whose.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// How many places there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    /// For all together.
    pub(super) all: usize,
    /// For one uid.
    pub(super) of_one_uid: usize,
}

/// Who has a place, by uid.
#[derive(Clone, Debug)]
pub(super) struct Places {
    taken: Arc<Mutex<HashMap<u32, usize>>>,
    most: Most,
}

/// One place; given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    uid: u32,
}

impl Places {
    /// All of them free.
    pub(super) fn new(most: Most) -> Self {
        Self { taken: Arc::default(), most }
    }

    /// A place for this uid, if there is one.
    pub(super) fn take(&self, uid: u32) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_uid = taken.get(&uid).copied().unwrap_or_default();
        if of_uid >= self.most.of_one_uid || taken.values().sum::<usize>() >= self.most.all {
            return None;
        }
        taken.insert(uid, of_uid + 1);
        drop(taken);
        Some(Place { places: self.clone(), uid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
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
        let places = Places::new(Most { all: 64, of_one_uid: 16 });
        let one: Vec<_> = std::iter::from_fn(|| places.take(1000)).collect();
        assert_eq!(one.len(), 16);
        let all: Vec<_> = (0..).map_while(|n| places.take(2000 + n)).collect();
        assert_eq!(one.len() + all.len(), 64);
        assert!(places.take(103).is_none());
        drop(one);
        assert!(places.take(1000).is_some());
        drop(all);
        assert!(places.taken.lock().unwrap().is_empty(), "uids that left are forgotten");
    }
}
