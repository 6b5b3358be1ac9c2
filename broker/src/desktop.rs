//! Telling the user on the desktop that a rule with `notify` caught an application: by `notify-send`, which speaks to
//! `org.freedesktop.Notifications` on the session's D-Bus. A program that is there with every desktop is less than a D-Bus of
//! our own, and what can't be told is one line in the log.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::Uid;

use crate::flow_table::{Action, FlowView};

/// Where the session bus is told of (dbus-daemon(1)).
const BUS: &str = "DBUS_SESSION_BUS_ADDRESS";
/// Pairs of rule and application that are remembered; later ones are not told.
const REMEMBERED: usize = 10_000;
/// Messages that wait; one more is not told.
const QUEUE: usize = 16;
/// So many are told a minute.
const A_MINUTE: usize = 6;
const MINUTE: Duration = Duration::from_secs(60);
/// How long `notify-send` may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Characters of what is shown.
const SHOWN: usize = 300;

/// The user's desktop, if there is one.
#[derive(Debug)]
pub struct Desktop {
    user: Uid,
    told: Mutex<HashSet<(String, Option<String>)>>,
    messages: OnceLock<Option<SyncSender<Message>>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Message {
    title: String,
    text: String,
}

impl Desktop {
    /// Nothing is started before there is something to tell.
    pub(crate) fn of(user: Uid) -> Self {
        Self {
            user,
            told: Mutex::default(),
            messages: OnceLock::new(),
        }
    }

    /// Tells of a flow, if its application is caught by its rule for the first time. Never waits.
    pub(crate) fn tell(&self, flow: &FlowView) {
        if !self.is_first(flow) {
            return;
        }
        let messages = self.messages.get_or_init(|| start(self.user));
        if let Some(messages) = messages
            && let Err(TrySendError::Full(message)) = messages.try_send(Message::of(flow))
        {
            tracing::info!(
                "not told on the desktop, as there is too much: {}",
                message.text
            );
        }
    }

    fn is_first(&self, flow: &FlowView) -> bool {
        let rule = flow.rule.clone().unwrap_or_default();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < REMEMBERED && told.insert((rule, flow.application.clone()))
    }
}

impl Message {
    fn of(flow: &FlowView) -> Self {
        let application = flow.application.as_deref().map(std::path::Path::new);
        let name = application.and_then(|path| path.file_name());
        let name = name.map_or("a program that is not known".into(), |name| {
            name.to_string_lossy()
        });
        let what = match (flow.action, &flow.zone) {
            (Some(Action::Block), _) => "is blocked".to_owned(),
            (Some(Action::Tunnel), Some(zone)) => format!("goes through {zone}"),
            (Some(Action::Pass | Action::Tunnel) | None, _) => "goes direct".to_owned(),
        };
        Self {
            title: format!("Adit: {}", shown(flow.rule.as_deref().unwrap_or("-"))),
            text: shown(&format!("{name} to {} {what}", flow.destination)),
        }
    }
}

/// Text from outside, without what a terminal or a desktop would obey.
fn shown(text: &str) -> String {
    let plain = text.chars().take(SHOWN);
    plain
        .map(|char| if char.is_control() { '\u{fffd}' } else { char })
        .collect()
}

/// The text may be read as markup (Desktop Notifications Specification, "Markup").
fn without_markup(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn start(user: Uid) -> Option<SyncSender<Message>> {
    let Some(bus) = bus(user) else {
        tracing::info!(
            "rules with `notify` can't tell the desktop: there is no session bus ({BUS})"
        );
        return None;
    };
    let (sender, messages) = sync_channel(QUEUE);
    let thread = std::thread::Builder::new().name("desktop".to_owned());
    match thread.spawn(move || tell_all(&messages, &bus)) {
        Ok(_) => Some(sender),
        Err(error) => {
            tracing::info!("rules with `notify` can't tell the desktop: {error}");
            None
        }
    }
}

/// As the environment says, else where systemd's user manager has it (pam_systemd(8)).
fn bus(user: Uid) -> Option<OsString> {
    if let Some(named) = std::env::var_os(BUS) {
        return Some(named);
    }
    let socket = PathBuf::from(format!("/run/user/{user}/bus"));
    let is_socket = std::fs::metadata(&socket).is_ok_and(|found| found.file_type().is_socket());
    is_socket.then(|| OsString::from(format!("unix:path={}", socket.display())))
}

fn tell_all(messages: &Receiver<Message>, bus: &OsString) {
    let mut pace = Pace::default();
    let mut failed = false;
    for message in messages {
        if !pace.allows(Instant::now()) {
            tracing::info!(
                "not told on the desktop, as there is too much: {}",
                message.text
            );
            continue;
        }
        match show(&message, bus) {
            Ok(()) => failed = false,
            Err(reason) if !failed => {
                failed = true;
                tracing::info!("rules with `notify` can't tell the desktop: {reason}");
            }
            Err(_) => {}
        }
    }
}

fn show(message: &Message, bus: &OsString) -> Result<(), String> {
    let child = Command::new("notify-send")
        .args(["--app-name=Adit", "--", &message.title])
        .arg(without_markup(&message.text))
        .env(BUS, bus)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let child = child.map_err(|error| format!("notify-send (libnotify-bin): {error}"))?;
    ended(child)
}

fn ended(mut child: Child) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("notify-send: {status}")),
            Ok(None) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(None) | Err(_) => {
                // It may have ended at this moment.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("notify-send: not within {} s", PATIENCE.as_secs()));
            }
        }
    }
}

