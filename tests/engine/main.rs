//! The real worker on real sockets: one suite, run on each engine and in each splice mode.
//!
//! Method: a test builds a relay of one worker in this process (`support::relay`), clients and
//! servers that do what the test is about (`support::peers`), and judges what came out by one oracle
//! (`support::oracle`): every byte of every stream is known from its connection, direction and
//! offset, and a stream either arrives whole with its end, or as a prefix with an error. Then the
//! relay must be as empty as it was at the start (`Relay::finish`).
//!
//! Nothing sleeps: conditions are awaited with a deadline, on ports of the kernel's choice.
//!
//! - `cargo test --test engine` runs all; `cargo test --test engine io_uring::always` a part.
//! - Where io_uring is barred its part says so and is skipped; `FANIN_TEST_REQUIRE_URING=1` makes
//!   that a failure.

#![allow(
    unreachable_pub,
    missing_debug_implementations,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a program of its own, of small numbers"
)]
#![allow(clippy::unwrap_used, reason = "a test ends where it goes wrong")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read the clock and poll"
)]

/// Makes a test of each function for each engine and splice mode: `engine::mode::name`.
macro_rules! on_every_engine {
    ($($test:ident),+ $(,)?) => {
        on_every_engine! { @engine epoll Epoll $($test)+ }
        on_every_engine! { @engine io_uring Uring $($test)+ }
    };
    (@engine $name:ident $kind:ident $($test:ident)+) => {
        mod $name {
            on_every_engine! { @mode auto $kind Auto $($test)+ }
            on_every_engine! { @mode always $kind Always $($test)+ }
            on_every_engine! { @mode never $kind Never $($test)+ }
        }
    };
    (@mode $name:ident $kind:ident $mode:ident $($test:ident)+) => {
        mod $name {
            $(
                #[test]
                fn $test() {
                    let variant = $crate::support::relay::Variant {
                        engine: $crate::support::relay::EngineKind::$kind,
                        splice: fanin::op::SpliceMode::$mode,
                    };
                    if variant.can_run() {
                        super::super::$test(variant);
                    }
                }
            )+
        }
    };
}

mod churn;
mod closing;
mod connecting;
mod delivery;
mod joined;
mod pressure;
mod scarcity;
mod spare;
mod support;
mod urgent;
