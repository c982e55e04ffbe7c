//! Round trips: whatever a program can build, it reads back as it was.

use capy_types::limits::{CHUNK_MAX_BYTES, PATH_MAX_BYTES};
use capy_types::{ChunkId, Nonce, PackId, RepositoryId};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::limits::{FANOUT, NODE_MAX_BYTES, NODE_MIN_BYTES, OWNER_MAX_BYTES};
use crate::*;

fn chunk() -> impl Strategy<Value = ChunkId> {
    any::<[u8; 32]>().prop_map(ChunkId::from_bytes)
}

fn chunk_len() -> impl Strategy<Value = u32> {
    let longest = u32::try_from(CHUNK_MAX_BYTES).expect("8 MiB fit");
    prop_oneof![1..=300u32, 1..=longest, Just(1), Just(131_072)]
}

/// Headers of every kind, with lengths that the kind can have.
fn header() -> impl Strategy<Value = Header> {
    let kind = prop::sample::select(ObjectKind::ALL.to_vec());
    (kind, any::<[u8; 16]>(), any::<[u8; 24]>(), 1..=65_536u32, any::<bool>(), any::<u32>()).prop_map(
        |(kind, repository, nonce, plain_len, raw, random)| {
            let sealed = kind.is_sealed();
            let open = matches!(kind, ObjectKind::Config | ObjectKind::KeySlot);
            let (plain_len, stored_len) = match kind {
                ObjectKind::Pack => (0, 0),
                _ if !sealed => (plain_len, plain_len),
                _ if raw || plain_len == 1 => (plain_len, plain_len + 16),
                _ => (plain_len, 17 + random % (plain_len - 1)),
            };
            Header {
                version: 1 + u16::from(raw),
                kind,
                suite: u8::from(!open),
                compression: u8::from(sealed && stored_len != plain_len + 16),
                repository: RepositoryId::from_bytes(repository),
                nonce: Nonce::from_bytes(if open { [0; 24] } else { nonce }),
                plain_len,
                stored_len,
            }
        },
    )
}

/// A frame that does not know its place yet.
fn frame() -> impl Strategy<Value = FrameInfo> {
    (
        chunk(),
        any::<bool>(),
        chunk_len(),
        any::<u32>(),
        any::<bool>(),
        proptest::option::weighted(0.2, chunk()),
    )
        .prop_map(|(chunk, meta, plain_len, random, raw, base)| {
            let kind = if base.is_some() { FrameKind::Delta } else { FrameKind::Full };
            let class = if meta { ChunkClass::Meta } else { ChunkClass::Data };
            // Compressed frames are shorter than the chunk; one byte cannot be made shorter.
            let shorter = plain_len > 1 && (!raw || base.is_some());
            let stored_len = if shorter { 17 + random % (plain_len - 1) } else { plain_len + 16 };
            let (kind, base) = if shorter { (kind, base) } else { (FrameKind::Full, None) };
            let compression = u8::from(shorter && !raw);
            FrameInfo { chunk, kind, class, compression, offset: 0, stored_len, plain_len, base }
        })
}

/// Frames in their places, as far as one pack holds them.
fn frames() -> impl Strategy<Value = Vec<FrameInfo>> {
    vec(frame(), 1..40).prop_map(|mut frames| {
        let mut offset = 64;
        for frame in &mut frames {
            frame.offset = offset;
            offset += frame.stored_len;
        }
        let fitting = frames.iter().take_while(|frame| frame.check(u64::from(frame.offset)).is_ok()).count();
        frames.truncate(fitting.max(1));
        frames
    })
}

fn index() -> impl Strategy<Value = IndexObject> {
    let pack = (any::<[u8; 24]>(), frames()).prop_map(|(id, frames)| {
        let size = u32::try_from(pack_len(&frames)).expect("packs stay far below 4 GiB");
        IndexedPack { id: PackId::from_bytes(id), size, frames }
    });
    vec(pack, 0..5).prop_map(|packs| IndexObject { packs })
}

fn content() -> impl Strategy<Value = Content> {
    let node_len =
        u32::try_from(NODE_MIN_BYTES).expect("short")..=u32::try_from(NODE_MAX_BYTES).expect("short");
    let reference = (chunk(), chunk_len(), node_len, 1..=u64::MAX / FANOUT as u64);
    (vec(reference, 0..=FANOUT), 0..=7u8, any::<u32>()).prop_map(|(refs, depth, crc32c)| {
        let depth = if refs.is_empty() { 0 } else { depth };
        let refs: Vec<_> = refs
            .into_iter()
            .map(|(id, data, node, len)| match depth {
                0 => ChunkRef { id, len: u64::from(data), size: data },
                _ => ChunkRef { id, len, size: node },
            })
            .collect();
        Content { length: refs.iter().map(|child| child.len).sum(), crc32c, depth, refs }
    })
}

