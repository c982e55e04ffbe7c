//! The WAL reader against what real servers wrote, record by record with `pg_waldump` where one of
//! the server's major is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use capy_postgres::control::ControlFile;
use capy_postgres::wal::{
    Fault, NameFit, SegmentFacts, SegmentScanner, Stopped, TruncationTarget, WalEvent, WalLevel,
    decode_event, read_header,
};
use capy_testkit::postgres::{Cluster, majors, text};
use capy_types::{Lsn, SegmentName, TimelineId, Timestamp};

use dump::check_waldump;
use log::Log;

mod dump;
mod log;

fn builder(major: u32, segment_mib: u32) -> Cluster {
    let size = format!("--wal-segsize={segment_mib}");
    Cluster::builder()
        .major(major)
        .initdb(&[&size])
        .setting("wal_level = logical")
        .setting("max_prepared_transactions = 5")
        .setting("track_commit_timestamp = on")
        .setting("wal_keep_size = 2GB")
        .setting("wal_recycle = off")
        .start()
}

/// Everything that leaves an event, in a known number.
fn work(cluster: &mut Cluster) {
    cluster.sql("create table t (id int primary key, v text)");
    cluster.sql(
        "do $$ begin for i in 1..1500 loop
           insert into t values (i, repeat('x', i % 300));
           if i % 5 = 0 then rollback; else commit; end if;
         end loop; end $$",
    );
    // Commits with thousands of subtransactions, so that some cross borders.
    for _ in 0..20 {
        cluster.sql(
            "do $$ begin for i in 1..1500 loop
               begin update t set v = 'y' where id = 1; exception when others then null; end;
             end loop; end $$",
        );
    }
    for gid in ["p1", "p2"] {
        cluster.sql(&format!(
            "begin; insert into t values ({}, 'p'); prepare transaction '{gid}'",
            gid.len() + if gid == "p1" { 10_000 } else { 20_000 }
        ));
    }
    cluster.sql("commit prepared 'p1'");
    cluster.sql("rollback prepared 'p2'");
    cluster.sql("select pg_create_restore_point('before the drop')");
    // A record longer than several segments of 1 MiB.
    cluster.sql("select pg_logical_emit_message(true, 'test', repeat('z', 3500000))");
    databases_and_tablespaces(cluster);
    cluster.sql("truncate t");
    cluster.sql("begin; create table u as select 1 as a; truncate u; insert into u values (2); commit");
    cluster.sql(
        "do $$ begin for i in 1..200 loop execute format('create table d%s (a text primary key)', i);
         end loop; end $$",
    );
    cluster.sql("do $$ begin for i in 1..200 loop execute format('drop table d%s', i); end loop; end $$");
    cluster.sql("drop table t");
    let (start, stop) = match cluster.major() {
        15.. => ("pg_backup_start('b', true)", "pg_backup_stop(false)"),
        _ => ("pg_start_backup('b', true, false)", "pg_stop_backup(false, false)"),
    };
    cluster.sql(&format!("select {start}; select {stop}"));
    cluster.sql("alter system set max_connections = 77");
    cluster.stop_server();
    cluster.start_server();
    cluster.sql("select pg_switch_wal()");
    cluster.sql("create table after_switch (a int)");
    cluster.stop_server();
}

fn databases_and_tablespaces(cluster: &Cluster) {
    cluster.sql("create database one");
    if cluster.major() >= 15 {
        cluster.sql("create database two strategy file_copy");
    }
    cluster.sql("drop database one");
    let place = cluster.make_directory("place");
    cluster.sql(&format!("create tablespace place location '{}'", text(&place)));
    cluster.sql("create table placed tablespace place as select generate_series(1, 1000) as a");
    cluster.sql("drop table placed");
    cluster.sql("drop tablespace place");
}

