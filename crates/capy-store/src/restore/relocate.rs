//! Tablespaces that moved: `tablespace_map` says so, and `backup_manifest` agrees with it.
//!
//! Contained by: the restore. At its first start on a restored directory PostgreSQL makes the links
//! of `tablespace_map` anew, so that file must name the new places. It is listed in
//! `backup_manifest`; its line there, and the manifest's own checksum over all lines, are computed
//! anew, so that `pg_verifybackup` still proves everything else.
//! Source: PostgreSQL's `xlogrecovery.c` (`read_tablespace_map`), `backup_manifest.c`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use super::target::TablespaceTarget;
use crate::{Error, Result};

const MAP: &str = "tablespace_map";
const MANIFEST: &str = "backup_manifest";

/// Rewrites both files, if any tablespace moved. Returns whether it did.
pub(super) fn rewrite_tablespace_map(target: &Path, tablespaces: &[TablespaceTarget]) -> Result<bool> {
    let moved = |t: &&TablespaceTarget| t.linked && Path::new(&t.location) != t.directory;
    if !tablespaces.iter().any(|t| moved(&t)) || !target.join(MAP).exists() {
        return Ok(false);
    }
    let map = map_of(tablespaces);
    replace(&target.join(MAP), |out| out.write_all(&map))
        .map_err(|error| Error::io("rewrite tablespace_map for moved tablespaces", error))?;
    if target.join(MANIFEST).exists() {
        rewrite_manifest(&target.join(MANIFEST), &map)
            .map_err(|error| Error::io("rewrite backup_manifest for moved tablespaces", error))?;
    }
    Ok(true)
}

/// One line for each tablespace: oid, space, path, with line ends and backslashes escaped.
fn map_of(tablespaces: &[TablespaceTarget]) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    let mut map = Vec::new();
    for tablespace in tablespaces {
        map.extend_from_slice(format!("{} ", tablespace.oid).as_bytes());
        let place = if tablespace.linked {
            tablespace.directory.as_os_str().as_bytes()
        } else {
            tablespace.location.as_bytes()
        };
        for byte in place {
            if matches!(byte, b'\n' | b'\r' | b'\\') {
                map.push(b'\\');
            }
            map.push(*byte);
        }
        map.push(b'\n');
    }
    map
}

fn rewrite_manifest(path: &Path, map: &[u8]) -> io::Result<()> {
    let mut input = BufReader::new(File::open(path)?);
    replace(path, |out| {
        let mut whole = Sha256::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            if input.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            if line.starts_with(b"\"Manifest-Checksum\"") {
                let sum = hex(&whole.finalize_reset());
                return writeln!(out, "\"Manifest-Checksum\": \"{sum}\"}}");
            }
            if let Some(rewritten) = rewritten_line(&line, map) {
                line = rewritten;
            }
            whole.update(&line);
            out.write_all(&line)?;
        }
    })
}

/// The manifest's line of `tablespace_map` with its new size and checksum; `None` for other lines.
fn rewritten_line(line: &[u8], map: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(line).ok()?;
    if !text.contains("\"tablespace_map\"") && !text.contains("\"7461626c6573706163655f6d6170\"") {
        return None;
    }
    // PostgreSQL writes one file to a line; the first begins with the list, all but the last end
    // with a comma.
    let (start, rest) = text.split_at(text.find("{ \"")?);
    let (object, end) = rest.split_at(rest.rfind('}')? + 1);
    let mut file: serde_json::Map<String, serde_json::Value> = serde_json::from_str(object).ok()?;
    let name = if file.contains_key("Path") { "Path" } else { "Encoded-Path" };
    let modified = file.remove("Last-Modified")?;
    let path = file.remove(name)?;
    let mut new =
        format!("{start}{{ \"{name}\": {path}, \"Size\": {}, \"Last-Modified\": {modified}", map.len());
    if let Some(algorithm) = file.get("Checksum-Algorithm").and_then(|value| value.as_str()) {
        let sum = checksum(algorithm, map)?;
        new.push_str(&format!(", \"Checksum-Algorithm\": \"{algorithm}\", \"Checksum\": \"{sum}\""));
    }
    new.push_str(" }");
    new.push_str(end);
    Some(new.into_bytes())
}

/// A checksum as `backup_manifest` spells it.
fn checksum(algorithm: &str, data: &[u8]) -> Option<String> {
    Some(match algorithm {
        // The bytes of the number as the server keeps it in memory.
        "CRC32C" => hex(&crc32c::crc32c(data).to_le_bytes()),
        "SHA224" => hex(&Sha224::digest(data)),
        "SHA256" => hex(&Sha256::digest(data)),
        "SHA384" => hex(&Sha384::digest(data)),
        "SHA512" => hex(&Sha512::digest(data)),
        _ => return None,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a new content of `path` beside it and renames it there, mode and owner kept.
fn replace(path: &Path, write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let old = path.metadata()?;
    let directory = path.parent().ok_or_else(|| io::Error::other("a file without a directory"))?;
    let temporary = tempfile::Builder::new().prefix(".capy-restore").tempfile_in(directory)?;
    let mut out = BufWriter::new(temporary.as_file());
    write(&mut out)?;
    out.flush()?;
    drop(out);
    let owner = rustix::process::geteuid().is_root().then_some((old.uid(), old.gid()));
    super::files::set_mode_and_owner(temporary.path(), old.mode(), owner)?;
    temporary.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tablespace(oid: u32, location: &str, directory: &str) -> TablespaceTarget {
        TablespaceTarget { oid, location: location.to_owned(), directory: directory.into(), linked: true }
    }

    const OLD_LINE: &str = "{ \"Path\": \"tablespace_map\", \"Size\": 20, \"Last-Modified\": \
        \"2026-11-21 06:54:52 GMT\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"00000000\" },\n";

    #[test]
    fn the_map_and_its_line_in_the_manifest_follow_the_move() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join(MAP), "16384 /mnt/old\n").expect("written");
        let before = format!("{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{OLD_LINE}],\n");
        std::fs::write(dir.path().join(MANIFEST), format!("{before}\"Manifest-Checksum\": \"00\"}}\n"))
            .expect("written");
        assert!(
            rewrite_tablespace_map(dir.path(), &[tablespace(16384, "/mnt/old", "/mnt/n\\w")]).expect("moved")
        );
        let map = std::fs::read(dir.path().join(MAP)).expect("read");
        assert_eq!(map, b"16384 /mnt/n\\\\w\n");
        let manifest = std::fs::read_to_string(dir.path().join(MANIFEST)).expect("read");
        let (body, last) = manifest.rsplit_once("\"Manifest-Checksum\"").expect("a checksum");
        let sum = hex(&crc32c::crc32c(&map).to_le_bytes());
        assert!(body.contains(&format!("\"Size\": {}, ", map.len())) && body.contains(&sum), "{body}");
        assert!(last.contains(&hex(&Sha256::digest(body))), "{last}");
    }

    #[test]
    fn nothing_changes_when_nothing_moved() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join(MAP), "1 /a\n").expect("written");
        assert!(!rewrite_tablespace_map(dir.path(), &[tablespace(1, "/a", "/a")]).expect("checked"));
        assert_eq!(std::fs::read(dir.path().join(MAP)).expect("read"), b"1 /a\n");
    }
}
