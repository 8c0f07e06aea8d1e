//! Seeds that once failed, each with what they found.

pub(crate) const SEEDS: &[(u64, &str)] = &[
    (145, "a session was ended as idle while its sink took what had been written before"),
    (528, "a side that became a sink was taken to have been idle for as long as it was none"),
    (375_432, "bytes came and bytes went, so that the queue was as long as before: was it stuck?"),
    (222_459, "a server that had failed was taken away and came back, in one turn: who is it?"),
    (290_976, "the same, where no other server may be tried"),
];