/// How many were told in the last minute.
#[derive(Debug, Default)]
struct Pace(Vec<Instant>);

impl Pace {
    fn allows(&mut self, now: Instant) -> bool {
        self.0.retain(|told| now.duration_since(*told) < MINUTE);
        let allows = self.0.len() < A_MINUTE;
        if allows {
            self.0.push(now);
        }
        allows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow_table::State;

    fn flow(application: Option<&str>, rule: &str) -> FlowView {
        FlowView {
            id: 1,
            application: application.map(str::to_owned),
            script: None,
            pid: None,
            destination: "192.0.2.1:443".to_owned(),
            to: None,
            source: "192.0.2.2:40000".parse().unwrap(),
            rule: Some(rule.to_owned()),
            zone: None,
            action: Some(Action::Block),
            state: State::Refused,
            stage: None,
            saw: None,
            reason: None,
            up: 0,
            down: 0,
            age_ms: 0,
            opened_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn each_application_once_a_rule() {
        let desktop = Desktop::of(Uid::from_raw(61_999));
        for (application, rule, first) in [
            (Some("/usr/bin/curl"), "a", true),
            (Some("/usr/bin/curl"), "a", false),
            (Some("/usr/bin/curl"), "b", true),
            (Some("/opt/curl"), "a", true),
            (None, "a", true),
            (None, "a", false),
        ] {
            let flow = flow(application, rule);
            assert_eq!(desktop.is_first(&flow), first, "{application:?} {rule}");
        }
    }

    #[test]
    fn nothing_in_it_is_obeyed() {
        let message = Message::of(&flow(Some("/tmp/\u{1b}[2J<b>&x"), "r\n2"));
        assert_eq!(message.title, "Adit: r\u{fffd}2");
        assert_eq!(
            without_markup(&message.text),
            "\u{fffd}[2J&lt;b&gt;&amp;x to 192.0.2.1:443 is blocked"
        );
    }

    #[test]
    fn no_more_than_so_many_a_minute() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let at = |second: u64| start + Duration::from_secs(second);
        let told = (0..20).filter(|second| pace.allows(at(*second))).count();
        assert_eq!(told, A_MINUTE);
        assert!(!pace.allows(at(59)));
        assert!(pace.allows(at(60)), "the first is a minute old");
        assert!(!pace.allows(at(60)));
    }
}
