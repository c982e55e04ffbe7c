//! One fixed value of every structure. The golden objects are made from these: change none.

use std::collections::BTreeMap;

use capy_types::WalFile;
use capy_types::{
    ChunkId, IndexId, Lsn, Nonce, PackId, RepositoryId, RootHash, SegmentSize, SessionId, SlotId, SystemId,
    TimelineId, Timestamp,
};

use crate::limits::{FANOUT, NODE_MAX_BYTES, TAG_BYTES};
use crate::*;

/// Stored length of the bodies that [`header`] announces, in bytes.
pub(crate) const STORED_LEN: u32 = 300;

/// `from`, `from + 1`, … : distinct, and easy to see in a hex dump.
fn ramp<const N: usize>(from: u8) -> [u8; N] {
    std::array::from_fn(|i| from.wrapping_add(u8::try_from(i).expect("identities are short")))
}

fn time(text: &str) -> Timestamp {
    text.parse().expect("a time with a zone")
}

pub(crate) fn repository() -> RepositoryId {
    RepositoryId::from_bytes(ramp(0x10))
}

pub(crate) fn pack_id() -> PackId {
    PackId::from_bytes(ramp(0x20))
}

pub(crate) fn chunk_id(n: u8) -> ChunkId {
    ChunkId::from_bytes(ramp(n))
}

pub(crate) fn header(kind: ObjectKind) -> Header {
    let (suite, compression, nonce, plain_len, stored_len) = match kind {
        ObjectKind::Config | ObjectKind::KeySlot => (0, 0, [0; 24], STORED_LEN, STORED_LEN),
        ObjectKind::Pack => (1, 0, ramp(0x20), 0, 0),
        _ => (1, 1, ramp(0x40), 4321, STORED_LEN),
    };
    let nonce = Nonce::from_bytes(nonce);
    let (version, repository) = (VERSION_1, repository());
    Header { version, kind, suite, compression, repository, nonce, plain_len, stored_len }
}

fn frame(
    n: u8,
    class: ChunkClass,
    compression: u8,
    offset: u32,
    stored_len: u32,
    plain_len: u32,
) -> FrameInfo {
    let (kind, base) = (FrameKind::Full, None);
    FrameInfo { chunk: chunk_id(n), kind, class, compression, offset, stored_len, plain_len, base }
}

/// A raw data frame, a compressed meta frame, a delta, and the shortest frame there is.
pub(crate) fn frames() -> Vec<FrameInfo> {
    let delta = frame(0x82, ChunkClass::Data, 1, 131_072 + 80 + 2_000, 777, 131_072);
    vec![
        frame(0x80, ChunkClass::Data, 0, 64, 131_072 + 16, 131_072),
        frame(0x81, ChunkClass::Meta, 1, 131_072 + 80, 2_000, 16_000),
        FrameInfo { kind: FrameKind::Delta, base: Some(chunk_id(0x80)), ..delta },
        frame(0x83, ChunkClass::Data, 0, 131_072 + 80 + 2_777, 17, 1),
    ]
}

pub(crate) fn footer() -> PackFooter {
    PackFooter { frames: frames() }
}

pub(crate) fn trailer() -> PackTrailer {
    let sealed = footer().encode().len() + TAG_BYTES;
    PackTrailer { footer_len: u32::try_from(sealed).expect("a short footer"), frame_count: 4 }
}

fn indexed(id: PackId, frames: Vec<FrameInfo>) -> IndexedPack {
    let size = u32::try_from(pack_len(&frames)).expect("a small pack");
    IndexedPack { id, size, frames }
}

pub(crate) fn index() -> IndexObject {
    let small = vec![frame(0x90, ChunkClass::Data, 1, 64, 100, 500)];
    IndexObject { packs: vec![indexed(pack_id(), frames()), indexed(PackId::from_bytes(ramp(0x30)), small)] }
}

fn data_ref(n: u8, size: u32) -> ChunkRef {
    ChunkRef { id: chunk_id(n), len: u64::from(size), size }
}

/// The references of a node of data chunks.
pub(crate) fn node() -> Vec<ChunkRef> {
    vec![data_ref(0xa0, 131_072), data_ref(0xa1, 131_072), data_ref(0xa2, 1)]
}

