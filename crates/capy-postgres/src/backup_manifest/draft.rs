//! A `backup_manifest` of our own, in PostgreSQL's own form, for a backup that no server sends.
//!
//! Files are noted while they pass and written out at the end. A million of them must not cost
//! hundreds of megabytes: a note holds what its path does not share with the one before, in some
//! 20 bytes, and the text is made piece by piece.
//!
//! Invariant: what is written is read back by [`super::ManifestParser`] and accepted by the
//! `pg_verifybackup` of its major. Source: PostgreSQL's `backup_manifest.c`.

use std::fmt::Write;

use capy_types::{SystemId, Timestamp};
use sha2::{Digest, Sha256};

use super::{ChecksumAlgorithm, FileChecksum, WalRange};

/// Bytes after which a piece of the text is handed out.
const PIECE_BYTES: usize = 64 * 1024;

/// The first major whose manifests name the cluster.
const VERSION_2_SINCE: u32 = 170_000;

/// The files of a backup, as they pass.
#[derive(Debug, Default)]
pub struct ManifestDraft {
    notes: Vec<u8>,
    last_path: Vec<u8>,
    last_mtime: i64,
}

impl ManifestDraft {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a file: its path below the data directory (files of tablespaces below
    /// `pg_tblspc/<oid>/`), its size in bytes, its modification time in seconds since the Unix epoch
    /// and the CRC-32C of its content.
    pub fn add(&mut self, path: &[u8], size_bytes: u64, mtime: i64, crc32c: u32) {
        let shared = path.iter().zip(&self.last_path).take_while(|(a, b)| a == b).count();
        let own = path.get(shared..).unwrap_or_default();
        put_number(&mut self.notes, shared as u64);
        put_number(&mut self.notes, own.len() as u64);
        self.notes.extend_from_slice(own);
        put_number(&mut self.notes, size_bytes);
        put_number(&mut self.notes, zigzag(mtime.wrapping_sub(self.last_mtime)));
        self.notes.extend_from_slice(&crc32c.to_le_bytes());
        self.last_path.truncate(shared);
        self.last_path.extend_from_slice(own);
        self.last_mtime = mtime;
    }

    /// The text, in pieces, for a server of this `server_version_num`.
    #[must_use]
    pub fn finish(self, version_num: u32, system_id: SystemId, wal_ranges: Vec<WalRange>) -> ManifestText {
        let mut text = String::from("{ \"PostgreSQL-Backup-Manifest-Version\": ");
        text.push_str(&match version_num >= VERSION_2_SINCE {
            true => format!("2,\n\"System-Identifier\": {},\n", system_id.as_u64()),
            false => "1,\n".to_owned(),
        });
        text.push_str("\"Files\": [");
        let notes = Notes { rest: self.notes, at: 0, path: Vec::new(), mtime: 0 };
        ManifestText { notes, text, hash: Sha256::new(), first: true, wal_ranges, ended: false }
    }
}

/// The text of a manifest, in pieces of at least 64 KiB but for the last.
#[derive(Debug)]
pub struct ManifestText {
    notes: Notes,
    text: String,
    hash: Sha256,
    first: bool,
    wal_ranges: Vec<WalRange>,
    ended: bool,
}

impl Iterator for ManifestText {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.ended {
            return None;
        }
        while self.text.len() < PIECE_BYTES {
            let Some(note) = self.notes.next() else {
                self.end();
                break;
            };
            self.text.push_str(if std::mem::take(&mut self.first) { "\n" } else { ",\n" });
            line(&note, &self.notes.path, &mut self.text);
        }
        let text = std::mem::take(&mut self.text);
        if !self.ended {
            self.hash.update(&text);
        }
        Some(text.into_bytes())
    }
}

impl ManifestText {
    fn end(&mut self) {
        self.ended = true;
        self.text.push_str("\n],\n\"WAL-Ranges\": [");
        for (number, range) in self.wal_ranges.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            let WalRange { timeline, start_lsn, end_lsn } = range;
            let _ = write!(
                self.text,
                "{comma}\n{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start_lsn}\", \"End-LSN\": \"{end_lsn}\" }}"
            );
        }
        self.text.push_str("\n],\n");
        self.hash.update(&self.text);
        let sum = hex::encode(std::mem::take(&mut self.hash).finalize());
        let _ = writeln!(self.text, "\"Manifest-Checksum\": \"{sum}\"}}");
    }
}

/// What is noted of a file, beside its path.
struct Note {
    size_bytes: u64,
    mtime: i64,
    crc32c: u32,
}

/// Reads the notes again.
#[derive(Debug)]
struct Notes {
    rest: Vec<u8>,
    at: usize,
    path: Vec<u8>,
    mtime: i64,
}

impl Notes {
    /// The next file; its path is `self.path`. The notes are our own: they end where a file would
    /// begin.
    fn next(&mut self) -> Option<Note> {
        let shared = self.number()?;
        let own = usize::try_from(self.number()?).ok()?;
        self.path.truncate(usize::try_from(shared).ok()?);
        self.path.extend_from_slice(self.rest.get(self.at..self.at + own)?);
        self.at += own;
        let size_bytes = self.number()?;
        self.mtime = self.mtime.wrapping_add(unzigzag(self.number()?));
        let crc32c = u32::from_le_bytes(*self.rest.get(self.at..)?.first_chunk()?);
        self.at += 4;
        Some(Note { size_bytes, mtime: self.mtime, crc32c })
    }

