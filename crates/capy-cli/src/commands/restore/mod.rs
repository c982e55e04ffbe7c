//! `capy-store restore`: a backup back into files, or into the stream it came from.

mod recovery;

use std::num::NonZeroU64;
use std::path::PathBuf;

use capy_store::{
    BackupSelector, Delta, DeltaPlan, Owner, RecoveryChoice, Repository, RestoreOptions, RestoreReport,
    StoreRates, TablespaceMapping, TarTarget,
};
use clap::Args;
use serde_json::json;

use crate::account::{self, WithMemory};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::human::{bytes, duration, rate};
use crate::secrets;
use crate::session::Session;

/// Restore a backup into a directory, or as the stream it came from
///
/// The target directory must be empty or absent, and so must every tablespace's; all are checked
/// before the first byte is written. Every chunk's hash is checked before its bytes are written.
/// pg_control comes last: a directory left by an interrupted restore does not start.
///
/// Run as root, files are given to the owner of the target directory, or of its parent, or to
/// the user postgres, whichever is the first that is not root; --owner says otherwise.
///
/// With --delta the directory may be an earlier state of the cluster, its server stopped: what is there
/// is hashed, only chunks that differ are fetched, and what the backup does not have is removed
/// (--dry-run lists it). The result is that of a restore into an empty directory; one that was
/// interrupted can be run again.
///
/// With a target the directory is set up for point-in-time recovery: the best backup is chosen (with
/// CLUSTER/latest; an id means exactly that one), the target is proven reachable before a byte is
/// written, and PostgreSQL, once started, replays the archive up to it and promotes. The copy never
/// archives into its parent's archive.
///
/// A base backup is not consistent until recovery has read the WAL from its start to its stop
/// position. If that WAL is not in the backup, the account says which is needed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    capy-store restore main/latest --to /var/lib/postgresql/15/restored\n  \
    capy-store restore main/latest --to /tmp/copy --tablespace-mapping /mnt/fast=/tmp/copy-fast\n  \
    capy-store restore main/latest --tar - | tar -tvf -\n  \
    capy-store restore main/latest --to /tmp/some --file 'base/5/*' --file backup_label\n  \
    capy-store restore main/latest --to DIR --delta --dry-run\n  \
    capy-store restore main/latest --to DIR --target-time 2026-11-21T06:54:52Z\n  \
    capy-store restore main/latest --to DIR --target-name before_migration --wal-into")]
pub(crate) struct RestoreArgs {
    /// The backup: CLUSTER/ID, or CLUSTER/latest
    #[arg(value_name = "BACKUP")]
    backup: BackupSelector,

    /// The directory to restore into (for a --stdin-as backup: the directory of the one file)
    #[arg(long, value_name = "DIR", required_unless_present = "tar")]
    to: Option<PathBuf>,

    /// Write the original tar to standard output (-), or all tars into a directory
    #[arg(long, value_name = "-|DIR", conflicts_with_all = ["to", "files", "mapping", "owner"])]
    tar: Option<PathBuf>,

    /// Put the tablespace that lay at OLD into NEW; may be given several times
    #[arg(long = "tablespace-mapping", short = 'T', value_name = "OLD=NEW")]
    mapping: Vec<TablespaceMapping>,

    /// Only files whose path matches this glob (`*` stops at `/`, `**` does not); the target need
    /// not be empty, existing files are replaced
    #[arg(long = "file", value_name = "GLOB")]
    files: Vec<String>,

    /// Give the files to this user (and group); needs root
    #[arg(long, value_name = "USER[:GROUP]")]
    owner: Option<String>,

    /// Bring an existing directory to the backup's state: keep what is right, fetch what differs,
    /// remove what the backup does not have
    #[arg(long, conflicts_with_all = ["tar", "files"])]
    delta: bool,

    /// With --delta: also a directory that is not known to be of the backup's cluster
    #[arg(long, requires = "delta")]
    force: bool,

    /// Only say what a recovery would do (which backup, timeline and WAL, or what is in the way), and
    /// what --delta would remove
    #[arg(long, conflicts_with = "tar")]
    dry_run: bool,

