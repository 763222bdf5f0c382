//! Sizes as QEMU writes them for people.

const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// Three digits of a number of bytes, in the unit in which it is less than 1000.
pub fn size(bytes: u64) -> String {
    // From 1000 on, the next unit: that is 1024 in numbers that are greater by the same part.
    let enlarged = u128::from(bytes) * 1024 / 1000;
    let power = enlarged.checked_ilog2().unwrap_or(0) / 10;
    let value = bytes as f64 / (1u64 << (10 * power)) as f64;
    let unit = UNITS.get(power as usize).copied().unwrap_or_default();
    format!("{} {unit}B", three_digits(value))
}

/// As `%.3g` of printf writes a number that is 0 or from 0.1 to 1000.
fn three_digits(value: f64) -> String {
    let rounded = format!("{value:.2e}");
    let exponent: usize = rounded.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    let decimals = match value {
        0.0 => return "0".to_owned(),
        _ if exponent > 2 => return "1e+03".to_owned(),
        _ if rounded.ends_with("e-1") => 3,
        _ => 2 - exponent,
    };
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_printf_does_in_qemu() {
        for (bytes, text) in [
            (0, "0 B"),
            (1, "1 B"),
            (512, "512 B"),
            (999, "999 B"),
            (1000, "0.977 KiB"),
            (1023, "0.999 KiB"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (10_291, "10 KiB"),
            (10_295, "10.1 KiB"),
            (102_348, "99.9 KiB"),
            (102_349, "100 KiB"),
            (1_022_976, "999 KiB"),
            (1_023_488, "1e+03 KiB"),
            (1_024_000, "0.977 MiB"),
            (1 << 30, "1 GiB"),
            (1_234_567_890_123, "1.12 TiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }
}
