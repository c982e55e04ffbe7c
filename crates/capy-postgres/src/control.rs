//! `global/pg_control`: whose cluster it is, its version, its timeline, its state.
//!
//! Layout of PostgreSQL 13 to 16 (control version 1300), 17 (1700) and 18 (1800) on 64-bit
//! little-endian machines, from `pg_control.h`; fields up to the checksum version lie at the same
//! places in all. The CRC closes the structure and is checked before anything is believed.

use std::path::Path;
use std::time::Duration;

use capy_types::limits::{PAGE_SIZE_BYTES, RELATION_SEGMENT_PAGES};
use capy_types::{ErrorKind, Lsn, SegmentSize, SystemId, TimelineId};

use crate::PostgresError;

/// Size of the file in bytes: `PG_CONTROL_FILE_SIZE`.
pub const CONTROL_FILE_BYTES: usize = 8192;

/// How often the file is read while its checksum does not hold: the server writes it in one go, and
/// some file systems show a half of it meanwhile.
const READ_AGAIN_MAX: u32 = 100;

/// Between two of these readings: a second in all.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// A control file that is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Shorter than the structure, or longer than the file ever is.
    #[error("bad pg_control: {found_bytes} bytes, expected {CONTROL_FILE_BYTES}")]
    Size {
        /// Its size.
        found_bytes: usize,
    },
    /// A version whose layout is not known here.
    #[error("unsupported pg_control version {found}: PostgreSQL 13 to 18 are read (1300, 1700, 1800)")]
    Version {
        /// As stored.
        found: u32,
    },
    /// The structure is damaged, or was read while it was written.
    #[error("bad pg_control: crc is {found:08x}, the content's is {expected:08x}")]
    Crc {
        /// As stored.
        found: u32,
        /// As computed.
        expected: u32,
    },
    /// A field says what cannot be, or what this program does not serve.
    #[error("unsupported pg_control: {field} is {found}")]
    Value {
        /// The field, as `pg_controldata` calls it.
        field: &'static str,
        /// Its value.
        found: u64,
    },
}

impl ControlError {
    /// The kind of failure, named by what the caller does next.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Size { .. } | Self::Crc { .. } => ErrorKind::Corrupt,
            Self::Version { .. } | Self::Value { .. } => ErrorKind::Invalid,
        }
    }
}

/// In which state the cluster was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// Just made.
    StartingUp,
    /// Shut down.
    ShutDown,
    /// Shut down while recovering.
    ShutDownInRecovery,
    /// Shutting down.
    ShuttingDown,
    /// Recovering from a crash.
    CrashRecovery,
    /// Recovering from an archive: a standby, mostly.
    ArchiveRecovery,
    /// In production, which is what a base backup of a primary has.
    InProduction,
}

/// What `pg_control` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// The cluster's identity.
    pub system_id: SystemId,
    /// Version of the file's layout.
    pub control_version: u32,
    /// Version of the system catalogues; tells the major version and names tablespace directories.
    pub catalog_version: u32,
    /// The cluster's state.
    pub state: ClusterState,
    /// The last checkpoint record.
    pub checkpoint_lsn: Lsn,
    /// Where recovery from that checkpoint starts.
    pub redo_lsn: Lsn,
    /// The timeline of the last checkpoint.
    pub timeline: TimelineId,
    /// On a standby: WAL must be replayed to here at least before the cluster is consistent.
    pub minimum_recovery_lsn: Lsn,
    /// Size of WAL segments.
    pub segment_size: SegmentSize,
    /// Whether pages have checksums.
    pub data_checksums: bool,
    /// The least a server needs set as high to replay this WAL as a standby.
    pub limits: RecoveryLimits,
}

/// Settings that a server in hot standby must not have lower than the primary had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryLimits {
    /// `max_connections`.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: u32,
}

impl ControlFile {
    /// Reads the file of a data directory, again while a server writes it: for a second at most. Blocks.
    ///
    /// # Errors
    /// When it cannot be read; [`ControlError`].
    pub fn read_in(directory: &Path) -> Result<Self, PostgresError> {
        read(directory).map(|(_, control)| control)
    }