/// A content of one level of nodes: 1 GiB of 128 KiB chunks has 32 of them.
pub(crate) fn deep_content() -> Content {
    let node = |n: u8| ChunkRef { id: chunk_id(n), len: 256 * 131_072, size: 2 + 256 * 38 };
    Content { length: 1 << 30, crc32c: 0x1234_5678, depth: 1, refs: (0..32).map(node).collect() }
}

/// The longest content there is.
pub(crate) fn widest_content() -> Content {
    let size = u32::try_from(NODE_MAX_BYTES).expect("a node is short");
    let refs: Vec<_> = (0..=255).map(|n| ChunkRef { id: chunk_id(n), len: u64::MAX / 256, size }).collect();
    assert_eq!(refs.len(), FANOUT);
    Content { length: u64::MAX / 256 * 256, crc32c: u32::MAX, depth: 7, refs }
}

fn meta(path: &str, mode: u32) -> Meta {
    Meta {
        path: path.as_bytes().to_vec(),
        mode,
        uid: 999,
        gid: 998,
        mtime: 1_795_244_092,
        owner: "postgres".to_owned(),
        group: "postgres".to_owned(),
    }
}

fn file(path: &str, chunking: u8, content: Content) -> Entry {
    Entry::File(FileEntry { meta: meta(path, 0o600), chunking, content })
}

/// A record of every type, and of every kind of archive.
pub(crate) fn entries() -> Vec<Entry> {
    let archive = |kind| Entry::Archive(ArchiveHeader { kind });
    let small = Content { length: 3, crc32c: 0x364b_3fb7, depth: 0, refs: vec![data_ref(0xb0, 3)] };
    let odd = Meta {
        path: b"base/\xff\xfe not UTF-8".to_vec(),
        mtime: -1,
        uid: u64::MAX,
        owner: String::new(),
        group: "gr\u{fc}ppe".to_owned(),
        ..meta("", 0o700)
    };
    vec![
        archive(ArchiveKind::Tablespace { oid: 16_384, location: "/srv/fast/ts1".to_owned() }),
        Entry::EndArchive { trailing_zeros: 1024 },
        archive(ArchiveKind::Base),
        Entry::Directory(odd),
        file("PG_VERSION", 0, small),
        file("base/5/16385", 1, deep_content()),
        file("empty", 0, Content::default()),
        Entry::Symlink { meta: meta("pg_tblspc/16384", 0o777), target: b"/srv/fast/ts1".to_vec() },
        Entry::EndArchive { trailing_zeros: 9_216 },
        archive(ArchiveKind::BackupManifest),
        Entry::EndArchive { trailing_zeros: 0 },
        archive(ArchiveKind::Stream),
    ]
}

pub(crate) fn config() -> Config {
    Config {
        repository: repository(),
        created_at: time("2026-11-21T06:54:52.123456Z"),
        format_version: 1,
        chunking: ChunkingPolicy { grid_bytes: 128 * 1024, ..ChunkingPolicy::default() },
        compression_level: 3,
        pack_size_bytes: 32 << 20,
    }
}

pub(crate) fn key_slot() -> KeySlot {
    KeySlot {
        id: SlotId::from_bytes(ramp(0x50)),
        kind: KeySlotKind::Passphrase,
        label: "initial".to_owned(),
        created_at: time("2026-11-21T06:54:52Z"),
        wrapped: WrappedKey {
            salt: ramp(0x60),
            kdf: Some(KdfParams { memory_kib: 65_536, passes: 3, lanes: 1 }),
            commitment: ramp(0x70),
            nonce: ramp(0x90),
            sealed: ramp::<48>(0xb0).to_vec(),
        },
    }
}

pub(crate) fn key_file_slot() -> KeySlot {
    let slot = key_slot();
    let wrapped = WrappedKey { kdf: None, ..slot.wrapped };
    KeySlot { id: SlotId::from_bytes(ramp(0x58)), kind: KeySlotKind::KeyFile, wrapped, ..slot }
}

