//! A tar written file by file into any writer.
//!
//! Contained by: the cluster, and the bench of the tar parser. Owner, mode and time are the same
//! for every entry, as in a backup that was just taken.

use std::io::{self, Write};

use capy_postgres::tar::{END_BYTES, EntryKind, TarEntry, TarWriter};

/// When every entry was last changed: 2026-11-21, in seconds since the Unix epoch.
const CHANGED_AT: i64 = 1_795_244_092;

/// A tar in the making.
pub struct Archive<W> {
    out: W,
    writer: TarWriter,
    framing: Vec<u8>,
    bytes: u64,
}

impl<W: Write> Archive<W> {
    /// An empty one, written to `out`.
    pub fn new(out: W) -> Self {
        Self { out, writer: TarWriter::new(), framing: Vec::new(), bytes: 0 }
    }

    /// Adds a file.
    ///
    /// # Errors
    /// A path that no tar holds; whatever `out` answers.
    pub fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.entry(path, EntryKind::File, content)
    }

    /// Adds a directory.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, EntryKind::Directory, &[])
    }

    /// Writes the end marker; the size of the whole tar in bytes.
    ///
    /// # Errors
    /// Whatever `out` answers.
    pub fn finish(mut self) -> io::Result<u64> {
        self.writer.finish(END_BYTES as u32, &mut self.framing).map_err(io::Error::other)?;
        self.out.write_all(&self.framing)?;
        self.out.flush()?;
        Ok(self.bytes + self.framing.len() as u64)
    }

    fn entry(&mut self, path: &str, kind: EntryKind, content: &[u8]) -> io::Result<()> {
        let entry = TarEntry {
            path: path.as_bytes().to_vec(),
            kind,
            size: content.len() as u64,
            mode: if kind == EntryKind::Directory { 0o700 } else { 0o600 },
            uid: 26,
            gid: 26,
            mtime: CHANGED_AT,
            owner: "postgres".to_owned(),
            group: "postgres".to_owned(),
            link_target: Vec::new(),
        };
        self.writer.begin(&entry, &mut self.framing).map_err(io::Error::other)?;
        self.put_framing()?;
        self.put(content)?;
        self.writer.passed(content.len() as u64).map_err(io::Error::other)?;
        self.writer.end(&mut self.framing).map_err(io::Error::other)?;
        self.put_framing()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn put_framing(&mut self) -> io::Result<()> {
        self.bytes += self.framing.len() as u64;
        self.out.write_all(&self.framing)?;
        self.framing.clear();
        Ok(())
    }
}
