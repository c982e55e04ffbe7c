//! Base backups made by hand: small, valid, and easy to make invalid in one respect.
//!
//! What `pg_basebackup -D - -Ft` writes of a cluster with one relation: label first, `pg_control`
//! last of the data, `backup_manifest` at the end.

use capy_postgres::backup_manifest::FileChecksum;
use capy_postgres::page::page_checksum;
use capy_postgres::tar::{END_BYTES, EntryKind, TarEntry, TarWriter};
use sha2::{Digest, Sha256};

/// Where the backup starts and stops.
pub(crate) const START: u64 = 0x0200_0028;
pub(crate) const STOP: u64 = 0x0200_0100;
/// The relation's file.
pub(crate) const RELATION: &str = "base/5/16384";
/// Its pages.
pub(crate) const PAGES: usize = 40;
const PAGE: usize = 8192;

/// One entry of the tar.
#[derive(Clone)]
pub(crate) enum Item {
    File(String, Vec<u8>),
    Directory(String),
    Symlink(String, String),
}

/// A base backup to be.
pub(crate) struct BaseTar {
    pub(crate) items: Vec<Item>,
    /// Whether a manifest over the items is appended.
    pub(crate) manifest: bool,
    pub(crate) checksums: bool,
}

impl BaseTar {
    /// One with nothing wrong. `seed` makes its relation's content.
    pub(crate) fn new(seed: u64) -> Self {
        let directory = |path: &str| Item::Directory(path.to_owned());
        let file = |path: &str, content: &[u8]| Item::File(path.to_owned(), content.to_vec());
        let label = format!(
            "START WAL LOCATION: {} (file 000000010000000000000002)\nCHECKPOINT LOCATION: {}\n\
             BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-21 06:54:52 GMT\n\
             LABEL: test\nSTART TIMELINE: 1\n",
            lsn(START),
            lsn(START)
        );
        let items = vec![
            file("backup_label", label.as_bytes()),
            file("tablespace_map", b""),
            directory("base"),
            directory("base/5"),
            file(RELATION, &relation(seed)),
            file("base/5/PG_VERSION", b"15\n"),
            file("PG_VERSION", b"15\n"),
            file("postgresql.conf", &b"port = 5432\n".repeat(1000)),
            directory("pg_notify"),
            directory("./pg_wal/archive_status/"),
            directory("global"),
        ];
        Self { items, manifest: true, checksums: true }
    }

    /// Replaces a file's content, or adds the file.
    pub(crate) fn set(&mut self, path: &str, content: &[u8]) {
        for item in &mut self.items {
            if let Item::File(known, old) = item
                && known == path
            {
                *old = content.to_vec();
                return;
            }
        }
        self.items.push(Item::File(path.to_owned(), content.to_vec()));
    }

    pub(crate) fn remove(&mut self, path: &str) {
        self.items.retain(|item| !matches!(item, Item::File(known, _) if known == path));
    }

    pub(crate) fn content(&self, path: &str) -> Vec<u8> {
        let found = self.items.iter().find_map(|item| match item {
            Item::File(known, content) if known == path => Some(content.clone()),
            _ => None,
        });
        found.expect("a file of the backup")
    }

    /// The tar's bytes. The manifest is of `listed`, which may differ from what is written.
    pub(crate) fn bytes_with_manifest_of(&self, listed: &Self) -> Vec<u8> {
        let mut items = self.items.clone();
        items.push(Item::File("global/pg_control".to_owned(), control(self.checksums)));
        if self.manifest {
            items.push(Item::File("backup_manifest".to_owned(), manifest(listed)));
        }
        tar(&items)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes_with_manifest_of(self)
    }
}

fn lsn(position: u64) -> String {
    format!("{:X}/{:X}", position >> 32, position & 0xffff_ffff)
}

/// Pages with true checksums, written before the backup began.
fn relation(seed: u64) -> Vec<u8> {
    let mut file = Vec::with_capacity(PAGES * PAGE);
    for block in 0..PAGES as u32 {
        let mut page = [0; PAGE];
        for (at, byte) in page.iter_mut().enumerate().skip(24) {
            *byte = (seed.wrapping_add(u64::from(block)).wrapping_mul(at as u64 + 1) >> 3) as u8;
        }
        set_page_header(&mut page, block, START - 8);
        file.extend_from_slice(&page);
    }
    file
}

