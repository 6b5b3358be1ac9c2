//! `adit flows`.

use adit_broker::control::protocol::{Answer, Request};
use adit_broker::flow_table::{Action, FlowView};
use anyhow::anyhow;
use std::borrow::Cow;
use std::path::Path;

use super::{Failure, ask_broker};
use crate::command_line::Ask;
use crate::output;

pub(crate) fn run(options: Ask) -> Result<(), Failure> {
    let Answer::Flows(flows) = ask_broker(&options.whose, &Request::Flows {})? else {
        return Err(anyhow!("the broker's answer makes no sense").into());
    };
    if options.form.json {
        output::json(&serde_json::json!({ "flows": flows }))?;
        return Ok(());
    }
    let header = [
        "ID",
        "APPLICATION",
        "DESTINATION",
        "RULE",
        "ZONE",
        "STATE",
        "UP",
        "DOWN",
        "LASTED",
    ];
    let rows: Vec<_> = flows.iter().map(row).collect();
    output::table(&header, &rows);
    Ok(())
}

fn row(flow: &FlowView) -> Vec<String> {
    let application = name_of(flow.application.as_deref()).unwrap_or("unknown".into());
    let application = match name_of(flow.script.as_deref()) {
        Some(script) => format!("{application} {script}"),
        None => application.into_owned(),
    };
    let zone = match flow.action {
        Some(Action::Pass) => "(pass)",
        Some(Action::Block) => "(block)",
        Some(Action::Tunnel) | None => flow.zone.as_deref().unwrap_or("-"),
    };
    let state = match &flow.reason {
        Some(reason) => format!("{} ({reason})", flow.state),
        None => flow.state.to_string(),
    };
    vec![
        flow.id.to_string(),
        output::printable(&application),
        match &flow.to {
            Some(to) => format!("{} → {to}", flow.destination),
            None => flow.destination.clone(),
        },
        flow.rule.clone().unwrap_or_else(|| "-".to_owned()),
        zone.to_owned(),
        output::printable(&state),
        bytes(flow.up),
        bytes(flow.down),
        age(flow.age_ms),
    ]
}

/// The last part of a path.
fn name_of(path: Option<&str>) -> Option<Cow<'_, str>> {
    Some(Path::new(path?).file_name()?.to_string_lossy())
}

fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

pub(super) fn age(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0 => format!("{milliseconds} ms"),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_for_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(67_108_864), "64.0 MiB");
        assert_eq!(age(12), "12 ms");
        assert_eq!(age(59_999), "59 s");
        assert_eq!(age(61_000), "1m01s");
        assert_eq!(age(7_260_000), "2h01m");
    }
}
