//! The root chain: the one commit point of a repository.
//!
//! `root/<generation>` objects are only ever created, never replaced; names count down, so the
//! smallest name is the newest root. Whoever creates generation n+1 has committed. A name pruned
//! long ago could be created again by a writer that slept: so after creating, a writer reads the
//! newest root and proves that its own is that root or an ancestor of it.
//!
//! Source of the rule: create-if-absent with re-use of names is unsafe without the second look
//! (see FORMAT.md, "Root chain").

use std::time::Duration;

use bytes::Bytes;
use capy_codec::RepositoryKeys;
use capy_format::{ObjectKind, Root, VERSION_1, names};
use capy_objects::{Store, StoreErrorKind};
use capy_types::{Nonce, RepositoryId, RootHash};

use crate::{Env, RepoError, sealed};

/// Largest root accepted in bytes: about 100 000 backups at 300 bytes each, compressed.
const ROOT_MAX_BYTES: u64 = 64 << 20;
/// How often a commit is tried against other committers before giving up. With the pauses below
/// this spans more than a minute.
const COMMIT_ATTEMPTS: u32 = 64;
/// Longest pause between two attempts.
const COMMIT_PAUSE_MAX: Duration = Duration::from_secs(2);
/// How many generations back the check after a commit walks before it gives up.
const ANCESTRY_MAX: u64 = 4096;

/// A root as read: its content and the hash its successor will carry.
#[derive(Debug, Clone)]
pub(crate) struct LoadedRoot {
    pub(crate) root: Root,
    pub(crate) hash: RootHash,
    /// The version of the format that a reader of the repository must know.
    pub(crate) version: u16,
}

/// Reads and extends the root chain of one repository.
pub(crate) struct RootChain<'a> {
    pub(crate) store: &'a dyn Store,
    pub(crate) keys: &'a RepositoryKeys,
    pub(crate) repository: RepositoryId,
    pub(crate) env: &'a Env,
}

fn hash_of(object: &[u8]) -> RootHash {
    RootHash::from_bytes(*blake3::hash(object).as_bytes())
}

