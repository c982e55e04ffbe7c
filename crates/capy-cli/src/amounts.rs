//! Amounts on the command line: bytes, and bytes a second, with a unit.
//!
//! Contained by: the commands that move or keep bytes.

use std::num::NonZeroU64;

/// Reads a rate: a size, with or without `/s`.
pub(crate) fn rate(text: &str) -> Result<NonZeroU64, String> {
    let plain = text.strip_suffix("/s").unwrap_or(text).trim_end();
    NonZeroU64::new(size(plain)?).ok_or_else(|| "a rate is at least one byte a second".to_owned())
}

/// Reads `50M`, `50MB`, `1.5GiB`, `800k`, or plain bytes: k, M and G are powers of 1000, Ki, Mi and Gi of
/// 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start();
    let factor: u32 = match unit.strip_suffix('B').unwrap_or(unit) {
        "" => 1,
        "k" | "K" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err(format!("no such unit: {unit:?} (k, M, G, Ki, Mi or Gi)")),
    };
    let number: f64 = number.parse().map_err(|_| "expected a number and a unit, like 50M".to_owned())?;
    // Above 2^53 bytes they are rounded, which nobody will tell.
    Ok((number * f64::from(factor)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_with_their_units_and_nonsense_is_not() {
        for (text, rate) in [
            ("1000", 1000),
            ("800k", 800_000),
            ("50M", 50_000_000),
            ("50MB/s", 50_000_000),
            ("1.5GiB", 3 << 29),
            ("2 MiB/s", 2 << 20),
        ] {
            assert_eq!(super::rate(text).expect(text).get(), rate, "{text}");
        }
        for bad in ["", "M", "0", "0.1", "-5M", "5X", "5 Mbit", "1e3"] {
            assert!(super::rate(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_size_is_no_rate() {
        for (text, bytes) in [("1000", 1000), ("0", 0), ("1.5GiB", 3 << 29), ("20 GB", 20_000_000_000)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        assert!(size("5M/s").is_err());
    }
}
