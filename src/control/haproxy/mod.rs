//! What HAProxy would say of itself, said of us, for the programs and habits that read it.

mod administer;
mod change;
mod cli;
pub(super) mod info;
pub(super) mod news;
pub(super) mod sessions;
pub(super) mod stat;
mod typed;

pub use change::Change;
pub use cli::Show;
pub use sessions::SessionId;
