//! Records: block references of every shape, and every event.

use capy_types::Lsn;

use super::super::{
    BlockImage, DecodeError, ImageCompression, PgMajor, PgTimestamp, RelFileLocator, Rmgr, TransactionEnd,
    TransactionId, TruncationTarget, WalEvent, WalLevel, decode_event, decode_record,
};
use super::synthetic::{record, record_of_parts};

const LSN: Lsn = Lsn::from_u64(0x1234_5678);
const RELATION: RelFileLocator = RelFileLocator { tablespace: 1663, database: 5, filenode: 16384 };

fn numbers(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The header of a block: flags, data length, image header, relation, block 7.
fn block(id: u8, flags: u8, data: u16, image: &[u8], relation: bool) -> Vec<u8> {
    let mut part = vec![id, flags];
    part.extend(data.to_le_bytes());
    part.extend_from_slice(image);
    if relation {
        part.extend(numbers(&[1663, 5, 16384]));
    }
    part.extend(7_u32.to_le_bytes());
    part
}

fn image(length: u16, hole_offset: u16, info: u8, hole: Option<u16>) -> Vec<u8> {
    let mut part = [length.to_le_bytes(), hole_offset.to_le_bytes()].concat();
    part.push(info);
    part.extend(hole.into_iter().flat_map(u16::to_le_bytes));
    part
}

fn decode(parts: &[u8], major: PgMajor) -> Result<super::super::DecodedRecord, DecodeError> {
    decode_record(&record_of_parts(Rmgr::HEAP, 0, 1, LSN, parts), major)
}

fn problem(parts: &[u8]) -> &'static str {
    decode(parts, PgMajor::V15).unwrap_err().problem
}

#[test]
fn blocks_and_main_data_are_told() {
    let mut parts = [
        vec![253, 9, 0],
        vec![252, 44, 0, 0, 0],
        block(0, 0x20, 3, &[], true),
        block(2, 0x41 | 0x80, 0, &[], false),
        block(3, 0x10 | 0x80, 0, &image(8192, 0, 0x02, None), false),
        vec![255, 4],
    ]
    .concat();
    let headers = 24 + parts.len() as u32;
    parts.extend([0; 3 + 8192 + 4]);
    let decoded = decode(&parts, PgMajor::V15).unwrap();
    assert_eq!(decoded.origin, Some(9));
    assert_eq!(decoded.toplevel_xid, Some(TransactionId::from_u32(44)));
    assert_eq!((decoded.main_data_offset, decoded.main_data_bytes), (headers + 3 + 8192, 4));
    let [first, second, third] = decoded.blocks.as_slice() else { panic!("{:?}", decoded.blocks) };
    assert_eq!((first.id, first.relation, first.fork, first.block, first.data_bytes), (0, RELATION, 0, 7, 3));
    assert_eq!((second.id, second.relation, second.fork, second.will_init), (2, RELATION, 1, true));
    let whole =
        BlockImage { stored_bytes: 8192, hole_offset: 0, hole_bytes: 0, compression: None, apply: true };
    assert_eq!((first.image, third.image), (None, Some(whole)));
    assert_eq!(
        decode(&parts, PgMajor::V13).unwrap_err().problem,
        "a part of no known kind",
        "252 came with 14"
    );
}

#[test]
fn image_bits_moved_with_15() {
    let decoded = |info: u8, hole: Option<u16>, major| {
        let mut parts = block(0, 0x10, 0, &image(1000, if info & 1 == 0 { 0 } else { 40 }, info, hole), true);
        parts.extend([0; 1000]);
        decode(&parts, major).map(|decoded| decoded.blocks[0].image.unwrap())
    };
    let of = |info, hole, major| {
        decoded(info, hole, major).map(|image| (image.compression, image.apply, image.hole_bytes))
    };
    for major in [PgMajor::V13, PgMajor::V14] {
        assert_eq!(of(0x01 | 0x04, None, major), Ok((None, true, 7192)));
        assert_eq!(of(0x01 | 0x02, Some(99), major), Ok((Some(ImageCompression::Pglz), false, 99)));
        assert_eq!(of(0x02 | 0x04, None, major), Ok((Some(ImageCompression::Pglz), true, 0)));
    }
    for major in [PgMajor::V15, PgMajor::V16, PgMajor::V17, PgMajor::V18] {
        assert_eq!(of(0x01 | 0x02, None, major), Ok((None, true, 7192)));
        assert_eq!(of(0x01 | 0x04, Some(99), major), Ok((Some(ImageCompression::Pglz), false, 99)));
        assert_eq!(of(0x02 | 0x08, None, major), Ok((Some(ImageCompression::Lz4), true, 0)));
        assert_eq!(of(0x02 | 0x10, None, major), Ok((Some(ImageCompression::Zstd), true, 0)));
    }
}

