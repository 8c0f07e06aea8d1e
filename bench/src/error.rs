//! What can go wrong with a measurement, in words for who runs it.

/// Why a run, or one part of it, could not be done.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Error(pub(crate) String);

impl Error {
    /// For `map_err`: what was attempted, and the cause that follows.
    pub(crate) fn at<E: std::fmt::Display>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |cause| Self(format!("{what}: {cause}"))
    }
}
