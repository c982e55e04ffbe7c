//! The lines of `postgresql.conf` and `postgresql.auto.conf`, as PostgreSQL reads them.
//!
//! Source: `guc-file.l`. A setting is one line: a name, an equals sign or none, a value, bare or in
//! single quotes. No value spans lines, so that a file taken apart at line breaks loses nothing.
//! More is read here than the server accepts: a line that it refuses is still recognised by name.

/// The two files of a data directory, as bytes; what one `include`s is not looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Configuration<'a> {
    /// `postgresql.conf`; empty when it lies elsewhere.
    pub postgresql_conf: &'a [u8],
    /// `postgresql.auto.conf`, which is read after it.
    pub auto_conf: &'a [u8],
}

/// The lines that name further files.
const INCLUDES: [&str; 3] = ["include", "include_if_exists", "include_dir"];

impl<'a> Configuration<'a> {
    /// The lines of `postgresql.conf` that name further files.
    pub(super) fn includes(&self) -> impl Iterator<Item = Setting<'a>> {
        let settings = lines(self.postgresql_conf).filter_map(Setting::of);
        settings.filter(|setting| INCLUDES.iter().any(|name| setting.is(name)))
    }

    /// The value that counts: the last, of the file that is read last.
    pub(super) fn value(&self, name: &str) -> Option<Vec<u8>> {
        last_value(self.auto_conf, name).or_else(|| last_value(self.postgresql_conf, name))
    }
}

/// The value in the last line of this name.
pub(super) fn last_value(file: &[u8], name: &str) -> Option<Vec<u8>> {
    lines(file)
        .filter_map(Setting::of)
        .filter(|setting| setting.is(name))
        .last()
        .map(|setting| setting.value())
}

/// The lines of a file, each with its line break.
pub(super) fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split_inclusive(|byte| *byte == b'\n')
}

/// A line that sets something.
#[derive(Clone, Copy)]
pub(super) struct Setting<'a> {
    name: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Setting<'a> {
    /// None for an empty line, a comment, and what does not begin with a name.
    pub(super) fn of(line: &'a [u8]) -> Option<Self> {
        let line = trim(line);
        let end = line.iter().position(|byte| !is_word(*byte)).unwrap_or(line.len());
        let (name, rest) = line.split_at_checked(end)?;
        let is_name = name.first().is_some_and(|first| !first.is_ascii_digit());
        // These go on with a bare word or a qualified name.
        let ends = !rest.first().is_some_and(|byte| b"-.:/".contains(byte));
        (is_name && ends).then_some(Self { name, rest })
    }

    /// Whether it sets this: names are compared without regard to ASCII case.
    pub(super) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    pub(super) fn name(&self) -> &'a [u8] {
        self.name
    }

    pub(super) fn value(&self) -> Vec<u8> {
        let rest = trim(self.rest);
        let rest = trim(rest.strip_prefix(b"=").unwrap_or(rest));
        if let Some(quoted) = rest.strip_prefix(b"'") {
            return unquote(quoted);
        }
        let ends = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'#' || *byte == b'\'';
        rest.split(ends).next().unwrap_or_default().to_owned()
    }
}

/// A value in quotes, as it is written and read again.
pub(super) fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', r"\\").replace('\'', "''"))
}

/// What follows an opening quote, up to the closing one: `DeescapeQuotedString`.
fn unquote(quoted: &[u8]) -> Vec<u8> {
    let (mut value, mut bytes) = (Vec::new(), quoted.iter().copied().peekable());
    while let Some(byte) = bytes.next() {
        let plain = match byte {
            b'\n' => break,
            b'\'' => match bytes.next_if_eq(&b'\'') {
                Some(quote) => quote,
                None => break,
            },
            b'\\' => match bytes.next() {
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(first @ b'0'..=b'7') => {
                    let mut code = first - b'0';
                    for _ in 0..2 {
                        let Some(digit) = bytes.next_if(|next| (b'0'..=b'7').contains(next)) else { break };
                        code = code.wrapping_mul(8).wrapping_add(digit - b'0');
                    }
                    code
                }
                Some(other) => other,
                None => break,
            },
            other => other,
        };
        value.push(plain);
    }
    value
}