#[test]
fn parts_that_contradict_each_other_are_refused() {
    let good = [block(0, 0, 0, &[], true), vec![255, 0]].concat();
    assert!(decode(&good, PgMajor::V15).is_ok());
    assert_eq!(problem(&[block(1, 0, 0, &[], true), good.clone()].concat()), "its block numbers do not rise");
    assert_eq!(problem(&[33, 0, 0, 0, 0, 0]), "a part of no known kind");
    assert_eq!(problem(&block(0, 0x20, 0, &[], true)), "a block's data flag contradicts the data's length");
    assert_eq!(problem(&block(0, 0, 5, &[], true)), "a block's data flag contradicts the data's length");
    assert_eq!(problem(&block(0, 0x80, 0, &[], false)), "the first block has the relation of one before");
    assert_eq!(problem(&[good.clone(), vec![0]].concat()), "its parts do not add up to its length");
    assert_eq!(problem(&[255, 9, 1]), "its parts do not add up to its length");
    assert_eq!(problem(&[254, 1, 0]), "it ends inside its headers");
    for (stored, hole_offset, info, hole) in [
        (8192, 0, 0x01, None),         // A hole in a whole page.
        (1000, 0, 0x01, None),         // A hole without a place.
        (1000, 40, 0x05, Some(0)),     // A hole of nothing.
        (1000, 8000, 0x05, Some(193)), // A hole beyond the page.
        (1000, 40, 0x00, None),        // A place without a hole.
        (1000, 0, 0x00, None),         // Too short without a hole.
        (8192, 0, 0x04, None),         // Compressed, but not shorter.
        (9000, 0, 0x00, None),         // Longer than a page.
    ] {
        let mut parts = block(0, 0x10, 0, &image(stored, hole_offset, info, hole), true);
        parts.extend(vec![0; usize::from(stored)]);
        assert_eq!(problem(&parts), "a page image that cannot be", "{stored} {hole_offset} {info} {hole:?}");
    }
    let whole = record_of_parts(Rmgr::HEAP, 0, 1, LSN, &good);
    for len in 0..whole.len() {
        assert!(decode_record(&whole[..len], PgMajor::V15).is_err(), "{len}");
    }
}

fn event(rmgr: Rmgr, info: u8, data: &[u8], major: PgMajor) -> Option<WalEvent> {
    decode_event(LSN, &record(rmgr, info, 55, LSN, data), major).unwrap()
}

