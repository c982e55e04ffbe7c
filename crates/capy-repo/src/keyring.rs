//! The repository's identity and the ways to open its master key.
//!
//! `config` names the repository and its parameters and carries a tag under the repository's
//! keys; `keys/<slot>` each wrap the master key for one passphrase or key file. Every slot is
//! bound to the repository id, so that a slot cannot be carried to another repository.

use bytes::Bytes;
use capy_codec::{KdfParams, MasterKey, RepositoryKeys, SlotSecret, UnwrapError, unwrap_key, wrap_key};
use capy_format::{
    Config, HEADER_BYTES, Header, KeySlot, KeySlotKind, ObjectKind, VERSION_1, names, split_object,
};
use capy_objects::{Store, StoreError, StoreErrorKind};
use capy_types::{ErrorKind, Nonce, RepositoryId, SlotId};
use futures::{StreamExt, TryStreamExt};

use crate::{Env, RepoError};

/// Longest config or slot object in bytes: a few hundred in practice.
const SMALL_OBJECT_MAX_BYTES: u64 = 64 * 1024;
/// Length of the config's tag in bytes.
const CONFIG_TAG_BYTES: usize = 32;
/// Most key slots read when opening: bounds the work a hostile store can cause.
const SLOTS_MAX: usize = 128;
/// Slots read at once.
const SLOT_FETCHES: usize = 8;

/// What a slot's sealed key is bound to.
fn slot_aad(repository: RepositoryId, id: SlotId) -> Vec<u8> {
    [&b"capy-store key slot v1"[..], repository.as_bytes(), id.as_bytes()].concat()
}

fn plain_header(kind: ObjectKind, repository: RepositoryId, length: usize) -> [u8; HEADER_BYTES] {
    let length = u32::try_from(length).expect("configs and slots are a few hundred bytes");
    let nonce = Nonce::from_bytes([0; Nonce::LEN]);
    let version = VERSION_1;
    Header {
        version,
        kind,
        suite: 0,
        compression: 0,
        repository,
        nonce,
        plain_len: length,
        stored_len: length,
    }
    .encode()
}

/// Encodes the config object: header, JSON, tag.
pub(crate) fn encode_config(config: &Config, keys: &RepositoryKeys) -> Bytes {
    let json = serde_json::to_vec(config).expect("a config is plain data");
    let mut object =
        plain_header(ObjectKind::Config, config.repository, json.len() + CONFIG_TAG_BYTES).to_vec();
    object.extend_from_slice(&json);
    let tag = keys.config_tag(&object);
    object.extend_from_slice(&tag);
    object.into()
}

/// A config whose tag has not been checked yet: good for finding the keys, nothing else.
pub(crate) struct UncheckedConfig {
    config: Config,
    signed: Vec<u8>,
    tag: [u8; CONFIG_TAG_BYTES],
}

impl UncheckedConfig {
    /// The repository it claims to be.
    pub(crate) fn repository(&self) -> RepositoryId {
        self.config.repository
    }

    /// The config, once its tag proves it unaltered.
    pub(crate) fn check(self, keys: &RepositoryKeys) -> Result<Config, RepoError> {
        if keys.check_config_tag(&self.signed, &self.tag) {
            Ok(self.config)
        } else {
            Err(RepoError::Unauthentic { object: names::CONFIG.to_owned() })
        }
    }
}

/// Reads the config of the repository in `store`.
pub(crate) async fn read_config(store: &dyn Store) -> Result<UncheckedConfig, RepoError> {
    let object = match store.get(names::CONFIG, SMALL_OBJECT_MAX_BYTES).await {
        Ok(object) => object,
        Err(error) if matches!(error.kind, StoreErrorKind::NotFound) => {
            return Err(RepoError::NotARepository { url: store.url() });
        }
        Err(error) => return Err(error.into()),
    };
    let (header, body) = split_object(names::CONFIG, &object, ObjectKind::Config)?;
    let inconsistent =
        |problem: String| RepoError::Inconsistent { object: names::CONFIG.to_owned(), problem };
    let (json, tag) = body
        .split_last_chunk::<CONFIG_TAG_BYTES>()
        .ok_or_else(|| inconsistent(format!("{} bytes are too few for a config", body.len())))?;
    let config = Config::from_json(names::CONFIG, json)?;
    if config.repository != header.repository {
        return Err(inconsistent("its header names another repository".to_owned()));
    }
    let signed = object.slice(..object.len() - CONFIG_TAG_BYTES).to_vec();
    Ok(UncheckedConfig { config, signed, tag: *tag })
}

/// Wraps `master` for `secret` in a new slot.
pub(crate) fn new_slot(
    master: &MasterKey,
    repository: RepositoryId,
    secret: SlotSecret<'_>,
    kdf: KdfParams,
    label: &str,
    env: &Env,
) -> Result<KeySlot, RepoError> {
    let id = SlotId::random(&*env.entropy);
    let kind = match secret {
        SlotSecret::Passphrase(_) => KeySlotKind::Passphrase,
        SlotSecret::KeyFile(_) => KeySlotKind::KeyFile,
    };
    let wrapped = wrap_key(master, secret, kdf, &slot_aad(repository, id), &*env.entropy)
        .map_err(|source| RepoError::Slot { slot: names::key_slot(&id), source })?;
    Ok(KeySlot {
        id,
        kind,
        label: label.to_owned(),
        created_at: env.clock.now(),
        wrapped: convert::to_format(&wrapped),
    })
}