/// The events that [`work`] leaves, whatever the server.
fn check_events(cluster: &Cluster, log: &Log) {
    let points = log.all(|facts| &facts.events.restore_points);
    assert_eq!(points.iter().map(|point| point.name.as_str()).collect::<Vec<_>>(), ["before the drop"]);
    let changes = log.all(|facts| &facts.events.parameter_changes);
    let last = changes.last().unwrap();
    assert_eq!((last.max_connections, last.max_prepared_transactions), (77, 5));
    assert_eq!((last.wal_level, last.track_commit_timestamp), (WalLevel::Logical, true));
    assert_eq!(
        (last.max_wal_senders, last.max_worker_processes, last.max_locks_per_transaction),
        (10, 8, 64)
    );

    let created: BTreeSet<u32> =
        log.all(|facts| &facts.events.databases_created).iter().map(|d| d.database).collect();
    let dropped = log.all(|facts| &facts.events.databases_dropped);
    assert_eq!(dropped.len(), 1);
    assert!(created.contains(&dropped[0].database));
    let tablespaces = log.all(|facts| &facts.events.tablespaces_created);
    assert_eq!(tablespaces.len(), 1);
    assert_eq!(tablespaces[0].path, text(&cluster.path().join("place")));
    assert_eq!(log.all(|facts| &facts.events.tablespaces_dropped)[0].tablespace, tablespaces[0].tablespace);

    let truncations = log.all(|facts| &facts.events.truncations);
    let is_tables = |target: &TruncationTarget| matches!(target, TruncationTarget::Tables { tables, .. } if tables.len() == 1);
    assert!(truncations.iter().any(|truncation| is_tables(&truncation.target)));
    let is_file = |target: &TruncationTarget| matches!(target, TruncationTarget::File { blocks: 0, .. });
    assert!(truncations.iter().any(|truncation| is_file(&truncation.target)));
    let drops = log.all(|facts| &facts.events.relation_drops);
    assert!(drops.iter().all(|drop| !drop.relations.relations.is_empty()));
    // Each of 200 tables has a toast table and an index for itself and that.
    assert!(drops.iter().any(|drop| drop.relations.relations.len() == 800 || !drop.relations.complete));

    let backups = log.all(|facts| &facts.events.backup_ends);
    assert_eq!(backups.len(), 1);
    let checkpoints = log.all(|facts| &facts.events.checkpoints);
    assert!(checkpoints.iter().any(|checkpoint| checkpoint.redo == backups[0].start));
    check_last_checkpoint(cluster, log);
}

/// The control file names the last checkpoint, with which a stopped server's WAL ends.
fn check_last_checkpoint(cluster: &Cluster, log: &Log) {
    let control = ControlFile::parse(&fs::read(cluster.data().join("global/pg_control")).unwrap()).unwrap();
    let last = *log.all(|facts| &facts.events.checkpoints).last().unwrap();
    assert_eq!((last.lsn, last.redo, last.shutdown), (control.checkpoint_lsn, control.redo_lsn, true));
    assert_eq!(
        (last.timeline, last.previous_timeline, last.full_page_writes),
        (control.timeline, control.timeline, true)
    );
    assert_eq!(log.records.last().unwrap().lsn, last.lsn);
    let facts = log.segments.last().unwrap();
    assert_eq!(
        (facts.header.system_id, facts.header.segment_size),
        (control.system_id, control.segment_size)
    );
    assert_eq!(facts.header.major.number(), cluster.major());
    assert!(matches!(facts.scan.stopped, Stopped::Zeros { at } if at == facts.scan.end), "{:?}", facts.scan);
    let newest = log.segments.iter().filter_map(|facts| facts.events.newest_xid).next_back().unwrap();
    assert_eq!(u64::from(newest.as_u32()) + 1, last.next_xid);
    // The time of a checkpoint is in seconds, and everything here was minutes ago at most.
    let commit = log.segments.iter().filter_map(|facts| facts.events.max_end_time).max().unwrap();
    let apart = last.time.as_seconds() - commit.to_timestamp().as_seconds();
    assert!((-1..60).contains(&apart), "{apart} s between the last commit and the last checkpoint");
}

/// The segments follow each other without a hole: every one's first record links to the last
/// record before.
fn check_chain(log: &Log) {
    for pair in log.records.windows(2) {
        assert_eq!(pair[1].previous, pair[0].lsn, "at {}", pair[1].lsn);
    }
    let switched = log.segments.iter().filter(|facts| matches!(facts.scan.stopped, Stopped::Switched { .. }));
    // Ours, and those at the start and the end of the base backup.
    assert_eq!(switched.count(), 3);
    for facts in log.segments.split_last().unwrap().1 {
        assert!(matches!(facts.scan.stopped, Stopped::Full | Stopped::Switched { .. }), "{:?}", facts.scan);
    }
}

