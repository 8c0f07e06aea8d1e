//! PURE: the files of HdrHistogram's own tools. Values are milliseconds in the `.hgrm` text, as
//! its plotter expects, and microseconds inside the `.hlog`'s histograms.

use super::series::Second;
use crate::recorder::{Micros, histogram};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::serialization::interval_log::{
    IntervalLogIterator, IntervalLogWriterBuilder, LogEntry,
};
use hdrhistogram::serialization::{Deserializer, V2DeflateSerializer};
use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

/// Lines for each halving of the distance to 100 %, as in HdrHistogram's own output.
const TICKS: u32 = 5;

/// Places of a bucket that three digits need: the power of two from 2 x 10^3 on.
const SUB_BUCKETS: u32 = 2048;

/// The percentile distribution as text (`outputPercentileDistribution` of HdrHistogram).
pub(crate) fn hgrm(all: &Micros) -> String {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut total = 0;
    // Writing to a String cannot fail.
    for at in all.iter_quantiles(TICKS) {
        total += at.count_since_last_iteration();
        let value = at.value_iterated_to() as f64 / 1000.0;
        let quantile = at.quantile_iterated_to();
        let _ = write!(text, "{value:>12.3} {quantile:>14.12} {total:>10}");
        let _ = match quantile < 1.0 {
            true => writeln!(text, " {:>14.2}", 1.0 / (1.0 - quantile)),
            false => writeln!(text),
        };
    }
    let _ = writeln!(
        text,
        "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]\n\
         #[Max     = {:>12.3}, Total count    = {:>12}]\n\
         #[Buckets = {:>12}, SubBuckets     = {:>12}]",
        all.mean() / 1000.0,
        all.stdev() / 1000.0,
        all.max() as f64 / 1000.0,
        all.len(),
        all.buckets(),
        SUB_BUCKETS,
    );
    text
}

/// The interval log, version 2: the exchanges of the measured window, second by second. Its sum
/// is the report's `exchange.from_intended`, exactly.
///
/// # Errors
/// What the writer refused, as text.
pub(crate) fn hlog(series: &[Second], began_unix_s: u64) -> Result<Vec<u8>, String> {
    let began = UNIX_EPOCH + Duration::from_secs(began_unix_s);
    let (mut bytes, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment("loadgen: whole exchanges from the intended start, microseconds")
        .with_start_time(began)
        .with_base_time(began)
        .with_max_value_divisor(1000.0)
        .begin_log_with(&mut bytes, &mut serializer)
        .map_err(|error| error.to_string())?;
    for second in series {
        let at = Duration::from_secs_f64(second.at_s);
        let span = Duration::from_secs_f64(second.span_s);
        log.write_histogram(&second.measured.unpack(), at, span, None)
            .map_err(|error| error.to_string())?;
    }
    Ok(bytes)
}

/// The sum of all intervals of such a log, whoever wrote it.
///
/// # Errors
/// What is wrong with it, with the number of the interval.
pub(crate) fn read_hlog(log: &[u8]) -> Result<Micros, String> {
    let mut whole = histogram();
    let mut deserializer = Deserializer::new();
    let mut intervals = 0;
    for entry in IntervalLogIterator::new(log) {
        let entry = entry.map_err(|error| {
            format!("not an interval log of HdrHistogram, after {intervals} intervals: {error:?}")
        })?;
        let LogEntry::Interval(interval) = entry else { continue };
        intervals += 1;
        let refuse = |why: String| format!("interval {intervals} cannot be read: {why}");
        let bytes = BASE64.decode(interval.encoded_histogram());
        let bytes = bytes.map_err(|error| refuse(error.to_string()))?;
        let part = deserializer.deserialize(&mut bytes.as_slice());
        let part: Micros = part.map_err(|error| refuse(error.to_string()))?;
        whole.add(&part).map_err(|error| refuse(error.to_string()))?;
    }
    match intervals {
        0 => Err("no interval is in it".to_owned()),
        _ => Ok(whole),
    }
}

/// The distribution as `[quantile, microseconds]`, at HdrHistogram's own steps.
pub(crate) fn percentiles(all: &Micros) -> Vec<(f64, u64)> {
    let steps = all.iter_quantiles(TICKS);
    steps.map(|at| (at.quantile_iterated_to(), at.value_iterated_to())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::series::Packed;

    fn second(at_s: f64, values: &[u64]) -> Second {
        let mut measured = histogram();
        values.iter().for_each(|&value| measured.record(value).unwrap());
        Second { at_s, span_s: 1.0, measured: Packed::new(&measured), ..Second::default() }
    }

    #[test]
    fn a_log_that_is_read_again_is_the_sum_of_its_seconds() {
        let series = [second(0.0, &[100, 200, 7_000_000]), second(1.0, &[]), second(2.0, &[300])];
        let log = hlog(&series, 1_700_000_000).unwrap();
        let read = read_hlog(&log).unwrap();
        let values: Vec<_> =
            read.iter_recorded().map(|at| read.lowest_equivalent(at.value_iterated_to())).collect();
        assert_eq!(read.len(), 4);
        assert_eq!(values.len(), 4, "{values:?}");
        assert!(read_hlog(b"noise\n").is_err());
        assert!(read_hlog(b"").unwrap_err().contains("no interval"));
    }
}
