//! The manifest parser on good, bad and damaged manifests.

use capy_types::{Entropy, ErrorKind, SeededEntropy};
use sha2::{Digest, Sha256};

use super::*;

/// Closes a manifest's body with its own checksum.
fn sealed(body: &str) -> String {
    format!("{body}\"Manifest-Checksum\": \"{}\"}}\n", hex::encode(Sha256::digest(body)))
}

const FILES: &str = r#""Files": [
{ "Path": "backup_label", "Size": 225, "Last-Modified": "2026-11-21 07:52:23 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "397a249b" },
{ "Encoded-Path": "626173652fff", "Size": 8192, "Last-Modified": "2026-11-21 07:52:23 GMT" },
{ "Path": "caf\u00e9 \"x\"\\", "Size": 0, "Last-Modified": "x", "Checksum-Algorithm": "SHA256", "Checksum": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" }
],
"WAL-Ranges": [
{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" }
],
"#;

fn version_1() -> String {
    sealed(&format!("{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n{FILES}"))
}

fn version_2() -> String {
    let head = "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 7438120934871234567,\n";
    sealed(&format!("{head}{FILES}"))
}

fn read(text: &[u8], piece: usize) -> Result<(Vec<ManifestFile>, ManifestSummary), ManifestError> {
    let (mut parser, mut files) = (ManifestParser::new(), Vec::new());
    for piece in text.chunks(piece) {
        parser.feed(piece, |file| files.push(file))?;
    }
    parser.finish().map(|summary| (files, summary))
}

#[test]
fn both_versions_are_read_in_pieces_of_any_size() {
    let whole = read(version_1().as_bytes(), usize::MAX).unwrap();
    assert_eq!((whole.1.version, whole.1.system_id, whole.1.files, whole.1.size_bytes), (1, None, 3, 8417));
    let range = whole.1.wal_ranges[0];
    assert_eq!((range.timeline.as_u32(), range.end_lsn.as_u64()), (1, 0x0200_0100));
    let paths: Vec<&[u8]> = whole.0.iter().map(|file| file.path.as_slice()).collect();
    assert_eq!(paths, [&b"backup_label"[..], b"base/\xff", "café \"x\"\\".as_bytes()]);
    assert_eq!(whole.0[0].checksum, Some(FileChecksum::of_crc32c(0x9b24_7a39)));
    assert_eq!(whole.0[1].checksum, None);
    assert_eq!(whole.0[2].checksum, Some(ChecksumAlgorithm::Sha256.hasher().finish()));
    for piece in [1, 2, 3, 7, 64] {
        assert_eq!(read(version_1().as_bytes(), piece).unwrap(), whole, "pieces of {piece}");
    }
    let (_, summary) = read(version_2().as_bytes(), 5).unwrap();
    assert_eq!(summary.system_id.unwrap().as_u64(), 7_438_120_934_871_234_567);
}

#[test]
fn a_changed_manifest_fails_its_own_checksum() {
    let error = read(version_1().replace("8192", "8193").as_bytes(), 100).unwrap_err();
    assert!(matches!(error, ManifestError::Checksum { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn a_manifest_cut_anywhere_is_not_accepted() {
    let text = version_2();
    for cut in 0..text.len() {
        assert!(read(&text.as_bytes()[..cut], 50).is_err(), "cut at {cut}");
    }
    let unclosed = text.trim_end().as_bytes();
    assert!(matches!(read(unclosed, 50), Err(ManifestError::Truncated { .. })));
}

#[test]
fn what_is_not_a_manifest_is_refused_with_its_place() {
    let head = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n";
    let file = |members: &str| sealed(&format!("{head}\"Files\": [\n{{ {members} }}\n],\n"));
    let path_and_size = "\"Path\": \"a\", \"Size\": 1";
    let cases = [
        ("not json".to_owned(), "line 1, byte 3: unexpected number or word instead of a manifest"),
        ("{ \"Files\": [] }\n".to_owned(), "the version is not the first key"),
        (format!("{head}\"Other\": 1 }}\n"), "line 2, byte 50: unknown key \"Other\""),
        (sealed(head), "Files is missing"),
        (sealed(&format!("{head}\"Files\": [],\n\"Files\": [],\n")), "Files is there twice"),
        (sealed(&format!("{head}\"Files\": [,],\n")), "unexpected ',' in Files"),
        (sealed(&format!("{head}\"Files\": [1],\n")), "unexpected number or word in Files"),
        (sealed(&format!("{head}\"Files\": {{}},\n")), "unexpected '{' as value of Files"),
        (
            format!("{head}\"Manifest-Checksum\": \"x\",\n\"Files\": []}}\n"),
            "Manifest-Checksum is not the last key",
        ),
        (file("\"Path\": \"a\""), "a file has no path or no size"),
        (file("\"Path\": \"\", \"Size\": 1"), "a file has no path or no size"),
        (file("\"Path\": \"a\", \"Size\": -1"), "Size is no number: \"-1\""),
        (file("\"Path\": \"a\", \"Size\": 18446744073709551616"), "Size is no number"),
        (file("\"Path\": \"a\", \"Path\": \"b\""), "there twice"),
        (file("\"Path\": \"a\", \"Encoded-Path\": \"61\""), "a file has two paths"),
        (file("\"Encoded-Path\": \"6\", \"Size\": 1"), "Encoded-Path is not hex"),
        (file("\"Path\": \"\\ud800\", \"Size\": 1"), "a string is not valid JSON"),
        (file(&format!("{path_and_size}, \"Mode\": 1")), "unknown key \"Mode\" of a file"),
        (file(&format!("{path_and_size}, \"Checksum\": \"00\"")), "belong together"),
        (
            file(&format!("{path_and_size}, \"Checksum-Algorithm\": \"MD5\"")),
            "unknown checksum algorithm \"MD5\"",
        ),
        (
            file(&format!("{path_and_size}, \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"00\"")),
            "Checksum has the wrong length",
        ),
        (file(&format!("\"Path\": \"{}\"", "x".repeat(STRING_MAX_BYTES))), "a value is longer than"),
        (format!("{}{{", version_1()), "unexpected '{' after the manifest"),
        (version_1().replace("0/2000100", "0/1"), "ends before it starts"),
    ];
    for (text, expected) in cases {
        let error = read(text.as_bytes(), 40).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}\nexpected: {expected}");
    }
    let newer = version_1().replace("Version\": 1", "Version\": 3");
    assert_eq!(read(newer.as_bytes(), 40).unwrap_err(), ManifestError::Version { found: "3".to_owned() });
    let without = version_1().replace("Version\": 1", "Version\": 2");
    assert!(read(without.as_bytes(), 40).unwrap_err().to_string().contains("System-Identifier is missing"));
}

#[test]
fn an_error_is_repeated() {
    let mut parser = ManifestParser::new();
    let error = parser.feed(b"[", |_| {}).unwrap_err();
    assert_eq!(parser.feed(version_1().as_bytes(), |_| panic!("no file may follow")), Err(error.clone()));
    assert_eq!(parser.finish(), Err(error));
}

#[test]
fn the_hashers_agree_with_published_values() {
    for (algorithm, expected) in [
        // The check value of CRC-32C for "123456789" is e3069283; low byte first here.
        (ChecksumAlgorithm::Crc32c, "839206e3"),
        (ChecksumAlgorithm::Sha224, "9b3e61bf29f17c75572fae2e86e17809a4513d07c8a18152acf34521"),
        (ChecksumAlgorithm::Sha256, "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
    ] {
        let mut hasher = algorithm.hasher();
        hasher.update(b"1234");
        hasher.update(b"56789");
        assert_eq!(hasher.finish().to_string(), expected);
        assert_eq!(ChecksumAlgorithm::from_name(&algorithm.as_str().to_lowercase()), Some(algorithm));
    }
}

#[test]
fn damaged_manifests_never_panic_and_are_never_accepted() {
    let seed = 31;
    println!("seed {seed}");
    let entropy = SeededEntropy::new(seed);
    let good = version_2();
    for _ in 0..4000 {
        let mut noise = [0; 4];
        entropy.fill(&mut noise);
        let mut text = good.clone().into_bytes();
        let at = usize::from(u16::from_le_bytes([noise[0], noise[1]])) % text.len();
        let same = text[at] == noise[2];
        text[at] = noise[2];
        let outcome = read(&text, usize::from(noise[3]) + 1);
        // Upper case in the checksum's own hex digits is the same checksum, and spaces of any kind
        // in the last line are only spaces.
        let last_line = good[..good.len() - 1].rfind('\n').unwrap();
        assert!(outcome.is_err() || same || at > last_line, "byte {at} became {:#x}", noise[2]);
    }
}