fn owner() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-z_äß]{1,32}", Just("x".repeat(OWNER_MAX_BYTES))]
}

fn meta() -> impl Strategy<Value = Meta> {
    let path = prop_oneof![vec(any::<u8>(), 0..200), Just(vec![b'/'; PATH_MAX_BYTES])];
    (path, any::<u32>(), any::<u64>(), any::<u64>(), any::<i64>(), owner(), owner()).prop_map(
        |(path, mode, uid, gid, mtime, owner, group)| Meta { path, mode, uid, gid, mtime, owner, group },
    )
}

fn entry() -> impl Strategy<Value = Entry> {
    let archive = prop_oneof![
        Just(ArchiveKind::Base),
        Just(ArchiveKind::BackupManifest),
        Just(ArchiveKind::Stream),
        (any::<u32>(), "/[a-z/é]{0,80}")
            .prop_map(|(oid, location)| ArchiveKind::Tablespace { oid, location }),
    ];
    prop_oneof![
        archive.prop_map(|kind| Entry::Archive(ArchiveHeader { kind })),
        (meta(), any::<u8>(), content()).prop_map(|(meta, chunking, content)| Entry::File(FileEntry {
            meta,
            chunking,
            content
        })),
        meta().prop_map(Entry::Directory),
        (meta(), vec(any::<u8>(), 0..300)).prop_map(|(meta, target)| Entry::Symlink { meta, target }),
        any::<u32>().prop_map(|trailing_zeros| Entry::EndArchive { trailing_zeros }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn headers(header in header()) {
        prop_assert_eq!(Header::decode("object", &header.encode()), Ok(header));
    }

    #[test]
    fn footers_and_trailers(frames in frames()) {
        let footer = PackFooter { frames };
        let bytes = footer.encode();
        let at = footer.frames.last().map_or(64, FrameInfo::end);
        let trailer = PackTrailer {
            footer_len: u32::try_from(bytes.len() + 16).expect("a short footer"),
            frame_count: u32::try_from(footer.frames.len()).expect("few frames"),
        };
        prop_assert_eq!(PackTrailer::decode("pack", &trailer.encode(), at), Ok(trailer));
        prop_assert_eq!(pack_len(&footer.frames), at + u64::from(trailer.footer_len) + 16);
        prop_assert_eq!(PackFooter::decode("pack", &bytes, at), Ok(footer));
    }

    #[test]
    fn indexes(index in index()) {
        prop_assert_eq!(IndexObject::decode("index", &index.encode()), Ok(index));
    }

    #[test]
    fn nodes_and_contents(content in content()) {
        prop_assert_eq!(content.check(), Ok(()));
        prop_assert_eq!(check_refs(&content.refs, content.length, content.depth), Ok(()));
        if !content.refs.is_empty() {
            let node = encode_node(&content.refs);
            prop_assert!(content.depth == 0 || (NODE_MIN_BYTES..=NODE_MAX_BYTES).contains(&node.len()));
            prop_assert_eq!(decode_node("node", &node), Ok(content.refs));
        }
    }

    #[test]
    fn entries(entries in vec(entry(), 0..6)) {
        let mut stream = Vec::new();
        entries.iter().for_each(|entry| encode_entry(entry, &mut stream));
        let (mut rest, mut read) = (stream.as_slice(), Vec::new());
        while let Some((entry, length)) = decode_entry("manifest", rest).expect("a valid stream") {
            read.push(entry);
            rest = &rest[length..];
        }
        prop_assert!(rest.is_empty());
        prop_assert_eq!(read, entries);
    }

    #[test]
    fn records(content in content(), sizes in any::<[u32; 3]>(), problem in "\\PC{0,40}") {
        let record = BackupRecord {
            manifest: content,
            stats: Stats {
                size_bytes: u64::from(sizes[0]),
                new_bytes: u64::from(sizes[1]),
                stored_bytes: u64::from(sizes[2]),
                ..Stats::default()
            },
            problems: vec![problem],
            ..super::samples::backup_record()
        };
        let json = serde_json::to_vec(&record).expect("plain data");
        prop_assert_eq!(BackupRecord::from_json("record", &json), Ok(record));
    }
}