/// A whole number as PostgreSQL reads it: decimal, `0x` hexadecimal, octal after a zero, or a
/// decimal fraction that is rounded.
pub(super) fn whole_number(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let radix = |digits: &str, radix| i64::from_str_radix(digits, radix).ok();
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return radix(digits, 16);
    }
    let octal = text.strip_prefix('0').and_then(|digits| radix(digits, 8));
    octal.or_else(|| text.parse().ok()).or_else(|| {
        let number: f64 = text.parse().ok()?;
        number.is_finite().then_some(number.round() as i64)
    })
}

/// Without the blanks before: space, tab and carriage return.
fn trim(mut line: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\r', rest @ ..] = line {
        line = rest;
    }
    line
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, name: &str, value: &str) {
        let setting = Setting::of(line.as_bytes()).unwrap_or_else(|| panic!("{line:?} is a setting"));
        assert!(setting.is(name), "{line:?}");
        assert_eq!(String::from_utf8(setting.value()).unwrap(), value, "{line:?}");
    }

    #[test]
    fn settings_are_read_in_every_spelling() {
        for line in [
            "port = 5432",
            "port=5432",
            " \t\rPORT 5432 # the port\r\n",
            "port '5432'",
            "port'5432'#x",
            "Port\t=\t'5432'",
            "port=5432#x",
        ] {
            check(line, "port", "5432");
        }
        check("restore_command = 'cp ''/a b/%f'' \"%p\"'", "restore_command", "cp '/a b/%f' \"%p\"");
        check(r"x = 'a\\b\'c\td\101\7\0608\q'", "x", "a\\b'c\tdA\x07\x308q");
        check("x = 'ends nowhere", "x", "ends nowhere");
        check("x =", "x", "");
        check("x", "x", "");
        check("wal_level = replica", "wal_level", "replica");
        check("my_é = on", "my_é", "on");
    }

    #[test]
    fn comments_and_other_names_are_not_settings() {
        for line in [
            "",
            "\n",
            "  # port = 1",
            "#port = 1",
            "5port = 1",
            "'port' = 1",
            "=",
            "a.port = 1",
            "port-x = 1",
        ] {
            assert!(Setting::of(line.as_bytes()).is_none(), "{line:?}");
        }
        assert!(!Setting::of(b"port_range = 1").unwrap().is("port"));
    }

    #[test]
    fn the_last_value_of_the_last_file_counts() {
        let files = Configuration {
            postgresql_conf: b"max_connections = 1\nMAX_CONNECTIONS = 2\nport = 3\n",
            auto_conf: b"port = '4'\nport = '5'",
        };
        assert_eq!(files.value("max_connections").as_deref(), Some(&b"2"[..]));
        assert_eq!(files.value("port").as_deref(), Some(&b"5"[..]));
        assert_eq!(files.value("work_mem"), None);
    }

    #[test]
    fn numbers_are_read_as_postgresql_reads_them() {
        for (text, number) in
            [("100", 100), (" 100 ", 100), ("0x64", 100), ("0144", 100), ("1e2", 100), ("99.6", 100)]
        {
            assert_eq!(whole_number(text.as_bytes()), Some(number), "{text}");
        }
        for text in ["", "many", "0x", "100 kB", "nan", "inf", "\u{e9}"] {
            assert_eq!(whole_number(text.as_bytes()), None, "{text}");
        }
        assert_eq!(whole_number(b"\xff"), None);
    }

    proptest::proptest! {
        #[test]
        fn what_is_quoted_is_read_again(value in "[^\n]*") {
            let line = format!("x = {} # more", quote(&value));
            proptest::prop_assert_eq!(Setting::of(line.as_bytes()).unwrap().value(), value.into_bytes());
        }

        #[test]
        fn noise_is_read_without_harm(file in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            lines(&file).filter_map(Setting::of).for_each(|setting| drop(setting.value()));
            proptest::prop_assert_eq!(lines(&file).flatten().copied().collect::<Vec<_>>(), file);
        }
    }
}