impl RootChain<'_> {
    fn encode(&self, root: &Root, version: u16) -> Result<(String, Bytes), RepoError> {
        root.check().map_err(|problem| RepoError::Internal { what: format!("root: {problem}") })?;
        let name = names::root(root.generation);
        let json = serde_json::to_vec(root).expect("a root is plain data");
        let (keys, kind) = (self.keys, ObjectKind::Root);
        let object = sealed::seal_as(keys, self.repository, kind, &name, root.nonce, &json, version)?;
        Ok((name, object))
    }

    /// Creates generation 0.
    pub(crate) async fn create(&self) -> Result<(), RepoError> {
        let root = Root {
            generation: 0,
            previous: None,
            created_at: self.env.clock.now(),
            nonce: Nonce::random(&*self.env.entropy),
            sessions: Vec::new(),
            indexes: Vec::new(),
            backups: Vec::new(),
            condemned: Vec::new(),
            damaged: Vec::new(),
            tombstones: Vec::new(),
        };
        let (name, object) = self.encode(&root, VERSION_1)?;
        Ok(self.store.put_new(&name, object).await?)
    }

    /// The root of one generation.
    async fn read(&self, generation: u64) -> Result<LoadedRoot, RepoError> {
        let name = names::root(generation);
        let object = self.store.get(&name, ROOT_MAX_BYTES).await?;
        let (root, hash, version) = self.decode(&object, &name)?;
        if root.generation != generation {
            return Err(RepoError::Inconsistent {
                object: name,
                problem: format!("it says it is generation {}", root.generation),
            });
        }
        Ok(LoadedRoot { root, hash, version })
    }

    /// Opens a root object.
    pub(crate) fn decode(&self, object: &[u8], name: &str) -> Result<(Root, RootHash, u16), RepoError> {
        let (header, json) = sealed::open(self.keys, self.repository, ObjectKind::Root, name, object)?;
        let root = Root::from_json(name, &json)?;
        if root.nonce != header.nonce {
            return Err(RepoError::Unauthentic { object: name.to_owned() });
        }
        Ok((root, hash_of(object), header.version))
    }

    /// The newest root.
    pub(crate) async fn newest(&self) -> Result<LoadedRoot, RepoError> {
        self.read(self.newest_generation().await?).await
    }

    async fn newest_generation(&self) -> Result<u64, RepoError> {
        let first = self.store.first(names::ROOT_PREFIX).await?.ok_or_else(|| RepoError::Inconsistent {
            object: names::ROOT_PREFIX.to_owned(),
            problem: "the repository has no root object".to_owned(),
        })?;
        names::parse_root(&first.name).ok_or_else(|| RepoError::Inconsistent {
            object: first.name.clone(),
            problem: "not the name of a root object".to_owned(),
        })
    }

    /// Applies `change` to the newest root and commits it. `change` may run several times, each
    /// time on a fresh copy; what it refuses is refused for good.
    ///
    /// # Cancellation
    /// Dropping the future may or may not have committed; nothing in between is possible.
    pub(crate) async fn commit<T>(
        &self,
        change: impl FnMut(&mut Root) -> Result<T, RepoError>,
    ) -> Result<(T, Root), RepoError> {
        self.commit_as(VERSION_1, change).await
    }

    /// As [`commit`](Self::commit); from this root on, readers must know `version` of the format.
    pub(crate) async fn commit_as<T>(
        &self,
        version: u16,
        mut change: impl FnMut(&mut Root) -> Result<T, RepoError>,
    ) -> Result<(T, Root), RepoError> {
        for attempt in 0..COMMIT_ATTEMPTS {
            let current = self.newest().await?;
            let mut next = current.root;
            let outcome = change(&mut next)?;
            next.generation += 1;
            next.previous = Some(current.hash);
            next.created_at = self.env.clock.now();
            next.nonce = Nonce::random(&*self.env.entropy);
            let (name, object) = self.encode(&next, current.version.max(version))?;
            let hash = hash_of(&object);
            match self.store.put_new(&name, object).await {
                Ok(()) if self.is_in_chain(next.generation, hash).await? => return Ok((outcome, next)),
                Ok(()) => tracing::warn!(generation = next.generation, "committed beside the chain; again"),
                Err(error) if matches!(error.kind, StoreErrorKind::AlreadyExists) => {}
                Err(error) => return Err(error.into()),
            }
            self.pause(attempt).await;
        }
        Err(RepoError::Contended { attempts: COMMIT_ATTEMPTS })
    }

    /// Whether the root of `generation` with `hash` is the newest one or an ancestor of it.
    async fn is_in_chain(&self, generation: u64, hash: RootHash) -> Result<bool, RepoError> {
        // It is most often the newest: read it while the store looks for that.
        let (newest, own) = futures::join!(self.newest_generation(), self.read(generation));
        let newest = newest?;
        if newest == generation {
            return Ok(own?.hash == hash);
        }
        let mut newest = self.read(newest).await?;
        if newest.root.generation < generation || newest.root.generation - generation > ANCESTRY_MAX {
            return Ok(false);
        }
        while newest.root.generation > generation + 1 {
            newest = self.read(newest.root.generation - 1).await?;
        }
        Ok(if newest.root.generation == generation {
            newest.hash == hash
        } else {
            newest.root.previous == Some(hash)
        })
    }

    /// Waits a random time that doubles with each attempt, so that committers drift apart.
    async fn pause(&self, attempt: u32) {
        let mut random = [0; 2];
        self.env.entropy.fill(&mut random);
        let ceiling = Duration::from_millis(10 << attempt.min(8)).min(COMMIT_PAUSE_MAX);
        tokio::time::sleep(ceiling.mul_f64(f64::from(u16::from_le_bytes(random)) / 65536.0)).await;
    }
}
