//! The kernel's calls, thinly wrapped: one file per kernel object. All `unsafe` of the crate lives
//! here, one operation a block, each with its reason.
//!
//! Nothing here keeps a policy, knows a session or reads a configuration; errors are `Errno`s as
//! the kernel gave them. Every descriptor made here is close-on-exec and nonblocking.

#![expect(unsafe_code, reason = "this room exists so that no other one needs it")]

pub mod confine;
pub mod pages;
pub mod passage;
pub mod pipe;
pub mod process;
pub mod ring;
pub mod socket;
pub mod terminal;
