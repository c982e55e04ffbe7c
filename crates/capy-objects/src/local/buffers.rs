//! Buffers for long parts of objects, used again while a bulk read runs.
//!
//! A fresh buffer of 4 MiB is a thousand page faults, which cost as much as reading into it.
//! Invariants: at most [`FREE_MAX`] buffers lie about, and none once all that were lent are back, so
//! that a store at rest holds no memory; of what a buffer held before, nothing is ever seen.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use capy_types::limits::MIB;

/// Length of each buffer in bytes: the longest range a bulk read asks for.
const BUFFER_BYTES: usize = 4 * MIB;
/// Reads shorter than this are left to the allocator: many may be under way at once, and each would
/// hold a whole buffer.
const SHARED_MIN_BYTES: usize = BUFFER_BYTES / 2;
/// Free buffers kept: as many as a bulk read has requests in flight.
const FREE_MAX: usize = 8;

/// Lends buffers.
#[derive(Debug, Default)]
pub(super) struct Buffers(Mutex<Shelf>);

#[derive(Debug, Default)]
struct Shelf {
    free: Vec<Vec<u8>>,
    lent: usize,
}

impl Buffers {
    /// A buffer of `length` bytes, to be overwritten; `None` for lengths that are not worth it.
    pub(super) fn lend(self: &Arc<Self>, length: usize) -> Option<Buffer> {
        if !(SHARED_MIN_BYTES..=BUFFER_BYTES).contains(&length) {
            return None;
        }
        let mut shelf = self.shelf();
        shelf.lent += 1;
        let free = shelf.free.pop();
        drop(shelf);
        let whole = free.unwrap_or_else(|| vec![0; BUFFER_BYTES]);
        Some(Buffer { whole, length, owner: Arc::clone(self) })
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_back(&self, whole: Vec<u8>) {
        let mut shelf = self.shelf();
        shelf.lent -= 1;
        if shelf.free.len() < FREE_MAX {
            shelf.free.push(whole);
        }
        let unused = if shelf.lent == 0 { std::mem::take(&mut shelf.free) } else { Vec::new() };
        drop(shelf);
        // Giving memory back takes a while: not under the lock.
        drop(unused);
    }
}

/// A buffer that goes back when it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    whole: Vec<u8>,
    length: usize,
    owner: Arc<Buffers>,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.whole[..self.length]
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.whole[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.owner.take_back(std::mem::take(&mut self.whole));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_given_back_is_lent_again() {
        let buffers = Arc::new(Buffers::default());
        let _other = buffers.lend(SHARED_MIN_BYTES);
        let place = buffers.lend(SHARED_MIN_BYTES).map(|first| first.as_ref().as_ptr());
        let again = buffers.lend(BUFFER_BYTES).expect("a length that is lent");
        assert_eq!((Some(again.as_ref().as_ptr()), again.as_ref().len()), (place, BUFFER_BYTES));
    }

    #[test]
    fn few_are_kept_while_others_are_out_and_none_once_all_are_back() {
        let buffers = Arc::new(Buffers::default());
        let count = 3 * FREE_MAX;
        let lent: Vec<_> = (0..count).map(|_| buffers.lend(SHARED_MIN_BYTES)).collect();
        for (n, buffer) in (1..).zip(lent) {
            drop(buffer);
            assert_eq!(buffers.shelf().free.len(), if n < count { n.min(FREE_MAX) } else { 0 });
        }
    }

    #[test]
    fn what_is_short_or_too_long_is_not_lent() {
        let buffers = Arc::new(Buffers::default());
        for length in [0, 100, SHARED_MIN_BYTES - 1, BUFFER_BYTES + 1] {
            assert!(buffers.lend(length).is_none(), "{length}");
        }
    }
}
