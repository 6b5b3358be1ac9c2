//! `adit status`.

use adit_broker::control::protocol::{
    Answer, Listening, Request, Status, ZoneQuestion, ZoneStatus,
};
use adit_broker::gateway::About;
use adit_capture::wire::QueueBy;
use anyhow::anyhow;

use super::{Failure, ask_broker};
use crate::command_line::Ask;
use crate::output;

pub(crate) fn run(options: Ask) -> Result<(), Failure> {
    let Answer::Status(status) = ask_broker(&options.whose, &Request::Status {})? else {
        return Err(anyhow!("the broker's answer makes no sense").into());
    };
    if options.form.json {
        output::json(&status)?;
    } else {
        show(&status);
    }
    Ok(())
}

fn show(status: &Status) {
    let rules = match &status.rules {
        Some(file) => file.display().to_string(),
        None => "adit up".to_owned(),
    };
    output::line(format_args!(
        "broker   {}, pid {}, user {}, rules: {rules}",
        status.state, status.pid, status.user
    ));
    if let Some(error) = status
        .rules_in_force
        .as_ref()
        .and_then(|it| it.error.as_ref())
    {
        output::line(format_args!(
            "rules    not as in the files, since {}: {}",
            error.at, error.text
        ));
    }
    let helper = match (&status.capture.reason, status.capture.connected) {
        (Some(reason), _) => reason.clone(),
        (None, true) => "connected".to_owned(),
        (None, false) => "not connected".to_owned(),
    };
    output::line(format_args!(
        "helper   {helper}, {}",
        status.capture.socket.display()
    ));
    let connect = match (&status.connect.by, &status.connect.reason) {
        (Some(QueueBy::Nft), _) => " (SYNs held by nftables)".to_owned(),
        (Some(QueueBy::Xtables), _) => " (SYNs held by xtables' NFQUEUE)".to_owned(),
        (None, Some(reason)) => format!(" ({reason})"),
        (None, None) => String::new(),
    };
    output::line(format_args!("connect  {}{connect}", status.connect.mode));
    for Listening {
        address,
        speaks,
        tunnel,
    } in &status.listening
    {
        match (speaks, tunnel) {
            (Some(speaks), _) => output::line(format_args!("entry    {speaks} at {address}")),
            (None, Some(name)) => output::line(format_args!("tunnel   {name} at {address}")),
            (None, None) => {}
        }
    }
    for zone in &status.zones {
        output::line(format_args!("zone     {}", describe(zone)));
        for question in &zone.questions {
            output::line(format_args!("asks     {}", asked(zone, question)));
        }
        if let Some(notice) = &zone.notice {
            let (gateway, ago) = (&notice.gateway, notice.age_ms / 1000);
            output::line(format_args!(
                "says     {gateway}, {ago} s ago: {}",
                notice.words
            ));
        }
    }
    output::line(format_args!(
        "flows    {} active, {} since {}",
        status.flows.active, status.flows.total, status.since
    ));
    output::line(format_args!("log      {}", decisions(status)));
}

fn decisions(status: &Status) -> String {
    let Some(log) = &status.decisions else {
        return "decisions are not recorded".to_owned();
    };
    let mut text = format!("{} decisions in {}", log.recorded, log.directory.display());
    if log.dropped > 0 {
        text.push_str(&format!(", {} not recorded", log.dropped));
    }
    if let Some(reason) = &log.reason {
        text.push_str(&format!(" ({reason})"));
    }
    text
}

fn asked(zone: &ZoneStatus, question: &ZoneQuestion) -> String {
    match question {
        ZoneQuestion::HostKey {
            host,
            kind,
            fingerprint,
        } => format!(
            "is {fingerprint} the {kind} key of {host}? If its administrator says so: adit trust {}",
            zone.name
        ),
        ZoneQuestion::Unlock { wants, gateway } => {
            let wants = match wants {
                About::Passphrase => "the passphrase of a key",
                About::Password => "a password",
                About::KeyboardInteractive => "answers",
            };
            format!("{gateway} wants {wants}: adit unlock {}", zone.name)
        }
        ZoneQuestion::Touch { key } => {
            format!(
                "touch your key, or allow its use: {}",
                output::printable(key)
            )
        }
    }
}

fn describe(zone: &ZoneStatus) -> String {
    let host = zone.host.as_ref().map(|host| format!(" ({host})"));
    let mut text = format!("{}{}: {}", zone.name, host.unwrap_or_default(), zone.state);
    if let Some(gateway) = &zone.gateway {
        text.push_str(&format!(" through {gateway}"));
        let proxy = zone.proxy.iter().cloned();
        let way: Vec<String> = proxy.chain(zone.via.iter().cloned()).collect();
        if !way.is_empty() {
            text.push_str(&format!(" by way of {}", way.join(", ")));
        }
        if let (Some(engine), Some(because)) = (&zone.engine, &zone.engine_because) {
            text.push_str(&format!(", engine {engine} ({because})"));
        }
        text.push_str(&format!(", {} streams", zone.streams));
    }
    if let Some(reason) = &zone.reason {
        text.push_str(&format!(" ({reason})"));
    }
    if let Some(milliseconds) = zone.retry_in_ms {
        text.push_str(&format!(
            ", tries again in {:.1} s",
            milliseconds as f64 / 1000.0
        ));
    }
    text
}