    fn number(&mut self) -> Option<u64> {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = *self.rest.get(self.at)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
            shift += 7;
        }
    }
}

/// Seven bits a byte, the lowest first.
fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn line(note: &Note, path: &[u8], out: &mut String) {
    match std::str::from_utf8(path) {
        Ok(path) => {
            out.push_str("{ \"Path\": \"");
            escape(path, out);
        }
        Err(_) => {
            out.push_str("{ \"Encoded-Path\": \"");
            out.push_str(&hex::encode(path));
        }
    }
    let algorithm = ChecksumAlgorithm::Crc32c.as_str();
    let checksum = FileChecksum::of_crc32c(note.crc32c);
    let (size, modified) = (note.size_bytes, gmt(note.mtime));
    let _ = write!(
        out,
        "\", \"Size\": {size}, \"Last-Modified\": \"{modified}\", \
         \"Checksum-Algorithm\": \"{algorithm}\", \"Checksum\": \"{checksum}\" }}"
    );
}

/// As `escape_json` has it.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

/// `2026-11-21 06:54:52 GMT`.
fn gmt(seconds: i64) -> String {
    let text = Timestamp::from_micros(seconds.saturating_mul(1_000_000)).to_string();
    text.replace('T', " ").replace('Z', " GMT")
}

#[cfg(test)]
mod tests {
    use capy_types::{Lsn, TimelineId};

    use super::super::ManifestParser;
    use super::*;

    const FILES: [(&[u8], u64, i64, u32); 5] = [
        (b"base/1/1249", 8192, 1_795_244_092, 0xdead_beef),
        (b"base/1/1249_vm", 0, 1_795_244_000, 0),
        (b"global/a \"quoted\"\\\n\x01", u64::MAX, -1, 1),
        (b"pg_tblspc/16390/PG_15_202209061/5/\xff", 1 << 40, 4_000_000_000, 2),
        (b"base", 1, 0, 3),
    ];

    fn text(version_num: u32) -> Vec<u8> {
        let mut draft = ManifestDraft::new();
        FILES.iter().for_each(|(path, size, mtime, crc)| draft.add(path, *size, *mtime, *crc));
        let range = WalRange {
            timeline: TimelineId::from_u32(3),
            start_lsn: Lsn::from_u64(0x0200_0028),
            end_lsn: Lsn::from_u64(0x0200_0100),
        };
        draft.finish(version_num, SystemId::from_u64(7), vec![range]).flatten().collect()
    }

    #[test]
    fn what_is_noted_is_read_back_in_its_order() {
        for (version_num, system_id) in [(160_003, None), (170_000, Some(SystemId::from_u64(7)))] {
            let mut files = Vec::new();
            let mut parser = ManifestParser::new();
            parser.feed(&text(version_num), |file| files.push(file)).unwrap();
            let summary = parser.finish().unwrap();
            assert_eq!((summary.files, summary.system_id), (5, system_id));
            assert_eq!(summary.wal_ranges[0].end_lsn, Lsn::from_u64(0x0200_0100));
            for (file, (path, size, mtime, crc)) in files.iter().zip(FILES) {
                assert_eq!(file.modified, mtime);
                assert_eq!((file.path.as_slice(), file.size_bytes), (path, size));
                assert_eq!(file.checksum, Some(FileChecksum::of_crc32c(crc)));
            }
        }
    }

    #[test]
    fn the_text_is_as_a_server_writes_it() {
        let text = String::from_utf8(text(150_000)).unwrap();
        let begins = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n\
            { \"Path\": \"base/1/1249\", \"Size\": 8192, \"Last-Modified\": \"2026-11-21 06:54:52 GMT\", \
            \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"efbeadde\" },\n";
        assert!(text.starts_with(begins), "{text}");
        let ranges = "\n],\n\"WAL-Ranges\": [\n{ \"Timeline\": 3, \"Start-LSN\": \"0/2000028\", \
            \"End-LSN\": \"0/2000100\" }\n],\n\"Manifest-Checksum\": \"";
        assert!(text.contains(ranges), "{text}");
        assert!(text.ends_with("\"}\n"), "{text}");
    }

    #[test]
    fn a_note_is_small_and_the_text_comes_in_pieces() {
        let mut draft = ManifestDraft::new();
        for number in 0..100_000_u64 {
            draft.add(format!("base/16384/{}", 100_000 + number).as_bytes(), 8192, 1_795_244_092, 7);
        }
        assert!(draft.notes.len() < 100_000 * 16, "{} bytes", draft.notes.len());
        let mut parser = ManifestParser::new();
        let (mut files, mut pieces) = (0, 0);
        for piece in draft.finish(150_000, SystemId::from_u64(7), Vec::new()) {
            assert!(piece.len() < PIECE_BYTES + 1024);
            parser.feed(&piece, |_| files += 1).unwrap();
            pieces += 1;
        }
        parser.finish().unwrap();
        assert!(files == 100_000 && pieces > 100, "{files} files in {pieces} pieces");
    }
}
