//! Rates on the command line: bytes a second, with a unit.
//!
//! Contained by: the commands that move bytes.

use std::num::NonZeroU64;

/// Reads `50M`, `50MB`, `1.5GiB`, `800k`, each with or without `/s`, or plain bytes: k, M and G are
/// powers of 1000, Ki, Mi and Gi of 1024.
pub(crate) fn parse(text: &str) -> Result<NonZeroU64, String> {
    let plain = text.strip_suffix("/s").unwrap_or(text).trim_end();
    let end = plain.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(plain.len());
    let (number, unit) = plain.split_at(end);
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
    // Rates beyond 2^53 bytes a second are as good as none.
    let rate = (number * f64::from(factor)) as u64;
    NonZeroU64::new(rate).ok_or_else(|| "a rate is at least one byte a second".to_owned())
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
            assert_eq!(parse(text).expect(text).get(), rate, "{text}");
        }
        for bad in ["", "M", "0", "0.1", "-5M", "5X", "5 Mbit", "1e3"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
