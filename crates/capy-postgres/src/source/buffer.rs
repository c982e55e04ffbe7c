//! Reused read buffers: a buffer becomes `Bytes` without a copy and comes back when the last
//! slice of it is dropped.
//!
//! Invariant: the pool keeps a bounded number of idle buffers and never blocks; how many are in
//! flight is the channel's bound, not the pool's.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Size of a read buffer in bytes: large enough that a read, a channel step and a wake-up per
/// buffer cost nothing beside hashing it.
pub(super) const BUFFER_BYTES: usize = 1024 * 1024;

/// Idle buffers kept: what the channel holds, one being filled, one being used.
const IDLE_MAX: usize = super::reader::READ_AHEAD_BUFFERS + 2;

/// A pool of equal buffers.
#[derive(Debug, Clone)]
pub(super) struct BufferPool {
    idle: Arc<Mutex<Vec<Box<[u8]>>>>,
    idle_max: usize,
}

impl Default for BufferPool {
    fn default() -> Self {
        Self::keeping(IDLE_MAX)
    }
}

impl BufferPool {
    /// A pool that keeps so many idle buffers.
    pub(super) fn keeping(idle_max: usize) -> Self {
        Self { idle: Arc::default(), idle_max }
    }

    /// An idle buffer, or a new one. Its content is whatever was in it.
    pub(super) fn take(&self) -> Buffer {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = idle.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice());
        Buffer { bytes, len: 0, pool: self.clone() }
    }
}

/// A buffer on loan from its pool.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    len: usize,
    pool: BufferPool,
}

impl Buffer {
    /// Room left for reading into.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.len..).unwrap_or_default()
    }

    /// Notes that `bytes` more of the room were filled.
    pub(super) fn filled(&mut self, bytes: usize) {
        self.len = (self.len + bytes).min(self.bytes.len());
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The filled part.
    pub(super) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.pool.idle_max {
            idle.push(std::mem::take(&mut self.bytes));
        }
    }
}
