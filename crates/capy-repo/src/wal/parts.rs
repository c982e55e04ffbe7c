//! Parts: stretches of a segment that is still being written, each an object of its own.
//!
//! Contained by: the receiver, through the façade. A part is durable as soon as it is stored, long
//! before its segment is whole; its parts are deleted only once that is archived, or once nobody
//! needs it. Parts may overlap: two receivers of one server store the same bytes, and many parts are
//! made one before those are deleted.

use bytes::{Bytes, BytesMut};
use capy_format::ObjectKind;
use capy_format::names::{self, WalPartName};
use capy_objects::StoreErrorKind;
use capy_types::{ClusterName, ErrorKind, WalFile};
use futures::{StreamExt, TryStreamExt};

use super::WAL_OBJECT_MAX_BYTES;
use crate::{RepoError, Repository, sealed};

/// Parts read or deleted at once.
const AT_ONCE: usize = 16;

/// What became of a part that was to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredPart {
    /// It is stored now.
    New {
        /// Size of its object in bytes.
        stored_bytes: u64,
    },
    /// It was there already, with the same bytes, read back.
    Same,
    /// Other bytes are at this place: they are kept, and these are not stored.
    Differs,
}

/// What the parts of a segment hold.
#[derive(Debug)]
pub struct WalParts {
    /// The segment's first bytes.
    pub bytes: Bytes,
    /// The parts these were read from.
    read: Vec<WalPartName>,
    /// A part was deleted since they were listed: the segment is archived, or other parts hold the
    /// same. These bytes may be too few; look again.
    pub changed: bool,
    /// Damage for which the bytes are fewer than were stored.
    pub damage: Option<RepoError>,
}

