//! A base backup as `pg_basebackup -Ft -X none` writes it of PostgreSQL 15: a tar that the engine
//! takes without a server, and finds nothing wrong with.
//!
//! Of its bytes 15/16 are tables and indexes in 15 files with true page checksums, and 1/16 is the
//! server's log in plain text; 300 files of one to four pages stand for the system catalogs.
//! `pg_control` comes last of the data, then `backup_manifest` with the CRC-32C of every file.
//!
//! Sources: PostgreSQL's `pg_control.h` and "Backup Manifest Format" in its manual.

use std::io::{self, Write};

use capy_postgres::backup_manifest::FileChecksum;
use capy_postgres::page::page_checksum;
use sha2::{Digest, Sha256};

use crate::{Archive, PAGE_BYTES, pages, text};

const RELATIONS: usize = 15;
const CATALOGS: [(u32, u32); 3] = [(1, 100), (4, 100), (5, 100)];
/// What the catalogs have together: 300 files of 2.5 pages on average.
const CATALOG_BYTES: usize = 300 * 5 * PAGE_BYTES / 2;
/// What changes at once: 256 KiB in pages, two chunks of the grid.
const STRETCH_PAGES: usize = 32;
/// One stretch in so many changes.
const CHANGED_EVERY: usize = 20;
const SEED: u64 = 1;
const SEED_OF_CHANGES: u64 = 1_000_000;

/// Where the backup starts and stops: beyond the position of every page.
const START_LSN: u64 = 0x0200_0028;
const STOP_LSN: u64 = 0x0200_0100;
const SYSTEM_ID: u64 = 7_300_000_000_000_000_001;

/// A cluster whose base backup has about `size_bytes`, at one of two moments.
#[derive(Debug, Clone, Copy)]
pub struct Cluster {
    size_bytes: usize,
    changed: bool,
}

impl Cluster {
    /// The cluster at the first moment. Less than 32 MiB is taken as 32 MiB.
    #[must_use]
    pub const fn of(size_bytes: usize) -> Self {
        let least = 32 << 20;
        Self { size_bytes: if size_bytes < least { least } else { size_bytes }, changed: false }
    }

    /// The same at a later moment: one in twenty stretches of 256 KiB of its tables was rewritten,
    /// and its log has grown by a twentieth. Changes that lie scattered cost a backup more, up to a
    /// whole chunk of 256 KiB for each page.
    #[must_use]
    pub const fn five_percent_later(self) -> Self {
        Self { changed: true, ..self }
    }

    /// Writes the base backup; its size in bytes.
    ///
    /// # Errors
    /// Whatever `out` answers.
    pub fn write_tar(self, out: impl Write) -> io::Result<u64> {
        let mut tar = Tar { archive: Archive::new(out), listed: Vec::new() };
        tar.file("backup_label", label().as_bytes())?;
        tar.file("tablespace_map", b"")?;
        tar.file("PG_VERSION", b"15\n")?;
        for directory in ["base", "base/1", "base/4", "base/5", "global", "log", "pg_wal"] {
            tar.archive.directory(directory)?;
        }
        write_catalogs(&mut tar)?;
        self.write_relations(&mut tar)?;
        self.write_log(&mut tar)?;
        tar.file("global/pg_control", &control())?;
        tar.archive.file("backup_manifest", &manifest(&tar.listed))?;
        tar.archive.finish()
    }

    /// Size in bytes of a relation, and of the log.
    const fn share_bytes(self) -> usize {
        (self.size_bytes - CATALOG_BYTES) / (RELATIONS + 1)
    }

    fn write_relations(self, tar: &mut Tar<impl Write>) -> io::Result<()> {
        let mut stretches = 0;
        for relation in 0..RELATIONS {
            let mut data = pages(SEED + relation as u64, self.share_bytes() / PAGE_BYTES);
            for stretch in data.chunks_exact_mut(STRETCH_PAGES * PAGE_BYTES) {
                stretches += 1;
                if self.changed && stretches % CHANGED_EVERY == 0 {
                    stretch.copy_from_slice(&pages(SEED_OF_CHANGES + stretches as u64, STRETCH_PAGES));
                }
            }
            set_checksums(&mut data);
            tar.file(&format!("base/5/{}", 16_384 + 3 * relation), &data)?;
        }
        Ok(())
    }