fn end_of(event: Option<WalEvent>) -> TransactionEnd {
    match event {
        Some(WalEvent::Commit(end) | WalEvent::Abort(end)) => end,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_commit_with_every_part_is_read_in_every_version() {
    for major in PgMajor::ALL {
        let statistics = match major {
            PgMajor::V13 | PgMajor::V14 => None,
            PgMajor::V18 => Some(numbers(&[2, 0, 0, 0, 0, 0, 0, 0, 0])),
            _ => Some(numbers(&[2, 0, 0, 0, 0, 0, 0])),
        };
        let flags = 0b0001_1111 | if statistics.is_some() { 1 << 8 } else { 0 };
        let data = [
            9_i64.to_le_bytes().to_vec(),
            numbers(&[flags, 5, 1663, 3, 100, 101, 102, 1, 1663, 5, 16384]),
            statistics.unwrap_or_default(),
            numbers(&[1, 0, 0, 0, 0, 4711]),
        ]
        .concat();
        let end = end_of(event(Rmgr::TRANSACTION, 0x80 | 0x30, &data, major));
        assert_eq!((end.time, end.prepared), (PgTimestamp::from_micros(9), true));
        assert_eq!(
            (end.xid, end.database, end.subtransactions),
            (Some(TransactionId::from_u32(4711)), Some(5), 3)
        );
        let relations = end.relations.unwrap();
        assert_eq!((relations.relations.as_slice(), relations.complete), (&[RELATION][..], true));
        for len in 0..data.len() {
            let cut = record(Rmgr::TRANSACTION, 0x80 | 0x30, 0, LSN, &data[..len]);
            assert!(decode_event(LSN, &cut, major).is_err(), "{major} {len}");
        }
    }
}

#[test]
fn ends_of_transactions_are_told_apart() {
    let data = 3_i64.to_le_bytes();
    for major in PgMajor::ALL {
        let is = |info: u8| event(Rmgr::TRANSACTION, info, &data, major);
        assert!(matches!(is(0x00), Some(WalEvent::Commit(end)) if !end.prepared && end.xid.is_some()));
        assert!(matches!(is(0x20), Some(WalEvent::Abort(end)) if !end.prepared && end.relations.is_none()));
        assert!(matches!(is(0x30), Some(WalEvent::Commit(end)) if end.prepared));
        assert!(matches!(is(0x40), Some(WalEvent::Abort(end)) if end.prepared));
        // Prepare, assignment, invalidations, and what no version has.
        for info in [0x10, 0x50, 0x60, 0x70] {
            assert_eq!(is(info), None);
        }
    }
}

#[test]
fn database_codes_moved_with_15() {
    let data = numbers(&[16400, 1663, 1, 1663]);
    for major in PgMajor::ALL {
        let is = |info: u8| event(Rmgr::DATABASE, info, &data, major);
        let (created, dropped) = if major >= PgMajor::V15 { (0x10, 0x20) } else { (0x00, 0x10) };
        assert!(matches!(is(0x00), Some(WalEvent::DatabaseCreated(event)) if event.database == 16400));
        assert!(matches!(is(created), Some(WalEvent::DatabaseCreated(_))));
        assert!(matches!(is(dropped), Some(WalEvent::DatabaseDropped(event)) if event.database == 16400));
    }
}

#[test]
fn every_other_event_is_read() {
    let major = PgMajor::V15;
    let path = event(Rmgr::TABLESPACE, 0, &[&numbers(&[9])[..], b"/srv/ts\0junk"].concat(), major);
    assert!(
        matches!(path, Some(WalEvent::TablespaceCreated(new)) if new.tablespace == 9 && new.path == "/srv/ts")
    );
    let gone = event(Rmgr::TABLESPACE, 0x10, &numbers(&[9]), major);
    assert!(matches!(gone, Some(WalEvent::TablespaceDropped(gone)) if gone.tablespace == 9));
    let file = event(Rmgr::STORAGE, 0x20, &numbers(&[12, 1663, 5, 16384, 7]), major);
    let target = TruncationTarget::File { relation: RELATION, blocks: 12 };
    assert!(matches!(file, Some(WalEvent::Truncation(truncation)) if truncation.target == target));
    let tables = event(Rmgr::HEAP, 0x30, &numbers(&[5, 2, 0, 70, 71]), major);
    let target = TruncationTarget::Tables { database: 5, tables: vec![70, 71] };
    assert!(matches!(tables, Some(WalEvent::Truncation(truncation)) if truncation.target == target));
    let backup = event(Rmgr::XLOG, 0x50, &LSN.as_u64().to_le_bytes(), major);
    assert!(matches!(backup, Some(WalEvent::BackupEnd(end)) if end.start == LSN));
    let recovery = event(Rmgr::XLOG, 0x90, &[6_i64.to_le_bytes(), [2, 0, 0, 0, 1, 0, 0, 0]].concat(), major);
    let is_new =
        |end: &super::super::EndOfRecovery| (end.timeline.as_u32(), end.previous_timeline.as_u32()) == (2, 1);
    assert!(
        matches!(recovery, Some(WalEvent::EndOfRecovery(end)) if is_new(&end) && end.time.as_micros() == 6)
    );
    let parameters = [numbers(&[100, 8, 10, 5, 64, 2]), vec![0, 1, 0, 0]].concat();
    let Some(WalEvent::Parameters(seen)) = event(Rmgr::XLOG, 0x60, &parameters, major) else { panic!() };
    assert_eq!((seen.max_connections, seen.max_worker_processes, seen.max_wal_senders), (100, 8, 10));
    assert_eq!((seen.max_prepared_transactions, seen.max_locks_per_transaction), (5, 64));
    assert_eq!(
        (seen.wal_level, seen.wal_log_hints, seen.track_commit_timestamp),
        (WalLevel::Logical, false, true)
    );
    // Restore point without its zero byte, and records that do not matter.
    let point = event(Rmgr::XLOG, 0x70, &[&[0; 8][..], b"name"].concat(), major);
    assert!(matches!(point, Some(WalEvent::RestorePoint(point)) if point.name == "name"));
    for (rmgr, info) in [(Rmgr::XLOG, 0xE0), (Rmgr::HEAP, 0x00), (Rmgr::STORAGE, 0x10), (Rmgr::from_u8(3), 0)]
    {
        assert_eq!(event(rmgr, info, &[], major), None);
    }
}

#[test]
fn an_event_that_ends_early_is_refused() {
    for (rmgr, info, whole) in [
        (Rmgr::XLOG, 0x00, 72),
        (Rmgr::XLOG, 0x50, 8),
        (Rmgr::XLOG, 0x60, 26),
        (Rmgr::XLOG, 0x70, 8),
        (Rmgr::XLOG, 0x90, 16),
        (Rmgr::STORAGE, 0x20, 16),
        (Rmgr::DATABASE, 0x00, 4),
        (Rmgr::TABLESPACE, 0x00, 4),
        (Rmgr::TABLESPACE, 0x10, 4),
        (Rmgr::HEAP, 0x30, 12),
    ] {
        let decode = |len: usize| decode_event(LSN, &record(rmgr, info, 1, LSN, &vec![0; len]), PgMajor::V15);
        assert!(matches!(decode(whole), Ok(Some(_))), "{rmgr:?} {info}");
        let error = decode(whole - 1).unwrap_err();
        assert_eq!(error.problem, "its main data end early");
    }
    assert!(decode_event(LSN, &[0; 23], PgMajor::V15).is_err());
}
