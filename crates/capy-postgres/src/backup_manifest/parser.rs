//! The manifest's grammar over the lexer's tokens, and its own checksum over its lines.
//!
//! Invariants: files are handed on in the order of the file; unknown keys, doubled keys and
//! missing ones are refused, since a reader that skips what it does not know could skip a check;
//! nothing handed on may be believed before [`ManifestParser::finish`] said so.

use capy_types::{SystemId, TimelineId, Timestamp};
use sha2::{Digest, Sha256};

use super::json::{Lexer, Token};
use super::{
    ChecksumAlgorithm, FileChecksum, ManifestError, ManifestFile, ManifestSummary, WAL_RANGES_MAX, WalRange,
};

/// Push-style parser of a `backup_manifest`; it does no I/O.
#[derive(Debug, Default)]
pub struct ManifestParser {
    lexer: Lexer,
    lines: LineHash,
    state: State,
    /// Keys of the outer object, to refuse a second one.
    seen: Vec<TopKey>,
    /// The members of the file or WAL range being read.
    members: Vec<(String, String)>,
    version: Option<u32>,
    system_id: Option<SystemId>,
    files: u64,
    size_bytes: u64,
    wal_ranges: Vec<WalRange>,
    checksum: Option<String>,
    failed: Option<ManifestError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TopKey {
    Version,
    SystemId,
    Files,
    WalRanges,
    Checksum,
}

impl TopKey {
    const ALL: [Self; 5] = [Self::Version, Self::SystemId, Self::Files, Self::WalRanges, Self::Checksum];

    const fn name(self) -> &'static str {
        match self {
            Self::Version => "PostgreSQL-Backup-Manifest-Version",
            Self::SystemId => "System-Identifier",
            Self::Files => "Files",
            Self::WalRanges => "WAL-Ranges",
            Self::Checksum => "Manifest-Checksum",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    Files,
    WalRanges,
}

/// What may come next.
#[derive(Debug, Default, Clone)]
enum State {
    #[default]
    Start,
    TopKey,
    TopColon(TopKey),
    TopValue(TopKey),
    TopNext,
    /// The first item of a list, or its end.
    FirstItem(List),
    Item(List),
    ItemNext(List),
    MemberKey(List),
    MemberColon(List, String),
    MemberValue(List, String),
    MemberNext(List),
    End,
}

/// Most members of a file or WAL range: PostgreSQL writes five.
const MEMBERS_MAX: usize = 16;

impl ManifestParser {
    /// A parser at the start of a manifest.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the manifest's next bytes and hands on every file that is complete. The files are
    /// only proven by [`ManifestParser::finish`].
    /// # Errors
    /// [`ManifestError`]; the same again on every later call.
    pub fn feed(&mut self, data: &[u8], mut file: impl FnMut(ManifestFile)) -> Result<(), ManifestError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.lines.update(data);
        let outcome = self.advance(data, &mut file);
        self.failed = outcome.clone().err();
        outcome
    }

    /// The end of the manifest: checks that it is complete and that its own checksum holds.
    /// # Errors
    /// [`ManifestError::Truncated`], [`ManifestError::Checksum`], and what
    /// [`ManifestParser::feed`] failed with before.
    pub fn finish(self) -> Result<ManifestSummary, ManifestError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let (State::End, Some(version), Some(found)) = (&self.state, self.version, &self.checksum) else {
            return Err(ManifestError::Truncated { offset: self.lexer.offset() });
        };
        let Some(expected) = self.lines.before_last_line() else {
            return Err(ManifestError::Truncated { offset: self.lexer.offset() });
        };
        if !expected.eq_ignore_ascii_case(found) {
            return Err(ManifestError::Checksum { found: found.clone(), expected });
        }
        Ok(ManifestSummary {
            version,
            system_id: self.system_id,
            files: self.files,
            size_bytes: self.size_bytes,
            wal_ranges: self.wal_ranges,
        })
    }

    fn advance(
        &mut self,
        mut input: &[u8],
        file: &mut impl FnMut(ManifestFile),
    ) -> Result<(), ManifestError> {
        while let Some(token) = self.lexer.next(&mut input)? {
            self.state = self.accept(token, file)?;
        }
        Ok(())
    }