pub(crate) fn first_root() -> Root {
    Root {
        generation: 0,
        previous: None,
        created_at: time("2026-11-21T06:54:52Z"),
        nonce: Nonce::from_bytes(ramp(0x41)),
        sessions: Vec::new(),
        indexes: Vec::new(),
        backups: Vec::new(),
        condemned: Vec::new(),
        damaged: Vec::new(),
        tombstones: Vec::new(),
    }
}

pub(crate) fn root() -> Root {
    Root {
        generation: 7,
        previous: Some(RootHash::from_bytes(ramp(0xc0))),
        created_at: time("2026-11-21T08:00:00.000001Z"),
        nonce: Nonce::from_bytes(ramp(0x42)),
        sessions: vec![SessionEntry {
            id: SessionId::from_bytes(ramp(0xd0)),
            base_generation: 6,
            started_at: time("2026-11-21T07:59:00Z"),
        }],
        indexes: vec![IndexId::from_bytes(ramp(0xe0)), IndexId::from_bytes(ramp(0xe1))],
        backups: vec![backup_entry(), stream_entry()],
        condemned: vec![PackId::from_bytes(ramp(1))],
        damaged: vec![PackId::from_bytes(ramp(1)), PackId::from_bytes(ramp(2))],
        tombstones: vec![Tombstone { pack: PackId::from_bytes(ramp(3)), generation: 5 }],
    }
}

/// The root after its first backup was pinned.
pub(crate) fn pinned_root() -> Root {
    let mut root = root();
    root.backups[0].pinned = Some(Pin {
        reason: "state before the migration".to_owned(),
        by: Some("ops".to_owned()),
        at: time("2026-11-21T08:00:00Z"),
    });
    root
}

fn backup_entry() -> BackupEntry {
    let record = backup_record();
    let facts = record.postgres.expect("a base backup has facts");
    BackupEntry {
        key: record.key,
        label: record.label,
        kind: record.kind,
        created_at: record.created_at,
        finished_at: record.finished_at,
        size_bytes: record.stats.size_bytes,
        stored_bytes: record.stats.stored_bytes,
        state: BackupState::Complete,
        verification: Verification {
            state: VerificationState::Failed,
            level: Some("full".to_owned()),
            at: Some(time("2026-11-21T07:30:00Z")),
            error: Some("1 chunk is missing".to_owned()),
        },
        database: record.database,
        system_id: Some(facts.system_id),
        timeline: Some(facts.timeline),
        start_lsn: Some(facts.start_lsn),
        stop_lsn: facts.stop_lsn,
        record_nonce: Nonce::from_bytes(ramp(0x43)),
        pinned: None,
    }
}

fn stream_entry() -> BackupEntry {
    let record = stream_record();
    BackupEntry {
        key: record.key,
        label: record.label,
        kind: record.kind,
        state: BackupState::Damaged,
        verification: Verification::default(),
        database: record.database,
        system_id: None,
        timeline: None,
        start_lsn: None,
        stop_lsn: None,
        record_nonce: Nonce::from_bytes(ramp(0x44)),
        ..backup_entry()
    }
}

pub(crate) fn backup_record() -> BackupRecord {
    BackupRecord {
        key: "main/20261121T065452Z-3fa2c1".parse().expect("a key"),
        label: Some("before the migration".to_owned()),
        created_at: time("2026-11-21T06:54:52Z"),
        finished_at: time("2026-11-21T06:59:59.5Z"),
        kind: BackupKind::Base,
        database: None,
        incremental_from: None,
        manifest: deep_content(),
        stats: Stats {
            entries: 12,
            files: 3,
            size_bytes: 1_073_741_827,
            new_bytes: 500_000_000,
            deduplicated_bytes: 573_741_827,
            stored_bytes: 120_000_000,
            chunks: 8_193,
            new_chunks: 3_815,
        },
        postgres: Some(postgres_facts()),
        problems: vec!["base/5/16385: page 7 fails its checksum".to_owned()],
        problems_total: 2,
        tool_version: "0.1.0".to_owned(),
    }
}

