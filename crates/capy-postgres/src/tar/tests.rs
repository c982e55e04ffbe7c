//! The tar parser and writer against each other, against odd tars, and against noise.

use capy_types::{Entropy, ErrorKind, SeededEntropy};
use proptest::prelude::*;

use super::*;

/// What a tar says, with data joined: the same however the stream was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Read {
    entries: Vec<(TarEntry, Vec<u8>)>,
    end: TarEnd,
}

/// Feeds `tar` in pieces whose lengths `piece` gives (1 at least).
fn read(tar: &[u8], mut piece: impl FnMut() -> usize) -> Result<Read, TarError> {
    let mut parser = TarParser::new();
    let mut entries: Vec<(TarEntry, Vec<u8>)> = Vec::new();
    let (mut open, mut rest) = (false, tar);
    while !rest.is_empty() {
        let (mut input, after) = rest.split_at(piece().clamp(1, rest.len()));
        rest = after;
        loop {
            let (taken, event) = parser.feed(input)?;
            input = &input[taken..];
            match event {
                TarEvent::Entry(entry) => {
                    assert!(!open, "an entry begins inside another");
                    open = true;
                    entries.push((entry, Vec::new()));
                }
                TarEvent::Data(data) => {
                    assert!(open && !data.is_empty());
                    entries.last_mut().unwrap().1.extend_from_slice(data);
                }
                TarEvent::EndEntry => {
                    let (entry, data) = entries.last().unwrap();
                    assert!(open && data.len() as u64 == entry.size);
                    open = false;
                }
                TarEvent::NeedMore => {
                    assert!(input.is_empty());
                    break;
                }
            }
        }
    }
    let end = parser.finish()?;
    assert!(!open, "an entry was left open by a complete tar");
    Ok(Read { entries, end })
}

fn read_whole(tar: &[u8]) -> Result<Read, TarError> {
    read(tar, || usize::MAX)
}

fn write(entries: &[(TarEntry, Vec<u8>)], trailing_zeros: u32) -> Vec<u8> {
    let (mut writer, mut out) = (TarWriter::new(), Vec::new());
    for (entry, data) in entries {
        writer.begin(entry, &mut out).unwrap();
        writer.passed(data.len() as u64).unwrap();
        out.extend_from_slice(data);
        writer.end(&mut out).unwrap();
    }
    writer.finish(trailing_zeros, &mut out).unwrap();
    out
}

fn file(path: &str, data: &[u8]) -> (TarEntry, Vec<u8>) {
    let entry = TarEntry {
        path: path.as_bytes().to_vec(),
        kind: EntryKind::File,
        size: data.len() as u64,
        mode: 0o600,
        uid: 106,
        gid: 113,
        mtime: 0o15_300_365_374,
        owner: "postgres".to_owned(),
        group: "postgres".to_owned(),
        link_target: Vec::new(),
    };
    (entry, data.to_vec())
}

fn directory(path: &str) -> (TarEntry, Vec<u8>) {
    (TarEntry { kind: EntryKind::Directory, mode: 0o700, ..file(path, b"").0 }, Vec::new())
}

fn symlink(path: &str, target: &str) -> (TarEntry, Vec<u8>) {
    let link_target = target.as_bytes().to_vec();
    (TarEntry { kind: EntryKind::Symlink, mode: 0o777, link_target, ..file(path, b"").0 }, Vec::new())
}

/// A tar of one entry with the header's fields changed before its checksum is made.
fn forged(change: impl FnOnce(&mut header::Block)) -> Vec<u8> {
    let mut tar = write(&[file("x", b"")], 1024);
    let mut block = header::Block::zeroed();
    block.0.copy_from_slice(&tar[..BLOCK_BYTES]);
    change(&mut block);
    block.seal();
    tar[..BLOCK_BYTES].copy_from_slice(&block.0);
    tar
}

fn extension(flag: u8, data: &[u8]) -> Vec<u8> {
    let mut tar = forged(|block| {
        block.set_number(header::SIZE, data.len() as i64);
        block.set_text(header::TYPE, &[flag]);
    });
    tar.truncate(BLOCK_BYTES);
    tar.extend_from_slice(data);
    tar.resize(tar.len().next_multiple_of(BLOCK_BYTES), 0);
    tar
}

