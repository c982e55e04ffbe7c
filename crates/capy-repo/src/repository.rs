//! The open repository: its identity, keys and root, and the small operations on them.
//!
//! Contained by: the library crate's façade. A `Repository` is cheap to clone. It holds no lock
//! and no state that could go stale except the immutable config: every operation reads the
//! newest root.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, OnceLock};

use capy_codec::{KdfParams, MasterKey, RepositoryKeys, SlotSecret};
use capy_format::{
    BackupEntry, BackupRecord, BackupState, ChunkingPolicy, Config, KeySlot, ObjectKind, Pin, Root,
    SessionEntry, VERSION_1, Verification, names,
};
use capy_objects::{CacheOptions, ReadCache, Store, StoreErrorKind};
use capy_types::limits::PACK_SIZE_BYTES;
use capy_types::{BackupKey, BackupSelector, ClusterName, Ctx, PackId, RepositoryId, RootHash, SlotId};
use futures::StreamExt;

use crate::root::{LoadedRoot, RootChain};
use crate::{Env, Ingest, IngestOptions, ReadOptions, Reader, RepoError, keyring, sealed};

/// Largest backup record accepted in bytes.
pub(crate) const RECORD_MAX_BYTES: u64 = 64 << 20;

/// How a new repository is made.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// Chunk sizes and strategy; fixed for the life of the repository.
    pub chunking: ChunkingPolicy,
    /// zstd level of new chunks, 1 to 19. The default is 3: on mixed data it stored 5 % less
    /// than level 1 and took 13 % longer; on pgbench's pages both stored the same within 2 %.
    pub compression_level: i32,
    /// Cost of opening the first key slot, when it is a passphrase.
    pub kdf: KdfParams,
    /// A name for the first key slot.
    pub slot_label: String,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self {
            chunking: ChunkingPolicy::default(),
            compression_level: 3,
            kdf: KdfParams::default(),
            slot_label: "initial".to_owned(),
        }
    }
}

struct Inner {
    store: Arc<dyn Store>,
    env: Env,
    config: Config,
    master: MasterKey,
    keys: RepositoryKeys,
    cache: OnceLock<Arc<ReadCache>>,
}

/// An open repository.
#[derive(Clone)]
pub struct Repository(Arc<Inner>);

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository").field("id", &self.id()).field("url", &self.0.store.url()).finish()
    }
}