    fn write_log(self, tar: &mut Tar<impl Write>) -> io::Result<()> {
        let grown = if self.changed { self.share_bytes() / CHANGED_EVERY } else { 0 };
        tar.file("log/postgresql.log", &text(SEED, self.share_bytes() + grown))
    }
}

/// The archive, and what its manifest is to say of each file.
struct Tar<W> {
    archive: Archive<W>,
    listed: Vec<String>,
}

impl<W: Write> Tar<W> {
    fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.listed.push(format!(
            "{{ \"Path\": \"{path}\", \"Size\": {}, \"Last-Modified\": \"2026-11-21 06:54:52 GMT\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{}\" }}",
            content.len(),
            FileChecksum::of_crc32c(crc32c::crc32c(content))
        ));
        self.archive.file(path, content)
    }
}

fn write_catalogs(tar: &mut Tar<impl Write>) -> io::Result<()> {
    for (database, files) in CATALOGS {
        for file in 0..files {
            let seed = u64::from(database * 1000 + file);
            let mut data = pages(seed, 1 + file as usize % 4);
            set_checksums(&mut data);
            tar.file(&format!("base/{database}/{}", 1247 + file), &data)?;
        }
    }
    Ok(())
}

/// Gives every page that is in use the checksum of its place.
fn set_checksums(data: &mut [u8]) {
    for (block, page) in (0..).zip(data.as_chunks_mut::<PAGE_BYTES>().0) {
        // A page that was never used is all zero and stays so; others have an upper bound.
        if page[14..16] != [0, 0] {
            let checksum = page_checksum(page, block);
            page[8..10].copy_from_slice(&checksum.to_le_bytes());
        }
    }
}

fn lsn(position: u64) -> String {
    format!("{:X}/{:X}", position >> 32, position & 0xffff_ffff)
}

fn label() -> String {
    let start = lsn(START_LSN);
    format!(
        "START WAL LOCATION: {start} (file 000000010000000000000002)\nCHECKPOINT LOCATION: {start}\n\
         BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-21 06:54:52 GMT\n\
         LABEL: bench\nSTART TIMELINE: 1\n"
    )
}

/// A `pg_control` of version 1300, as far as it is read: identity, positions, sizes, CRC.
fn control() -> Vec<u8> {
    const CRC_AT: usize = 288;
    let mut file = vec![0; PAGE_BYTES];
    for (at, value) in [(0, SYSTEM_ID), (32, START_LSN), (40, START_LSN)] {
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    let (version, catalog, in_production, timeline) = (1300_u32, 202_209_061, 6, 1);
    let (page, segment_pages, wal_segment, checksums) = (8192, 131_072, 16 << 20, 1);
    for (at, value) in [
        (8, version),
        (12, catalog),
        (16, in_production),
        (48, timeline),
        (216, page),
        (220, segment_pages),
        (224, page),
        (228, wal_segment),
        (252, checksums),
    ] {
        file[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    let crc = crc32c::crc32c(&file[..CRC_AT]);
    file[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    file
}

fn manifest(listed: &[String]) -> Vec<u8> {
    let body = format!(
        "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{}\n],\n\"WAL-Ranges\": [\n\
         {{ \"Timeline\": 1, \"Start-LSN\": \"{}\", \"End-LSN\": \"{}\" }}\n],\n",
        listed.join(",\n"),
        lsn(START_LSN),
        lsn(STOP_LSN)
    );
    let sum = hex::encode(Sha256::digest(&body));
    format!("{body}\"Manifest-Checksum\": \"{sum}\"}}\n").into_bytes()
}
