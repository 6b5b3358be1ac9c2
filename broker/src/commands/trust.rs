//! `adit trust [ZONE]`.

use std::io::{BufRead, IsTerminal};

use adit_broker::control::protocol::{Answer, Request, ZoneQuestion, ZoneStatus};
use anyhow::anyhow;

use super::{Failure, ask_broker};
use crate::command_line::Trust;
use crate::output;

/// A host key that waits for a word.
struct Waiting {
    zone: String,
    host: String,
    kind: String,
    fingerprint: String,
}

pub(crate) fn run(options: Trust) -> Result<(), Failure> {
    let waiting = waiting(&options)?;
    if waiting.is_empty() {
        return Err(
            anyhow!("no gateway waits for a word on such a host key: see `adit status`").into(),
        );
    }
    let mut trusted = Vec::new();
    for key in waiting {
        if options.fingerprint.is_none() && !confirmed(&key)? {
            continue;
        }
        let request = Request::Trust {
            zone: key.zone.clone(),
            fingerprint: key.fingerprint.clone(),
        };
        ask_broker(&options.whose, &request)?;
        if !options.form.json {
            output::line(format_args!("trusting {} of {}", key.fingerprint, key.host));
        }
        trusted.push(serde_json::json!({
            "zone": key.zone, "host": key.host, "fingerprint": key.fingerprint
        }));
    }
    if options.form.json {
        output::json(&serde_json::json!({ "trusted": trusted }))?;
    }
    if trusted.is_empty() {
        return Err(anyhow!("no host key was trusted").into());
    }
    Ok(())
}

/// Those that are meant, each fingerprint of a zone once: the broker takes a word for all gateways that showed it.
fn waiting(options: &Trust) -> Result<Vec<Waiting>, Failure> {
    let Answer::Status(status) = ask_broker(&options.whose, &Request::Status {})? else {
        return Err(anyhow!("the broker's answer makes no sense").into());
    };
    if let Some(name) = &options.zone
        && !status.zones.iter().any(|zone| zone.name == *name)
    {
        return Err(Failure::usage(anyhow!("no zone is called {name:?}")));
    }
    let is_meant = |zone: &&ZoneStatus| options.zone.as_ref().is_none_or(|name| zone.name == *name);
    let mut waiting: Vec<Waiting> = Vec::new();
    for zone in status.zones.iter().filter(is_meant) {
        for question in &zone.questions {
            let ZoneQuestion::HostKey {
                host,
                kind,
                fingerprint,
            } = question
            else {
                continue;
            };
            let other = |given: &String| given != fingerprint;
            if options.fingerprint.as_ref().is_some_and(other) {
                continue;
            }
            if let Some(same) = waiting
                .iter_mut()
                .find(|it| it.zone == zone.name && it.fingerprint == *fingerprint)
            {
                same.host.push_str(&format!(", {host}"));
                continue;
            }
            waiting.push(Waiting {
                zone: zone.name.clone(),
                host: host.clone(),
                kind: kind.clone(),
                fingerprint: fingerprint.clone(),
            });
        }
    }
    Ok(waiting)
}

fn confirmed(key: &Waiting) -> Result<bool, Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let why = "this asks on a terminal: without one say --fingerprint SHA256:…";
        return Err(Failure::usage(anyhow!(why)));
    }
    output::line(format_args!(
        "The host key of {} (zone {}) is not known. Its {} key has the fingerprint\n  {}",
        key.host, key.zone, key.kind, key.fingerprint
    ));
    loop {
        output::line(format_args!(
            "Is that what its administrator told you? (yes/no)"
        ));
        let mut answer = String::new();
        if stdin.lock().read_line(&mut answer)? == 0 {
            return Ok(false);
        }
        match answer.trim() {
            "yes" => return Ok(true),
            "no" => return Ok(false),
            _ => {}
        }
    }
}
