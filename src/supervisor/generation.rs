//! What a reload cannot change in a process that runs: another one takes its place.

use crate::config::{Config, Listener, Log};
use crate::confinement;

use super::limits::spares_a_server;

/// What differs between two configurations that only another generation can change.
pub(super) fn needs_generation(old: &Config, new: &Config) -> Option<&'static str> {
    let binds = |config: &Config| -> Vec<_> {
        let of = |listener: &Listener| (listener.bind.clone(), listener.mode, listener.backlog);
        config.listeners.iter().map(of).collect()
    };
    let names = |config: &Config| -> Vec<_> {
        let routes = config.listeners.iter().map(|listener| listener.routes.iter());
        routes.map(|routes| routes.map(|route| route.sni.clone()).collect::<Vec<_>>()).collect()
    };
    let (was, is) = (&old.global, &new.global);
    [
        (
            binds(old) != binds(new),
            "the listeners' addresses, modes and backlogs ([[listener]] bind, mode)",
        ),
        (
            // Sessions remember their route by its place.
            names(old) != names(new),
            "the names that listeners route by ([[listener]] routes)",
        ),
        (was.workers != is.workers, "the number of workers ([global] workers)"),
        (was.door_threads != is.door_threads, "the doors' threads ([global] door_threads)"),
        (was.engine != is.engine, "the engine ([global] engine)"),
        (was.splice != is.splice, "the splice mode ([global] splice)"),
        (was.pin != is.pin, "the pinning of workers ([global] pin)"),
        (was.latency_budget != is.latency_budget, "the latency budget ([global] latency_budget)"),
        (was.pipe_bytes != is.pipe_bytes, "the size of pipes ([global] pipe_size)"),
        (was.pipes != is.pipes, "the number of pipes ([global] pipes)"),
        (
            (&was.user, &was.group, was.sandbox) != (&is.user, &is.group, is.sandbox),
            "whom the relay process runs as, or its confinement ([global] user, group, sandbox)",
        ),
        (
            !confinement::covers(old, new),
            "the ports and folders that the sandbox lets the relay process reach",
        ),
        (
            // Their descriptors are the sessions' in the workers that are there.
            spares_a_server(old) < spares_a_server(new),
            "the connections made ahead ([backend.NAME] spare)",
        ),
        (old.stats != new.stats, "the statistics ([stats] bind, viewers, admins)"),
        (old.control != new.control, "the control socket ([control] socket, mode, level)"),
        (old.log.format != new.log.format, "the log's format ([log] format)"),
        (
            log_targets(old) != log_targets(new),
            "where the log goes ([log] output, file, syslog and its keys)",
        ),
    ]
    .into_iter()
    .find_map(|(differs, what)| differs.then_some(what))
}

/// What of the log's settings opens something.
fn log_targets(config: &Config) -> Log {
    let Log { output, file, syslog, syslog_form, facility, tag, .. } = config.log.clone();
    Log { output, file, syslog, syslog_form, facility, tag, ..Log::default() }
}