fn pax(key: &str, value: &str) -> Vec<u8> {
    let body = format!(" {key}={value}\n");
    let len = (1..).map(|digits| body.len() + digits).find(|l| l.to_string().len() + body.len() == *l);
    format!("{}{body}", len.unwrap()).into_bytes()
}

#[test]
fn a_header_is_what_postgresql_writes() {
    let (entry, _) = file("backup_label", &[0; 227]);
    let mut out = Vec::new();
    TarWriter::new().begin(&entry, &mut out).unwrap();
    assert_eq!(out.len(), BLOCK_BYTES);
    assert_eq!(&out[100..148], b"0000600 0000152 0000161 00000000343 15300365374 ");
    assert_eq!(&out[156..157], b"0");
    assert_eq!(&out[257..273], b"ustar\x0000postgres");
    assert_eq!(&out[329..345], b"0000000 0000000 ");
    assert!(out[345..].iter().all(|&b| b == 0));
}

#[test]
fn entries_come_back_as_written() {
    let entries = [
        file("backup_label", b"START WAL LOCATION"),
        directory("base/"),
        file("base/1/1249", &[7; 8192]),
        file("base/1/empty", b""),
        symlink("pg_tblspc/16385", "/srv/tables"),
        file(&format!("{}/{}", "d".repeat(80), "f".repeat(60)), b"in the prefix"),
        file(&"long".repeat(300), b"a long name"),
        symlink("far", &"/over/there".repeat(50)),
    ];
    let tar = write(&entries, 1024);
    let whole = read_whole(&tar).unwrap();
    assert_eq!(whole.entries, entries);
    assert_eq!(
        whole.end,
        TarEnd {
            entries: entries.len() as u64,
            bytes: tar.len() as u64,
            trailing_zero_bytes: 1024,
            marker: EndMarker::Complete
        }
    );
}

#[test]
fn every_kind_of_end_is_told_apart() {
    let entries = [file("a", b"x")];
    for (zeros, marker) in [
        (0, EndMarker::Missing),
        (100, EndMarker::Short),
        (512, EndMarker::Short),
        (1024, EndMarker::Complete),
        (10_240, EndMarker::Complete),
        (10_241, EndMarker::Complete),
    ] {
        let end = read_whole(&write(&entries, zeros)).unwrap().end;
        assert_eq!((end.marker, end.trailing_zero_bytes), (marker, u64::from(zeros)));
    }
    let nothing = read_whole(b"").unwrap().end;
    assert_eq!((nothing.entries, nothing.marker), (0, EndMarker::Missing));
}

#[test]
fn a_stream_cut_anywhere_inside_an_entry_is_truncated_and_says_where() {
    let tar = write(&[file("first", &[1; 700]), file(&"n".repeat(200), b"x")], 0);
    let first_entry = 512 + 1024;
    for cut in 1..tar.len() {
        let outcome = read_whole(&tar[..cut]);
        if cut == first_entry {
            assert_eq!(outcome.unwrap().end.marker, EndMarker::Missing, "between entries");
        } else {
            let Err(TarError::Truncated { offset, missing_bytes, .. }) = outcome else {
                panic!("cut at {cut}: {outcome:?}");
            };
            assert_eq!(offset, cut as u64);
            assert!(missing_bytes > 0);
        }
    }
    assert_eq!(
        read_whole(&tar[..600]).unwrap_err().to_string(),
        "tar ends inside \"first\" at byte 600: 936 bytes are missing"
    );
}

