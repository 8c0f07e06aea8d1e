//! Seeds that once failed, each with what they found.

pub(crate) const SEEDS: &[(u64, &str)] = &[];
