//! Any stream as a backup: in, listed, verified, out again, key handling on the way.

use capy_testkit::{S3Server, Throttle};

use crate::harness::{Cli, snapshot};

#[test]
fn a_stream_goes_in_and_comes_out_the_same() {
    round(&Cli::with_repository());
}

#[test]
fn it_does_so_on_a_real_s3_server_too() {
    let cli = Cli::on_s3(S3Server::shared());
    let probed = cli.run(&["probe", "--json"]).ok().json();
    assert_eq!(probed["probe"]["multi_writer_safe"], true, "{probed}");
    cli.run(&["list"]).with_code(3);
    cli.run(&["init"]).ok();
    cli.run(&["init"]).with_code(4);
    round(&cli);
}

#[test]
fn a_store_that_asks_to_slow_down_is_asked_again_and_never_says_that_a_file_is_absent() {
    let throttle = Throttle::before(S3Server::shared());
    let mut cli = Cli::on_s3(S3Server::shared());
    cli.set_variable("AWS_ENDPOINT_URL", throttle.endpoint());
    cli.run(&["init"]).ok();
    throttle.refuse_one_in(3);
    round(&cli);

    // A history needs no server to write it; the archive's first file is not one.
    let (pushed, fetched) = (cli.path("00000002.history"), cli.path("fetched"));
    std::fs::write(&pushed, "1\t0/3000000\tno recovery target specified\n").expect("written");
    let path = |path: &std::path::Path| path.to_str().expect("text").to_owned();
    cli.run(&["wal", "push", "--cluster", "main", &path(&pushed)]).ok();
    let fetch = |file: &str| cli.run(&["wal", "fetch", "--cluster", "main", file, &path(&fetched)]);
    fetch("00000002.history").ok();
    assert_eq!(std::fs::read(&fetched).expect("fetched"), std::fs::read(&pushed).expect("there"));
    assert!(throttle.refused() > 10, "{} requests were refused", throttle.refused());

    throttle.refuse_one_in(1);
    assert!(fetch("00000002.history").code >= 126, "an outage must never read as the end of WAL");
    cli.run(&["wal", "push", "--cluster", "main", &path(&pushed)]).with_code(5);
}

