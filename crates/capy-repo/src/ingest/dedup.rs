//! Is this chunk stored already? The index of what is committed, what this session has stored,
//! and what is on its way.

use std::collections::HashSet;
use std::ops::ControlFlow;

use capy_format::FrameInfo;
use capy_types::{ChunkId, IndexId, PackId};

use super::base::Candidate;
use crate::RepoError;
use crate::index::{ChunkIndex, Key, KnownPack, SharedIndex, key_of};

/// Knows which chunks need not be stored.
#[derive(Debug)]
pub(super) struct Dedup {
    index: SharedIndex,
    /// Claimed by a worker, in a pack that is not stored yet.
    pending: HashSet<Key>,
    /// Packs of earlier sessions that this backup builds on, by number.
    used: HashSet<u32>,
    /// Some chunk of this backup is a delta.
    deltas: bool,
    /// The packs one chunk rests on; kept for its room.
    packs: Vec<u32>,
}

impl Dedup {
    pub(super) fn new(index: SharedIndex) -> Self {
        Self { index, pending: HashSet::new(), used: HashSet::new(), deltas: false, packs: Vec::new() }
    }

    /// For each chunk, whether the caller is the one to store it. Chunks answered `true` are
    /// claimed: everybody else is told they are known.
    pub(super) fn claim<'a>(
        &mut self,
        chunks: impl Iterator<Item = &'a ChunkId>,
        new: &mut Vec<bool>,
    ) -> Result<(), RepoError> {
        new.clear();
        let shared = self.index.clone();
        let index = shared.read();
        for chunk in chunks {
            let known = self.build_on_sound(&index, chunk)? || !self.pending.insert(key_of(chunk));
            new.push(!known);
        }
        Ok(())
    }

    /// For each chunk of an earlier backup, whether it is as good as stored anew. The backup builds on
    /// those answered `true`.
    pub(super) fn reuse<'a>(
        &mut self,
        chunks: impl Iterator<Item = &'a ChunkId>,
    ) -> Result<Vec<bool>, RepoError> {
        let shared = self.index.clone();
        let index = shared.read();
        chunks.map(|chunk| self.build_on_sound(&index, chunk)).collect()
    }

    /// Whether the chunk is as good as stored anew; then the backup builds on it.
    pub(super) fn is_known(&mut self, chunk: &ChunkId) -> Result<bool, RepoError> {
        let shared = self.index.clone();
        let index = shared.read();
        self.build_on_sound(&index, chunk)
    }

    /// Whether new backups may build on the chunk; then this one does.
    fn build_on_sound(&mut self, index: &ChunkIndex, chunk: &ChunkId) -> Result<bool, RepoError> {
        self.packs.clear();
        // A delta is worth as much as the frames it rests on.
        let rests = index.follow(chunk, |link| {
            self.packs.push(link.location.pack);
            match index.pack(link.location.pack) {
                Some(pack) if pack.usable => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        })?;
        let sound = rests == Ok(true);
        if sound {
            self.used.extend(&self.packs);
            self.deltas |= self.packs.len() > 1;
        }
        Ok(sound)
    }

    /// What a new chunk may be stored against, when its parent is `chunk`: that, or the full frame it
    /// rests on when `depth_max` deltas lie between; nothing that is not durable, indexed and sound.
    pub(super) fn base(&self, chunk: &ChunkId, depth_max: u8) -> Result<Option<Candidate>, RepoError> {
        let index = self.index.read();
        let mut links = Vec::new();
        let rests = index.follow(chunk, |link| {
            links.push(link);
            match index.pack(link.location.pack) {
                Some(pack) if pack.usable && pack.index.is_some() => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        })?;
        if rests != Ok(true) {
            return Ok(None);
        }
        let deltas = links.len() - 1;
        let links = links.get(if deltas < usize::from(depth_max) { 0 } else { deltas }..).unwrap_or_default();
        let candidate = links.first().zip(links.last()).map(|(base, full)| Candidate {
            chunk: base.chunk,
            size: base.location.plain_len,
            full: (full.location.plain_len, full.location.stored_len),
            packs: links.iter().map(|link| link.location.pack).collect(),
        });
        Ok(candidate)
    }

    /// A chunk was stored against a base that rests on these packs: the commit makes sure of them.
    pub(super) fn build_on(&mut self, packs: &[u32]) {
        self.used.extend(packs);
        self.deltas = true;
    }

    /// Whether this backup needs a reader that knows deltas.
    pub(super) fn has_deltas(&self) -> bool {
        self.deltas
    }

    /// Every delta among `frames` leads to a full frame, over packs that this backup builds on.
    fn check_bases(&self, frames: &[FrameInfo]) -> Result<(), RepoError> {
        let index = self.index.read();
        for frame in frames.iter().filter(|frame| frame.base.is_some()) {
            let rests = index.follow(&frame.chunk, |link| {
                let known = index.pack(link.location.pack).is_some_and(|pack| pack.usable);
                let ours = known && self.used.contains(&link.location.pack);
                if ours { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            if rests != Ok(true) {
                let what = format!("chunk {} was stored against a base that is not secured", frame.chunk);
                return Err(RepoError::Internal { what });
            }
        }
        Ok(())
    }

    /// The pack is durable: its chunks can be found.
    pub(super) fn stored(&mut self, pack: PackId, frames: &[FrameInfo]) -> Result<(), RepoError> {
        let known = KnownPack { id: pack, index: None, usable: true };
        let number = self.index.write().insert_pack(known, frames)?;
        self.used.insert(number);
        for frame in frames {
            self.pending.remove(&key_of(&frame.chunk));
        }
        self.check_bases(frames)
    }

    /// The packs are listed in `index`.
    pub(super) fn indexed(&mut self, packs: &[PackId], index: IndexId) {
        self.index.write().set_index(packs, index);
    }

    /// The packs this backup builds on, its own and those of its deltas' bases included.
    pub(super) fn used_packs(&self) -> Vec<KnownPack> {
        let index = self.index.read();
        self.used.iter().filter_map(|number| index.pack(*number)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use capy_format::{ChunkClass, FrameKind};
    use capy_types::SeededEntropy;

    use super::*;

    fn frame(chunk: ChunkId, base: Option<ChunkId>) -> FrameInfo {
        let kind = if base.is_some() { FrameKind::Delta } else { FrameKind::Full };
        let (class, compression) = (ChunkClass::Data, if base.is_some() { 2 } else { 1 });
        FrameInfo { chunk, kind, class, compression, offset: 64, stored_len: 1000, plain_len: 4096, base }
    }

    /// A chain of deltas, one in each pack, all sound and indexed.
    struct Chain {
        index: SharedIndex,
        chunks: Vec<ChunkId>,
        packs: Vec<PackId>,
        entropy: SeededEntropy,
    }

    fn chain(length: usize) -> Chain {
        let entropy = SeededEntropy::new(5);
        let index = SharedIndex::new(ChunkIndex::new(std::env::temp_dir()));
        let chunks: Vec<_> = (0..length).map(|_| ChunkId::random(&entropy)).collect();
        let packs: Vec<_> = (0..length).map(|_| PackId::random(&entropy)).collect();
        for (n, chunk) in chunks.iter().enumerate() {
            let pack = KnownPack { id: packs[n], index: Some(IndexId::random(&entropy)), usable: true };
            let base = n.checked_sub(1).map(|n| chunks[n]);
            index.write().insert_pack(pack, &[frame(*chunk, base)]).expect("memory");
        }
        Chain { index, chunks, packs, entropy }
    }

    impl Chain {
        fn spoil(&self, n: usize, usable: bool, indexed: bool) {
            let index = indexed.then(|| IndexId::random(&self.entropy));
            let base = n.checked_sub(1).map(|n| self.chunks[n]);
            let pack = KnownPack { id: self.packs[n], index, usable };
            self.index.write().insert_pack(pack, &[frame(self.chunks[n], base)]).expect("memory");
        }

        fn known(&self, dedup: &mut Dedup, n: usize) -> bool {
            let mut new = Vec::new();
            dedup.claim([self.chunks[n]].iter(), &mut new).expect("memory");
            new == [false]
        }
    }

    #[test]
    fn a_known_delta_is_known_with_everything_it_rests_on() {
        let chain = chain(3);
        let mut dedup = Dedup::new(chain.index.clone());
        assert!(!dedup.has_deltas());
        assert!(chain.known(&mut dedup, 0));
        assert!(!dedup.has_deltas(), "a full frame needs no newer reader");
        assert!(chain.known(&mut dedup, 2));
        let used: HashSet<_> = dedup.used_packs().iter().map(|pack| pack.id).collect();
        assert_eq!(used, chain.packs.iter().copied().collect(), "the packs of its bases are used as well");
        assert!(dedup.has_deltas());
    }

    #[test]
    fn a_delta_on_a_base_that_may_go_is_neither_known_nor_a_base() {
        for n in 0..3 {
            let chain = chain(3);
            chain.spoil(n, false, true);
            let mut dedup = Dedup::new(chain.index.clone());
            assert!(dedup.base(&chain.chunks[2], 8).expect("memory").is_none(), "pack {n} is not sound");
            assert!(!chain.known(&mut dedup, 2), "pack {n} is not sound");
            assert!(dedup.used_packs().is_empty());
        }
    }

    #[test]
    fn what_no_index_lists_yet_is_no_base() {
        let chain = chain(3);
        chain.spoil(1, true, false);
        let dedup = Dedup::new(chain.index.clone());
        assert!(dedup.base(&chain.chunks[2], 8).expect("memory").is_none());
        assert!(dedup.base(&chain.chunks[0], 8).expect("memory").is_some());
    }

    #[test]
    fn the_base_is_the_parent_or_where_that_is_too_deep_the_full_frame() {
        let chain = chain(3);
        let dedup = Dedup::new(chain.index.clone());
        let base = |depth| dedup.base(&chain.chunks[2], depth).expect("memory").expect("sound");
        assert_eq!((base(3).chunk, base(3).packs), (chain.chunks[2], vec![2, 1, 0]));
        assert_eq!((base(2).chunk, base(2).packs), (chain.chunks[0], vec![0]));
    }

    #[test]
    fn a_pack_with_a_delta_whose_base_is_not_secured_is_refused() {
        let chain = chain(2);
        let mut dedup = Dedup::new(chain.index.clone());
        let delta = |n| [frame(ChunkId::random(&chain.entropy), Some(chain.chunks[n]))];
        let error = dedup.stored(PackId::random(&chain.entropy), &delta(1)).expect_err("nobody built on it");
        assert!(error.to_string().contains("against a base that is not secured"), "{error}");
        let packs = dedup.base(&chain.chunks[1], 8).expect("memory").expect("sound").packs;
        dedup.build_on(&packs);
        dedup.stored(PackId::random(&chain.entropy), &delta(1)).expect("secured");
        let stranger = [frame(ChunkId::random(&chain.entropy), Some(ChunkId::random(&chain.entropy)))];
        assert!(dedup.stored(PackId::random(&chain.entropy), &stranger).is_err());
    }
}
