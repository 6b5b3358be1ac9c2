//! `notify` and `log` of a rule: who is told on the desktop, how often, and what stands in the log.

use std::time::Duration;

use adit_tests::{
    Broker, Capture, Gateway, Lab, Process, User, connecting, rules_with, service, until,
};
use anyhow::{Result, ensure};

const BUS: &str = "unix:path=/run/lab/home/adit-alice/bus";
const RULES: &str = "  - {name: nobody there, to: 198.51.100.12, action: block, notify: true}\n  \
    - {name: seen, to: 198.51.100.0/24, ports: 80, action: tunnel, zone: lab, log: true, notify: true}\n  \
    - {name: unseen, to: 198.51.100.0/24, action: tunnel, zone: lab}\n";
/// A desktop that writes down what it is told (Desktop Notifications Specification).
const DESKTOP: &str = r#"
import json
from jeepney import HeaderFields, MessageType, new_method_return
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import open_dbus_connection

bus = open_dbus_connection(bus="SESSION")
bus.send_and_get_reply(message_bus.RequestName("org.freedesktop.Notifications"))
print("ready", flush=True)
while True:
    message = bus.receive()
    if message.header.message_type != MessageType.method_call:
        continue
    member = message.header.fields[HeaderFields.member]
    if member == "Notify":
        application, _, _, title, text, *_ = message.body
        print(f"{application}|{title}|{text}", flush=True)
        bus.send(new_method_return(message, "u", (1,)))
    elif member == "GetCapabilities":
        bus.send(new_method_return(message, "as", (["body"],)))
    elif member == "GetServerInformation":
        bus.send(new_method_return(message, "ssss", ("lab", "lab", "1", "1.2")))
"#;

/// A session bus, and a desktop on it.
struct Desktop {
    shown: Process,
    _bus: Process,
}

impl Desktop {
    fn start(lab: &Lab) -> Result<Desktop> {
        let client = lab.client();
        let address = format!("--address={BUS}");
        let words = [
            "dbus-daemon",
            "--session",
            "--nofork",
            "--nopidfile",
            &address,
        ];
        let mut bus = client.start("bus", &words)?;
        let listening = "ss -Hlx | grep -q adit-alice/bus";
        bus.ready_when("the session bus", Duration::from_secs(10), || {
            Ok(lab.client().user(User::Root).sh(listening)?.success())
        })?;
        lab.write(
            User::Alice,
            &format!("{}/desktop.py", User::Alice.home()),
            DESKTOP,
        )?;
        let client = lab.client().env("DBUS_SESSION_BUS_ADDRESS", BUS);
        let mut shown = client.start("desktop", &["/usr/bin/python3", "desktop.py"])?;
        shown.line_with("ready", Duration::from_secs(10))?;
        Ok(Desktop { shown, _bus: bus })
    }

    fn told(&self) -> Vec<String> {
        let all = self.shown.stdout();
        all.lines().skip(1).map(str::to_owned).collect()
    }

    fn wait_for(&self, expected: &[&str]) -> Result<()> {
        until(&format!("{expected:?}"), Duration::from_secs(10), || {
            Ok(self.told().len() >= expected.len())
        })?;
        let told = self.told();
        ensure!(told == expected, "{told:?} instead of {expected:?}");
        Ok(())
    }
}

fn curl(lab: &Lab, program: &str, to: &str) -> Result<bool> {
    let line = format!("{program} -sS --max-time 10 http://{to}/whoami");
    Ok(lab.client().sh(&line)?.success())
}

#[test]
fn an_application_is_told_of_once_a_rule() -> Result<()> {
    let lab = Lab::new()?;
    let _web = service::web(&lab)?;
    let _gateway = Gateway::start(&lab)?;
    let _capture = Capture::start(&lab)?;
    let desktop = Desktop::start(&lab)?;
    let bus = format!("DBUS_SESSION_BUS_ADDRESS={BUS}");
    let rules = rules_with(User::Alice, RULES);
    let broker = Broker::start_behind(&lab, User::Alice, &rules, &["env", &bus], &[])?;
    lab.client().sh("cp /usr/bin/curl '<b>other'")?.ok()?;
    ensure!(!curl(&lab, "curl", "198.51.100.12")?);
    let blocked = "Adit|Adit: nobody there|curl to 198.51.100.12:80 is blocked";
    desktop.wait_for(&[blocked])?;
    ensure!(
        !curl(&lab, "curl", "198.51.100.12")?,
        "again, which is not told again"
    );
    ensure!(curl(&lab, "curl", "198.51.100.10")?);
    let seen = "Adit|Adit: seen|curl to 198.51.100.10:80 goes through lab";
    desktop.wait_for(&[blocked, seen])?;
    ensure!(
        curl(&lab, "curl", "198.51.100.11:8080")?,
        "by a rule that tells nothing"
    );
    ensure!(curl(&lab, "curl", "198.51.100.11")?, "again");
    ensure!(!curl(&lab, "'./<b>other'", "198.51.100.12")?);
    let other = "Adit|Adit: nobody there|&lt;b&gt;other to 198.51.100.12:80 is blocked";
    desktop.wait_for(&[blocked, seen, other])?;
    // `log`: each decision, also of flows that went well; of other rules none.
    let log = broker.process.stderr();
    let said = |to: &str| {
        let is_it = |line: &&str| line.contains("flow decided") && line.contains(to);
        log.lines().filter(is_it).count()
    };
    let counts = ["198.51.100.10:80", "198.51.100.11:80", ":8080"].map(said);
    ensure!(counts == [1, 1, 0], "{counts:?} in {log}");
    ensure!(log.contains("application=/usr/bin/curl"), "{log}");
    Ok(())
}

/// A rule that tells is asked even where the kernel could decide alone.
#[test]
fn without_a_desktop_one_line_says_so() -> Result<()> {
    let lab = Lab::new()?;
    let _web = service::web(&lab)?;
    let _gateway = Gateway::start(&lab)?;
    let _capture = Capture::start(&lab)?;
    let rules = connecting("honest", &rules_with(User::Alice, RULES));
    let mut broker = Broker::start(&lab, User::Alice, &rules)?;
    ensure!(!curl(&lab, "curl", "198.51.100.12")?);
    let line = "no session bus";
    broker.process.line_with(line, Duration::from_secs(5))?;
    ensure!(curl(&lab, "curl", "198.51.100.10")?);
    let flow = broker.flow(&lab, "the blocked flow", |flow| {
        flow.rule.as_deref() == Some("nobody there")
    })?;
    ensure!(
        flow.application.as_deref() == Some("/usr/bin/curl"),
        "{flow:?}"
    );
    let log = broker.process.stderr();
    ensure!(log.matches(line).count() == 1, "{log}");
    Ok(())
}
