//! Object names: where everything is in a store.
//!
//! Invariant: every object has one name and every parse function accepts exactly the names its
//! counterpart makes, so a stray file in a store is never taken for an object. Names use lower
//! case hex, letters, digits and `._-/` only.

use capy_types::{
    BackupKey, ChunkId, ClusterName, IndexId, PackId, SlotId, TimelineId, WalFile, WalFileKind,
};

/// The repository's identity and parameters.
pub const CONFIG: &str = "config";
/// Key slots.
pub const KEYS_PREFIX: &str = "keys/";
/// Root generations.
pub const ROOT_PREFIX: &str = "root/";
/// Packs.
pub const PACKS_PREFIX: &str = "packs/";
/// Index objects.
pub const INDEX_PREFIX: &str = "index/";
/// Backup records.
pub const BACKUPS_PREFIX: &str = "backups/";
/// WAL files.
pub const WAL_PREFIX: &str = "wal/";
/// Other copies of WAL files that were archived with two contents.
pub const WAL_CONFLICTS_PREFIX: &str = "wal-conflicts/";
/// Parts of WAL segments that are still being written.
pub const WAL_PARTS_PREFIX: &str = "wal-parts/";
/// Facts gathered of WAL files.
pub const WAL_FACTS_PREFIX: &str = "wal-facts/";
/// Whose WAL the archives take.
pub const ARCHIVES_PREFIX: &str = "archives/";
/// Restore points.
pub const RESTORE_POINTS_PREFIX: &str = "restore-points/";

/// A key slot: `keys/<16 hex>`.
#[must_use]
pub fn key_slot(id: &SlotId) -> String {
    format!("{KEYS_PREFIX}{id}")
}

/// The key slot a name stands for.
#[must_use]
pub fn parse_key_slot(name: &str) -> Option<SlotId> {
    name.strip_prefix(KEYS_PREFIX)?.parse().ok().filter(|id| key_slot(id) == name)
}

/// A root generation: `root/<16 hex of 2^64 - 1 - generation>`, so that the newest sorts first.
#[must_use]
pub fn root(generation: u64) -> String {
    format!("{ROOT_PREFIX}{:016x}", u64::MAX - generation)
}

/// The generation a root's name stands for.
#[must_use]
pub fn parse_root(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(ROOT_PREFIX)?;
    let inverse = u64::from_str_radix(digits, 16).ok()?;
    Some(u64::MAX - inverse).filter(|generation| root(*generation) == name)
}

/// A pack: `packs/<2 hex>/<48 hex>`; the first two digits spread packs over 256 directories.
#[must_use]
pub fn pack(id: &PackId) -> String {
    let hex = id.to_string();
    format!("{PACKS_PREFIX}{}/{hex}", &hex[..2])
}

/// The pack a name stands for.
#[must_use]
pub fn parse_pack(name: &str) -> Option<PackId> {
    let (_, hex) = name.strip_prefix(PACKS_PREFIX)?.split_once('/')?;
    hex.parse().ok().filter(|id| pack(id) == name)
}

/// An index object: `index/<48 hex>`.
#[must_use]
pub fn index(id: &IndexId) -> String {
    format!("{INDEX_PREFIX}{id}")
}

/// The index a name stands for.
#[must_use]
pub fn parse_index(name: &str) -> Option<IndexId> {
    name.strip_prefix(INDEX_PREFIX)?.parse().ok().filter(|id| index(id) == name)
}

/// A backup's record: `backups/<cluster>/<backup id>`.
#[must_use]
pub fn backup(key: &BackupKey) -> String {
    format!("{BACKUPS_PREFIX}{key}")
}

/// The backup a record's name stands for.
#[must_use]
pub fn parse_backup(name: &str) -> Option<BackupKey> {
    name.strip_prefix(BACKUPS_PREFIX)?.parse().ok()
}

/// The WAL of one cluster: `wal/<cluster>/`.
#[must_use]
pub fn wal_cluster(cluster: &ClusterName) -> String {
    format!("{WAL_PREFIX}{cluster}/")
}

/// The WAL of one timeline: `wal/<cluster>/<8 upper-case hex>/`.
#[must_use]
pub fn wal_timeline(cluster: &ClusterName, timeline: TimelineId) -> String {
    format!("{WAL_PREFIX}{cluster}/{:08X}/", timeline.as_u32())
}

/// A WAL file: `wal/<cluster>/<timeline, 8 upper-case hex>/<file name>`.
#[must_use]
pub fn wal(cluster: &ClusterName, file: &WalFile) -> String {
    format!("{}{file}", wal_timeline(cluster, file.timeline()))
}