    /// Reads the file's content.
    /// # Errors
    /// [`ControlError`]; a CRC error can be a read in the middle of a write, everything else is
    /// final.
    pub fn parse(content: &[u8]) -> Result<Self, ControlError> {
        if content.len() > CONTROL_FILE_BYTES {
            return Err(ControlError::Size { found_bytes: content.len() });
        }
        let fields = Fields(content);
        let control_version = fields.u32(8)?;
        let crc_offset = match control_version {
            1300 | 1700 => 288,
            1800 => 292,
            found => return Err(ControlError::Version { found }),
        };
        let found = fields.u32(crc_offset)?;
        let expected = crc32c::crc32c(content.get(..crc_offset).unwrap_or_default());
        if found != expected {
            return Err(ControlError::Crc { found, expected });
        }
        fields.expect(216, "database block size", PAGE_SIZE_BYTES as u32)?;
        fields.expect(220, "blocks per segment", RELATION_SEGMENT_PAGES)?;
        fields.expect(224, "WAL block size", 8192)?;
        let segment_bytes = u64::from(fields.u32(228)?);
        let bad_segment = ControlError::Value { field: "bytes per WAL segment", found: segment_bytes };
        Ok(Self {
            system_id: SystemId::from_u64(fields.u64(0)?),
            control_version,
            catalog_version: fields.u32(12)?,
            state: state(fields.u32(16)?)?,
            checkpoint_lsn: fields.lsn(32)?,
            redo_lsn: fields.lsn(40)?,
            timeline: TimelineId::from_u32(fields.u32(48)?),
            minimum_recovery_lsn: fields.lsn(136)?,
            segment_size: SegmentSize::try_from(segment_bytes).map_err(|_| bad_segment)?,
            data_checksums: fields.u32(252)? != 0,
            limits: RecoveryLimits {
                max_connections: fields.u32(180)?,
                max_worker_processes: fields.u32(184)?,
                max_wal_senders: fields.u32(188)?,
                max_prepared_transactions: fields.u32(192)?,
                max_locks_per_transaction: fields.u32(196)?,
            },
        })
    }
}

/// Reads the file of a data directory as a whole, again while a server writes it; blocks.
pub(crate) fn read(directory: &Path) -> Result<(Vec<u8>, ControlFile), PostgresError> {
    let path = directory.join("global/pg_control");
    let mut tries = 0;
    loop {
        let read = std::fs::read(&path);
        let mut content = read.map_err(|error| PostgresError::read(&path.display().to_string(), error))?;
        content.truncate(CONTROL_FILE_BYTES);
        tries += 1;
        match ControlFile::parse(&content) {
            Ok(control) => return Ok((content, control)),
            Err(ControlError::Crc { .. }) if tries < READ_AGAIN_MAX => std::thread::sleep(READ_AGAIN_AFTER),
            Err(error) => return Err(error.into()),
        }
    }
}

fn state(code: u32) -> Result<ClusterState, ControlError> {
    Ok(match code {
        0 => ClusterState::StartingUp,
        1 => ClusterState::ShutDown,
        2 => ClusterState::ShutDownInRecovery,
        3 => ClusterState::ShuttingDown,
        4 => ClusterState::CrashRecovery,
        5 => ClusterState::ArchiveRecovery,
        6 => ClusterState::InProduction,
        other => {
            return Err(ControlError::Value { field: "database cluster state", found: u64::from(other) });
        }
    })
}

