//! What HAProxy has for each server and we have for a whole backend: its servers must agree.

use crate::config::error::Fault;

use super::sections::{Proxy, Set};
use super::server::ServerOptions;

/// What all servers of a proxy say; nothing, where there are none.
///
/// # Errors
/// The name of the first server that says something else than the first.
pub(super) fn of_servers<T: Default + PartialEq>(
    proxy: &Proxy,
    option: fn(&ServerOptions) -> T,
) -> Result<T, &Set<String>> {
    let mut said = proxy.servers.iter().map(|server| (&server.name, option(&server.options)));
    let Some((_, first)) = said.next() else { return Ok(T::default()) };
    match said.find(|(_, other)| *other != first) {
        None => Ok(first),
        Some((name, _)) => Err(name),
    }
}

/// What is wrong with it: `option` is the word for what differs.
pub(super) fn differs(name: &Set<String>, option: &str) -> Fault {
    let title = format!("servers of one backend differ in `{option}`");
    let why = format!("this one has another `{option}` than the first");
    let help = format!(
        "give it a backend and a listener of its own, or say it once: default-server {option} ..."
    );
    Fault::new(title).at(name.span.clone(), why).help(help)
}