/// The other copies of a cluster's files that were archived with two contents.
#[must_use]
pub fn wal_conflicts(cluster: &ClusterName) -> String {
    format!("{WAL_CONFLICTS_PREFIX}{cluster}/")
}

/// A file that was archived under a name that holds another content already:
/// `wal-conflicts/<cluster>/<file name>.<32 hex of its content id>`.
#[must_use]
pub fn wal_conflict(cluster: &ClusterName, file: &WalFile, content: &ChunkId) -> String {
    format!("{}{file}.{}", wal_conflicts(cluster), &content.to_string()[..32])
}

/// The cluster and file a name below `wal/` stands for.
#[must_use]
pub fn parse_wal(name: &str) -> Option<(ClusterName, WalFile)> {
    let (cluster, rest) = name.strip_prefix(WAL_PREFIX)?.split_once('/')?;
    let (cluster, file): (ClusterName, WalFile) =
        (cluster.parse().ok()?, rest.split_once('/')?.1.parse().ok()?);
    (wal(&cluster, &file) == name).then_some((cluster, file))
}

/// A stretch of a segment that is still being written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalPartName {
    /// The segment.
    pub segment: WalFile,
    /// Offset of its first byte in the segment.
    pub start: u32,
    /// Offset of the byte after its last: above `start`.
    pub end: u32,
}

impl WalPartName {
    /// How many bytes it holds.
    #[must_use]
    pub const fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether it holds nothing, which no part does.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.start >= self.end
    }
}

/// The parts of one cluster's segments: `wal-parts/<cluster>/`.
#[must_use]
pub fn wal_parts(cluster: &ClusterName) -> String {
    format!("{WAL_PARTS_PREFIX}{cluster}/")
}

/// A part of a segment: `wal-parts/<cluster>/<segment>.<8 hex of start>-<8 hex of end>`.
#[must_use]
pub fn wal_part(cluster: &ClusterName, part: &WalPartName) -> String {
    let WalPartName { segment, start, end } = part;
    format!("{}{segment}.{start:08x}-{end:08x}", wal_parts(cluster))
}

/// The part a name stands for.
#[must_use]
pub fn parse_wal_part(name: &str) -> Option<(ClusterName, WalPartName)> {
    let (cluster, rest) = name.strip_prefix(WAL_PARTS_PREFIX)?.split_once('/')?;
    let (segment, (start, end)) = rest.split_once('.').and_then(|(a, b)| Some((a, b.split_once('-')?)))?;
    let (cluster, segment): (ClusterName, WalFile) = (cluster.parse().ok()?, segment.parse().ok()?);
    let offset = |digits| u32::from_str_radix(digits, 16).ok();
    let part = WalPartName { segment, start: offset(start)?, end: offset(end)? };
    let is_own = part.segment.kind() == WalFileKind::Segment && part.start < part.end;
    (is_own && wal_part(&cluster, &part) == name).then_some((cluster, part))
}

/// Facts of a run of segments: `wal-facts/<cluster>/<first segment>-<last segment>`.
#[must_use]
pub fn wal_facts(cluster: &ClusterName, first: &WalFile, last: &WalFile) -> String {
    format!("{WAL_FACTS_PREFIX}{cluster}/{first}-{last}")
}

/// The run a facts object's name stands for.
#[must_use]
pub fn parse_wal_facts(name: &str) -> Option<(ClusterName, WalFile, WalFile)> {
    let (cluster, run) = name.strip_prefix(WAL_FACTS_PREFIX)?.split_once('/')?;
    let (first, last) = run.split_once('-')?;
    Some((cluster.parse().ok()?, first.parse().ok()?, last.parse().ok()?))
}

/// Whose WAL an archive takes: `archives/<cluster>`.
#[must_use]
pub fn archive(cluster: &ClusterName) -> String {
    format!("{ARCHIVES_PREFIX}{cluster}")
}

/// The restore points of a cluster: `restore-points/<cluster>/`.
#[must_use]
pub fn restore_points(cluster: &ClusterName) -> String {
    format!("{RESTORE_POINTS_PREFIX}{cluster}/")
}

/// A restore point: `restore-points/<cluster>/<id>`.
#[must_use]
pub fn restore_point(cluster: &ClusterName, id: &str) -> String {
    format!("{}{id}", restore_points(cluster))
}