fn round(cli: &Cli) {
    let data: Vec<u8> =
        (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let key = cli.back_up_stream("dump.sql", &data);
    assert_eq!(cli.keys(), [key.as_str()]);

    let verdict = cli.run(&["verify", "main/latest", "--level", "full"]).ok().text();
    assert!(verdict.contains("verified: 1 backup, no defects"), "{verdict}");
    let listed = cli.run(&["list", "--json"]).ok().json();
    assert_eq!(listed["backups"][0]["verification_state"], "verified");

    let target = cli.path("restored");
    let to = target.to_str().expect("text");
    cli.run(&["restore", "main/latest", "--to", to]).ok();
    assert_eq!(std::fs::read(target.join("dump.sql")).expect("restored"), data);

    let streamed = cli.run(&["restore", "main/latest", "--tar", "-"]).ok();
    assert!(streamed.stdout == data, "the stream is given out as it came in");
}

#[test]
fn the_second_copy_is_almost_free() {
    let cli = Cli::with_repository();
    let data: Vec<u8> =
        (0..2_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    cli.back_up_stream("a", &data);
    let arguments = ["backup", "--cluster", "main", "--stdin-as", "b", "--json"];
    let second = cli.run_with_input(&arguments, &data).ok().json();
    assert_eq!(second["stats"]["new_bytes"], 0);
    let stored = second["stats"]["stored_bytes"].as_u64().expect("a number");
    assert!(stored < 20_000, "{stored} bytes stored for a copy");
}

#[test]
fn sizes_of_chunks_are_those_that_were_chosen_and_impossible_ones_make_no_repository() {
    let data: Vec<u8> = (0..500_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let chunks = |options: &[&str]| {
        let cli = Cli::new();
        cli.run(&[&["init"], options].concat()).ok();
        let arguments = ["backup", "--cluster", "main", "--stdin-as", "a", "--json"];
        cli.run_with_input(&arguments, &data).ok().json()["stats"]["chunks"].as_u64().expect("a number")
    };
    let (usual, short) = (chunks(&[]), chunks(&["--chunk-kib", "4,8,64"]));
    assert!(short > 3 * usual, "{short} chunks, {usual} with the sizes that all have");
    for (options, problem) in [
        (&["--grid-kib", "12"][..], "not a multiple of 8192"),
        (&["--grid-kib", "4096"], "at most 2097152 bytes"),
        (&["--chunk-kib", "64,32,512"], "ascend"),
    ] {
        let cli = Cli::new();
        let refused = cli.run(&[&["init"], options].concat()).with_code(2);
        assert!(refused.stderr.contains(problem), "{options:?}: {}", refused.stderr);
        cli.run(&["init"]).ok();
    }
}

#[test]
fn quiet_prints_nothing_and_json_exactly_one_document() {
    let cli = Cli::with_repository();
    let quiet = ["backup", "--cluster", "main", "--stdin-as", "a", "--quiet"];
    let run = cli.run_with_input(&quiet, b"data").ok();
    assert_eq!((run.text().as_str(), run.stderr.as_str()), ("", ""));
    let json = ["backup", "--cluster", "main", "--stdin-as", "a", "--json"];
    let run = cli.run_with_input(&json, b"data").ok();
    assert_eq!(run.stderr, "");
    assert!(run.json()["peak_memory_bytes"].as_u64().is_some());
}

#[test]
fn inspect_shows_every_object_and_changes_nothing() {
    let mut cli = Cli::with_repository();
    cli.back_up_stream("dump.sql", &[7; 100_000]);
    let before = snapshot(&cli.repo());
    cli.run(&["inspect", "repo"]).ok();
    let root = cli.run(&["inspect", "root", "--json"]).ok().json();
    let index = root["object"]["content"]["indexes"][0].as_str().expect("an index").to_owned();
    let index = cli.run(&["inspect", "index", &index, "--json"]).ok().json();
    let first = &index["object"]["content"]["packs"][0];
    let pack = first["id"].as_str().expect("a pack").to_owned();
    let chunk = first["frames"][0]["chunk"].as_str().expect("a chunk").to_owned();
    let pack = cli.run(&["inspect", "pack", &pack, "--json"]).ok().json();
    assert!(pack["object"]["content"]["frames"].as_array().is_some_and(|frames| !frames.is_empty()));
    cli.run(&["inspect", "chunk", &chunk]).ok();
    let manifest = cli.run(&["inspect", "manifest", "main/latest"]).ok().text();
    assert!(manifest.contains("dump.sql"), "{manifest}");
    cli.set_passphrase(None);
    let keys = cli.run(&["inspect", "key", "--json"]).ok().text();
    assert!(!keys.contains("sealed"), "no wrapped key is shown: {keys}");
    assert!(before == snapshot(&cli.repo()), "looking changes nothing");
}

#[test]
fn keys_are_added_used_and_removed_and_the_last_one_stays() {
    let cli = Cli::with_repository();
    let file = cli.path("key");
    std::fs::write(&file, [9; 64]).expect("written");
    let file = file.to_str().expect("text").to_owned();
    let added = cli.run(&["key", "add", "--new-key-file", &file, "--label", "spare", "--json"]).ok().json();
    assert_eq!(added["key"]["kind"], "key_file");
    let listed = cli.run(&["key", "list", "--json"]).ok().json();
    let first = listed["keys"][0]["id"].as_str().expect("an id").to_owned();
    cli.run(&["key", "remove", &first]).ok();
    let by_file = ["list", "--key-file", file.as_str()];
    cli.run(&by_file).ok();
    cli.run(&["list"]).with_code(7);
    let last = added["key"]["id"].as_str().expect("an id");
    let run = cli.run(&["key", "remove", last, "--key-file", &file]).with_code(2);
    assert!(run.stderr.contains("last key slot"), "{}", run.stderr);
    cli.run(&by_file).ok();
}

#[test]
fn a_deleted_backup_is_gone_from_the_list() {
    let cli = Cli::with_repository();
    let key = cli.back_up_stream("a", b"data");
    cli.run(&["delete", "main/latest"]).with_code(2);
    cli.run(&["delete", &key]).ok();
    assert_eq!(cli.keys(), Vec::<String>::new());
    cli.run(&["show", &key]).with_code(3);
}
