//! Golden objects of format version 1: `testdata/format/v1/`.
//!
//! They were written once and stay for ever: a reader of any later version must read them. When a
//! later version writes other bytes, drop the comparison of bytes for version 1 and keep the
//! reading. `cargo test -p capy-format -- --ignored write_golden` makes them anew, for a structure
//! that is not in a release yet.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::samples;
use crate::*;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/format/v1")
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(directory().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The bytes of every golden file, as this program writes them.
fn files() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut add = |name: &str, bytes: Vec<u8>| files.push((name.to_owned(), bytes));
    for kind in ObjectKind::ALL {
        let name = format!("header-{}.bin", kind.as_str().replace(' ', "-"));
        add(&name, samples::header(kind).encode().to_vec());
    }
    let frame_aad = frame_aad(&samples::repository(), &samples::pack_id(), 2, &samples::frames()[2]);
    add("frame-aad.bin", frame_aad.to_vec());
    let header = samples::header(ObjectKind::Root).encode();
    add("object-aad.bin", object_aad(&header, &names::root(7)));
    add("pack-footer.bin", samples::footer().encode());
    add("pack-trailer.bin", samples::trailer().encode().to_vec());
    add("wal-trailer.bin", WalTrailer { facts_len: 456 }.encode().to_vec());
    add("index.bin", samples::index().encode());
    add("node.bin", encode_node(&samples::node()));
    let mut entries = Vec::new();
    samples::entries().iter().for_each(|entry| encode_entry(entry, &mut entries));
    add("entries.bin", entries);
    let mut add_json = |name: &str, value: Value| {
        let mut text = serde_json::to_vec_pretty(&value).expect("plain data");
        text.push(b'\n');
        add(name, text);
    };
    add_json("names.json", names_of_samples());
    add_json("binary.json", words_of_binary_files());
    for (name, document) in [
        ("config.json", serde_json::to_vec(&samples::config())),
        ("key-slot-passphrase.json", serde_json::to_vec(&samples::key_slot())),
        ("key-slot-key-file.json", serde_json::to_vec(&samples::key_file_slot())),
        ("root-first.json", serde_json::to_vec(&samples::first_root())),
        ("root.json", serde_json::to_vec(&samples::root())),
        ("root-pinned.json", serde_json::to_vec(&samples::pinned_root())),
        ("backup-base.json", serde_json::to_vec(&samples::backup_record())),
        ("backup-stream.json", serde_json::to_vec(&samples::stream_record())),
        ("wal-facts-segment.json", serde_json::to_vec(&samples::wal_facts())),
        ("wal-facts-history.json", serde_json::to_vec(&samples::history_facts())),
        ("archive.json", serde_json::to_vec(&samples::archive())),
        ("restore-point.json", serde_json::to_vec(&samples::restore_point())),
    ] {
        add(name, document.expect("plain data"));
    }
    files
}

fn names_of_samples() -> Value {
    let root = samples::root();
    json!({
        "config": names::CONFIG,
        "key_slot": names::key_slot(&samples::key_slot().id),
        "root_generation_0": names::root(0),
        "root_generation_7": names::root(7),
        "wal": names::wal(&samples::archive().cluster, &samples::wal_facts().file),
        "wal_history": names::wal(&samples::archive().cluster, &samples::history_facts().file),
        "wal_conflict": names::wal_conflict(
            &samples::archive().cluster,
            &samples::wal_facts().file,
            &samples::wal_facts().content,
        ),
        "wal_part": names::wal_part(
            &samples::archive().cluster,
            &names::WalPartName { segment: samples::wal_facts().file, start: 0x2000, end: 0x2fb0 },
        ),
        "wal_facts": names::wal_facts(
            &samples::archive().cluster,
            &samples::wal_facts().file,
            &samples::wal_facts().file,
        ),
        "archive": names::archive(&samples::archive().cluster),
        "restore_point": names::restore_point(&samples::archive().cluster, &samples::restore_point().id),
        "pack": names::pack(&samples::pack_id()),
        "index": names::index(&root.indexes[0]),
        "backup": names::backup(&samples::backup_record().key),
    })
}

/// What the binary files say, for a reader in another language to compare with.
fn words_of_binary_files() -> Value {
    let headers: Vec<_> =
        ObjectKind::ALL.into_iter().map(|kind| header_words(&samples::header(kind))).collect();
    let packs: Vec<_> = samples::index()
        .packs
        .iter()
        .map(|pack| json!({ "id": pack.id, "size": pack.size, "frames": frames_words(&pack.frames) }))
        .collect();
    json!({
        "headers": headers,
        "pack-footer.bin": frames_words(&samples::footer().frames),
        "pack-trailer.bin": {
            "footer_len": samples::trailer().footer_len,
            "frame_count": samples::trailer().frame_count,
        },
        "wal-trailer.bin": { "facts_len": 456 },
        "index.bin": packs,
        "node.bin": samples::node(),
        "entries.bin": samples::entries().iter().map(entry_words).collect::<Vec<_>>(),
        "frame-aad.bin": "frame 2 of pack-footer.bin in the pack of names.json",
        "object-aad.bin": "header-root.bin as generation 7",
    })
}

fn header_words(header: &Header) -> Value {
    json!({
        "kind": header.kind.as_str(),
        "suite": header.suite,
        "compression": header.compression,
        "repository": header.repository,
        "nonce": header.nonce,
        "plain_len": header.plain_len,
        "stored_len": header.stored_len,
    })
}

