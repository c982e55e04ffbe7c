//! Sealed bytes that will be asked for again: of small packs everything, of large ones the parts that
//! hold nodes and manifest, in blocks of 4 MiB.
//!
//! A day of changes lies in one small pack, from which a restore wants manifest, nodes, differences and
//! whole chunks at different times: it is read once. Invariants: a block is read once at a time, by
//! whoever needs it first; what is kept stays within its bytes; what is in a block is as little
//! trusted as the store, and a frame that does not open is read again from there.

use std::collections::HashMap;
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use capy_objects::StoreError;
use capy_types::limits::MIB;
use tokio::sync::OnceCell;

/// Length of a block in bytes: a request of 30 ms costs as much as 3 MB at 100 MB/s.
pub(crate) const BLOCK_BYTES: u32 = 4 * MIB as u32;

/// A block: number of the pack, and which.
type Place = (u32, u32);

/// Blocks lately used.
#[derive(Debug)]
pub(super) struct Blocks {
    bytes_max: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    blocks: HashMap<Place, Block>,
    uses: u64,
}

#[derive(Debug)]
struct Block {
    bytes: Arc<OnceCell<Bytes>>,
    used: u64,
}

impl Blocks {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, held: Mutex::default() }
    }

    /// The bytes `range` of pack `pack`, which has frames up to `end`; `read` reads a part of it.
    pub(super) async fn get<F>(
        &self,
        pack: u32,
        end: u32,
        range: Range<u64>,
        read: impl Fn(Range<u64>) -> F,
    ) -> Result<Bytes, StoreError>
    where
        F: Future<Output = Result<Bytes, StoreError>>,
    {
        let block_bytes = u64::from(BLOCK_BYTES);
        let mut whole = BytesMut::new();
        for number in range.start / block_bytes..range.end.div_ceil(block_bytes) {
            let place = (pack, u32::try_from(number).unwrap_or(u32::MAX));
            let start = number * block_bytes;
            let cell = self.cell(place);
            let load = async || {
                let bytes = read(start..u64::from(end).min(start + block_bytes)).await?;
                // Copied: the store's own buffer may be longer, and is wanted back.
                Ok::<_, StoreError>(Bytes::copy_from_slice(&bytes))
            };
            let block = cell.get_or_try_init(load).await?;
            self.shrink(place);
            let from = range.start.max(start) - start;
            let to = range.end.min(start + block_bytes) - start;
            let at = |n| usize::try_from(n).unwrap_or(usize::MAX).min(block.len());
            let part = block.slice(at(from)..at(to));
            if range.end <= start + block_bytes && whole.is_empty() {
                return Ok(part);
            }
            whole.extend_from_slice(&part);
        }
        Ok(whole.freeze())
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cell(&self, place: Place) -> Arc<OnceCell<Bytes>> {
        let mut held = self.held();
        held.uses += 1;
        let used = held.uses;
        let block = held.blocks.entry(place).or_insert_with(|| Block { bytes: Arc::default(), used });
        block.used = used;
        block.bytes.clone()
    }

    /// Lets go of the blocks not used for longest; never of `kept`.
    fn shrink(&self, kept: Place) {
        let mut held = self.held();
        let length = |block: &Block| block.bytes.get().map_or(0, Bytes::len);
        let mut bytes: usize = held.blocks.values().map(length).sum();
        while bytes > self.bytes_max {
            let others = held.blocks.iter().filter(|(place, block)| **place != kept && length(block) > 0);
            let Some(oldest) = others.min_by_key(|(_, block)| block.used).map(|(place, _)| *place) else {
                return;
            };
            bytes -= held.blocks.remove(&oldest).map_or(0, |block| length(&block));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use capy_objects::{StoreErrorKind, StoreOp};

    use super::*;

    /// A pack whose bytes tell where they are, and how often it was read.
    struct Pack {
        bytes: Bytes,
        reads: AtomicU32,
    }

    impl Pack {
        fn new(length: usize) -> Self {
            let bytes: Vec<u8> = (0..length).map(|n| (n / 1000) as u8 ^ n as u8).collect();
            Self { bytes: bytes.into(), reads: AtomicU32::new(0) }
        }

        async fn read(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok(self.bytes.slice(range.start as usize..range.end as usize))
        }

        async fn get(&self, blocks: &Blocks, number: u32, range: Range<u64>) -> Bytes {
            let end = self.bytes.len() as u32;
            blocks.get(number, end, range, |range| self.read(range)).await.expect("read")
        }

        fn reads(&self) -> u32 {
            self.reads.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn a_small_pack_is_read_once_however_many_ask_for_parts_of_it_at_once() {
        let (pack, blocks) = (Pack::new(100_000), Blocks::new(1 << 20));
        let parts = (0..50u64).map(|n| pack.get(&blocks, 1, n * 2000..n * 2000 + 2000));
        let parts = futures::future::join_all(parts).await;
        assert!(parts.concat() == pack.bytes);
        assert_eq!(pack.reads(), 1);
    }

    #[tokio::test]
    async fn a_range_over_the_border_of_two_blocks_is_whole() {
        let border = u64::from(BLOCK_BYTES);
        let (pack, blocks) = (Pack::new(BLOCK_BYTES as usize + 5000), Blocks::new(32 << 20));
        let range = border - 700..border + 300;
        let expected = pack.bytes.slice(range.start as usize..range.end as usize);
        assert!(pack.get(&blocks, 1, range).await == expected);
        assert_eq!(pack.reads(), 2);
        assert_eq!(
            pack.get(&blocks, 1, border + 4000..border + 5000).await.len(),
            1000,
            "to the end of the pack"
        );
        assert_eq!(pack.reads(), 2);
    }

    #[tokio::test]
    async fn what_is_beyond_the_bytes_goes_and_the_latest_stays() {
        let (pack, blocks) = (Pack::new(1000), Blocks::new(2500));
        for number in [1, 2, 1, 3, 1] {
            pack.get(&blocks, number, 0..1000).await;
        }
        assert_eq!(pack.reads(), 3, "the first stayed, being used");
        pack.get(&blocks, 2, 0..10).await;
        assert_eq!(pack.reads(), 4, "the second went");
    }

    #[tokio::test]
    async fn a_failed_read_is_told_and_not_remembered() {
        let (pack, blocks) = (Pack::new(1000), Blocks::new(2500));
        let error = StoreError::new(StoreOp::GetRange, "packs/x", "memory://", StoreErrorKind::NotFound);
        let error = std::cell::Cell::new(Some(error));
        let failing =
            blocks.get(1, 1000, 0..10, |_| std::future::ready(Err(error.take().expect("asked once"))));
        assert!(failing.await.is_err());
        assert!(pack.get(&blocks, 1, 0..10).await == pack.bytes.slice(0..10));
    }
}
