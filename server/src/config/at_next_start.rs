//! Which keys of a changed file take effect only at the next start. Everything is taken apart by name,
//! so that a new key has to be put on one side or the other.
use super::{Config, Limits, Log, Serving};

/// Names of the keys that differ, where the difference waits for the next start.
pub(crate) fn waiting(running: &Config, read: &Config) -> Vec<&'static str> {
    let Config {
        serving,
        // For no server.
        stdio: _,
        // At once.
        policy: _,
        limits,
        allowances: _,
        log,
        banner: _,
        motd: _,
        audit,
    } = running;
    let mut waiting = Vec::new();
    if let (Ok(running), Ok(read)) = (serving, &read.serving) {
        of_serving(running, read, &mut waiting);
    }
    of_limits(limits, &read.limits, &mut waiting);
    let Log { format, to, level } = log;
    let read_log = &read.log;
    note(&mut waiting, "log.format", format != &read_log.format);
    note(&mut waiting, "log.to", to != &read_log.to);
    note(&mut waiting, "log.level", level != &read_log.level);
    note(&mut waiting, "audit", audit != &read.audit);
    waiting
}

fn of_serving(running: &Serving, read: &Serving, waiting: &mut Vec<&'static str>) {
    let Serving {
        listen,
        host_keys,
        // At once.
        login: _,
        threads,
        control,
        penalty_exempt,
        metrics,
    } = running;
    note(waiting, "listen", *listen != read.listen);
    note(waiting, "host_keys", *host_keys != read.host_keys);
    note(waiting, "threads", *threads != read.threads);
    note(waiting, "control", *control != read.control);
    let exempt = *penalty_exempt != read.penalty_exempt;
    note(waiting, "penalty_exempt", exempt);
    note(waiting, "metrics", *metrics != read.metrics);
}

fn of_limits(running: &Limits, read: &Limits, waiting: &mut Vec<&'static str>) {
    let Limits {
        max_connections,
        max_connections_per_user,
        max_unauthenticated,
        max_unauthenticated_per_source,
        max_streams_per_user,
        login_grace,
        dial_timeout,
        session_timeout,
        idle_timeout,
        warning,
        rekey_bytes,
    } = *running;
    let numbers = [
        ("max_connections", max_connections, read.max_connections),
        (
            "max_connections_per_user",
            max_connections_per_user,
            read.max_connections_per_user,
        ),
        (
            "max_unauthenticated",
            max_unauthenticated,
            read.max_unauthenticated,
        ),
        (
            "max_unauthenticated_per_source",
            max_unauthenticated_per_source,
            read.max_unauthenticated_per_source,
        ),
        (
            "max_streams_per_user",
            max_streams_per_user,
            read.max_streams_per_user,
        ),
        ("rekey_bytes", rekey_bytes, read.rekey_bytes),
    ];
    for (key, running, read) in numbers {
        note(waiting, key, running != read);
    }
    let times = [
        (
            "login_grace_seconds",
            Some(login_grace),
            Some(read.login_grace),
        ),
        (
            "dial_timeout_seconds",
            Some(dial_timeout),
            Some(read.dial_timeout),
        ),
        (
            "session_timeout_seconds",
            session_timeout,
            read.session_timeout,
        ),
        ("idle_timeout_seconds", idle_timeout, read.idle_timeout),
        ("warning_seconds", Some(warning), Some(read.warning)),
    ];
    for (key, running, read) in times {
        note(waiting, key, running != read);
    }
}

fn note(waiting: &mut Vec<&'static str>, key: &'static str, differs: bool) {
    if differs {
        waiting.push(key);
    }
}
