//! Chunks gathered in memory, in the order in which they were asked for.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use capy_format::ChunkRef;
use capy_types::Ctx;

use super::fetch::Accept;
use super::{Defect, Reader, Want};
use crate::RepoError;

/// Why chunks cannot be read.
#[derive(Debug)]
pub(crate) enum ReadFault {
    /// One is damaged or lost.
    Defect(Defect),
    /// The store or the caller.
    Error(RepoError),
}

impl From<RepoError> for ReadFault {
    fn from(error: RepoError) -> Self {
        Self::Error(error)
    }
}

impl From<ReadFault> for RepoError {
    fn from(fault: ReadFault) -> Self {
        match fault {
            ReadFault::Defect(defect) => defect.into(),
            ReadFault::Error(error) => error,
        }
    }
}

/// A place for each chunk that is wanted: its number is the token.
#[derive(Clone)]
pub(crate) struct Places(Arc<Mutex<Vec<Option<Bytes>>>>);

impl Places {
    /// Those filled already keep what they have until something comes for them.
    pub(crate) fn new(places: Vec<Option<Bytes>>) -> Self {
        Self(Arc::new(Mutex::new(places)))
    }

    /// Fills them.
    pub(crate) fn accept(&self) -> Accept {
        let places = self.clone();
        Arc::new(move |token: u64, plain: &[u8]| {
            let plain = Bytes::copy_from_slice(plain);
            let mut places = places.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(place) = usize::try_from(token).ok().and_then(|at| places.get_mut(at)) {
                *place = Some(plain);
            }
            Ok(())
        })
    }

    /// What came.
    pub(crate) fn take(&self) -> Vec<Option<Bytes>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Reader {
    /// Reads all these chunks into memory, or answers with the first that cannot be read.
    pub(crate) async fn fetch_all<'a>(
        &self,
        ctx: &Ctx,
        chunks: impl Iterator<Item = &'a ChunkRef>,
    ) -> Result<Vec<Bytes>, ReadFault> {
        let wants: Vec<Want> = (0..)
            .zip(chunks)
            .map(|(token, chunk)| Want { chunk: chunk.id, size: chunk.size, token })
            .collect();
        let places = Places::new(vec![None; wants.len()]);
        match self.fetch(ctx, &wants, places.accept()).await?.into_iter().next() {
            Some((_, defect)) => Err(ReadFault::Defect(defect)),
            None => Ok(places.take().into_iter().map(Option::unwrap_or_default).collect()),
        }
    }
}
