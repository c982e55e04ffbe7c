//! One file from the server's directory into the archive, and the word that it is there.
//!
//! Runs on a thread of its own: reading, compressing and sealing keep a core busy for its length.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use capy_format::names;
use capy_types::{ErrorKind, WalFile};
use tokio::runtime::Handle;

use super::{Acknowledgement, Kind, SourceId, Spool, source};
use crate::wal::push::{PushOutcome, owner};
use crate::{Error, Repository, Result};

/// Longest config read in bytes: a few hundred in practice.
const CONFIG_MAX_BYTES: u64 = 64 * 1024;

/// An open repository that is still the one at its place.
///
/// A worker lives long. Were the repository removed and another made in its place, what this one
/// writes could be read by nobody: so before each acknowledgement the config, which never changes
/// in the life of a repository, is looked at again.
#[derive(Debug, Clone)]
pub(super) struct OpenArchive {
    pub(super) repository: Repository,
    config: Bytes,
}

impl OpenArchive {
    pub(super) async fn of(repository: Repository) -> Result<Self> {
        let config = repository.repo.store().get(names::CONFIG, CONFIG_MAX_BYTES).await?;
        Ok(Self { repository, config })
    }

    async fn check_not_replaced(&self) -> Result<()> {
        let store = self.repository.repo.store();
        if store.get(names::CONFIG, CONFIG_MAX_BYTES).await? == self.config {
            return Ok(());
        }
        let what = format!("the repository at {} was replaced by another", self.repository.url());
        Err(Error::new(ErrorKind::Unavailable, what))
    }
}

/// A file that could not be archived, and which one it was if it could be read.
pub(super) struct Trouble {
    pub(super) source: Option<SourceId>,
    pub(super) error: Error,
    /// It was not there to be read: the server may have no need of it any more.
    pub(super) is_gone: bool,
}

/// Archives `directory/file` and acknowledges it.
pub(super) fn upload(
    runtime: &Handle,
    archive: &Arc<OpenArchive>,
    spool: &Spool,
    directory: &Path,
    file: &WalFile,
) -> std::result::Result<(), Box<Trouble>> {
    let path = directory.join(file.as_str());
    let (source, bytes) = source::read_source(&path).map_err(|error| {
        let is_gone = error.kind() == ErrorKind::NotFound;
        Box::new(Trouble { source: None, error, is_gone })
    })?;
    let owner = owner(file.kind(), &path);
    let archived = runtime.block_on(async {
        let repository = &archive.repository;
        let pushed = repository.push_wal_of(owner.as_ref(), &spool.cluster, file.clone(), bytes).await?;
        archive.check_not_replaced().await?;
        Ok(pushed)
    });
    let acknowledged = archived.and_then(|pushed| {
        // It was read from an open file: the name must still mean that file.
        if SourceId::at(&path)? != source {
            return Err(Error::changing(&path));
        }
        let note = Acknowledgement {
            place: spool.place.clone(),
            source: source.clone(),
            new: pushed.outcome == PushOutcome::Archived,
            stored_bytes: pushed.stored_bytes,
            notices: pushed.notices,
        };
        // First: whoever has the acknowledgement must not read that the file fails.
        spool.forget(file, Kind::Error);
        spool.write_acknowledgement(file, &note)
    });
    acknowledged.map_err(|error| Box::new(Trouble { source: Some(source), error, is_gone: false }))
}
