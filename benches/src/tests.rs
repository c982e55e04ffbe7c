//! The data are what their documentation says, and the same for ever.

use std::io::Cursor;

use capy_codec::{Compressor, MasterKey, RepositoryKeys};
use capy_store::{BackupOptions, BackupReport, BackupSource, Ctx, InitOptions, Key, Location, Repository};
use capy_types::RepositoryId;

use super::*;

/// How many times smaller zstd level 1 makes it, in chunks of 128 KiB.
fn ratio(data: &[u8]) -> f64 {
    let mut stored = Vec::new();
    let mut compressor = Compressor::new(1).expect("a valid level");
    for chunk in data.chunks(128 << 10) {
        compressor.compress(chunk, &mut stored).expect("there is memory");
    }
    data.len() as f64 / stored.len() as f64
}

fn digest(data: &[u8]) -> String {
    let keys = RepositoryKeys::derive(&MasterKey::from_bytes([0; 32]), RepositoryId::from_bytes([0; 16]));
    keys.chunk_namer().name(data).to_string()[..16].to_owned()
}

fn tar_of(cluster: Cluster) -> Vec<u8> {
    let mut tar = Vec::new();
    let bytes = cluster.write_tar(&mut tar).expect("memory takes it");
    assert_eq!(bytes, tar.len() as u64);
    tar
}

#[test]
fn data_compress_as_documented() {
    assert_eq!(ratio(&random(1, 1 << 20)), 1.0);
    assert!((3.0..3.3).contains(&ratio(&text(1, 4 << 20))));
    assert!((3.3..3.8).contains(&ratio(&pages(1, 512))));
}

#[test]
fn the_same_seed_makes_the_same_bytes_for_ever() {
    assert_eq!(digest(&random(1, 1000)), "bcede96e5936474a");
    assert_eq!(digest(&text(1, 100_000)), "9b1304e8bd98209e");
    assert_eq!(digest(&pages(1, 130)), "0c9eaf2ed1919bad");
    assert_eq!(digest(&tar_of(Cluster::of(0))), "64b9fc5d21fde7e0");
    assert_eq!(digest(&tar_of(Cluster::of(0).five_percent_later())), "aa9c73f68d214263");
    assert_ne!(pages(1, 1), pages(2, 1));
}

#[test]
fn a_cluster_is_about_as_large_as_asked_for() {
    for size in [32 << 20, 100 << 20] {
        assert!(tar_of(Cluster::of(size)).len().abs_diff(size) < size / 100);
    }
}

async fn back_up(repository: &Repository, cluster: Cluster) -> BackupReport {
    let source = BackupSource::tar_reader(Cursor::new(tar_of(cluster)));
    let options = BackupOptions::new("main".parse().expect("a valid name"));
    let report = repository.backup(&Ctx::default(), source, options).await.expect("it is a base backup");
    assert!(report.is_complete(), "{:?}", report.problems);
    report
}

#[tokio::test]
async fn the_engine_takes_a_cluster_and_finds_a_twentieth_of_it_changed() {
    let mut options = InitOptions::default();
    options.kdf_memory_kib = Some(64);
    let (place, key) = (Location::new("memory://"), Key::passphrase("test"));
    let repository = Repository::init(&Ctx::default(), &place, &[key], options).await.expect("it is empty");
    let cluster = Cluster::of(64 << 20);
    let first = back_up(&repository, cluster).await.stats;
    assert!(first.deduplicated_bytes < first.size_bytes / 50, "{first:?}");
    let later = back_up(&repository, cluster.five_percent_later()).await.stats;
    let percent = 100.0 * later.new_bytes as f64 / later.size_bytes as f64;
    assert!((4.0..6.0).contains(&percent), "{percent} %");
}
