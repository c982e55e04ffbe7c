//! The replication slots of a server, and the log they hold back.

use super::SqlConnection;
use super::preflight::{Advice, Severity, advice_of};
use crate::PostgresError;

/// Log that an abandoned slot may hold before it is more than a remark, in bytes: a segment of the usual
/// size, which the server would keep without it.
const HELD_MAX_BYTES: u64 = 16 << 20;

/// A replication slot of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// Its name.
    pub name: String,
    /// Whether somebody reads it now.
    pub is_active: bool,
    /// Whether the server has given up log that its reader still needs.
    pub is_lost: bool,
    /// Bytes of log since its oldest; none when it holds nothing.
    pub held_bytes: Option<u64>,
}

impl SqlConnection {
    /// The replication slots, by name.
    ///
    /// # Errors
    /// `Sql`.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn slots(&self) -> Result<Vec<SlotInfo>, PostgresError> {
        let sql = "select slot_name::text, active, coalesce(wal_status = 'lost', false),
            (case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
                  else pg_current_wal_insert_lsn() end - restart_lsn)::bigint
            from pg_replication_slots order by 1";
        let failed = |source| self.failed(source);
        let slot = |row: tokio_postgres::Row| {
            let held: Option<i64> = row.try_get(3).map_err(failed)?;
            Ok(SlotInfo {
                name: row.try_get(0).map_err(failed)?,
                is_active: row.try_get(1).map_err(failed)?,
                is_lost: row.try_get(2).map_err(failed)?,
                held_bytes: held.and_then(|bytes| u64::try_from(bytes).ok()),
            })
        };
        self.rows(sql, &[]).await?.into_iter().map(slot).collect()
    }
}

/// Looks at slots that nobody reads.
#[must_use]
pub fn slots_advice(slots: &[SlotInfo]) -> Vec<Advice> {
    slots.iter().filter_map(advice).collect()
}

fn advice(slot: &SlotInfo) -> Option<Advice> {
    let subject = format!("slot {}", slot.name);
    let drop = format!("select pg_drop_replication_slot('{}')", slot.name.replace('\'', "''"));
    if slot.is_lost {
        let message = format!("lost: WAL that its reader needs is gone; begin anew with another: {drop}");
        return Some(advice_of(Severity::Warning, &subject, message));
    }
    let held = slot.held_bytes.filter(|_| !slot.is_active)?;
    let severity = if held > HELD_MAX_BYTES { Severity::Warning } else { Severity::Note };
    let message = format!(
        "nobody reads it, and it holds {} MiB of WAL back, more with every minute; start its reader (a standby, or \
         `capy-store wal receive`), or {drop}",
        held.div_ceil(1 << 20)
    );
    Some(advice_of(severity, &subject, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_advised_about_when_nobody_reads_it_or_it_is_lost() {
        let slot = |is_active, is_lost, held_bytes| SlotInfo {
            name: "standby_1".to_owned(),
            is_active,
            is_lost,
            held_bytes,
        };
        let severity = |slot| advice(&slot).map(|advice| advice.severity);
        assert_eq!(severity(slot(true, false, Some(HELD_MAX_BYTES + 1))), None);
        assert_eq!(severity(slot(false, false, None)), None);
        assert_eq!(severity(slot(false, false, Some(1))), Some(Severity::Note));
        assert_eq!(severity(slot(false, false, Some(HELD_MAX_BYTES + 1))), Some(Severity::Warning));
        assert_eq!(severity(slot(false, true, None)), Some(Severity::Warning));
        let said = advice(&slot(false, false, Some(1))).expect("advice").message;
        assert!(said.ends_with("or select pg_drop_replication_slot('standby_1')"), "{said}");
    }
}
