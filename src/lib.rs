//! fanin: a thread-per-core TCP relay for monitoring agents.
//!
//! Read in this order: [`op`] (the words), [`session`] (one relayed pair, pure), [`engine`] (the
//! kernel), `worker` (one core's loop), `supervisor` (starts and ends it all).
//! `docs/ARCHITECTURE.md` has the picture and the import table.

pub mod backend;
pub mod cli;
pub mod config;
pub mod confinement;
pub mod control;
pub mod doctor;
pub mod door;
pub mod engine;
pub mod gate;
pub mod handover;
pub mod metrics;
pub mod op;
pub mod parent;
pub mod password;
pub mod session;
pub mod supervisor;
pub mod sys;
pub mod worker;
