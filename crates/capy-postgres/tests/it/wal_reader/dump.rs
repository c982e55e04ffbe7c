//! The comparison with `pg_waldump`.

use std::path::PathBuf;

use capy_postgres::wal::CommitStamp;
use capy_testkit::postgres::{Cluster, text};
use capy_types::{Lsn, Timestamp};

use super::commit_times;
use super::log::{Log, Seen};

/// A line of `pg_waldump`.
struct Line {
    seen: Seen,
    rmgr: String,
    description: String,
}

impl Line {
    /// `rmgr: X len (rec/tot): 34/ 34, tx: 735, lsn: 0/0150E8A8, prev 0/0150E870, desc: COMMIT …`
    fn parse(line: &str) -> Option<Self> {
        let (head, description) = line.split_once(", desc: ")?;
        let after = |mark: &str| head.split_once(mark).map(|(_, rest)| rest.trim_start());
        let number = |text: &str| text.split([',', ' ']).next().unwrap().parse::<u32>().unwrap();
        let lsn = |text: &str| text.split(',').next().unwrap().trim().parse::<Lsn>().unwrap();
        let lengths = after("(rec/tot):")?;
        let seen = Seen {
            total: number(lengths.split_once('/')?.1.trim_start()),
            xid: number(after("tx:")?),
            lsn: lsn(after("lsn:")?),
            previous: lsn(after("prev ")?),
        };
        let rmgr = after("rmgr:")?.split(' ').next()?.to_owned();
        Some(Self { seen, rmgr, description: description.to_owned() })
    }

    fn is_transaction(&self, prefix: &str) -> bool {
        self.rmgr == "Transaction" && self.description.starts_with(prefix)
    }

    /// `COMMIT 2026-11-21 06:54:52.123456 UTC; …` or `COMMIT_PREPARED 736: 2026-…`
    fn time(&self) -> Timestamp {
        let start = self.description.find("20").unwrap();
        let at = self.description[start..].find("-").unwrap() + start - 4;
        let text = self.description[at..].split(" UTC").next().unwrap();
        format!("{}Z", text.replace(' ', "T")).parse().unwrap()
    }
}

/// The `pg_waldump` of a major: the distribution's, or one below `CAPY_TEST_WALDUMP`.
fn waldump_program(major: u32) -> Option<PathBuf> {
    let given = std::env::var_os("CAPY_TEST_WALDUMP").map(PathBuf::from);
    let places = [PathBuf::from("/usr/lib/postgresql")].into_iter().chain(given);
    places.map(|place| place.join(format!("{major}/bin/pg_waldump"))).find(|program| program.exists())
}

fn waldump(cluster: &Cluster, log: &Log) -> Option<Vec<Line>> {
    let program = waldump_program(cluster.major())?;
    let (first, last) = (log.names.first().unwrap(), log.names.last().unwrap());
    let wal = cluster.data().join("pg_wal");
    let options = ["TZ=UTC", text(&program), "-p", text(&wal), first, last];
    let output = cluster.try_run("/usr/bin/env", options);
    let lines: Vec<Line> = String::from_utf8_lossy(&output.stdout).lines().filter_map(Line::parse).collect();
    assert!(!lines.is_empty(), "pg_waldump: {}", String::from_utf8_lossy(&output.stderr));
    Some(lines)
}

/// Compares every record, and every end of a transaction, with `pg_waldump`.
pub(crate) fn check_waldump(cluster: &Cluster, log: &Log) {
    let Some(lines) = waldump(cluster, log) else {
        println!("no pg_waldump of PostgreSQL {}", cluster.major());
        return;
    };
    for (line, record) in lines.iter().zip(&log.records) {
        assert_eq!(line.seen, *record);
        if let Some(blocks) = log.blocks.get(&record.lsn) {
            let start = line.description.find(", blkref #").or(line.description.find("blkref #"));
            let listed = start.map_or("", |start| &line.description[start..]);
            assert_eq!(listed.trim_start_matches(", "), blocks.trim_start_matches(", "), "at {}", record.lsn);
        }
    }
    assert_eq!(lines.len(), log.records.len());
    let of = |prefix: &str| lines.iter().filter(|line| line.is_transaction(prefix)).collect::<Vec<_>>();
    let (commits, aborts) = (of("COMMIT"), of("ABORT"));
    assert_eq!(log.count(|facts| facts.events.commits), commits.len() as u64);
    assert_eq!(log.count(|facts| facts.events.aborts), aborts.len() as u64);
    let times: Vec<Timestamp> = commits.iter().map(|line| line.time()).collect();
    let mut found: Vec<Timestamp> = commit_times(cluster, log).into_values().collect();
    found.sort();
    let mut sorted = times.clone();
    sorted.sort();
    assert_eq!(found, sorted);
    for facts in &log.segments {
        let is_mine = |line: &Line| (facts.header.start..facts.header.end()).contains(&line.seen.lsn);
        let mine: Vec<_> =
            commits.iter().filter(|line| is_mine(line)).map(|line| (line.seen.lsn, line.time())).collect();
        let stamp = |stamp: Option<CommitStamp>| stamp.map(|s| (s.lsn, s.time.to_timestamp()));
        assert_eq!(facts.events.commits, mine.len() as u64);
        assert_eq!(stamp(facts.events.first_commit), mine.first().copied());
        assert_eq!(stamp(facts.events.last_commit), mine.last().copied());
        let ends = || commits.iter().chain(&aborts).filter(|line| is_mine(line)).map(|line| line.time());
        assert_eq!(facts.events.min_end_time.map(|time| time.to_timestamp()), ends().min());
        assert_eq!(facts.events.max_end_time.map(|time| time.to_timestamp()), ends().max());
    }
    let with_relations = commits.iter().filter(|line| line.description.contains("rels:")).count();
    assert_eq!(log.all(|facts| &facts.events.relation_drops).len(), with_relations);
    println!(
        "PostgreSQL {}: {} records, {} commits, {} aborts, {} across borders, as pg_waldump says",
        cluster.major(),
        lines.len(),
        commits.len(),
        aborts.len(),
        log.joined.len()
    );
}
