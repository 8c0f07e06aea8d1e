//! The real binary with real clients, end to end.
//!
//! Method: each test starts the relay it needs on a port of the kernel's choice, drives it with
//! curl, wrk, iperf3 or plain sockets, and asserts what an operator or an agent would see. Nothing
//! sleeps; conditions are awaited with a deadline.

#![allow(
    unreachable_pub,
    clippy::cast_possible_truncation,
    reason = "a program of its own, of small numbers"
)]
#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read the clock and poll"
)]

mod administration;
mod agent_door;
mod agents;
mod checks;
mod cli;
mod clients;
mod confinement;
mod connecting;
mod departures;
mod doctor;
mod exhaustion;
mod haproxy;
mod injection;
mod introduction;
mod lifecycle;
mod limits;
mod logs;
mod manager;
mod names;
mod page;
mod ports;
mod refusals;
mod renewals;
mod rules;
mod source_addresses;
mod squid;
mod statistics;
mod support;
mod surroundings;
mod tls_names;
mod top;
mod web_proxy;