/// Times of commits by transaction, from the records themselves.
pub(crate) fn commit_times(cluster: &Cluster, log: &Log) -> BTreeMap<u32, Timestamp> {
    let mut times = BTreeMap::new();
    let mut add = |event: WalEvent| {
        if let WalEvent::Commit(end) = event {
            times.insert(end.xid.unwrap().as_u32(), end.time.to_timestamp());
        }
    };
    for name in &log.names {
        let bytes = fs::read(cluster.data().join("pg_wal").join(name)).unwrap();
        let header = read_header(&bytes).unwrap();
        SegmentScanner::new(header).push(&bytes, |record| {
            let event = decode_event(record.lsn, record.kept, header.major);
            event.unwrap().into_iter().for_each(&mut add);
        });
    }
    log.joined.iter().filter_map(|record| record.event.clone()).for_each(add);
    times
}

/// What the server says of its commits: the oracle where there is no `pg_waldump`.
fn check_commit_times(cluster: &mut Cluster, log: &Log) {
    let found = commit_times(cluster, log);
    let xids: Vec<String> = found.keys().map(u32::to_string).collect();
    cluster.start_server();
    let rows = cluster.sql(&format!(
        "set timezone = 'UTC'; select x, to_char(pg_xact_commit_timestamp(x::xid), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')
         from unnest('{{{}}}'::text[]) x",
        xids.join(",")
    ));
    cluster.stop_server();
    let mut compared = 0;
    for row in rows.lines() {
        let (xid, time) = row.split_once('|').unwrap();
        let Ok(time) = time.parse::<Timestamp>() else { continue };
        assert_eq!(found[&xid.parse().unwrap()], time, "transaction {xid}");
        compared += 1;
    }
    assert!(compared > 1000, "only {compared} commits have a time in the server");
    assert_eq!(log.count(|facts| facts.events.commits), found.len() as u64);
}

fn check(major: u32, segment_mib: u32) {
    let mut cluster = builder(major, segment_mib);
    work(&mut cluster);
    let log = Log::read(&cluster.data().join("pg_wal"));
    check_chain(&log);
    check_events(&cluster, &log);
    check_waldump(&cluster, &log);
    check_commit_times(&mut cluster, &log);
    if segment_mib == 1 {
        let longest = log.joined.iter().map(|record| record.header.total_bytes).max();
        assert!(longest > Some(3_000_000), "a record of several segments was joined");
    }
}

#[test]
fn every_record_is_what_pg_waldump_says() {
    for major in majors() {
        check(major, 16);
    }
}

#[test]
fn small_segments_are_joined_without_a_loss() {
    for major in majors() {
        check(major, 1);
    }
}

