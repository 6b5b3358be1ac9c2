//! `adit explain`: which rule a connection would match, and why.

use std::net::{IpAddr, SocketAddr};

use adit_broker::control::protocol::{Answer, Request};
use adit_rules::{Application, Destination};
use anyhow::anyhow;

use super::{Failure, ask_broker, check::read_rules};
use crate::command_line::Explain;
use crate::output;

pub(crate) fn run(options: Explain) -> Result<(), Failure> {
    let destination = destination(&options.to).map_err(|why| Failure::usage(anyhow!(why)))?;
    let application = match options.app.as_str() {
        "unknown" => Application::Unknown,
        path => Application::Known { path: path.into() },
    };
    let file = match options.rules {
        Some(file) => file,
        None => match ask_broker(&options.control, &Request::Status {})? {
            Answer::Status(status) => status
                .rules
                .ok_or_else(|| anyhow!("the running broker has no rule file"))?,
            Answer::Flows(_) | Answer::Done | Answer::Error(_) => {
                return Err(anyhow!("the broker's answer makes no sense").into());
            }
        },
    };
    let checked = read_rules(&file)?;
    let explanation = checked.policy.explain(&destination, &application);
    if options.form.json {
        output::json(&explanation)?;
    } else {
        output::line(format_args!("{explanation}"));
    }
    Ok(())
}

/// ADDRESS:PORT, [V6]:PORT or NAME:PORT.
fn destination(text: &str) -> Result<Destination, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        let (address, port) = (Some(address.ip()), address.port());
        return Ok(Destination {
            address,
            name: None,
            port,
        });
    }
    let wrong = || format!("{text:?} is not ADDRESS:PORT or NAME:PORT");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    if host.is_empty() || host.contains([':', '/']) || host.parse::<IpAddr>().is_ok() {
        return Err(wrong());
    }
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    Ok(Destination {
        address: None,
        name: Some(name),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_as_people_write_them() {
        let check = |text: &str, address: Option<&str>, name: Option<&str>, port: u16| {
            let expected = Destination {
                address: address.map(|address| address.parse().unwrap()),
                name: name.map(str::to_owned),
                port,
            };
            assert_eq!(destination(text), Ok(expected), "{text}");
        };
        check("10.1.2.3:443", Some("10.1.2.3"), None, 443);
        check("[2001:db8::1]:22", Some("2001:db8::1"), None, 22);
        check(
            "ERP.Finance.Corp.:8000",
            None,
            Some("erp.finance.corp"),
            8000,
        );
        for bad in ["10.1.2.3", "2001:db8::1:22", ":80", "a:70000", "a/b:1"] {
            assert!(destination(bad).is_err(), "{bad}");
        }
    }
}