    /// Read at most so many bytes a second from the repository: 50M, 1.5GiB, plain bytes
    #[arg(long, value_name = "RATE", value_parser = crate::amounts::rate)]
    read_rate: Option<NonZeroU64>,

    #[command(flatten)]
    recovery: recovery::RecoveryArgs,
}

pub(crate) async fn run(args: RestoreArgs, session: &mut Session) -> anyhow::Result<Exit> {
    if args.tar.as_ref().is_some_and(|tar| tar.as_os_str() == "-") {
        session.output.stdout_is_data = true;
    }
    let owner = match &args.owner {
        Some(text) => users::parse(text)?,
        None => Owner::Automatic { fallback: users::postgres() },
    };
    let rates = StoreRates { read: args.read_rate, ..StoreRates::default() };
    let repository = session.open_at(session.location()?.with_rates(rates)).await?;
    let report = match (args.to, args.tar) {
        (Some(to), _) => {
            let mut options = RestoreOptions::to(to);
            options.tablespace_mapping = args.mapping;
            options.files = args.files;
            options.owner = owner;
            options.delta = args.delta.then(|| {
                let mut delta = Delta::new();
                delta.force = args.force;
                delta
            });
            options.recovery = args.recovery.recovery(&session.global, args.backup.cluster())?;
            if args.dry_run {
                return dry_run(&repository, session, &args.backup, options).await;
            }
            let fetches = options.recovery.as_ref().is_some_and(|recovery| !recovery.wal_into);
            let mut report = repository.restore(&session.ctx, &args.backup, options).await?;
            if fetches && report.recovery.is_some() && secrets::is_in_no_file(&session.global) {
                report.notices.push(
                    "the server opens the repository to fetch WAL: start it with CAPY_PASSPHRASE in its \
                     environment, or restore with --passphrase-file or --key-file"
                        .to_owned(),
                );
            }
            report
        }
        (None, Some(tar)) if tar.as_os_str() == "-" => {
            let target = TarTarget::writer(tokio::io::stdout());
            repository.restore_tar(&session.ctx, &args.backup, target).await?
        }
        (None, Some(dir)) => {
            repository.restore_tar(&session.ctx, &args.backup, TarTarget::directory(dir)).await?
        }
        (None, None) => return Err(Failure::invalid("name a target with --to or --tar").into()),
    };
    session.finish_progress();
    let with_memory = WithMemory::of(&report);
    session.output.account(&with_memory, |with| text(&report, &with.memory_text()))?;
    Ok(Exit::Success)
}

/// Says what the restore would do.
async fn dry_run(
    repository: &Repository,
    session: &mut Session,
    backup: &BackupSelector,
    mut options: RestoreOptions,
) -> anyhow::Result<Exit> {
    if options.delta.is_none() && options.recovery.is_none() {
        let failure = Failure::invalid("a dry run tells of a recovery or of --delta, and none was asked for");
        return Err(failure.into());
    }
    let mut backup = backup.clone();
    let mut recovery = None;
    if let Some(wish) = options.recovery.take() {
        recovery = repository.plan_recovery(&session.ctx, &backup, wish).await?;
        if let Some(plan) = &recovery {
            backup = plan.backup_key.clone().into();
        }
    }
    let delta = match options.delta {
        Some(_) => Some(repository.plan_delta(&session.ctx, &backup, &options).await?),
        None => None,
    };
    session.finish_progress();
    let document = json!({ "recovery": recovery, "remove": delta.as_ref().map(|delta| &delta.remove) });
    session.output.answer(&document, |_| {
        let recovery = (recovery.is_some() || delta.is_none()).then(|| plan_text(recovery.as_ref()));
        recovery.unwrap_or_default() + &delta.as_ref().map(removal_text).unwrap_or_default()
    })?;
    Ok(Exit::Success)
}