    fn accept(&mut self, token: Token, file: &mut impl FnMut(ManifestFile)) -> Result<State, ManifestError> {
        use State as S;
        Ok(match (std::mem::take(&mut self.state), token) {
            (S::Start, Token::OpenObject) => S::TopKey,
            (S::TopKey, Token::String(key)) => S::TopColon(self.top_key(&key)?),
            (S::TopColon(key), Token::Colon) => S::TopValue(key),
            (S::TopValue(key), token) => self.top_value(key, token)?,
            (S::TopNext, Token::Comma) => S::TopKey,
            (S::TopNext, Token::CloseObject) => self.close()?,
            (S::FirstItem(list) | S::Item(list), Token::OpenObject) => S::MemberKey(list),
            (S::FirstItem(_) | S::ItemNext(_), Token::CloseArray) => S::TopNext,
            (S::ItemNext(list), Token::Comma) => S::Item(list),
            (S::MemberKey(list), Token::String(key)) => S::MemberColon(list, self.member_key(key)?),
            (S::MemberColon(list, key), Token::Colon) => S::MemberValue(list, key),
            (S::MemberValue(list, key), Token::String(value) | Token::Bare(value)) => {
                self.members.push((key, value));
                S::MemberNext(list)
            }
            (S::MemberNext(list), Token::Comma) => S::MemberKey(list),
            (S::MemberNext(list), Token::CloseObject) => {
                self.item(list, file)?;
                S::ItemNext(list)
            }
            (state, token) => {
                return Err(self.lexer.error(format!("unexpected {} {}", token_name(&token), place(&state))));
            }
        })
    }

    fn top_key(&mut self, name: &str) -> Result<TopKey, ManifestError> {
        let Some(key) = TopKey::ALL.into_iter().find(|key| key.name() == name) else {
            return Err(self.lexer.error(format!("unknown key {name:?}")));
        };
        if self.seen.contains(&key) {
            return Err(self.lexer.error(format!("{name} is there twice")));
        }
        if self.seen.is_empty() && key != TopKey::Version {
            return Err(self.lexer.error("the version is not the first key"));
        }
        if self.seen.last() == Some(&TopKey::Checksum) {
            return Err(self.lexer.error("Manifest-Checksum is not the last key"));
        }
        self.seen.push(key);
        Ok(key)
    }

    fn top_value(&mut self, key: TopKey, token: Token) -> Result<State, ManifestError> {
        match (key, token) {
            (TopKey::Version, Token::Bare(found)) => {
                self.version = Some(match found.as_str() {
                    "1" => 1,
                    "2" => 2,
                    _ => return Err(ManifestError::Version { found }),
                });
            }
            (TopKey::SystemId, Token::Bare(id)) => {
                self.system_id = Some(SystemId::from_u64(self.number("System-Identifier", &id)?));
            }
            (TopKey::Checksum, Token::String(checksum)) => self.checksum = Some(checksum),
            (TopKey::Files, Token::OpenArray) => return Ok(State::FirstItem(List::Files)),
            (TopKey::WalRanges, Token::OpenArray) => return Ok(State::FirstItem(List::WalRanges)),
            (key, token) => {
                return Err(self.lexer.error(format!(
                    "unexpected {} as value of {}",
                    token_name(&token),
                    key.name()
                )));
            }
        }
        Ok(State::TopNext)
    }

    /// The outer object is complete.
    fn close(&self) -> Result<State, ManifestError> {
        let needed = match self.version {
            Some(2) => &[TopKey::SystemId, TopKey::Files, TopKey::Checksum][..],
            _ => &[TopKey::Files, TopKey::Checksum],
        };
        match needed.iter().find(|key| !self.seen.contains(key)) {
            Some(missing) => Err(self.lexer.error(format!("{} is missing", missing.name()))),
            None => Ok(State::End),
        }
    }

    fn member_key(&self, key: String) -> Result<String, ManifestError> {
        if self.members.len() >= MEMBERS_MAX || self.members.iter().any(|(known, _)| *known == key) {
            return Err(self.lexer.error(format!("{key:?} is there twice, or one of too many keys")));
        }
        Ok(key)
    }

    /// An object of a list is complete.
    fn item(&mut self, list: List, file: &mut impl FnMut(ManifestFile)) -> Result<(), ManifestError> {
        let members = std::mem::take(&mut self.members);
        match list {
            List::Files => {
                let found = self.file(members)?;
                self.files += 1;
                self.size_bytes = self.size_bytes.saturating_add(found.size_bytes);
                file(found);
            }
            List::WalRanges => {
                let range = self.wal_range(members)?;
                if self.wal_ranges.len() >= WAL_RANGES_MAX {
                    return Err(self.lexer.error(format!("more than {WAL_RANGES_MAX} WAL ranges")));
                }
                self.wal_ranges.push(range);
            }
        }
        Ok(())
    }

