//! One value, replaced as a whole by one writer and read by many without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A value that is replaced now and then. Readers look at one number, and take the lock only when it moved.
#[derive(Debug)]
pub struct Published<T> {
    generation: AtomicU64,
    value: Mutex<Arc<T>>,
}

impl<T> Published<T> {
    /// The first value.
    pub fn new(value: T) -> Arc<Self> {
        Arc::new(Self { generation: AtomicU64::new(0), value: Mutex::new(Arc::new(value)) })
    }

    /// Replaces it. Readers see it at their next [`Reader::get`].
    pub fn publish(&self, value: T) {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The value now, by the lock: for who asks seldom.
    pub fn load(&self) -> Arc<T> {
        Arc::clone(&self.value.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A reader of its own for a thread that asks often.
    pub fn reader(self: &Arc<Self>) -> Reader<T> {
        let generation = self.generation.load(Ordering::Acquire);
        Reader { source: Arc::clone(self), generation, value: self.load() }
    }
}

/// One thread's view of a [`Published`] value.
#[derive(Debug)]
pub struct Reader<T> {
    source: Arc<Published<T>>,
    generation: u64,
    value: Arc<T>,
}

impl<T> Reader<T> {
    /// The value now: one atomic load, unless it was replaced.
    pub fn get(&mut self) -> &Arc<T> {
        let generation = self.source.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.generation = generation;
            self.value = self.source.load();
        }
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_what_was_published_last() {
        let number = Published::new(1);
        let mut reader = number.reader();
        assert_eq!(**reader.get(), 1);
        number.publish(2);
        number.publish(3);
        assert_eq!(**reader.get(), 3);
        assert_eq!(*number.load(), 3);
    }
}