/// Stores a slot.
pub(crate) async fn write_slot(
    store: &dyn Store,
    repository: RepositoryId,
    slot: &KeySlot,
) -> Result<(), RepoError> {
    let json = serde_json::to_vec(slot).expect("a slot is plain data");
    let mut object = plain_header(ObjectKind::KeySlot, repository, json.len()).to_vec();
    object.extend_from_slice(&json);
    Ok(store.put_new(&names::key_slot(&slot.id), object.into()).await?)
}

/// The objects of slots, by name, as far as they can be read.
pub(crate) type SlotObjects = Vec<(String, Result<Bytes, StoreError>)>;

/// Reads the objects of all slots.
pub(crate) async fn fetch_slots(store: &dyn Store) -> Result<SlotObjects, RepoError> {
    let listed: Vec<_> = store.list(names::KEYS_PREFIX).try_collect().await?;
    let reads = listed.into_iter().take(SLOTS_MAX).map(|info| async move {
        match store.get(&info.name, SMALL_OBJECT_MAX_BYTES).await {
            Err(error) if error.kind().is_transient() => Err(error),
            object => Ok((info.name, object)),
        }
    });
    let mut slots: Vec<_> = futures::stream::iter(reads).buffer_unordered(SLOT_FETCHES).try_collect().await?;
    slots.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(slots)
}

/// All slots. A slot that cannot be decoded is returned as its error, so that one bad slot does
/// not lock the others out.
pub(crate) fn decode_slots(
    objects: SlotObjects,
    repository: RepositoryId,
) -> Vec<(String, Result<KeySlot, RepoError>)> {
    let decode = |(name, object): (String, Result<Bytes, StoreError>)| {
        let object = object.map_err(RepoError::from);
        let slot = object.and_then(|object| decode_slot(&name, &object, repository));
        (name, slot)
    };
    objects.into_iter().map(decode).collect()
}

fn decode_slot(name: &str, object: &[u8], repository: RepositoryId) -> Result<KeySlot, RepoError> {
    let (header, json) = split_object(name, object, ObjectKind::KeySlot)?;
    let slot = KeySlot::from_json(name, json)?;
    if header.repository != repository || names::key_slot(&slot.id) != name {
        return Err(RepoError::Inconsistent {
            object: name.to_owned(),
            problem: "it belongs to another repository or slot".to_owned(),
        });
    }
    Ok(slot)
}

/// Tries every slot of the right kind with `secret`.
pub(crate) fn unlock(
    slots: SlotObjects,
    repository: RepositoryId,
    secret: SlotSecret<'_>,
) -> Result<MasterKey, RepoError> {
    let (kind, what) = match secret {
        SlotSecret::Passphrase(_) => (KeySlotKind::Passphrase, "passphrase"),
        SlotSecret::KeyFile(_) => (KeySlotKind::KeyFile, "key file"),
    };
    let mut damaged = None;
    for (name, slot) in decode_slots(slots, repository) {
        let opened = slot.and_then(|slot| {
            if slot.kind != kind {
                return Ok(None);
            }
            match unwrap_key(&convert::to_codec(&slot.wrapped), secret, &slot_aad(repository, slot.id)) {
                Ok(master) => Ok(Some(master)),
                Err(UnwrapError::WrongSecret) => Ok(None),
                Err(source) => Err(RepoError::Slot { slot: name, source }),
            }
        });
        match opened {
            Ok(Some(master)) => return Ok(master),
            Ok(None) => {}
            Err(error) => damaged = Some(error),
        }
    }
    // A slot we could not even read may be the one this secret opens: say so rather than "wrong".
    Err(match damaged {
        Some(error) if error.kind() != ErrorKind::Denied => error,
        _ => RepoError::NoSlotOpens { secret: what },
    })
}

/// The codec and the format each have their own form of a wrapped key; they meet here.
mod convert {
    use capy_codec::{KdfParams, WrappedKey};
    use capy_format::{KdfParams as StoredKdf, WrappedKey as StoredKey};

    pub(super) fn to_format(key: &WrappedKey) -> StoredKey {
        StoredKey {
            salt: key.salt,
            kdf: key.kdf.map(|kdf| StoredKdf {
                memory_kib: kdf.memory_kib,
                passes: kdf.passes,
                lanes: kdf.lanes,
            }),
            commitment: key.commitment,
            nonce: key.nonce,
            sealed: key.sealed.clone(),
        }
    }

    pub(super) fn to_codec(key: &StoredKey) -> WrappedKey {
        WrappedKey {
            salt: key.salt,
            kdf: key.kdf.map(|kdf| KdfParams {
                memory_kib: kdf.memory_kib,
                passes: kdf.passes,
                lanes: kdf.lanes,
            }),
            commitment: key.commitment,
            nonce: key.nonce,
            sealed: key.sealed.clone(),
        }
    }
}
