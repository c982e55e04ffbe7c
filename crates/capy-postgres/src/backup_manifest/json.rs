//! A push lexer for JSON: bytes in any pieces in, tokens out.
//!
//! Invariant: it holds at most one string of `STRING_MAX_BYTES` or one number; it knows where it
//! is in lines and bytes, so that whoever refuses a token can name the place.

use super::{ManifestError, STRING_MAX_BYTES};

/// One token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    OpenObject,
    CloseObject,
    OpenArray,
    CloseArray,
    Colon,
    Comma,
    String(String),
    /// A number or a bare word, as written.
    Bare(String),
}

/// Push-style lexer.
#[derive(Debug, Default)]
pub(super) struct Lexer {
    state: State,
    /// The string (with its opening quote) or bare word being read.
    pending: Vec<u8>,
    offset: u64,
    line: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Between,
    InString,
    /// After a backslash in a string.
    Escaped,
    InBare,
}

/// Longest number or bare word in bytes: 2⁶⁴ has 20 digits.
const BARE_MAX_BYTES: usize = 32;

impl Lexer {
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// An error at the present place.
    pub(super) fn error(&self, problem: impl Into<String>) -> ManifestError {
        ManifestError::Syntax { line: self.line + 1, offset: self.offset, problem: problem.into() }
    }

    /// Takes bytes from the front of `input` until a token is complete; `None` takes all.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Token>, ManifestError> {
        loop {
            let Some(&first) = input.first() else { return Ok(None) };
            match self.state {
                State::Between => {
                    if let Some(token) = self.between(first, input)? {
                        return Ok(Some(token));
                    }
                }
                State::Escaped => {
                    self.hold(input, 1)?;
                    self.state = State::InString;
                }
                State::InString => match input.iter().position(|&b| matches!(b, b'"' | b'\\')) {
                    None => self.hold(input, input.len())?,
                    Some(end) => {
                        let is_escape = input.get(end) == Some(&b'\\');
                        self.hold(input, end + 1)?;
                        if !is_escape {
                            return self.string().map(Some);
                        }
                        self.state = State::Escaped;
                    }
                },
                State::InBare => match input.iter().position(|&b| !is_bare(b)) {
                    None => self.hold(input, input.len())?,
                    Some(end) => {
                        self.hold(input, end)?;
                        return self.bare().map(Some);
                    }
                },
            }
        }
    }

    /// Takes a byte between tokens, or begins one.
    fn between(&mut self, first: u8, input: &mut &[u8]) -> Result<Option<Token>, ManifestError> {
        let token = match first {
            b' ' | b'\t' | b'\r' | b'\n' => None,
            b'{' => Some(Token::OpenObject),
            b'}' => Some(Token::CloseObject),
            b'[' => Some(Token::OpenArray),
            b']' => Some(Token::CloseArray),
            b':' => Some(Token::Colon),
            b',' => Some(Token::Comma),
            b'"' => {
                self.state = State::InString;
                self.hold(input, 1)?;
                return Ok(None);
            }
            byte if is_bare(byte) => {
                self.state = State::InBare;
                return Ok(None);
            }
            byte => return Err(self.error(format!("unexpected byte 0x{byte:02x}"))),
        };
        self.take(input, 1);
        Ok(token)
    }

    fn take<'a>(&mut self, input: &mut &'a [u8], len: usize) -> &'a [u8] {
        let (taken, rest) = input.split_at_checked(len).unwrap_or((*input, &[]));
        *input = rest;
        self.offset += taken.len() as u64;
        self.line += taken.iter().filter(|&&b| b == b'\n').count() as u64;
        taken
    }

    fn hold(&mut self, input: &mut &[u8], len: usize) -> Result<(), ManifestError> {
        let limit = if self.state == State::InBare { BARE_MAX_BYTES } else { STRING_MAX_BYTES };
        if self.pending.len() + len > limit {
            return Err(self.error(format!("a value is longer than {limit} bytes")));
        }
        let piece = self.take(input, len);
        self.pending.extend_from_slice(piece);
        Ok(())
    }

    /// The string is complete: takes its escapes away.
    fn string(&mut self) -> Result<Token, ManifestError> {
        self.state = State::Between;
        let decoded =
            serde_json::from_slice(&self.pending).map_err(|_| self.error("a string is not valid JSON"))?;
        self.pending.clear();
        Ok(Token::String(decoded))
    }

    fn bare(&mut self) -> Result<Token, ManifestError> {
        self.state = State::Between;
        // Bare bytes are ASCII.
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        Ok(Token::Bare(text))
    }
}

/// Bytes of numbers and of `true`, `false`, `null`.
const fn is_bare(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
}