fn frames_words(frames: &[FrameInfo]) -> Value {
    let words = |frame: &FrameInfo| {
        json!({
            "chunk": frame.chunk,
            "kind": frame.kind as u8,
            "class": frame.class as u8,
            "compression": frame.compression,
            "offset": frame.offset,
            "stored_len": frame.stored_len,
            "plain_len": frame.plain_len,
            "base": frame.base,
        })
    };
    frames.iter().map(words).collect()
}

fn meta_words(meta: &Meta) -> Value {
    json!({
        "path_hex": hex::encode(&meta.path),
        "mode": meta.mode,
        "uid": meta.uid.to_string(),
        "gid": meta.gid.to_string(),
        "mtime": meta.mtime,
        "owner": meta.owner,
        "group": meta.group,
    })
}

fn entry_words(entry: &Entry) -> Value {
    match entry {
        Entry::Archive(ArchiveHeader { kind: ArchiveKind::Tablespace { oid, location } }) => {
            json!({ "archive": "tablespace", "oid": oid, "location": location })
        }
        Entry::Archive(ArchiveHeader { kind: ArchiveKind::Base }) => json!({ "archive": "base" }),
        Entry::Archive(ArchiveHeader { kind: ArchiveKind::BackupManifest }) => {
            json!({ "archive": "backup_manifest" })
        }
        Entry::Archive(ArchiveHeader { kind: ArchiveKind::Stream }) => json!({ "archive": "stream" }),
        Entry::File(file) => {
            json!({ "file": meta_words(&file.meta), "chunking": file.chunking, "content": file.content })
        }
        Entry::Directory(meta) => json!({ "directory": meta_words(meta) }),
        Entry::Symlink { meta, target } => {
            json!({ "symlink": meta_words(meta), "target_hex": hex::encode(target) })
        }
        Entry::EndArchive { trailing_zeros } => json!({ "end_archive": trailing_zeros }),
    }
}

#[test]
#[ignore = "writes the golden objects; run by hand for a structure that no release has yet"]
fn write_golden() {
    std::fs::create_dir_all(directory()).unwrap();
    for (name, bytes) in files() {
        std::fs::write(directory().join(name), bytes).unwrap();
    }
}

#[test]
fn version_1_is_written_as_it_always_was() {
    for (name, bytes) in files() {
        assert_eq!(golden(&name), bytes, "{name}");
    }
}

#[test]
fn every_golden_header_is_read() {
    for kind in ObjectKind::ALL {
        let name = format!("header-{}.bin", kind.as_str().replace(' ', "-"));
        assert_eq!(Header::decode(&name, &golden(&name)), Ok(samples::header(kind)));
    }
}

#[test]
fn every_golden_binary_structure_is_read() {
    let trailer = golden("pack-trailer.bin");
    let trailer = trailer.first_chunk().expect("16 bytes");
    assert_eq!(PackTrailer::decode("trailer", trailer, 0), Ok(samples::trailer()));
    let trailer = golden("wal-trailer.bin");
    let trailer = trailer.first_chunk().expect("16 bytes");
    assert_eq!(WalTrailer::decode("trailer", trailer, 0), Ok(WalTrailer { facts_len: 456 }));
    let end = samples::frames().last().unwrap().end();
    assert_eq!(PackFooter::decode("footer", &golden("pack-footer.bin"), end), Ok(samples::footer()));
    assert_eq!(IndexObject::decode("index", &golden("index.bin")), Ok(samples::index()));
    assert_eq!(decode_node("node", &golden("node.bin")), Ok(samples::node()));
    let stream = golden("entries.bin");
    let (mut rest, mut entries) = (stream.as_slice(), Vec::new());
    while let Some((entry, length)) = decode_entry("entries", rest).unwrap() {
        entries.push(entry);
        rest = &rest[length..];
    }
    assert_eq!((entries, rest.len()), (samples::entries(), 0));
}

#[test]
fn every_golden_document_is_read() {
    assert_eq!(Config::from_json("config", &golden("config.json")), Ok(samples::config()));
    let slot = |name: &str| KeySlot::from_json(name, &golden(name));
    assert_eq!(slot("key-slot-passphrase.json"), Ok(samples::key_slot()));
    assert_eq!(slot("key-slot-key-file.json"), Ok(samples::key_file_slot()));
    let root = |name: &str| Root::from_json(name, &golden(name));
    assert_eq!(root("root-first.json"), Ok(samples::first_root()));
    assert_eq!(root("root.json"), Ok(samples::root()));
    assert_eq!(root("root-pinned.json"), Ok(samples::pinned_root()));
    let record = |name: &str| BackupRecord::from_json(name, &golden(name));
    assert_eq!(record("backup-base.json"), Ok(samples::backup_record()));
    assert_eq!(record("backup-stream.json"), Ok(samples::stream_record()));
    let facts = |name: &str| WalFacts::from_json(name, &golden(name));
    assert_eq!(facts("wal-facts-segment.json"), Ok(samples::wal_facts()));
    assert_eq!(facts("wal-facts-history.json"), Ok(samples::history_facts()));
    assert_eq!(ArchiveIdentity::from_json("archive", &golden("archive.json")), Ok(samples::archive()));
    let point = RestorePoint::from_json("point", &golden("restore-point.json"));
    assert_eq!(point, Ok(samples::restore_point()));
}

#[test]
fn nothing_in_the_golden_directory_goes_unread() {
    let known: Vec<_> = files().into_iter().map(|(name, _)| name).collect();
    for found in std::fs::read_dir(directory()).unwrap() {
        let name = found.unwrap().file_name().into_string().unwrap();
        // The miniature repository is read by the repository layer's tests.
        let elsewhere = ["README.md", "repository"].contains(&name.as_str());
        assert!(elsewhere || known.contains(&name), "{name} is read by no test");
    }
}