/// Little-endian fields at fixed offsets.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, offset: usize) -> Result<[u8; N], ControlError> {
        let field = self.0.get(offset..).and_then(|rest| rest.first_chunk()).copied();
        field.ok_or(ControlError::Size { found_bytes: self.0.len() })
    }

    fn u32(&self, offset: usize) -> Result<u32, ControlError> {
        self.bytes(offset).map(u32::from_le_bytes)
    }

    fn u64(&self, offset: usize) -> Result<u64, ControlError> {
        self.bytes(offset).map(u64::from_le_bytes)
    }

    fn lsn(&self, offset: usize) -> Result<Lsn, ControlError> {
        self.u64(offset).map(Lsn::from_u64)
    }

    fn expect(&self, offset: usize, field: &'static str, wanted: u32) -> Result<(), ControlError> {
        match self.u32(offset)? {
            found if found == wanted => Ok(()),
            found => Err(ControlError::Value { field, found: u64::from(found) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use capy_types::{Entropy, SeededEntropy};

    use super::*;

    /// A control file as `pg_control.h` lays it out, with a valid CRC.
    fn control(version: u32) -> Vec<u8> {
        let mut file = vec![0; CONTROL_FILE_BYTES];
        let mut put = |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, &7_300_000_000_000_000_001_u64.to_le_bytes());
        for (offset, value) in [
            (8, version),
            (12, 202_209_061),
            (16, 6),
            (48, 3),
            (180, 100),
            (196, 64),
            (216, 8192),
            (220, 131_072),
            (224, 8192),
            (228, 16 << 20),
            (252, 1),
        ] {
            put(offset, &value.to_le_bytes());
        }
        put(40, &0x0200_0028_u64.to_le_bytes());
        seal(&mut file, version);
        file
    }

    fn seal(file: &mut [u8], version: u32) {
        let end = if version == 1800 { 292 } else { 288 };
        let crc = crc32c::crc32c(&file[..end]);
        file[end..end + 4].copy_from_slice(&crc.to_le_bytes());
    }

    #[test]
    fn every_served_layout_is_read() {
        for version in [1300, 1700, 1800] {
            let read = ControlFile::parse(&control(version)).unwrap();
            assert_eq!(read.system_id.as_u64(), 7_300_000_000_000_000_001);
            assert_eq!((read.state, read.timeline.as_u32()), (ClusterState::InProduction, 3));
            assert_eq!((read.redo_lsn.as_u64(), read.segment_size), (0x0200_0028, SegmentSize::DEFAULT));
            assert_eq!((read.data_checksums, read.limits.max_connections), (true, 100));
        }
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        let changed = |offset: usize, value: u32| {
            let mut file = control(1300);
            file[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
            seal(&mut file, 1300);
            ControlFile::parse(&file)
        };
        assert_eq!(
            changed(216, 4096).unwrap_err().to_string(),
            "unsupported pg_control: database block size is 4096"
        );
        assert_eq!(
            changed(228, 12345),
            Err(ControlError::Value { field: "bytes per WAL segment", found: 12345 })
        );
        assert_eq!(changed(16, 99), Err(ControlError::Value { field: "database cluster state", found: 99 }));
        assert_eq!(changed(8, 1201), Err(ControlError::Version { found: 1201 }));
    }

    #[test]
    fn a_torn_or_short_file_is_corrupt() {
        let mut torn = control(1300);
        torn[100] ^= 1;
        let error = ControlFile::parse(&torn).unwrap_err();
        assert!(matches!(error, ControlError::Crc { .. }));
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        for len in [0, 7, 11, 260, 291] {
            assert_eq!(
                ControlFile::parse(&control(1300)[..len]),
                Err(ControlError::Size { found_bytes: len })
            );
        }
        assert!(ControlFile::parse(&[0; CONTROL_FILE_BYTES + 1]).is_err());
    }

    #[test]
    fn a_file_that_was_read_while_it_was_written_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("global/pg_control");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let whole = control(1700);
        let mut torn = whole.clone();
        torn[48..60].fill(7);
        std::fs::write(&path, &torn).unwrap();
        std::thread::scope(|threads| {
            threads.spawn(|| {
                std::thread::sleep(5 * READ_AGAIN_AFTER);
                // As the server does: never shorter.
                let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
                std::io::Write::write_all(&mut file, &whole).unwrap();
            });
            let (content, read) = read(directory.path()).unwrap();
            assert_eq!((content, read.timeline.as_u32()), (whole.clone(), 3));
        });
        // Not for ever.
        std::fs::write(&path, &torn).unwrap();
        assert_eq!(ControlFile::read_in(directory.path()).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn noise_never_panics() {
        let seed = 21;
        println!("seed {seed}");
        let entropy = SeededEntropy::new(seed);
        for _ in 0..5000 {
            let mut noise = [0; 4];
            entropy.fill(&mut noise);
            let mut file = control(1300);
            let at = usize::from(u16::from_le_bytes([noise[0], noise[1]])) % 296;
            file[at] = noise[2];
            if noise[3] % 2 == 0 {
                seal(&mut file, 1300);
            }
            let _ = ControlFile::parse(&file);
        }
    }
}