pub(crate) fn stream_record() -> BackupRecord {
    BackupRecord {
        key: "imports.2026/dump_1".parse().expect("a key"),
        label: None,
        kind: BackupKind::Stream,
        database: Some("shop".to_owned()),
        manifest: Content::default(),
        stats: Stats::default(),
        postgres: None,
        problems: Vec::new(),
        problems_total: 0,
        ..backup_record()
    }
}

fn postgres_facts() -> PostgresFacts {
    let settings = [("max_connections", "100"), ("wal_level", "replica")];
    let settings: BTreeMap<_, _> = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    PostgresFacts {
        system_id: SystemId::from_u64(7_571_234_567_890_123_456),
        version_num: 170_007,
        version: "17.7".to_owned(),
        timeline: TimelineId::from_u32(3),
        start_lsn: Lsn::from_u64(0x16_B300_0028),
        stop_lsn: Some(Lsn::from_u64(0x16_B374_D848)),
        segment_size: SegmentSize::DEFAULT,
        data_checksums: Some(true),
        wal_included: true,
        tablespaces: vec![Tablespace { oid: 16_384, location: "/srv/fast/ts1".to_owned(), size: Some(4096) }],
        settings,
        collations: vec![Collation {
            name: "en_US".to_owned(),
            provider: "libc".to_owned(),
            version: Some("2.36".to_owned()),
        }],
        from_standby: true,
        backup_manifest: Some(ManifestCheck {
            algorithm: "CRC32C".to_owned(),
            files: 3,
            checked: 3,
            mismatches: 1,
        }),
    }
}

pub(crate) fn wal_facts() -> WalFacts {
    let lsn = |low: u64| Lsn::from_u64(0x16_B300_0000 + low);
    let time = Timestamp::from_micros(1_795_000_000_123_456);
    let ends = Some(TransactionEnd { at: lsn(0x100), time });
    let event = |at, time, what| WalEvent { at: lsn(at), time, what };
    WalFacts {
        file: "0000000300000016000000B3".parse().expect("a name"),
        content: ChunkId::from_bytes([7; 32]),
        size: 16 << 20,
        archived_at: time,
        segment: Some(SegmentFacts {
            system_id: SystemId::from_u64(7_571_234_567_890_123_456),
            major: 17,
            segment_size: SegmentSize::DEFAULT,
            first: Some(lsn(0x28)),
            last: Some(lsn(0xff_ff80)),
            end: lsn(0xff_fff8),
            stopped: Some("a record fails its checksum".to_owned()),
            commits: 2,
            aborts: 1,
            first_end: ends,
            last_end: ends,
            times: Some((time, time)),
            events: vec![
                event(0x200, Some(time), WalEventKind::RestorePoint { name: "before".to_owned() }),
                event(0x300, None, WalEventKind::Checkpoint { redo: lsn(0x28), shutdown: false }),
                event(0x400, Some(time), WalEventKind::Drop { database: 5, relations: vec![16_385] }),
            ],
            more_events: 1,
            tail: Some((lsn(0xff_ffc0), "0a0b".to_owned())),
            head: Some("0c".to_owned()),
        }),
    }
}

pub(crate) fn history_facts() -> WalFacts {
    let file = WalFile::history(TimelineId::from_u32(3));
    WalFacts { file, size: 41, segment: None, ..wal_facts() }
}

pub(crate) fn archive() -> ArchiveIdentity {
    ArchiveIdentity {
        cluster: "main".parse().expect("a name"),
        system_id: SystemId::from_u64(7_571_234_567_890_123_456),
        segment_size: SegmentSize::DEFAULT,
        created_at: Timestamp::from_micros(1_795_000_000_000_000),
    }
}

pub(crate) fn restore_point() -> RestorePoint {
    RestorePoint {
        id: "20261121T065452Z-3fa2c1".to_owned(),
        cluster: "main".parse().expect("a name"),
        kind: RestorePointKind::Pitr,
        label: "before_migration".to_owned(),
        note: Some("release 42".to_owned()),
        created_by: Some("ops".to_owned()),
        created_at: Timestamp::from_micros(1_795_000_000_000_000),
        backup_key: None,
        pitr_time: Some(Timestamp::from_micros(1_795_000_000_000_001)),
        lsn: Some(Lsn::from_u64(0x16_B374_D848)),
        in_wal: true,
    }
}