impl Repository {
    /// Stores `bytes` of a segment, from byte `start` on.
    ///
    /// # Errors
    /// Corrupt when what was sealed does not open again; store errors. After `Unavailable` it may or may not be stored: storing it again is safe.
    ///
    /// # Cancellation
    /// Safe to drop; the part is either stored or not.
    pub async fn put_wal_part(
        &self,
        cluster: &ClusterName,
        segment: &WalFile,
        start: u32,
        bytes: &[u8],
    ) -> Result<StoredPart, RepoError> {
        let end = u32::try_from(bytes.len()).ok().and_then(|length| start.checked_add(length));
        let end =
            end.ok_or_else(|| RepoError::Internal { what: format!("{segment}: a part beyond 4 GiB") })?;
        let name = names::wal_part(cluster, &WalPartName { segment: segment.clone(), start, end });
        let object = Bytes::from(self.seal_content(&name, bytes)?);
        let stored_bytes = object.len() as u64;
        loop {
            match self.store().put_new(&name, object.clone()).await {
                Ok(()) => return Ok(StoredPart::New { stored_bytes }),
                Err(error) if matches!(error.kind, StoreErrorKind::AlreadyExists) => {}
                Err(error) => return Err(error.into()),
            }
            match self.read_part(&name).await {
                Ok(Some(there)) if there == bytes => return Ok(StoredPart::Same),
                Ok(Some(_)) => return Ok(StoredPart::Differs),
                // Another receiver has archived the segment since: the name is free.
                Ok(None) => {}
                // Nobody can read it, and here is what it should hold.
                Err(error) if error.kind() == ErrorKind::Corrupt => self.store().delete(&name).await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// The segments that have parts, and how many bytes of each, from its beginning on and without a
    /// gap, these hold.
    ///
    /// # Errors
    /// Store errors.
    ///
    /// # Cancellation
    /// Safe to drop; nothing is written.
    pub async fn segments_in_parts(&self, cluster: &ClusterName) -> Result<Vec<(WalFile, u32)>, RepoError> {
        let parts = self.list_parts(cluster).await?;
        let segments = parts.chunk_by(|a, b| a.segment == b.segment);
        let held = |parts: &[WalPartName]| prefix(parts).last().map_or(0, |part| part.end);
        Ok(segments.filter_map(|parts| Some((parts.first()?.segment.clone(), held(parts)))).collect())
    }

    /// What the parts hold of a segment from its beginning on without a gap.
    ///
    /// # Errors
    /// Store errors. A part that is damaged, or disagrees with those before it, counts as if it were
    /// not there.
    ///
    /// # Cancellation
    /// Safe to drop; nothing is written.
    pub async fn read_wal_parts(
        &self,
        cluster: &ClusterName,
        segment: &WalFile,
    ) -> Result<WalParts, RepoError> {
        let mut parts = self.parts_of(cluster, segment).await?;
        let promised = prefix(&parts).last().map_or(0, |part| part.end as usize);
        let mut damage = None;
        loop {
            let chosen: Vec<_> = prefix(&parts).into_iter().cloned().collect();
            let (bytes, unusable) = self.read_prefix(cluster, &chosen).await?;
            let Some((part, why)) = unusable else {
                let damage = damage.filter(|_| bytes.len() < promised);
                return Ok(WalParts { bytes, read: chosen, changed: false, damage });
            };
            let Some(why) = why else {
                return Ok(WalParts { bytes, read: Vec::new(), changed: true, damage });
            };
            tracing::warn!(%why, "a part of {segment} is not used");
            damage = damage.or(Some(why));
            parts.retain(|other| *other != part);
        }
    }

    /// Reads parts that follow each other, up to the first that cannot be used; without a reason
    /// when it is gone.
    async fn read_prefix(
        &self,
        cluster: &ClusterName,
        parts: &[WalPartName],
    ) -> Result<(Bytes, Option<(WalPartName, Option<RepoError>)>), RepoError> {
        let names: Vec<_> = parts.iter().map(|part| names::wal_part(cluster, part)).collect();
        let reads = names.into_iter().map(|name| async move { self.read_part(&name).await });
        let mut reads = futures::stream::iter(reads).buffered(AT_ONCE);
        let mut bytes = BytesMut::new();
        for part in parts {
            let Some(read) = reads.next().await else { break };
            let why = match read {
                Ok(Some(read)) => match follow(&bytes, part, &read) {
                    Some(new) => {
                        bytes.extend_from_slice(new);
                        continue;
                    }
                    None => Some(RepoError::Inconsistent {
                        object: names::wal_part(cluster, part),
                        problem: "it differs from the parts it overlaps with".to_owned(),
                    }),
                },
                Ok(None) => None,
                Err(error) if error.kind() == ErrorKind::Corrupt => Some(error),
                Err(error) => return Err(error),
            };
            return Ok((bytes.freeze(), Some((part.clone(), why))));
        }
        Ok((bytes.freeze(), None))
    }

    /// Makes one part of those that hold a segment from its beginning on, and deletes these; how
    /// many there were. Nothing is done where one of them is damaged.
    ///
    /// # Errors
    /// Store errors.
    ///
    /// # Cancellation
    /// Safe to drop; at worst the same bytes are stored twice.
    pub async fn compact_wal_parts(
        &self,
        cluster: &ClusterName,
        segment: &WalFile,
    ) -> Result<usize, RepoError> {
        let WalParts { bytes, read, .. } = self.read_wal_parts(cluster, segment).await?;
        if read.len() < 2 || self.put_wal_part(cluster, segment, 0, &bytes).await? == StoredPart::Differs {
            return Ok(read.len());
        }
        self.delete_parts(cluster, &read).await?;
        Ok(read.len())
    }

    /// Deletes the parts of a segment. Whether they may go is the caller's to know.
    ///
    /// # Errors
    /// Store errors.
    ///
    /// # Cancellation
    /// Safe to drop; some are left then.
    pub async fn remove_wal_parts(&self, cluster: &ClusterName, segment: &WalFile) -> Result<(), RepoError> {
        self.delete_parts(cluster, &self.parts_of(cluster, segment).await?).await
    }

    async fn delete_parts(&self, cluster: &ClusterName, parts: &[WalPartName]) -> Result<(), RepoError> {
        // Owned, since a closure over borrowed parts makes a future that cannot be sent.
        let names: Vec<_> = parts.iter().map(|part| names::wal_part(cluster, part)).collect();
        let deletes = names.into_iter().map(|name| async move { self.store().delete(&name).await });
        let mut deletes = futures::stream::iter(deletes).buffer_unordered(AT_ONCE);
        while deletes.try_next().await?.is_some() {}
        Ok(())
    }

    async fn parts_of(
        &self,
        cluster: &ClusterName,
        segment: &WalFile,
    ) -> Result<Vec<WalPartName>, RepoError> {
        let mut all = self.list_parts(cluster).await?;
        all.retain(|part| part.segment == *segment);
        Ok(all)
    }

    /// The parts of all segments, sorted.
    async fn list_parts(&self, cluster: &ClusterName) -> Result<Vec<WalPartName>, RepoError> {
        let prefix = names::wal_parts(cluster);
        let listed: Vec<_> = self.store().list(&prefix).try_collect().await?;
        let parts = listed.iter().filter_map(|info| names::parse_wal_part(&info.name));
        let mut parts: Vec<_> = parts.map(|(_, part)| part).collect();
        parts.sort();
        Ok(parts)
    }

    /// `None` when there is no such part.
    async fn read_part(&self, name: &str) -> Result<Option<Vec<u8>>, RepoError> {
        let object = match self.store().get(name, WAL_OBJECT_MAX_BYTES).await {
            Ok(object) => object,
            Err(error) if matches!(error.kind, StoreErrorKind::NotFound) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let (_, bytes) = sealed::open(self.keys(), self.id(), ObjectKind::Wal, name, &object)?;
        let (_, part) = names::parse_wal_part(name).expect("it was made by its counterpart");
        if bytes.len() != part.len() {
            return Err(RepoError::Unauthentic { object: name.to_owned() });
        }
        Ok(Some(bytes))
    }
}

/// What `part`, whose bytes are `read`, adds to the bytes before it; `None` when it says otherwise where
/// both have bytes.
fn follow<'a>(bytes: &[u8], part: &WalPartName, read: &'a [u8]) -> Option<&'a [u8]> {
    let known = bytes.get(part.start as usize..)?;
    let (again, new) = read.split_at_checked(known.len())?;
    (again == known).then_some(new)
}

/// The fewest parts that hold what all of `parts`, which are sorted, hold from the beginning on
/// without a gap.
fn prefix(parts: &[WalPartName]) -> Vec<&WalPartName> {
    let (mut chosen, mut end) = (Vec::new(), 0);
    let mut rest = parts.iter().peekable();
    loop {
        // Of those that begin within what is held, the one that ends last.
        let mut longest: Option<&WalPartName> = None;
        while let Some(part) = rest.next_if(|part| part.start <= end) {
            longest = longest.filter(|longest| longest.end >= part.end).or(Some(part));
        }
        match longest.filter(|part| part.end > end) {
            Some(part) => {
                end = part.end;
                chosen.push(part);
            }
            None => return chosen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(parts: &[(u32, u32)]) -> Vec<(u32, u32)> {
        let segment: WalFile = "00000001000000000000000A".parse().unwrap();
        let mut parts: Vec<_> = parts
            .iter()
            .map(|(start, end)| WalPartName { segment: segment.clone(), start: *start, end: *end })
            .collect();
        parts.sort();
        prefix(&parts).into_iter().map(|part| (part.start, part.end)).collect()
    }

    #[test]
    fn a_prefix_ends_at_the_first_gap_and_takes_the_longest_of_what_overlaps() {
        assert_eq!(chosen(&[]), []);
        assert_eq!(chosen(&[(10, 20)]), []);
        assert_eq!(chosen(&[(20, 30), (0, 20), (31, 40)]), [(0, 20), (20, 30)]);
        assert_eq!(chosen(&[(0, 10), (0, 25), (10, 20), (20, 40), (22, 30)]), [(0, 25), (20, 40)]);
    }
}
