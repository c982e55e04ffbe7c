//! Destinations: what is refused before a byte is written.

use super::*;

fn mapping(text: &str) -> TablespaceMapping {
    text.parse().expect(text)
}

#[test]
fn a_mapping_is_two_absolute_paths() {
    assert_eq!(mapping("/a=/b"), TablespaceMapping { old: "/a".into(), new: "/b".into() });
    assert_eq!(mapping(r"/a\=1=/b").old, Path::new("/a=1"));
    for bad in ["", "/a", "/a=", "a=/b", "/a=b", "/a=/b=/c", "=/b"] {
        assert!(bad.parse::<TablespaceMapping>().is_err(), "{bad:?} must be refused");
    }
}

#[test]
fn tablespaces_go_where_the_mapping_says_and_in_place_ones_stay_inside() {
    let tablespaces = [(1, "/mnt/a"), (2, "/mnt/b"), (3, "pg_tblspc/3")];
    let placed = place_tablespaces(Path::new("/t"), tablespaces.into_iter(), &[mapping("/mnt/a/=/new")])
        .expect("placed");
    let directories: Vec<_> = placed.iter().map(|t| (t.directory.to_str().unwrap(), t.linked)).collect();
    assert_eq!(directories, [("/new", true), ("/mnt/b", true), ("/t/pg_tblspc/3", false)]);
}

#[test]
fn a_mapping_that_fits_nothing_is_refused_and_the_hint_lists_what_there_is() {
    let error = place_tablespaces(Path::new("/t"), [(1, "/mnt/a")].into_iter(), &[mapping("/x=/y")])
        .expect_err("refused");
    assert_eq!(error.to_string(), "the backup has no tablespace at /x");
    assert_eq!(error.hint(), Some("the backup's tablespaces lay at: /mnt/a"));
}

#[test]
fn an_empty_or_absent_directory_passes_and_everything_else_does_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let target = dir.path().join("target");
    check_all(&target, &[]).expect("absent");
    std::fs::create_dir(&target).expect("made");
    check_all(&target, &[]).expect("empty");
    std::fs::create_dir(target.join("lost+found")).expect("made");
    check_all(&target, &[]).expect("a fresh file system");
    std::fs::write(target.join("PG_VERSION"), "15").expect("written");
    assert_eq!(check_all(&target, &[]).expect_err("not empty").kind(), ErrorKind::Conflict);
    std::fs::write(target.join("postmaster.pid"), "1").expect("written");
    let error = check_all(&target, &[]).expect_err("live");
    assert!(error.to_string().contains("postmaster.pid"), "{error}");
    let error = check_all(&target.join("PG_VERSION"), &[]).expect_err("a file");
    assert!(error.to_string().contains("not a directory"), "{error}");
}

#[test]
fn a_full_tablespace_directory_is_found_before_anything_is_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let full = dir.path().join("full");
    std::fs::create_dir(&full).expect("made");
    std::fs::write(full.join("PG_15_1"), "").expect("written");
    let location = full.to_str().expect("text");
    let target = dir.path().join("target");
    let placed = place_tablespaces(&target, [(7, location)].into_iter(), &[]).expect("placed");
    let error = check_all(&target, &placed).expect_err("not empty");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.hint().is_some_and(|hint| hint.contains("--tablespace-mapping")));
}

#[test]
fn destinations_inside_one_another_are_refused() {
    let placed = place_tablespaces(
        Path::new("/no/such/t"),
        [(1, "/mnt/a")].into_iter(),
        &[mapping("/mnt/a=/no/such/t/pg_tblspc/1")],
    )
    .expect("placed");
    let error = check_all(Path::new("/no/such/t"), &placed).expect_err("overlap");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}
