//! PURE: values as they are typed, and what is allowed.

use crate::exit::Error;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

/// Most source addresses that a list may name.
const SOURCES_MAX: usize = 4096;

/// Reads 127.0.0.5 and 10.0.1.0/28.
pub(super) fn sources(list: &[String]) -> Result<Vec<IpAddr>, Error> {
    let mut sources = Vec::new();
    for item in list {
        let refuse = || {
            Error::Usage(format!(
                "--source {item}: neither an address nor a network; write 10.0.0.5 or \
                 10.0.1.0/28, several with commas"
            ))
        };
        let (address, bits) = match item.split_once('/') {
            None => (item.as_str(), 32),
            Some((address, bits)) => (address, bits.parse().map_err(|_| refuse())?),
        };
        match address.parse().map_err(|_| refuse())? {
            IpAddr::V6(address) if !item.contains('/') => sources.push(IpAddr::V6(address)),
            IpAddr::V4(address) if bits <= 32 => {
                let size = 1_u64 << (32 - bits);
                if size > SOURCES_MAX as u64 {
                    return Err(Error::Usage(format!(
                        "--source {item}: {size} addresses, {SOURCES_MAX} are allowed"
                    )));
                }
                let first = u64::from(u32::from(address)) / size * size;
                let hosts = (first..first + size).filter_map(|n| u32::try_from(n).ok());
                sources.extend(hosts.map(|n| IpAddr::V4(n.into())));
            }
            _ => return Err(refuse()),
        }
    }
    Ok(sources)
}

/// Reads 250us, 500ms, 30s, 2m, 1h.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let refuse =
        || format!("'{text}' is no time; write a number and us, ms, s, m or h, such as 30s");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| refuse())?;
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(refuse()),
    };
    match Duration::try_from_secs_f64(number * seconds) {
        Ok(duration) if duration <= Duration::from_secs(30 * 24 * 3600) => Ok(duration),
        _ => Err(format!("'{text}' is longer than 30 days")),
    }
}

/// Reads 2026-11-26T20:00:00Z.
pub(super) fn moment(text: &str) -> Result<SystemTime, String> {
    let time = humantime::parse_rfc3339_weak(text);
    let time = time.map_err(|error| format!("{error}; write UTC, as 2026-11-26T20:00:00Z"))?;
    match time.elapsed() {
        Ok(passed) => Err(format!("that was {passed:.0?} ago")),
        Err(_) => Ok(time),
    }
}

/// A length and how often it comes.
pub(super) type Stall = [Duration; 2];

pub(super) fn stall(text: &str) -> Result<Stall, String> {
    let (length, every) = text
        .split_once('/')
        .ok_or_else(|| format!("'{text}': write LENGTH/EVERY, such as 1s/10s"))?;
    match [duration(length)?, duration(every)?] {
        [length, every] if length < every => Ok([length, every]),
        _ => Err(format!("'{text}': the stall must be shorter than the time from one to the next")),
    }
}

pub(super) fn busy(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("'{text}': a share from 0 to 1; 0.1 is a tenth")),
    }
}

pub(super) fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.001..=0.5).contains(&share) => Ok(share),
        _ => Err(format!("'{text}': a share from 0.001 to 0.5; 0.03 is three per cent")),
    }
}

pub(super) fn ratio(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ratio) if (0.05..=1000.0).contains(&ratio) => Ok(ratio),
        _ => Err(format!("'{text}': a number from 0.05 to 1000, such as 1.85")),
    }
}

pub(super) fn speedup(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(factor) if (0.001..=10_000.0).contains(&factor) => Ok(factor),
        _ => Err(format!("'{text}': a factor from 0.001 to 10000; 10 is ten times the rate")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit_and_not_without() {
        assert_eq!(duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["30", "s", "-1s", "1 s", "1d", "99999h", ""] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn source_lists_take_addresses_and_networks() {
        let read = |items: &[&str]| {
            sources(&items.iter().map(|&i| i.to_owned()).collect::<Vec<_>>()).map(|s| s.len())
        };
        assert_eq!(read(&["127.0.0.5", "127.0.1.0/28"]).unwrap(), 17);
        assert_eq!(read(&["::1"]).unwrap(), 1);
        for bad in ["host", "10.0.0.0/33", "10.0.0.0/8", "10.0.0.0/x"] {
            assert!(read(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused_with_the_range() {
        assert!(moment("2020-01-01T00:00:00Z").unwrap_err().contains("ago"));
        assert!(moment("tomorrow").unwrap_err().contains("write UTC"));
        assert!(stall("1s/10s").is_ok());
        for bad in ["1s", "10s/1s", "1/10"] {
            assert!(stall(bad).is_err(), "{bad}");
        }
        assert!(share("0.6").is_err() && share("0.03").is_ok());
        assert!(ratio("0").is_err() && ratio("1.85").is_ok());
        assert!(busy("1.1").is_err() && busy("0.5").is_ok());
    }
}
