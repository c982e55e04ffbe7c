//! Every decoder under one signature, so that damage and noise can be put through all of them.

use crate::*;

/// Decodes and encodes again what was decoded. `None` when more bytes are asked for.
type Decode = fn(&[u8]) -> Result<Option<Vec<u8>>, FormatError>;

/// A decoder with a valid input for it.
pub(super) struct Decoder {
    pub(super) name: &'static str,
    pub(super) valid: Vec<u8>,
    pub(super) decode: Decode,
    /// Whether an accepted input has exactly one form: true of everything but JSON.
    pub(super) canonical: bool,
}

impl Decoder {
    /// Runs the decoder and checks what must hold whatever the input.
    pub(super) fn check(&self, input: &[u8], what: &str) -> Result<(), FormatError> {
        let encoded = (self.decode)(input).inspect_err(|error| {
            assert!(!error.object.is_empty(), "{what}: {error}");
            let limit = PACK_OFFSET.max(input.len() as u64) + input.len() as u64;
            assert!(error.offset <= limit, "{what}: offset beyond the object: {error}");
        })?;
        if let Some(encoded) = encoded.filter(|_| self.canonical) {
            let used = input.get(..encoded.len());
            assert_eq!(used, Some(encoded.as_slice()), "{what}: a second form was accepted");
        }
        Ok(())
    }
}

/// Where the sample footer starts in its pack; its messages use offsets of the pack.
const PACK_OFFSET: u64 = 131_072 + 80 + 2_777 + 17;

fn json<T: serde::Serialize>(document: &T) -> Vec<u8> {
    serde_json::to_vec(document).expect("documents are plain data")
}

/// All of them.
pub(super) fn all() -> Vec<Decoder> {
    use super::samples;
    let binary = |name, valid, decode| Decoder { name, valid, decode, canonical: true };
    let document = |name, valid, decode| Decoder { name, valid, decode, canonical: false };
    let mut entries = Vec::new();
    samples::entries().iter().rev().for_each(|entry| {
        let mut record = Vec::new();
        encode_entry(entry, &mut record);
        entries.push(record);
    });
    let mut decoders = vec![
        binary("header", samples::header(ObjectKind::Root).encode().to_vec(), |bytes| {
            Ok(Some(Header::decode("root/x", bytes)?.encode().to_vec()))
        }),
        binary("footer", samples::footer().encode(), |bytes| {
            Ok(Some(PackFooter::decode("packs/x", bytes, PACK_OFFSET)?.encode()))
        }),
        binary("trailer", samples::trailer().encode().to_vec(), |bytes| {
            let Some(bytes) = bytes.first_chunk() else { return Ok(None) };
            Ok(Some(PackTrailer::decode("packs/x", bytes, 0)?.encode().to_vec()))
        }),
        binary("index", samples::index().encode(), |bytes| {
            Ok(Some(IndexObject::decode("index/x", bytes)?.encode()))
        }),
        binary("node", encode_node(&samples::node()), |bytes| {
            Ok(Some(encode_node(&decode_node("node", bytes)?)))
        }),
        document("config", json(&samples::config()), |bytes| {
            Ok(Some(json(&Config::from_json("config", bytes)?)))
        }),
        document("key slot", json(&samples::key_slot()), |bytes| {
            Ok(Some(json(&KeySlot::from_json("keys/x", bytes)?)))
        }),
        document("root", json(&samples::root()), |bytes| Ok(Some(json(&Root::from_json("root/x", bytes)?)))),
        document("backup record", json(&samples::backup_record()), |bytes| {
            Ok(Some(json(&BackupRecord::from_json("backups/x", bytes)?)))
        }),
        document("wal facts", json(&samples::wal_facts()), |bytes| {
            Ok(Some(json(&WalFacts::from_json("wal/x", bytes)?)))
        }),
        document("restore point", json(&samples::restore_point()), |bytes| {
            Ok(Some(json(&RestorePoint::from_json("restore-points/x", bytes)?)))
        }),
    ];
    decoders.extend(entries.into_iter().map(|record| {
        binary("entry", record, |bytes| {
            Ok(decode_entry("manifest", bytes)?.map(|(entry, _)| {
                let mut out = Vec::new();
                encode_entry(&entry, &mut out);
                out
            }))
        })
    }));
    decoders
}