/// How a chunk is called in messages.
#[must_use]
pub fn chunk(id: &ChunkId) -> String {
    format!("chunk {id}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::samples;

    #[test]
    fn wal_names_are_read_back_and_strays_are_not() {
        let cluster: ClusterName = "main".parse().unwrap();
        let facts = samples::wal_facts();
        let name = wal(&cluster, &facts.file);
        assert_eq!(name, "wal/main/00000003/0000000300000016000000B3");
        assert_eq!(parse_wal(&name), Some((cluster.clone(), facts.file.clone())));
        let conflict = wal_conflict(&cluster, &facts.file, &facts.content);
        assert_eq!(conflict, format!("wal-conflicts/main/{}.{}", facts.file, "07".repeat(16)));
        let part = WalPartName { segment: facts.file.clone(), start: 0x2000, end: 1 << 20 };
        let name = wal_part(&cluster, &part);
        assert_eq!(name, "wal-parts/main/0000000300000016000000B3.00002000-00100000");
        assert_eq!(parse_wal_part(&name), Some((cluster.clone(), part)));
        let run = wal_facts(&cluster, &facts.file, &facts.file);
        assert_eq!(parse_wal_facts(&run), Some((cluster, facts.file.clone(), facts.file)));
        for stray in [
            "wal/main/00000001/0000000300000016000000B3",
            "wal/main/0000000300000016000000B3",
            "wal/main/00000003/0000000300000016000000B3/x",
            "wal/main/00000003/RECOVERYXLOG",
        ] {
            assert_eq!(parse_wal(stray), None, "{stray}");
        }
        for stray in [
            "0000000300000016000000B3",
            "0000000300000016000000B3.partial",
            "0000000300000016000000B3.partial.00000000-00000001",
            "0000000300000016000000B3.00000000-00000000",
            "0000000300000016000000B3.00000002-00000001",
            "0000000300000016000000B3.0-1",
            "0000000300000016000000B3.0000000A-0000000B",
            "00000003.history.00000000-00000001",
        ] {
            assert_eq!(parse_wal_part(&format!("wal-parts/main/{stray}")), None, "{stray}");
        }
    }

    #[test]
    fn timelines_are_in_hex() {
        let cluster: ClusterName = "main".parse().unwrap();
        for (timeline, digits) in [(9, "00000009"), (16, "00000010"), (255, "000000FF")] {
            let timeline = TimelineId::from_u32(timeline);
            assert_eq!(wal_timeline(&cluster, timeline), format!("wal/main/{digits}/"));
            let history = WalFile::history(timeline);
            let name = wal(&cluster, &history);
            assert_eq!(name, format!("wal/main/{digits}/{digits}.history"));
            assert_eq!(parse_wal(&name), Some((cluster.clone(), history)));
        }
        assert_eq!(parse_wal("wal/main/000000ff/000000FF.history"), None);
    }

    #[test]
    fn names_are_as_specified_and_read_back() {
        assert_eq!(root(0), "root/ffffffffffffffff");
        assert_eq!(root(1), "root/fffffffffffffffe");
        assert_eq!(root(u64::MAX), "root/0000000000000000");
        let id = samples::pack_id();
        assert_eq!(pack(&id), format!("packs/20/{id}"));
        assert_eq!(parse_pack(&pack(&id)), Some(id));
        let index_id = IndexId::from_bytes([0xab; 24]);
        assert_eq!(parse_index(&index(&index_id)), Some(index_id));
        let slot = SlotId::from_bytes([0xab; 8]);
        assert_eq!(key_slot(&slot), "keys/abababababababab");
        assert_eq!(parse_key_slot(&key_slot(&slot)), Some(slot));
        let key: BackupKey = "main/20261121T065452Z-3fa2c1".parse().unwrap();
        assert_eq!(backup(&key), "backups/main/20261121T065452Z-3fa2c1");
        assert_eq!(parse_backup(&backup(&key)), Some(key));
    }

    #[test]
    fn the_newest_root_has_the_smallest_name() {
        let generations = [0, 1, 9, 10, 255, 256, 1 << 40, u64::MAX];
        for pair in generations.windows(2) {
            assert!(root(pair[1]) < root(pair[0]), "{pair:?}");
        }
        for generation in generations {
            assert_eq!(parse_root(&root(generation)), Some(generation));
        }
    }

    #[test]
    fn stray_names_are_no_objects() {
        for stray in ["", "root/", "root/0", "root/FFFFFFFFFFFFFFFF", "root/+fffffffffffffff", "root/é"] {
            assert_eq!(parse_root(stray), None, "{stray:?}");
        }
        let id = samples::pack_id();
        for stray in [
            format!("packs/{id}"),
            format!("packs/00/{id}"),
            format!("packs/20/{id}.tmp"),
            format!("packs/20/{}", id.to_string().to_uppercase()),
            format!("index/20/{id}"),
        ] {
            assert_eq!((parse_pack(&stray), parse_index(&stray)), (None, None), "{stray:?}");
        }
        for stray in ["backups/main", "backups/main/latest", "backups/main/a/b", "backups//a", "keys/0"] {
            assert_eq!((parse_backup(stray), parse_key_slot(stray)), (None, None), "{stray:?}");
        }
    }
}
