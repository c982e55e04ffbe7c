//! All segments of a cluster's `pg_wal`, read and joined.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use capy_postgres::wal::{
    BlockReference, Join, JoinedRecord, Record, RecordHeader, SegmentFacts, SegmentScanner, Stopped,
    decode_record, join, read_header,
};
use capy_types::Lsn;

/// Pieces in which segments are pushed: no divisor of a page.
const PIECE: usize = 5000;

/// A record, as both this reader and `pg_waldump` see it.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) lsn: Lsn,
    pub(crate) total: u32,
    pub(crate) xid: u32,
    pub(crate) previous: Lsn,
}

impl Seen {
    fn new(lsn: Lsn, header: &RecordHeader) -> Self {
        Self { lsn, total: header.total_bytes, xid: header.xid.as_u32(), previous: header.previous }
    }
}

/// The segments, their facts and every record.
pub(crate) struct Log {
    pub(crate) names: Vec<String>,
    pub(crate) segments: Vec<SegmentFacts>,
    pub(crate) records: Vec<Seen>,
    /// Blocks of records that cross no segment's border, in the words of `pg_waldump`.
    pub(crate) blocks: BTreeMap<Lsn, String>,
    pub(crate) joined: Vec<JoinedRecord>,
    pub(crate) overwritten: Vec<Lsn>,
}

impl Log {
    pub(crate) fn read(wal: &Path) -> Self {
        let mut names: Vec<String> = fs::read_dir(wal)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.retain(|name| name.len() == 24);
        names.sort();
        let mut log = Self {
            names,
            segments: Vec::new(),
            records: Vec::new(),
            blocks: BTreeMap::new(),
            joined: Vec::new(),
            overwritten: Vec::new(),
        };
        for name in log.names.clone() {
            log.take_segment(&name, &fs::read(wal.join(&name)).unwrap());
        }
        for index in 0..log.segments.len() {
            log.join(index);
        }
        log.records.sort_by_key(|record| record.lsn);
        log
    }

    /// The bytes of the segments that are valid to their end.
    pub(crate) fn read_valid(wal: &Path) -> Vec<Vec<u8>> {
        let files = fs::read_dir(wal).unwrap().map(|entry| entry.unwrap().path());
        let segments = files.filter(|path| path.is_file()).map(|path| fs::read(path).unwrap());
        let is_full = |bytes: &Vec<u8>| {
            SegmentFacts::read(bytes).is_ok_and(|facts| facts.scan.stopped == Stopped::Full)
        };
        segments.filter(is_full).collect()
    }

    fn take_segment(&mut self, name: &str, bytes: &[u8]) {
        let header = read_header(bytes).unwrap();
        header.check_name(name).unwrap();
        let mut scanner = SegmentScanner::new(header);
        let mut visit = |record: &Record<'_>| {
            self.records.push(Seen::new(record.lsn, &record.header));
            let decoded = decode_record(record.kept, header.major).unwrap();
            self.blocks.insert(record.lsn, decoded.blocks.iter().map(block_text).collect());
        };
        bytes.chunks(PIECE).for_each(|piece| scanner.push(piece, &mut visit));
        let facts = SegmentFacts::read(bytes).unwrap();
        assert_eq!(facts.scan, scanner.finish(), "{name}: pieces change nothing");
        assert_eq!((facts.events.undecoded, facts.events.dropped_events), (0, 0), "{name}");
        self.segments.push(facts);
    }

    fn join(&mut self, index: usize) {
        let (before, after) = self.segments.split_at_mut(index + 1);
        let first = before.last_mut().unwrap();
        match join(first, &after.iter().collect::<Vec<_>>()).unwrap() {
            Join::Nothing => {}
            Join::Record(record) => {
                self.records.push(Seen::new(record.lsn, &record.header));
                first.add(&record);
                self.joined.push(record);
            }
            Join::Overwritten { lsn } => self.overwritten.push(lsn),
            unfinished @ Join::Unfinished { .. } => panic!("{unfinished:?}"),
        }
    }

    pub(crate) fn count(&self, of: impl Fn(&SegmentFacts) -> u64) -> u64 {
        self.segments.iter().map(of).sum()
    }

    pub(crate) fn all<T: Clone>(&self, of: impl Fn(&SegmentFacts) -> &Vec<T>) -> Vec<T> {
        self.segments.iter().flat_map(|facts| of(facts).clone()).collect()
    }
}

/// `, blkref #0: rel 1663/5/1259 fork vm blk 3 FPW`
fn block_text(block: &BlockReference) -> String {
    let fork = ["", " fork fsm", " fork vm", " fork init"][usize::from(block.fork)];
    let image = match block.image {
        Some(image) if image.apply => " FPW",
        Some(_) => " FPW for WAL verification",
        None => "",
    };
    format!(", blkref #{}: rel {}{fork} blk {}{image}", block.id, block.relation, block.block)
}
