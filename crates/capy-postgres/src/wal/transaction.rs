//! Ends of transactions: commit and abort records, of prepared ones too.
//!
//! Layouts: `xl_xact_commit` and `xl_xact_abort` of `xact.h`; optional parts follow each other, told
//! by the bits of `xinfo`. Between versions only the dropped statistics differ: absent before 15,
//! 12 bytes each in 15 to 17, 16 bytes in 18.
//!
//! A record can be longer than what was kept of it. Then the time and whatever else was kept is
//! told, and what is missing is marked as such.

use capy_types::Lsn;

use super::fields::Fields;
use super::record::{RecordHeader, relation};
use super::values::{PgMajor, PgTimestamp, RelFileLocator, TransactionId};

const HAS_XINFO: u8 = 0x80;
pub(super) const OPERATION_MASK: u8 = 0x70;
pub(super) const COMMIT: u8 = 0x00;
pub(super) const ABORT: u8 = 0x20;
pub(super) const COMMIT_PREPARED: u8 = 0x30;
pub(super) const ABORT_PREPARED: u8 = 0x40;

const HAS_DATABASE: u32 = 1 << 0;
const HAS_SUBTRANSACTIONS: u32 = 1 << 1;
const HAS_RELATIONS: u32 = 1 << 2;
const HAS_INVALIDATIONS: u32 = 1 << 3;
const HAS_TWO_PHASE: u32 = 1 << 4;
const HAS_DROPPED_STATISTICS: u32 = 1 << 8;

/// `sizeof(SharedInvalidationMessage)`.
const INVALIDATION_BYTES: usize = 16;
const RELATION_BYTES: usize = 12;

/// A transaction that committed or aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionEnd {
    /// Where the record begins.
    pub lsn: Lsn,
    /// When, by the server's clock. Later records can have earlier times.
    pub time: PgTimestamp,
    /// The transaction. `None` for a prepared one whose record is longer than what was kept of it.
    pub xid: Option<TransactionId>,
    /// Whether it had been prepared (`COMMIT PREPARED`, `ROLLBACK PREPARED`).
    pub prepared: bool,
    /// Oid of the database, where the record has it.
    pub database: Option<u32>,
    /// Its subtransactions that end with it.
    pub subtransactions: u32,
    /// The relations whose files it removes; `None` when it removes none.
    pub relations: Option<RelationList>,
}

/// Relations whose files are removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RelationList {
    /// Those that were kept.
    pub relations: Vec<RelFileLocator>,
    /// Whether these are all.
    pub complete: bool,
}

/// Reads the end of a transaction from its main data, of which the last part may be missing:
/// `cut`.
pub(super) fn decode(
    lsn: Lsn,
    header: &RecordHeader,
    data: &[u8],
    cut: bool,
    major: PgMajor,
) -> Option<TransactionEnd> {
    let operation = header.info & OPERATION_MASK;
    let prepared = matches!(operation, COMMIT_PREPARED | ABORT_PREPARED);
    let mut fields = Fields(data);
    let mut end = TransactionEnd {
        lsn,
        time: PgTimestamp::from_micros(fields.i64()?),
        xid: (!prepared).then_some(header.xid),
        prepared,
        database: None,
        subtransactions: 0,
        relations: None,
    };
    let flags = if header.info & HAS_XINFO != 0 { fields.u32() } else { Some(0) };
    let whole = flags.and_then(|flags| end.take_parts(&mut fields, flags, major));
    (whole.is_some() || cut).then_some(end)
}

impl TransactionEnd {
    /// Takes the optional parts up to the transaction's id; `None` when the bytes end before.
    fn take_parts(&mut self, fields: &mut Fields<'_>, flags: u32, major: PgMajor) -> Option<()> {
        if flags & HAS_RELATIONS != 0 {
            self.relations = Some(RelationList::default());
        }
        if flags & HAS_DATABASE != 0 {
            self.database = Some(fields.u32()?);
            fields.skip(4)?;
        }
        if flags & HAS_SUBTRANSACTIONS != 0 {
            self.subtransactions = fields.u32()?;
            skip_array(fields, self.subtransactions, 4)?;
        }
        if let Some(list) = &mut self.relations {
            list.take(fields)?;
        }
        if flags & HAS_DROPPED_STATISTICS != 0 && major >= PgMajor::V15 {
            let count = fields.u32()?;
            skip_array(fields, count, if major >= PgMajor::V18 { 16 } else { 12 })?;
        }
        if flags & HAS_INVALIDATIONS != 0 {
            let count = fields.u32()?;
            skip_array(fields, count, INVALIDATION_BYTES)?;
        }
        if flags & HAS_TWO_PHASE != 0 {
            self.xid = Some(TransactionId::from_u32(fields.u32()?));
        }
        Some(())
    }
}

impl RelationList {
    fn take(&mut self, fields: &mut Fields<'_>) -> Option<()> {
        let count = fields.u32()?;
        // No more than the bytes at hand can hold, whatever the count says.
        self.relations.reserve((count as usize).min(fields.0.len() / RELATION_BYTES));
        for _ in 0..count {
            self.relations.push(relation(fields)?);
        }
        self.complete = true;
        Some(())
    }
}

fn skip_array(fields: &mut Fields<'_>, count: u32, item_bytes: usize) -> Option<()> {
    fields.skip((count as usize).checked_mul(item_bytes)?)
}
