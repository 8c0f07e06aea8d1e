//! How loadgen ends: its errors, each with its exit code and what to do about it.

/// Success.
pub(crate) const SUCCESS: u8 = 0;
/// The run itself failed, or exchanges failed and no objective was given.
pub(crate) const RUN_TIME: u8 = 1;
/// The command line is wrong.
pub(crate) const USAGE: u8 = 2;
/// The system refused something.
pub(crate) const SYSTEM: u8 = 71;
/// The generator could not offer the load: the run says nothing about the target.
pub(crate) const INVALID: u8 = 98;
/// An objective given with `--slo` was missed.
pub(crate) const OBJECTIVE: u8 = 99;

/// Why loadgen could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The arguments make no sense together, or a value is not allowed.
    #[error("{0}")]
    Usage(String),
    /// The system refused something that the run needs.
    #[error("{0}")]
    System(String),
    /// A part of the run failed.
    #[error("{0}")]
    Run(String),
    /// Already printed; only the code is left.
    #[error("")]
    Told(u8),
}

impl Error {
    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::System(_) => SYSTEM,
            Self::Run(_) => RUN_TIME,
            Self::Told(code) => *code,
        }
    }
}