#[test]
fn noise_and_data_after_the_end_are_refused_with_their_offset() {
    let mut tar = write(&[file("a", b"x")], 1024);
    let end = tar.len() as u64;
    tar.extend_from_slice(b"more");
    assert_eq!(read_whole(&tar), Err(TarError::AfterEnd { offset: end }));
    let mut tar = write(&[file("a", b"x")], 0);
    tar.extend_from_slice(&[0xa5; 512]);
    assert_eq!(
        read_whole(&tar).unwrap_err().to_string(),
        "not a tar header at byte 1024: its checksum is wrong"
    );
    assert_eq!(read_whole(&[b'x'; 512]).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn any_flipped_bit_of_a_header_is_noticed() {
    let tar = write(&[file("base/1/1249", b"")], 1024);
    // NUL and space both close the checksum's own field: flipping one into the other is no change.
    for at in (0..BLOCK_BYTES).filter(|at| !(148..156).contains(at)) {
        for bit in 0..8 {
            let mut flipped = tar.clone();
            flipped[at] ^= 1 << bit;
            assert!(read_whole(&flipped).is_err(), "byte {at} bit {bit}");
        }
    }
}

#[test]
fn what_postgresql_never_writes_is_refused_by_name() {
    let of_type = |flag: u8| forged(|block| block.set_text(header::TYPE, &[flag]));
    assert_eq!(
        read_whole(&of_type(b'1')).unwrap_err().to_string(),
        "unsupported tar entry: \"x\" at byte 0 is a hard link"
    );
    assert_eq!(
        read_whole(&of_type(b'6')).unwrap_err().to_string(),
        "unsupported tar entry type '6' (fifo) of \"x\" at byte 0"
    );
    for flag in *b"346SMVDNAz" {
        assert_eq!(read_whole(&of_type(flag)).unwrap_err().kind(), ErrorKind::Invalid);
    }
    let sparse = [extension(b'x', &pax("GNU.sparse.major", "1")), of_type(b'0')].concat();
    assert!(matches!(read_whole(&sparse), Err(TarError::Unsupported { .. })));
    let negative = forged(|block| block.set_number(header::SIZE, -1));
    assert!(matches!(read_whole(&negative), Err(TarError::Header { .. })));
}

#[test]
fn old_and_foreign_headers_are_read() {
    let v7 = forged(|block| {
        block.set_text(header::MAGIC, &[0; 8]);
        block.set_text(header::TYPE, &[0]);
        block.set_text(header::NAME, b"old/");
    });
    let (entry, _) = read_whole(&v7).unwrap().entries.remove(0);
    assert_eq!(
        (entry.kind, entry.path.as_slice(), entry.owner.as_str()),
        (EntryKind::Directory, &b"old/"[..], "")
    );
    // GNU keeps times where ustar has its prefix.
    let gnu = forged(|block| {
        block.set_text(header::MAGIC, b"ustar  \0");
        block.set_text(header::PREFIX, b"15300365374");
    });
    assert_eq!(read_whole(&gnu).unwrap().entries[0].0.path, b"x");
    let contiguous = forged(|block| block.set_text(header::TYPE, b"7"));
    assert_eq!(read_whole(&contiguous).unwrap().entries[0].0.kind, EntryKind::File);
}

#[test]
fn pax_headers_override_one_entry_or_all_later_ones() {
    let plain = || forged(|_| {})[..BLOCK_BYTES].to_vec();
    let tar = [
        extension(b'g', &[pax("uid", "7"), pax("mtime", "99.9")].concat()),
        extension(b'x', &[pax("path", "über/lang"), pax("uid", "4294967296"), pax("size", "3")].concat()),
        plain(),
        b"abc".iter().copied().chain([0; 509]).collect(),
        plain(),
    ]
    .concat();
    let read = read_whole(&tar).unwrap();
    let (first, data) = &read.entries[0];
    assert_eq!((first.path.as_slice(), first.uid, first.mtime), ("über/lang".as_bytes(), 1 << 32, 99));
    assert_eq!(data, b"abc");
    let (second, _) = &read.entries[1];
    assert_eq!((second.path.as_slice(), second.uid, second.mtime), (&b"x"[..], 7, 99));
}

#[test]
fn extensions_are_bounded_and_must_be_followed_by_an_entry() {
    let huge = extension(b'x', &vec![b'1'; 64 * 1024 + 1]);
    assert!(matches!(read_whole(&huge), Err(TarError::Extension { offset: 0, .. })));
    let lonely = extension(b'L', b"name\0");
    assert!(matches!(read_whole(&lonely), Err(TarError::Truncated { .. })));
    let ended = [lonely, vec![0; 1024]].concat();
    assert!(matches!(read_whole(&ended), Err(TarError::Extension { .. })));
    let long = [extension(b'L', &[b'n'; 5000]), forged(|_| {})].concat();
    assert!(matches!(read_whole(&long), Err(TarError::Header { .. })));
}

#[test]
fn an_error_is_repeated_and_nothing_else_follows_it() {
    let mut parser = TarParser::new();
    let error = parser.feed(&[1; 512]).unwrap_err();
    assert_eq!(parser.feed(&write(&[file("a", b"x")], 1024)), Err(error.clone()));
    assert_eq!(parser.finish(), Err(error));
}

#[test]
fn zeros_without_end_are_refused() {
    let mut parser = TarParser::new();
    let zeros = vec![0; 1 << 20];
    let refused = (0..66).find_map(|_| parser.feed(&zeros).err());
    assert!(matches!(refused, Some(TarError::TrailingZeros { .. })), "{refused:?}");
}

#[test]
fn the_writer_refuses_data_that_is_not_as_long_as_its_header_says() {
    let (entry, _) = file("a", b"123");
    let (mut writer, mut out) = (TarWriter::new(), Vec::new());
    writer.begin(&entry, &mut out).unwrap();
    writer.passed(2).unwrap();
    assert!(matches!(writer.end(&mut out), Err(TarWriteError::Length { expected: 3, found: 2, .. })));
    assert!(writer.begin(&entry, &mut out).is_err());
    assert!(writer.passed(2).is_err());
    let nul = TarEntry { path: b"a\0b".to_vec(), ..entry };
    assert!(matches!(TarWriter::new().begin(&nul, &mut out), Err(TarWriteError::Entry { .. })));
}

fn any_entry() -> impl Strategy<Value = (TarEntry, Vec<u8>)> {
    let byte = prop_oneof![4 => 1..=255_u8, 1 => Just(b'/')];
    let name = || prop::collection::vec(byte.clone(), 1..400);
    let kind = prop_oneof![Just(EntryKind::File), Just(EntryKind::Directory), Just(EntryKind::Symlink)];
    let numbers = (0..=0o7777_u32, 0..1_u64 << 40, 0..1_u64 << 22, any::<i64>());
    let owners = ("[a-z]{0,32}", "[a-z]{0,32}");
    let data = prop::collection::vec(any::<u8>(), 0..2000);
    (name(), name(), kind, numbers, owners, data).prop_map(
        |(path, target, kind, (mode, uid, gid, mtime), (owner, group), data)| {
            let data = if kind == EntryKind::File { data } else { Vec::new() };
            let link_target = if kind == EntryKind::Symlink { target } else { Vec::new() };
            let size = data.len() as u64;
            (TarEntry { path, kind, size, mode, uid, gid, mtime, owner, group, link_target }, data)
        },
    )
}

proptest! {
    #[test]
    fn parsing_what_was_written_gives_it_back_however_it_is_cut(
        entries in prop::collection::vec(any_entry(), 0..8),
        zeros in 0..3000_u32,
        pieces in prop::collection::vec(1..1500_usize, 1..20),
    ) {
        let tar = write(&entries, zeros);
        let mut sizes = pieces.iter().copied().cycle();
        let cut = read(&tar, || sizes.next().unwrap()).unwrap();
        prop_assert_eq!(&cut, &read_whole(&tar).unwrap());
        prop_assert_eq!(&cut.entries, &entries);
        prop_assert_eq!(write(&cut.entries, zeros), tar);
    }
}

/// Damages a good tar many times over and feeds it in random pieces: any answer will do, as long
/// as it is an answer, and the same one for every way of cutting.
#[test]
fn damaged_tars_never_panic_and_never_depend_on_the_pieces() {
    let seed = 0x7a9_5eed;
    println!("seed {seed}");
    let entropy = SeededEntropy::new(seed);
    let random = |below: u64| {
        let mut bytes = [0; 8];
        entropy.fill(&mut bytes);
        u64::from_le_bytes(bytes) % below
    };
    let good = [
        extension(b'g', &pax("mtime", "5")),
        extension(b'x', &pax("path", "a/b")),
        write(&[file(&"n".repeat(150), &[3; 900]), directory("d/"), symlink("l", "t")], 2048),
    ]
    .concat();
    let mut refused = 0;
    for _ in 0..3000 {
        let mut tar = good.clone();
        for _ in 0..=random(4) {
            let at = random(tar.len() as u64) as usize;
            tar[at] = random(256) as u8;
        }
        // Repair the first header's checksum now and then, so that damage gets past it.
        if random(2) == 0 {
            for header in tar.chunks_exact_mut(BLOCK_BYTES).filter(|b| b[257..262] == *b"ustar") {
                let mut block = header::Block::zeroed();
                block.0.copy_from_slice(header);
                block.seal();
                header.copy_from_slice(&block.0);
            }
        }
        tar.truncate(random(tar.len() as u64 + 1) as usize + 1);
        let whole = read_whole(&tar);
        assert_eq!(read(&tar, || random(700) as usize), whole);
        refused += usize::from(whole.is_err());
    }
    assert!(refused > 500, "the damage must bite: {refused}");
}