    fn file(&self, members: Vec<(String, String)>) -> Result<ManifestFile, ManifestError> {
        let (mut path, mut size, mut algorithm, mut checksum) = (None, None, None, None);
        let mut modified = 0;
        for (key, value) in members {
            match key.as_str() {
                "Path" if path.is_none() => path = Some(value.into_bytes()),
                "Encoded-Path" if path.is_none() => {
                    path =
                        Some(hex::decode(&value).map_err(|_| self.lexer.error("Encoded-Path is not hex"))?);
                }
                "Path" | "Encoded-Path" => return Err(self.lexer.error("a file has two paths")),
                "Size" => size = Some(self.number("Size", &value)?),
                "Last-Modified" => modified = seconds(&value),
                "Checksum-Algorithm" => {
                    algorithm =
                        Some(ChecksumAlgorithm::from_name(&value).ok_or_else(|| {
                            self.lexer.error(format!("unknown checksum algorithm {value:?}"))
                        })?);
                }
                "Checksum" => {
                    checksum =
                        Some(hex::decode(&value).map_err(|_| self.lexer.error("Checksum is not hex"))?);
                }
                _ => return Err(self.lexer.error(format!("unknown key {key:?} of a file"))),
            }
        }
        let checksum = match (algorithm, checksum) {
            (Some(algorithm), Some(bytes)) => Some(
                FileChecksum::new(algorithm, &bytes)
                    .ok_or_else(|| self.lexer.error("Checksum has the wrong length"))?,
            ),
            (None, None) => None,
            _ => return Err(self.lexer.error("Checksum and Checksum-Algorithm belong together")),
        };
        match (path, size) {
            (Some(path), Some(size_bytes)) if !path.is_empty() => {
                Ok(ManifestFile { path, size_bytes, checksum, modified })
            }
            _ => Err(self.lexer.error("a file has no path or no size")),
        }
    }

    fn wal_range(&self, members: Vec<(String, String)>) -> Result<WalRange, ManifestError> {
        let (mut timeline, mut start, mut end) = (None, None, None);
        let position = |value: &str| value.parse().map_err(|_| self.lexer.error("not a WAL position"));
        for (key, value) in members {
            match key.as_str() {
                "Timeline" => {
                    let id = u32::try_from(self.number("Timeline", &value)?);
                    timeline =
                        Some(TimelineId::from_u32(id.map_err(|_| self.lexer.error("not a timeline"))?));
                }
                "Start-LSN" => start = Some(position(&value)?),
                "End-LSN" => end = Some(position(&value)?),
                _ => return Err(self.lexer.error(format!("unknown key {key:?} of a WAL range"))),
            }
        }
        match (timeline, start, end) {
            (Some(timeline), Some(start_lsn), Some(end_lsn)) if start_lsn <= end_lsn => {
                Ok(WalRange { timeline, start_lsn, end_lsn })
            }
            _ => Err(self.lexer.error("a WAL range is not complete, or ends before it starts")),
        }
    }

    fn number(&self, field: &str, text: &str) -> Result<u64, ManifestError> {
        let plain = text.bytes().all(|b| b.is_ascii_digit());
        let value = if plain { text.parse().ok() } else { None };
        value.ok_or_else(|| self.lexer.error(format!("{field} is no number: {text:?}")))
    }
}

const fn token_name(token: &Token) -> &'static str {
    match token {
        Token::OpenObject => "'{'",
        Token::CloseObject => "'}'",
        Token::OpenArray => "'['",
        Token::CloseArray => "']'",
        Token::Colon => "':'",
        Token::Comma => "','",
        Token::String(_) => "string",
        Token::Bare(_) => "number or word",
    }
}

const fn place(state: &State) -> &'static str {
    match state {
        State::Start => "instead of a manifest",
        State::End => "after the manifest",
        State::TopKey | State::TopColon(_) | State::TopValue(_) | State::TopNext => "in the manifest",
        State::FirstItem(List::Files) | State::Item(List::Files) | State::ItemNext(List::Files) => "in Files",
        State::FirstItem(_) | State::Item(_) | State::ItemNext(_) => "in WAL-Ranges",
        _ => "in a list's object",
    }
}

/// SHA-256 of all lines but the last. Which line is the last shows only at the end, so the hash
/// before each line is kept until the next one is complete.
#[derive(Debug, Default)]
struct LineHash {
    hash: Sha256,
    /// Whether the line being read has no bytes yet.
    line_has_bytes: bool,
    before_this_line: Sha256,
    before_line_before: Option<Sha256>,
}

impl LineHash {
    fn update(&mut self, data: &[u8]) {
        for piece in data.split_inclusive(|&b| b == b'\n') {
            self.hash.update(piece);
            self.line_has_bytes = true;
            if piece.ends_with(b"\n") {
                let start_of_next = self.hash.clone();
                self.before_line_before = Some(std::mem::replace(&mut self.before_this_line, start_of_next));
                self.line_has_bytes = false;
            }
        }
    }

    /// In hex; `None` unless the last line is closed by a line break.
    fn before_last_line(self) -> Option<String> {
        let hash = if self.line_has_bytes { None } else { self.before_line_before };
        hash.map(|hash| hex::encode(hash.finalize()))
    }
}

/// Seconds since the Unix epoch of `2026-11-21 06:54:52 GMT`; 0 for anything else.
fn seconds(text: &str) -> i64 {
    let time = text.strip_suffix(" GMT").map(|time| time.replacen(' ', "T", 1) + "Z");
    let time = time.and_then(|time| time.parse::<Timestamp>().ok());
    time.map_or(0, |time| time.as_micros().div_euclid(1_000_000))
}
