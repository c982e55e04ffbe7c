//! `capy-store restore-point`: moments under a name.

use capy_store::{
    BackupKey, BackupSelector, ClusterName, Lsn, PostgresServer, RestorePointAt, RestorePointInfo,
    RestorePointOptions, Timestamp,
};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;

use crate::environment;
use crate::exit::Exit;
use crate::output::{fields, table};
use crate::session::Session;

/// Name moments to return to
///
/// A restore point is a name for a moment of a cluster, made by the running server or for a time, a
/// position or a backup. `restore CLUSTER/latest --to DIR --target-name LABEL` goes to it.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct RestorePointArgs {
    #[command(subcommand)]
    command: RestorePointCommand,
}

#[derive(Debug, Subcommand)]
enum RestorePointCommand {
    Create(CreateArgs),
    List(ListArgs),
    Delete(DeleteArgs),
}

/// Create a restore point
///
/// With --pg the server writes the name into its log (pg_create_restore_point) and recovery stops at
/// exactly that record. Otherwise the point is a label: of a time, a position or a backup; with none
/// of them, of the present moment, if the repository has the cluster's WAL.
///
/// The answer tells whether it can be reached already: `pending` until its WAL is archived.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    capy-store restore-point create --cluster main --label before_migration --pg \"host=/run/postgresql user=postgres\"\n  \
    capy-store restore-point create --cluster main --label end_of_year --time 2026-12-31T23:59:59Z\n  \
    capy-store restore-point create --cluster main --label golden --backup main/latest --created-by ops")]
struct CreateArgs {
    /// The cluster
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,

    /// The name: unique in the cluster, at most 63 bytes with --pg
    #[arg(long, value_name = "TEXT")]
    label: String,

    /// Let this server write it into its log: key=value pairs or a postgresql:// URI
    #[arg(long, value_name = "CONNINFO", group = "at")]
    pg: Option<String>,

    /// A time (RFC 3339, with a zone: 2026-11-21T06:54:52Z)
    #[arg(long, value_name = "TIME", group = "at")]
    time: Option<Timestamp>,

    /// A position in the log
    #[arg(long, value_name = "LSN", group = "at")]
    lsn: Option<Lsn>,

    /// A backup: CLUSTER/ID, or CLUSTER/latest for the one that is the newest now
    #[arg(long, value_name = "BACKUP", group = "at")]
    backup: Option<BackupSelector>,

    /// More about it
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,

    /// Who makes it
    #[arg(long, value_name = "NAME")]
    created_by: Option<String>,
}

/// List restore points, oldest first
///
/// Whether each can be reached is judged anew, as a restore would.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    capy-store restore-point list --cluster main\n  \
    capy-store restore-point list --json | jq -r '.restore_points[] | select(.state != \"reachable\").reason'")]
struct ListArgs {
    /// Only this cluster's
    #[arg(long, value_name = "NAME")]
    cluster: Option<ClusterName>,
}

/// Delete restore points
///
/// What they point at stays; a name that the server wrote into its log stays there, too, and cannot
/// be given again while that WAL is kept.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    capy-store restore-point delete main/20261121T065452Z-3fa2c1")]
struct DeleteArgs {
    /// The restore points, each as CLUSTER/ID
    #[arg(value_name = "CLUSTER/ID", required = true)]
    points: Vec<BackupKey>,
}

pub(crate) async fn run(args: RestorePointArgs, session: &mut Session) -> anyhow::Result<Exit> {
    match args.command {
        RestorePointCommand::Create(args) => create(args, session).await,
        RestorePointCommand::List(args) => list(args, session).await,
        RestorePointCommand::Delete(args) => delete(args, session).await,
    }
}

async fn create(args: CreateArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let mut options = RestorePointOptions::new(args.label.clone(), at(&args)?);
    options.note = args.note;
    options.created_by = args.created_by;
    let repository = session.open().await?;
    let point = repository.create_restore_point(&session.ctx, &args.cluster, options).await?;
    session.finish_progress();
    session.output.account(&json!({ "restore_point": point }), |_| created(&point))?;
    Ok(Exit::Success)
}

fn at(args: &CreateArgs) -> anyhow::Result<RestorePointAt> {
    Ok(match (&args.pg, args.time, args.lsn, &args.backup) {
        (Some(conninfo), ..) => {
            RestorePointAt::Server(PostgresServer::connect_with(conninfo, environment::var)?)
        }
        (_, Some(time), ..) => RestorePointAt::Time(time),
        (_, _, Some(lsn), _) => RestorePointAt::Lsn(lsn),
        (_, _, _, Some(backup)) => RestorePointAt::Backup(backup.clone()),
        _ => RestorePointAt::Now,
    })
}

#[derive(Serialize)]
struct Listing {
    restore_points: Vec<RestorePointInfo>,
}

async fn list(args: ListArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let repository = session.open().await?;
    let restore_points = repository.list_restore_points(&session.ctx, args.cluster.as_ref()).await?;
    session.finish_progress();
    session.output.answer(&Listing { restore_points }, listed)?;
    Ok(Exit::Success)
}

async fn delete(args: DeleteArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let repository = session.open().await?;
    for point in &args.points {
        repository.delete_restore_point(&session.ctx, &point.cluster, &point.id).await?;
    }
    let points = args.points;
    session.output.account(&json!({ "deleted": points }), |_| {
        points.iter().map(|point| format!("deleted {point}\n")).collect()
    })?;
    Ok(Exit::Success)
}

fn key(point: &RestorePointInfo) -> String {
    format!("{}/{}", point.cluster, point.id)
}

/// The moment, the position or the backup; of a moment in the log, the position.
fn place(point: &RestorePointInfo) -> String {
    match (point.lsn, point.pitr_time, &point.backup_key) {
        (Some(lsn), ..) => format!("lsn {lsn}"),
        (_, Some(time), _) => format!("time {time}"),
        (_, _, Some(backup)) => backup.to_string(),
        _ => String::new(),
    }
}

fn created(point: &RestorePointInfo) -> String {
    let in_wal = if point.in_wal { ", written into the WAL" } else { "" };
    let mut pairs = vec![
        ("restore point", format!("{} ({})", point.label, key(point))),
        ("at", format!("{}{in_wal}", place(point))),
        ("state", point.state.as_str().to_owned()),
    ];
    if let Some(reason) = &point.reason {
        pairs.push(("because", reason.clone()));
    }
    if let Some(backup) = &point.backup_key {
        pairs.push(("backup", backup.to_string()));
    }
    fields(&pairs)
}

fn listed(listing: &Listing) -> String {
    if listing.restore_points.is_empty() {
        return "no restore points\n".to_owned();
    }
    let heading = ["RESTORE POINT", "LABEL", "KIND", "AT", "STATE", "BACKUP", "CREATED BY"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(listing.restore_points.iter().map(row));
    let mut text = table(&rows);
    for point in &listing.restore_points {
        if let Some(reason) = &point.reason {
            text.push_str(&format!("note: {} is {}: {reason}\n", point.label, point.state.as_str()));
        }
    }
    text
}

fn row(point: &RestorePointInfo) -> Vec<String> {
    vec![
        key(point),
        point.label.clone(),
        point.kind.as_str().to_owned(),
        place(point),
        point.state.as_str().to_owned(),
        point.backup_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        point.created_by.clone().unwrap_or_default(),
    ]
}