/// Gives a page a position and the checksum that belongs to it.
pub(crate) fn set_page_header(page: &mut [u8; PAGE], block: u32, position: u64) {
    page[..4].copy_from_slice(&((position >> 32) as u32).to_le_bytes());
    page[4..8].copy_from_slice(&(position as u32).to_le_bytes());
    page[8..24].fill(0);
    page[12..14].copy_from_slice(&24_u16.to_le_bytes());
    page[14..16].copy_from_slice(&8192_u16.to_le_bytes());
    let checksum = page_checksum(page, block);
    page[8..10].copy_from_slice(&checksum.to_le_bytes());
}

/// A `pg_control` of PostgreSQL 15.
fn control(checksums: bool) -> Vec<u8> {
    let mut file = vec![0; 8192];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &7_000_000_000_000_000_001_u64.to_le_bytes());
    put(8, &1300_u32.to_le_bytes());
    put(12, &202_209_061_u32.to_le_bytes());
    put(16, &6_u32.to_le_bytes());
    put(32, &START.to_le_bytes());
    put(40, &START.to_le_bytes());
    put(48, &1_u32.to_le_bytes());
    put(216, &8192_u32.to_le_bytes());
    put(220, &131_072_u32.to_le_bytes());
    put(224, &8192_u32.to_le_bytes());
    put(228, &(16_u32 << 20).to_le_bytes());
    put(252, &u32::from(checksums).to_le_bytes());
    let crc = crc32c::crc32c(&file[..288]);
    file[288..292].copy_from_slice(&crc.to_le_bytes());
    file
}

/// The manifest of a backup, as PostgreSQL writes it.
fn manifest(backup: &BaseTar) -> Vec<u8> {
    let mut files = backup.items.clone();
    files.push(Item::File("global/pg_control".to_owned(), control(backup.checksums)));
    let lines: Vec<String> = files
        .iter()
        .filter_map(|item| match item {
            Item::File(path, content) => Some(format!(
                "{{ \"Path\": \"{path}\", \"Size\": {}, \"Last-Modified\": \"2026-11-21 06:54:52 GMT\", \
                 \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{}\" }}",
                content.len(),
                FileChecksum::of_crc32c(crc32c::crc32c(content))
            )),
            _ => None,
        })
        .collect();
    let body = format!(
        "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{}\n],\n\"WAL-Ranges\": [\n\
         {{ \"Timeline\": 1, \"Start-LSN\": \"{}\", \"End-LSN\": \"{}\" }}\n],\n",
        lines.join(",\n"),
        lsn(START),
        lsn(STOP)
    );
    let sum: String = Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{body}\"Manifest-Checksum\": \"{sum}\"}}\n").into_bytes()
}

/// A tar of these items.
pub(crate) fn tar(items: &[Item]) -> Vec<u8> {
    let mut writer = TarWriter::new();
    let mut out = Vec::new();
    for item in items {
        let (path, kind, content, target, mode) = match item {
            Item::File(path, content) => (path, EntryKind::File, content.as_slice(), "", 0o600),
            Item::Directory(path) => (path, EntryKind::Directory, &[][..], "", 0o700),
            Item::Symlink(path, target) => (path, EntryKind::Symlink, &[][..], target.as_str(), 0o777),
        };
        let entry = TarEntry {
            path: path.clone().into_bytes(),
            kind,
            size: content.len() as u64,
            mode,
            uid: 26,
            gid: 26,
            mtime: 1_795_244_092,
            owner: "postgres".to_owned(),
            group: "postgres".to_owned(),
            link_target: target.as_bytes().to_vec(),
        };
        writer.begin(&entry, &mut out).unwrap();
        out.extend_from_slice(content);
        writer.passed(content.len() as u64).unwrap();
        writer.end(&mut out).unwrap();
    }
    writer.finish(END_BYTES as u32, &mut out).unwrap();
    out
}