impl Repository {
    /// Creates a repository in an empty place.
    ///
    /// The config is written last: a crash before that leaves a place in which `init` can be run
    /// again.
    ///
    /// # Errors
    /// Conflict when a repository or anything else is there already; store errors as they come.
    ///
    /// # Cancellation
    /// Safe to drop; at worst a key slot and root 0 of a repository that never came to be are
    /// left, which the next `init` refuses by name.
    pub async fn init(
        store: Arc<dyn Store>,
        env: Env,
        options: InitOptions,
        secret: SlotSecret<'_>,
    ) -> Result<Self, RepoError> {
        refuse_occupied(&*store).await?;
        crate::ingest::check_policy(&options.chunking)?;
        options
            .chunking
            .check()
            .map_err(|problem| RepoError::Invalid { what: format!("chunking: {problem}") })?;
        if !(1..=19).contains(&options.compression_level) {
            return Err(RepoError::Invalid {
                what: format!("compression level {} is not between 1 and 19", options.compression_level),
            });
        }
        let config = Config {
            repository: RepositoryId::random(&*env.entropy),
            created_at: env.clock.now(),
            format_version: VERSION_1,
            chunking: options.chunking,
            compression_level: options.compression_level,
            pack_size_bytes: u32::try_from(PACK_SIZE_BYTES).expect("32 MiB fit 32 bits"),
        };
        let master = MasterKey::generate(&*env.entropy);
        let keys = RepositoryKeys::derive(&master, config.repository);
        let slot =
            keyring::new_slot(&master, config.repository, secret, options.kdf, &options.slot_label, &env)?;
        keyring::write_slot(&*store, config.repository, &slot).await?;
        let repository = Self(Arc::new(Inner { store, env, config, master, keys, cache: OnceLock::new() }));
        repository.chain().create().await?;
        let object = keyring::encode_config(repository.config(), repository.keys());
        match repository.store().put_new(names::CONFIG, object).await {
            Ok(()) => Ok(repository),
            Err(error) if matches!(error.kind, StoreErrorKind::AlreadyExists) => {
                Err(RepoError::RepositoryExists { url: repository.store().url() })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the repository in `store` with a passphrase or key file.
    ///
    /// # Errors
    /// `NotARepository`, `NoSlotOpens` (Denied), a newer format version (Invalid), damage
    /// (Corrupt), store errors.
    ///
    /// # Cancellation
    /// Safe to drop; nothing is written.
    pub async fn open(store: Arc<dyn Store>, env: Env, secret: SlotSecret<'_>) -> Result<Self, RepoError> {
        // Which repository it is says the config, without which there are no slots worth a word.
        let (unchecked, slots) = futures::join!(keyring::read_config(&*store), keyring::fetch_slots(&*store));
        let unchecked = unchecked?;
        let master = keyring::unlock(slots?, unchecked.repository(), secret)?;
        let keys = RepositoryKeys::derive(&master, unchecked.repository());
        let config = unchecked.check(&keys)?;
        Ok(Self(Arc::new(Inner { store, env, config, master, keys, cache: OnceLock::new() })))
    }

    /// The repository's identity.
    #[must_use]
    pub fn id(&self) -> RepositoryId {
        self.0.config.repository
    }

    /// The parameters chosen at `init`.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The store underneath.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    /// Lets backups, and readers that [ask for it](ReadOptions::cached), read packs and index objects
    /// through a local cache. The first that is given stays.
    ///
    /// What the store has is still learnt from the store: the root, which packs and index objects there
    /// are and how long they are. From the cache come only bytes of objects that are there, each proven
    /// when it is opened. What it can hide is damage inside an object, as it is hidden where a chunk is
    /// taken over unread: verification finds it, and from then on nothing rests on that.
    pub fn use_cache(&self, options: &CacheOptions) {
        let cache = || Arc::new(ReadCache::new(self.store().clone(), options, &self.id().to_string()));
        self.0.cache.get_or_init(cache);
    }

    /// The local cache, if there is one.
    #[must_use]
    pub fn cache(&self) -> Option<&Arc<ReadCache>> {
        self.0.cache.get()
    }

    /// Time and chance.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.0.env
    }

    /// The derived keys.
    #[must_use]
    pub fn keys(&self) -> &RepositoryKeys {
        &self.0.keys
    }

    pub(crate) fn chain(&self) -> RootChain<'_> {
        RootChain { store: &*self.0.store, keys: &self.0.keys, repository: self.id(), env: &self.0.env }
    }

    /// The newest root.
    ///
    /// # Errors
    /// Corrupt when the root cannot be read or does not authenticate; store errors.
    pub async fn root(&self) -> Result<Root, RepoError> {
        let LoadedRoot { root, .. } = self.chain().newest().await?;
        Ok(root)
    }

    /// The backup a selector points at. `latest` is the newest that passed its own checks; a
    /// damaged one is reached by its key only, and passing it over is logged.
    ///
    /// # Errors
    /// `NoSuchBackup`; what [`root`](Self::root) answers.
    pub async fn resolve(&self, selector: &BackupSelector) -> Result<BackupEntry, RepoError> {
        let root = self.root().await?;
        let found = match selector {
            BackupSelector::Key(key) => root.backups.into_iter().find(|entry| entry.key == *key),
            BackupSelector::Latest(cluster) => newest_complete(root.backups, cluster),
        };
        found.ok_or_else(|| RepoError::NoSuchBackup { what: selector.to_string() })
    }

    /// The full record of a backup.
    ///
    /// # Errors
    /// Corrupt when it is missing, altered, or not the record the root committed.
    pub async fn record(&self, entry: &BackupEntry) -> Result<BackupRecord, RepoError> {
        let name = names::backup(&entry.key);
        let object = self.0.store.get(&name, RECORD_MAX_BYTES).await.map_err(|error| {
            if matches!(error.kind, StoreErrorKind::NotFound) {
                RepoError::Inconsistent {
                    object: name.clone(),
                    problem: "the backup's record is missing".to_owned(),
                }
            } else {
                error.into()
            }
        })?;
        let (header, json) = sealed::open(self.keys(), self.id(), ObjectKind::Backup, &name, &object)?;
        let record = BackupRecord::from_json(&name, &json)?;
        if header.nonce != entry.record_nonce || record.key != entry.key {
            return Err(RepoError::Inconsistent {
                object: name,
                problem: "not the record that was committed".to_owned(),
            });
        }
        Ok(record)
    }

    /// Removes a backup from the root. Its space is reclaimed by the collector.
    ///
    /// # Errors
    /// `NoSuchBackup`, `Pinned`; commit errors.
    ///
    /// # Cancellation
    /// Either unlinked or not.
    pub async fn unlink_backup(&self, key: &BackupKey) -> Result<BackupEntry, RepoError> {
        let (gone, _) = self.chain().commit(|root| unlink(root, std::slice::from_ref(key))).await?;
        gone.into_iter().next().ok_or_else(|| RepoError::NoSuchBackup { what: key.to_string() })
    }

    /// Removes all backups that `choose` names from the root, in one commit. `choose` sees the
    /// newest root's backups and may be asked several times: what others committed meanwhile is
    /// before it. When it names none, nothing is committed.
    ///
    /// # Errors
    /// What `choose` refuses; `NoSuchBackup` or `Pinned` when it names what must not go; commit
    /// errors. Nothing is removed then.
    ///
    /// # Cancellation
    /// Either all unlinked or none.
    pub async fn unlink_backups<T>(
        &self,
        mut choose: impl FnMut(&[BackupEntry]) -> Result<(Vec<BackupKey>, T), RepoError>,
    ) -> Result<T, RepoError> {
        let (keys, answer) = choose(&self.root().await?.backups)?;
        if keys.is_empty() {
            return Ok(answer);
        }
        let change = |root: &mut Root| {
            let (keys, answer) = choose(&root.backups)?;
            unlink(root, &keys).map(|_| answer)
        };
        self.chain().commit(change).await.map(|(answer, _)| answer)
    }

    /// Pins a backup, so that nothing removes it, or takes its pin off. A pin it has is replaced.
    ///
    /// # Errors
    /// Invalid when the pin does not pass its check; `NoSuchBackup`; commit errors.
    ///
    /// # Cancellation
    /// Either set or not.
    pub async fn set_pin(&self, key: &BackupKey, pin: Option<Pin>) -> Result<BackupEntry, RepoError> {
        if let Some(pin) = &pin {
            pin.check().map_err(|what| RepoError::Invalid { what })?;
        }
        let change = |root: &mut Root| {
            let entry = root.backups.iter_mut().find(|entry| entry.key == *key);
            let entry = entry.ok_or_else(|| RepoError::NoSuchBackup { what: key.to_string() })?;
            entry.pinned = pin.clone();
            Ok(entry.clone())
        };
        self.chain().commit(change).await.map(|(entry, _)| entry)
    }

    /// Records the state of a backup's verification in the root.
    ///
    /// # Errors
    /// `NoSuchBackup`; commit errors.
    pub async fn set_verification(
        &self,
        key: &BackupKey,
        verification: Verification,
    ) -> Result<(), RepoError> {
        let change = |root: &mut Root| {
            let entry = root.backups.iter_mut().find(|entry| entry.key == *key);
            let entry = entry.ok_or_else(|| RepoError::NoSuchBackup { what: key.to_string() })?;
            entry.verification = verification.clone();
            Ok(())
        };
        self.chain().commit(change).await.map(|_| ())
    }

    /// Notes that packs are damaged: later backups do not build on them and store their chunks
    /// anew, which also heals the older backups that refer to those chunks.
    ///
    /// # Errors
    /// Commit errors.
    pub async fn mark_damaged(&self, packs: &[PackId]) -> Result<(), RepoError> {
        let root = self.root().await?;
        if packs.iter().all(|pack| root.damaged.contains(pack)) {
            return Ok(());
        }
        let change = |root: &mut Root| {
            root.damaged.extend_from_slice(packs);
            root.damaged.sort_unstable();
            root.damaged.dedup();
            Ok(())
        };
        self.chain().commit(change).await.map(|_| ())
    }

    /// Ends the sessions `which` selects: they cannot commit any more. Safe at any moment; a
    /// fenced backup fails with Conflict and is run again.
    ///
    /// # Errors
    /// Commit errors.
    pub async fn fence_sessions(&self, which: impl Fn(&SessionEntry) -> bool) -> Result<usize, RepoError> {
        let change = |root: &mut Root| {
            let before = root.sessions.len();
            root.sessions.retain(|session| !which(session));
            Ok(before - root.sessions.len())
        };
        self.chain().commit(change).await.map(|(ended, _)| ended)
    }

    /// Opens the bytes of a root object and returns it with the hash its successor carries.
    ///
    /// # Errors
    /// Corrupt when it does not authenticate or decode.
    pub fn inspect_root(&self, object: &[u8], name: &str) -> Result<(Root, RootHash), RepoError> {
        self.chain().decode(object, name).map(|(root, hash, _)| (root, hash))
    }

    /// The readable key slots, and the problems of those that are not readable.
    ///
    /// # Errors
    /// Store errors.
    pub async fn key_slots(&self) -> Result<(Vec<KeySlot>, Vec<RepoError>), RepoError> {
        let (mut slots, mut problems) = (Vec::new(), Vec::new());
        for (_, slot) in keyring::decode_slots(keyring::fetch_slots(&**self.store()).await?, self.id()) {
            match slot {
                Ok(slot) => slots.push(slot),
                Err(error) => problems.push(error),
            }
        }
        Ok((slots, problems))
    }

    /// Adds another way to open the repository.
    ///
    /// # Errors
    /// Invalid key derivation parameters; store errors.
    pub async fn add_key_slot(
        &self,
        secret: SlotSecret<'_>,
        kdf: KdfParams,
        label: &str,
    ) -> Result<KeySlot, RepoError> {
        let slot = keyring::new_slot(&self.0.master, self.id(), secret, kdf, label, self.env())?;
        keyring::write_slot(&**self.store(), self.id(), &slot).await?;
        Ok(slot)
    }

    /// Removes a key slot. The last readable one is refused.
    ///
    /// # Errors
    /// `NoSuchSlot`, `LastSlot`; store errors.
    pub async fn remove_key_slot(&self, id: SlotId) -> Result<(), RepoError> {
        let (slots, _) = self.key_slots().await?;
        if !slots.iter().any(|slot| slot.id == id) {
            return Err(RepoError::NoSuchSlot { id: id.to_string() });
        }
        if slots.len() == 1 {
            return Err(RepoError::LastSlot);
        }
        Ok(self.store().delete(&names::key_slot(&id)).await?)
    }

    /// Starts a backup: registers a session, loads the index, starts the workers.
    ///
    /// # Errors
    /// `BackupExists`; corrupt indexes of committed backups; store errors.
    pub async fn begin(&self, ctx: &Ctx, options: IngestOptions) -> Result<Ingest, RepoError> {
        Ingest::begin(self.clone(), ctx.clone(), options).await
    }

    /// Loads the index for reading.
    ///
    /// # Errors
    /// Store errors. Damaged index objects are reported as problems and skipped: what they held
    /// is then missing, and named when it is asked for.
    pub async fn reader(&self, ctx: &Ctx, options: ReadOptions) -> Result<Reader, RepoError> {
        Reader::open(self.clone(), ctx, options).await
    }
}

/// Takes backups out of the root's list: all of them, or none when one is pinned or not there.
fn unlink(root: &mut Root, keys: &[BackupKey]) -> Result<Vec<BackupEntry>, RepoError> {
    let mut wanted: HashSet<_> = keys.iter().collect();
    let mut named = root.backups.iter().filter(|entry| wanted.remove(&entry.key));
    if let Some((key, pin)) = named.find_map(|entry| Some((&entry.key, entry.pinned.as_ref()?))) {
        return Err(RepoError::Pinned { key: key.clone(), reason: pin.reason.clone() });
    }
    if let Some(missing) = wanted.into_iter().next() {
        return Err(RepoError::NoSuchBackup { what: missing.to_string() });
    }
    let going: HashSet<_> = keys.iter().collect();
    let (gone, left) =
        std::mem::take(&mut root.backups).into_iter().partition(|entry| going.contains(&entry.key));
    root.backups = left;
    Ok(gone)
}

fn newest_complete(backups: Vec<BackupEntry>, cluster: &ClusterName) -> Option<BackupEntry> {
    let mut own: Vec<_> = backups.into_iter().filter(|entry| entry.key.cluster == *cluster).collect();
    own.sort_by(|a, b| a.order().cmp(&b.order()));
    while let Some(entry) = own.pop() {
        if entry.state == BackupState::Complete {
            return Some(entry);
        }
        tracing::warn!(backup = %entry.key, "newer, but marked damaged: passed over by `latest`");
    }
    None
}

/// Refuses a place that holds a repository, or anything else.
async fn refuse_occupied(store: &dyn Store) -> Result<(), RepoError> {
    match store.head(names::CONFIG).await {
        Ok(_) => return Err(RepoError::RepositoryExists { url: store.url() }),
        Err(error) if matches!(error.kind, StoreErrorKind::NotFound) => {}
        Err(error) => return Err(error.into()),
    }
    match store.list("").next().await {
        None => Ok(()),
        Some(Ok(info)) => Err(RepoError::NotEmpty { url: store.url(), found: info.name }),
        Some(Err(error)) => Err(error.into()),
    }
}

/// The entry the root keeps of a record.
pub(crate) fn entry_of(record: &BackupRecord, state: BackupState, nonce: capy_types::Nonce) -> BackupEntry {
    let facts = record.postgres.as_ref();
    BackupEntry {
        key: record.key.clone(),
        label: record.label.clone(),
        kind: record.kind,
        created_at: record.created_at,
        finished_at: record.finished_at,
        size_bytes: record.stats.size_bytes,
        stored_bytes: record.stats.stored_bytes,
        state,
        verification: Verification::default(),
        database: record.database.clone(),
        system_id: facts.map(|f| f.system_id),
        timeline: facts.map(|f| f.timeline),
        start_lsn: facts.map(|f| f.start_lsn),
        stop_lsn: facts.and_then(|f| f.stop_lsn),
        record_nonce: nonce,
        pinned: None,
    }
}
