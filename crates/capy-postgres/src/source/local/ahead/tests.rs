use std::fs;
use std::os::unix::fs::symlink;

use capy_types::{Entropy, SeededEntropy};

use super::super::walk;
use super::*;
use crate::source::SourceEvent;

/// The file as it was seen when its size was taken.
fn found(path: &Path) -> FoundFile {
    let entry = walk::file(path.display().to_string().into(), &fs::metadata(path).unwrap());
    FoundFile { entry, path: path.to_owned(), first_block: None, required: false }
}

fn rules(threads: usize) -> ReadRules {
    ReadRules { threads, check_pages_from: None, pages_unchecked: true, recognizer: None }
}

async fn read_all(found: Vec<FoundFile>, threads: usize) -> Result<Vec<(TarEntry, Vec<u8>)>, PostgresError> {
    let rules = rules(threads);
    let found = found.into_iter().map(|file| Ok(Found::File(file)));
    let mut ahead = ReadAhead::start(found, &rules, &BufferPool::default()).unwrap();
    let (mut files, mut open) = (Vec::new(), None::<(TarEntry, Vec<u8>)>);
    while let Some(read) = ahead.next().await? {
        let Read::Piece(piece) = read else { panic!("{read:?}") };
        if let Some(entry) = piece.begins {
            assert!(open.replace((entry, Vec::new())).is_none(), "a file inside a file");
        }
        for part in piece.parts {
            let SourceEvent::Data(bytes) = part.event else { panic!("{part:?}") };
            assert_eq!((part.length, part.crc32c), (bytes.len() as u64, crc32c::crc32c(&bytes)));
            open.as_mut().expect("bytes are inside a file").1.extend_from_slice(&bytes);
        }
        if piece.ends {
            files.extend(open.take());
        }
    }
    assert!(open.is_none(), "the last file did not end");
    assert!(ahead.next().await?.is_none(), "the end stays the end");
    Ok(files)
}

#[tokio::test]
async fn files_come_whole_and_in_order_however_many_threads_read() {
    let seed = 4;
    println!("seed {seed}");
    let (directory, entropy) = (tempfile::tempdir().unwrap(), SeededEntropy::new(seed));
    let mut expected = Vec::new();
    for number in 0..60_u32 {
        let mut length = [0; 2];
        entropy.fill(&mut length);
        let length = usize::from(u16::from_le_bytes(length)) * if number % 9 == 0 { 50 } else { 1 };
        let length =
            [length, 0, BUFFER_BYTES, 2 * BUFFER_BYTES][usize::try_from(number % 15).unwrap().min(3)];
        let mut content = vec![0; length];
        entropy.fill(&mut content);
        let path = directory.path().join(format!("{number:02}"));
        fs::write(&path, &content).unwrap();
        expected.push((path, content));
    }
    for threads in [1, 2, 7] {
        let files = read_all(expected.iter().map(|(path, _)| found(path)).collect(), threads).await.unwrap();
        assert_eq!(files.len(), expected.len());
        for ((entry, content), (path, expected)) in files.iter().zip(&expected) {
            assert_eq!(entry.path, path.as_os_str().as_encoded_bytes());
            assert!(content == expected, "{}", path.display());
        }
    }
}

#[tokio::test]
async fn what_grew_is_cut_what_shrank_is_zeros_what_vanished_has_never_been() {
    let directory = tempfile::tempdir().unwrap();
    let make = |name: &str, length: usize| {
        let path = directory.path().join(name);
        fs::write(&path, vec![7; length]).unwrap();
        found(&path)
    };
    let large = 2 * BUFFER_BYTES + 5;
    let all =
        vec![make("a", 9), make("b", large), make("c", 9), make("d", large), make("e", 9), make("f", large)];
    for grown in ["a", "b"] {
        fs::write(directory.path().join(grown), vec![7; 3 * BUFFER_BYTES]).unwrap();
    }
    for shrunk in ["c", "d"] {
        fs::write(directory.path().join(shrunk), [7; 4]).unwrap();
    }
    fs::remove_file(directory.path().join("e")).unwrap();
    fs::remove_file(directory.path().join("f")).unwrap();
    let files = read_all(all, 3).await.unwrap();
    let lengths: Vec<usize> = files.iter().map(|(_, content)| content.len()).collect();
    assert_eq!(lengths, [9, large, 9, large], "as long as they were seen, and the last two are gone");
    for (entry, content) in &files {
        assert_eq!(entry.size, content.len() as u64);
    }
    assert!(files[0].1 == [7; 9] && files[1].1.iter().all(|byte| *byte == 7));
    for shrunk in &files[2..] {
        assert!(shrunk.1[..4] == [7; 4] && shrunk.1[4..].iter().all(|byte| *byte == 0));
    }
}

#[tokio::test]
async fn a_link_that_took_a_files_place_is_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let (file, secret) = (directory.path().join("file"), directory.path().join("secret"));
    fs::write(&file, "plain").unwrap();
    fs::write(&secret, "not yours").unwrap();
    let seen = found(&file);
    fs::remove_file(&file).unwrap();
    symlink(&secret, &file).unwrap();
    assert_eq!(read_all(vec![seen], 2).await.unwrap(), []);
}

#[tokio::test]
async fn a_file_that_must_be_there_and_is_not_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("segment");
    fs::write(&path, "wal").unwrap();
    let seen = FoundFile { required: true, ..found(&path) };
    fs::remove_file(&path).unwrap();
    let error = read_all(vec![seen], 2).await.unwrap_err();
    assert_eq!(error.kind(), capy_types::ErrorKind::NotFound);
    assert!(error.to_string().contains("segment"), "{error}");
}

#[tokio::test]
async fn a_walk_that_panics_is_an_error_and_not_the_end() {
    let found =
        std::iter::from_fn(|| -> Option<Result<Found, PostgresError>> { panic!("expected in this test") });
    let rules = rules(2);
    let mut ahead = ReadAhead::start(found, &rules, &BufferPool::default()).unwrap();
    assert!(ahead.next().await.is_err());
}

#[tokio::test]
async fn reading_ahead_is_bounded_and_dropping_the_reader_ends_the_threads() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, [1; 100]).unwrap();
    let (told, ended) = std::sync::mpsc::channel::<()>();
    let endless = std::iter::repeat_with(move || {
        // Dropped with the iterator, when the last thread has ended.
        let _ = &told;
        Ok(Found::File(found(&path)))
    });
    let rules = rules(3);
    let mut ahead = ReadAhead::start(endless, &rules, &BufferPool::default()).unwrap();
    assert!(ahead.next().await.unwrap().is_some());
    drop(ahead);
    assert!(ended.recv().is_err());
}