/// A record whose rest is lost in a crash: what follows it is written over it.
fn check_crash(major: u32) {
    let mut cluster = builder(major, 1);
    cluster.sql("create table t (a int)");
    let begin: Lsn = cluster.sql("select pg_current_wal_insert_lsn()").parse().unwrap();
    cluster.sql("select pg_logical_emit_message(false, 'test', repeat('z', 3000000)); select txid_current()");
    cluster.kill_server();
    let wal = cluster.data().join("pg_wal");
    let last =
        SegmentName::containing(TimelineId::from_u32(1), begin, (1 << 20).try_into().unwrap()).to_string();
    for entry in fs::read_dir(&wal).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.len() == 24 && name > last {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    cluster.start_server();
    cluster.sql("insert into t values (1)");
    cluster.stop_server();
    let log = Log::read(&wal);
    assert_eq!(log.overwritten.len(), 1, "PostgreSQL {major}");
    assert!(log.overwritten[0] >= begin && log.overwritten[0].as_u64() - begin.as_u64() < 8192);
    for pair in log.records.windows(2) {
        assert_eq!(pair[1].previous, pair[0].lsn, "at {}", pair[1].lsn);
    }
    check_last_checkpoint(&cluster, &log);
}

/// A promotion: the new timeline's first segment begins with pages of the old one.
fn check_promotion(major: u32) {
    let mut cluster = builder(major, 1);
    cluster.sql("create table t as select generate_series(1, 20000) as a");
    cluster.stop_server();
    fs::write(cluster.data().join("standby.signal"), "").unwrap();
    cluster.start_server();
    cluster.sql("select pg_promote()");
    cluster.sql("insert into t values (1)");
    cluster.stop_server();
    let wal = cluster.data().join("pg_wal");
    let new = fs::read_dir(&wal).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let new = new.filter(|name| name.len() == 24 && name.starts_with("00000002")).min().unwrap();
    let (parent, child) = (TimelineId::from_u32(1), TimelineId::from_u32(2));
    let facts = SegmentFacts::read(&fs::read(wal.join(&new)).unwrap()).unwrap();
    assert_eq!(facts.header.check_name(&new), Ok(NameFit::OlderTimeline { found: parent }));
    assert_eq!(facts.newest_timeline(), child);
    let [end] = facts.events.end_of_recovery.as_slice() else { panic!("{:?}", facts.events) };
    assert_eq!((end.timeline, end.previous_timeline), (child, parent));
    // The old timeline's copy of that segment ends where the new one begins.
    let old = fs::read(wal.join(new.replacen("00000002", "00000001", 1))).unwrap();
    let old = SegmentFacts::read(&old).unwrap();
    assert_eq!((old.newest_timeline(), old.scan.end), (parent, end.lsn));
    assert_eq!(facts.events.commits, old.events.commits + 1);
}

#[test]
fn a_record_lost_in_a_crash_is_passed_over() {
    majors().into_iter().for_each(check_crash);
}

#[test]
fn a_promotion_is_told_by_page_and_record() {
    majors().into_iter().for_each(check_promotion);
}

/// Leftovers of a recycled file are not taken for WAL.
#[test]
fn a_recycled_segment_ends_where_it_was_written() {
    let cluster = Cluster::start(&["--wal-segsize=1"]);
    cluster.sql("create table t (a text)");
    for _ in 0..10 {
        cluster.sql("insert into t select repeat('x', 500) from generate_series(1, 1500)");
        cluster.sql("checkpoint");
    }
    cluster.stop_server();
    let control = ControlFile::parse(&fs::read(cluster.data().join("global/pg_control")).unwrap()).unwrap();
    let name = SegmentName::containing(control.timeline, control.checkpoint_lsn, control.segment_size);
    let bytes = fs::read(cluster.data().join("pg_wal").join(name.to_string())).unwrap();
    let facts = SegmentFacts::read(&bytes).unwrap();
    assert_eq!(facts.scan.last_record, Some(control.checkpoint_lsn));
    let recycled = matches!(facts.scan.stopped, Stopped::Invalid { why: Fault::PageAddress { .. }, .. });
    assert!(recycled || matches!(facts.scan.stopped, Stopped::Zeros { .. }), "{:?}", facts.scan.stopped);
    // Whole files of the future hold the past.
    let recycled = fs::read(cluster.data().join("pg_wal").join(name.next().to_string())).unwrap();
    let header = read_header(&recycled).unwrap();
    assert!(header.check_name(&name.next().to_string()).is_err(), "{header:?}");
}

/// Bytes per second over WAL that is mostly page images, as `cargo test -- --ignored --nocapture`
/// prints it.
#[test]
#[ignore = "a measurement"]
fn throughput_over_page_images() {
    let cluster = Cluster::builder().setting("max_wal_size = 4GB").setting("wal_keep_size = 4GB").start();
    cluster.sql("create table t as select i as a, repeat('x', 900) as b from generate_series(1, 200000) i");
    cluster.sql("checkpoint");
    cluster.sql("update t set a = a + 1 where a % 8 = 0");
    cluster.sql("select pg_switch_wal()");
    let mut log = Log::read_valid(&cluster.data().join("pg_wal"));
    // Only segments that are mostly the update's page images.
    log.retain(|bytes| SegmentFacts::read(bytes).unwrap().scan.records < 4000);
    let bytes: usize = log.iter().map(Vec::len).sum();
    println!("{} segments of 16 MiB", log.len());
    for _ in 0..5 {
        let start = std::time::Instant::now();
        let records: u64 = log.iter().map(|bytes| SegmentFacts::read(bytes).unwrap().scan.records).sum();
        let seconds = start.elapsed().as_secs_f64();
        println!("{:.2} GB/s, {records} records", bytes as f64 / seconds / 1e9);
    }
}
