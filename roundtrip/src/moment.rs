//! Moments as people say them.

use std::time::{SystemTime, UNIX_EPOCH};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Now, in ms of Unix time.
pub(crate) fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// A moment: an RFC 3339 time, or how long ago.
///
/// # Errors
/// A sentence on what is accepted.
pub(crate) fn moment(text: &str) -> Result<u64, String> {
    ago(text, now_unix_ms()).or_else(|| at(text)).ok_or_else(|| {
        "expected a time such as 2026-11-21T10:42:00Z, or how long ago, such as 90s, 15m, 6h or 7d"
            .into()
    })
}

fn at(text: &str) -> Option<u64> {
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok()
}

fn ago(text: &str, now: u64) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit_ms: u64 = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(now.saturating_sub(number.parse::<u64>().ok()?.saturating_mul(unit_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_in_any_zone() {
        for (text, unix_ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2023-11-14T22:13:20.007Z", 1_700_000_000_007),
            ("2023-11-14T23:13:20+01:00", 1_700_000_000_000),
            ("2023-11-14t22:13:20z", 1_700_000_000_000),
        ] {
            assert_eq!(moment(text), Ok(unix_ms), "{text}");
        }
    }

    #[test]
    fn a_duration_is_counted_back_from_now() {
        for (text, unix_ms) in [
            ("0s", 1_000_000_000),
            ("90s", 999_910_000),
            ("15m", 999_100_000),
            ("6h", 978_400_000),
            ("2d", 827_200_000),
            ("99999999999999999d", 0),
        ] {
            assert_eq!(ago(text, 1_000_000_000), Some(unix_ms), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_is_accepted() {
        for text in [
            "",
            "s",
            "-5m",
            "+5m",
            "5",
            "5 m",
            "5w",
            "1.5h",
            "15µ",
            "yesterday",
            "2023-11-14",
            "2023-11-14 22:13",
            "1969-12-31T23:59:59Z",
            "2023-11-31T00:00:00Z",
        ] {
            let error = moment(text).expect_err(text);
            assert!(error.contains("15m") && error.contains("2026-"), "{error}");
        }
    }
}