fn removal_text(delta: &DeltaPlan) -> String {
    let lines = delta.remove.iter().map(|path| format!("remove {}\n", path.display()));
    if delta.remove.is_empty() { "nothing to remove\n".to_owned() } else { lines.collect() }
}

fn plan_text(plan: Option<&RecoveryChoice>) -> String {
    let Some(plan) = plan else { return "a backup, to be restored as it is\n".to_owned() };
    let mut text = format!(
        "from {} to {} on timeline {}, WAL {} to {}\n",
        plan.backup_key, plan.target, plan.timeline, plan.first_segment, plan.last_segment
    );
    for notice in &plan.notices {
        text.push_str(&format!("note: {notice}\n"));
    }
    text
}

fn text(report: &RestoreReport, memory: &str) -> String {
    let target =
        report.target.as_ref().map_or_else(|| "stream".to_owned(), |path| path.display().to_string());
    let mut text = crate::output::fields(&[
        ("restored", report.backup_key.to_string()),
        ("to", target),
        ("files", format!("{} files, {} directories and links", report.files, report.directories)),
        (
            "written",
            format!(
                "{} in {}, {}",
                bytes(report.restored_bytes),
                duration(report.elapsed),
                rate(report.restored_bytes, report.elapsed)
            ),
        ),
        ("read", bytes(report.read_bytes)),
        ("peak memory", memory.to_owned()),
        ("time", account::stages(&report.stages)),
    ]);
    if report.kept_bytes > 0 || report.removed > 0 {
        let (kept, removed) = (bytes(report.kept_bytes), report.removed);
        text.push_str(&format!("note: {kept} were there already; {removed} entries were removed\n"));
    }
    if let Some(recovery) = &report.recovery {
        text.push_str(&format!(
            "recovery to {} on timeline {}, WAL {} to {}: start PostgreSQL on it\n",
            recovery.target, recovery.timeline, recovery.first_segment, recovery.last_segment
        ));
    }
    for notice in &report.notices {
        text.push_str(&format!("note: {notice}\n"));
    }
    if let Some(wal) = &report.wal_needed {
        text.push_str(&format!("note: {}\n", account::wal_needed(wal)));
    }
    text
}

/// Users and groups by name, from the system's files.
mod users {
    use capy_store::Owner;

    use crate::failure::Failure;

    /// `USER`, `USER:GROUP`, or the same in numbers.
    pub(super) fn parse(text: &str) -> anyhow::Result<Owner> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let unknown = |what: &str, name: &str| Failure::invalid(format!("no such {what}: {name}"));
        let (uid, own_gid) = find_user(user).ok_or_else(|| unknown("user", user))?;
        let gid = match group {
            None => own_gid,
            Some(group) => find_group(group).ok_or_else(|| unknown("group", group))?,
        };
        Ok(Owner::Ids { uid, gid })
    }

    /// The user PostgreSQL runs as by custom.
    pub(super) fn postgres() -> Option<(u32, u32)> {
        find_user("postgres")
    }

    fn find_user(name: &str) -> Option<(u32, u32)> {
        if let Ok(uid) = name.parse::<u32>() {
            return Some((uid, uid));
        }
        let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
        let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        fields.into_iter().find_map(|fields| match fields.as_slice() {
            [user, _, uid, gid, ..] if *user == name => Some((uid.parse().ok()?, gid.parse().ok()?)),
            _ => None,
        })
    }

    fn find_group(name: &str) -> Option<u32> {
        if let Ok(gid) = name.parse::<u32>() {
            return Some(gid);
        }
        let groups = std::fs::read_to_string("/etc/group").ok()?;
        groups.lines().find_map(|line| match line.split(':').collect::<Vec<_>>().as_slice() {
            [group, _, gid, ..] if *group == name => gid.parse().ok(),
            _ => None,
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn names_and_numbers_are_understood() {
            assert_eq!(parse("root").expect("root exists"), Owner::Ids { uid: 0, gid: 0 });
            assert_eq!(parse("12:34").expect("numbers"), Owner::Ids { uid: 12, gid: 34 });
            assert!(parse("no such user").is_err());
        }
    }
}
