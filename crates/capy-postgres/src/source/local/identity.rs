//! Whether a directory is the one that a server works on.
//!
//! A wrong one must not become a backup: of another cluster, of a standby beside the server, of a
//! copy made last week. What the files say is compared with what the server says: the cluster's
//! number, the major version, the path where it can be compared, and, once the backup's
//! checkpoint is made, that checkpoint.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use capy_types::SystemId;

use super::walk::failed;
use crate::PostgresError;
use crate::control::{ClusterState, ControlFile};
use crate::server::BackupSession;

/// How often a checkpoint of the server may come between its answer and our look at the file.
const COMPARE_AGAIN_MAX: u32 = 5;

/// Compares what does not change, before the server is asked for a backup; blocks.
pub(super) fn check_directory(
    directory: &Path,
    servers: Option<&Path>,
    system_id: Option<SystemId>,
    version_num: u32,
) -> Result<ControlFile, PostgresError> {
    let wrong = |problem: String| wrong(directory, problem);
    let version_file = directory.join("PG_VERSION");
    let version = match std::fs::read_to_string(&version_file) {
        Ok(version) => version,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && directory.is_dir() => {
            return Err(wrong("it has no PG_VERSION: no data directory at all".to_owned()));
        }
        Err(e) => return Err(failed(&version_file, e)),
    };
    let control = ControlFile::read_in(directory)?;
    if Some(control.system_id) != system_id {
        let server = system_id.map(|id| id.to_string()).unwrap_or_default();
        return Err(wrong(format!("it is of cluster {}, the server's is {server}", control.system_id)));
    }
    let major = version_num / 10_000;
    if version.trim() != major.to_string() {
        return Err(wrong(format!("it is of version {}, the server of {major}", version.trim())));
    }
    if let Some(servers) = servers
        && is_another(directory, servers)
    {
        return Err(wrong(format!("the server works on {}", servers.display())));
    }
    Ok(control)
}

/// Whether both paths are directories here, and not the same one. The server may see its files
/// under a path of its own (a container does): that shows nothing.
fn is_another(directory: &Path, servers: &Path) -> bool {
    match (std::fs::metadata(directory), std::fs::metadata(servers)) {
        (Ok(ours), Ok(servers)) => (ours.dev(), ours.ino()) != (servers.dev(), servers.ino()),
        _ => false,
    }
}

/// Proves that the server writes this directory's control file: it holds the checkpoint that the
/// server has just made for the backup.
pub(super) async fn check_alive(
    session: &BackupSession,
    directory: &Path,
    is_standby: bool,
) -> Result<(), PostgresError> {
    let mut servers = session.checkpoint_lsn().await?;
    for _ in 0..COMPARE_AGAIN_MAX {
        let path = directory.to_owned();
        let read = super::blocking(move || ControlFile::read_in(&path));
        let control = read.await?;
        let is_archive_recovery = control.state == ClusterState::ArchiveRecovery;
        if is_archive_recovery != is_standby {
            let what = if is_standby { "a standby" } else { "none" };
            return Err(wrong(
                directory,
                format!("it is in state {:?}, and the server is {what}", control.state),
            ));
        }
        if control.checkpoint_lsn == servers {
            return Ok(());
        }
        let before = servers;
        servers = session.checkpoint_lsn().await?;
        if before == servers && control.checkpoint_lsn != servers {
            let found = control.checkpoint_lsn;
            let problem = format!("its last checkpoint is at {found}, the server's at {servers}");
            return Err(wrong(directory, problem));
        }
    }
    Err(wrong(directory, "the server makes checkpoints that do not appear in it".to_owned()))
}

fn wrong(directory: &Path, problem: String) -> PostgresError {
    PostgresError::NotTheServersDirectory { path: directory.display().to_string(), problem }
}
