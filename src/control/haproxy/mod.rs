//! What HAProxy would say of itself, said of us, for the programs and habits that read it.

pub(super) mod stat;
