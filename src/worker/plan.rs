//! What a worker is told: at its start, and again at each reload. Data only.

use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::backend::Member;
use crate::metrics::Traffic;
use crate::session::SessionLimits;

use super::admission::Quota;
use super::rules::Rules;

/// The part of the configuration that sessions live by, names resolved. All workers share one.
#[derive(Clone, Debug)]
pub struct Plan {
    /// By the number of a listener.
    pub routes: Vec<Route>,
    pub backends: Vec<Backend>,
}

/// What becomes of a connection that comes through one listener.
#[derive(Clone, Debug)]
pub struct Route {
    /// Index into [`Plan::backends`].
    pub backend: usize,
    pub limits: SessionLimits,
    /// Places for sessions through this listener, in the whole process.
    pub quota: Arc<Quota>,
    /// What is counted of all that comes through it.
    pub traffic: Arc<Traffic>,
    /// Who may come in; one for all addresses of a listener.
    pub rules: Arc<Rules>,
}

/// Servers among which sessions are shared out.
#[derive(Clone, Debug)]
pub struct Backend {
    pub members: Vec<Member>,
    /// Whether another attempt goes to another server where there is one.
    pub redispatch: bool,
    /// Ports that connections to servers beyond loopback come from; shared out among the workers.
    /// `None` leaves the choice to the kernel.
    pub source_ports: Option<RangeInclusive<u16>>,
}
