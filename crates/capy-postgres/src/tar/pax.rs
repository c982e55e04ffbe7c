//! Pax extended headers: records `LENGTH KEY=VALUE\n` that override fields of the next entry, or
//! of all later ones.
//!
//! Invariant: only the keys this crate uses are kept, so what a stream may pile up is bounded by
//! the size of one record.

/// Fields that an extension overrides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Overrides {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_target: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) mtime: Option<i64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) owner: Option<String>,
    pub(super) group: Option<String>,
    /// The entry is one of GNU's sparse files, whose data is not what the header's size says.
    pub(super) sparse: bool,
}

impl Overrides {
    /// Takes the records of one pax header. Later records win; an empty value takes an override
    /// back, as POSIX wants it.
    pub(super) fn apply(&mut self, mut records: &[u8]) -> Result<(), &'static str> {
        while !records.is_empty() {
            let (key, value, rest) = split_record(records)?;
            self.set(key, value)?;
            records = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        match key {
            b"path" => self.path = non_empty(value, |v| Some(v.to_vec()))?,
            b"linkpath" => self.link_target = non_empty(value, |v| Some(v.to_vec()))?,
            b"size" => self.size = non_empty(value, decimal)?,
            b"uid" => self.uid = non_empty(value, decimal)?,
            b"gid" => self.gid = non_empty(value, decimal)?,
            b"mtime" => self.mtime = non_empty(value, whole_seconds)?,
            b"uname" => self.owner = non_empty(value, |v| Some(String::from_utf8_lossy(v).into_owned()))?,
            b"gname" => self.group = non_empty(value, |v| Some(String::from_utf8_lossy(v).into_owned()))?,
            _ if key.starts_with(b"GNU.sparse.") => self.sparse = true,
            _ => {}
        }
        Ok(())
    }

    /// These overrides, and `global`'s where these say nothing.
    pub(super) fn or(self, global: &Self) -> Self {
        Self {
            path: self.path.or_else(|| global.path.clone()),
            link_target: self.link_target.or_else(|| global.link_target.clone()),
            size: self.size.or(global.size),
            mtime: self.mtime.or(global.mtime),
            uid: self.uid.or(global.uid),
            gid: self.gid.or(global.gid),
            owner: self.owner.or_else(|| global.owner.clone()),
            group: self.group.or_else(|| global.group.clone()),
            sparse: self.sparse || global.sparse,
        }
    }
}

/// A record's key and value, and what follows the record.
type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

fn split_record(records: &[u8]) -> Result<Record<'_>, &'static str> {
    let space = records.iter().position(|&b| b == b' ').ok_or("a record has no length")?;
    let (digits, _) = records.split_at_checked(space).ok_or("a record has no length")?;
    let length =
        decimal(digits).and_then(|l| usize::try_from(l).ok()).ok_or("a record's length is no number")?;
    let (record, rest) = records.split_at_checked(length).ok_or("a record is longer than its header")?;
    let body = record
        .get(space + 1..)
        .and_then(|body| body.strip_suffix(b"\n"))
        .ok_or("a record does not end where its length says")?;
    let equals = body.iter().position(|&b| b == b'=').ok_or("a record has no '='")?;
    let (key, value) = body.split_at_checked(equals).ok_or("a record has no '='")?;
    Ok((key, value.get(1..).unwrap_or_default(), rest))
}

fn non_empty<T>(value: &[u8], read: impl FnOnce(&[u8]) -> Option<T>) -> Result<Option<T>, &'static str> {
    if value.is_empty() { Ok(None) } else { read(value).map(Some).ok_or("a record's value is no number") }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    if plain { std::str::from_utf8(digits).ok()?.parse().ok() } else { None }
}

/// A time with an optional fraction and sign, rounded down to whole seconds.
fn whole_seconds(value: &[u8]) -> Option<i64> {
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut parts = digits.splitn(2, |&b| b == b'.');
    let whole = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let over = fraction.iter().any(|&b| b != b'0');
    Some(if negative { -whole - i64::from(over) } else { whole })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_override_and_are_taken_back() {
        let mut overrides = Overrides::default();
        overrides.apply(b"14 path=a=b\nc\n12 size=123\n20 mtime=-1.5000000\n19 comment=ignored\n").unwrap();
        assert_eq!(overrides.path.as_deref(), Some(&b"a=b\nc"[..]));
        assert_eq!((overrides.size, overrides.mtime), (Some(123), Some(-2)));
        overrides.apply(b"8 size=\n").unwrap();
        assert_eq!(overrides.size, None);
    }

    #[test]
    fn nonsense_is_refused_with_what_is_wrong() {
        for bad in [
            &b"path=x\n"[..],
            b"99 path=x\n",
            b"0 path=x\n",
            b"5 path=x\n",
            b"10 path=xyz",
            b"9 path_x\n",
            b"11 size=12x\n",
            b"11 size=-12\n",
            b"99999999999999999999 a=b\n",
            b"12 mtime=1.x\n",
        ] {
            assert!(Overrides::default().apply(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
