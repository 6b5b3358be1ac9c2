//! A way from a program to the zone, in a lab of its own: directly, through a peer, through Adit.

use std::time::Duration;

use adit_tests::load::{self, Numbers, port};
use adit_tests::{
    Broker, Capture, Gateway, Host, Lab, Process, Routing, RunningAdit, User, address, rules_with,
    until, way,
};
use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::figure::{Decided, Figure, Size};
use crate::forward::Forward;
use crate::peer::{Redsocks, Sshuttle};

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Tool {
    /// A router in the gateway's place.
    Direct,
    /// The same router, beside two threads that hold each connection and let it go.
    Held,
    /// redsocks before `ssh -D`.
    Redsocks,
    /// sshuttle.
    Sshuttle,
    /// Adit, where the rule that matches names the application.
    Adit,
    /// The same Adit at the port of a rule that says `connect: early`.
    AditEarly,
    /// Adit, where no rule that decides names an application.
    AditPlain,
    /// `ssh -L` to a stock sshd, for a program that was told of it.
    Forward,
    /// Adit at the same sshd, which knows nothing of it.
    AditBare,
    /// The same, where early connections are handed over to `ssh`.
    AditHanded,
}

impl Tool {
    /// Those of a run that is not told otherwise.
    pub(crate) const COMPARED: [Tool; 6] = [
        Tool::Direct,
        Tool::Held,
        Tool::Redsocks,
        Tool::Sshuttle,
        Tool::Adit,
        Tool::AditEarly,
    ];

    /// Whose path it is measured on: that of the same broker and the same link, if there is one.
    pub(crate) fn path(self) -> Tool {
        match self {
            Tool::AditEarly => Tool::Adit,
            Tool::Direct
            | Tool::Held
            | Tool::Redsocks
            | Tool::Sshuttle
            | Tool::Adit
            | Tool::AditPlain
            | Tool::Forward
            | Tool::AditBare
            | Tool::AditHanded => self,
        }
    }

    pub(crate) fn label(self) -> &'static str {
        match self {
            Tool::Direct => "direct",
            Tool::Held => "held and let go",
            Tool::Redsocks => "redsocks + ssh -D",
            Tool::Sshuttle => "sshuttle",
            Tool::Adit => "Adit",
            Tool::AditEarly => "Adit, early",
            Tool::AditPlain => "Adit, no application rule",
            Tool::Forward => "ssh -L",
            Tool::AditBare => "Adit at a stock sshd",
            Tool::AditHanded => "Adit at a stock sshd, handed over",
        }
    }
}

/// A tool that runs, and the servers at its end. Fields are dropped in order: programs before their lab.
#[derive(Debug)]
pub(crate) struct Path {
    programs: Programs,
    _servers: [Process; 2],
    lab: Lab,
}

/// What makes the path; held for as long as it is to be there.
#[derive(Debug)]
enum Programs {
    Direct,
    Held { _yes: Process },
    Redsocks { _held: Redsocks },
    Sshuttle { _held: Sshuttle },
    Adit { running: RunningAdit },
    Forward { _held: Forward },
    AditBare { _running: Box<AtStockSshd> },
}

/// Adit with nothing of its own at the gateway.
#[derive(Debug)]
struct AtStockSshd {
    _broker: Broker,
    _capture: Capture,
    _sshd: Process,
}

/// Nobody listens here, and the rule of [`port::ECHO`] is its too.
const CLOSED: u16 = 8090;
/// The same for [`port::OTHER_ECHO`].
const OTHER_CLOSED: u16 = 8091;
/// An address of the gateway that no rule is about, of the network of RFC 5737 that it shares with the client.
const OTHER_GATEWAY: &str = "192.0.2.9";
/// Of the kernel's queues, one that is nobody's.
const QUEUE: &str = "7";
const LOG_LINES: usize = 8;
const READY: Duration = Duration::from_secs(15);
/// No measure takes longer than its own bounds and what ending it takes.
const PATIENCE: Duration = Duration::from_secs(40);

impl Path {
    pub(crate) fn build(tool: Tool) -> Result<Path> {
        let lab = Lab::with(match tool {
            Tool::Direct | Tool::Held => Routing::Open,
            Tool::Redsocks
            | Tool::Sshuttle
            | Tool::Adit
            | Tool::AditEarly
            | Tool::AditPlain
            | Tool::Forward
            | Tool::AditBare
            | Tool::AditHanded => Routing::Wire,
        })?;
        forget_closed_connections(&lab)?;
        let added = format!("ip addr add {OTHER_GATEWAY}/24 dev outside");
        lab.gateway().sh(&added)?.ok()?;
        // The one on the gateway is where connections get that are passed.
        let servers = [serve(&lab, Host::Server)?, serve(&lab, Host::Gateway)?];
        let programs = Programs::start(&lab, tool)?;
        let path = Path {
            programs,
            _servers: servers,
            lab,
        };
        path.wait_open()?;
        if let Programs::Adit { .. } = path.programs {
            path.check_modes()?;
        }
        Ok(path)
    }

    /// # Errors
    /// When the load failed, with the last line that it wrote.
    pub(crate) fn measure(&self, figure: Figure, tool: Tool, size: Size) -> Result<Numbers> {
        let mut words = figure.load(size);
        if tool == Tool::AditEarly {
            words.push(format!("--port={}", port::OTHER_ECHO));
        }
        let to = match figure.decided() {
            Decided::Tunnelled => self.server(),
            Decided::PassedByBroker => address::GATEWAY,
            Decided::PassedByKernel => OTHER_GATEWAY,
        };
        self.load(to, &words)
    }

    /// The last that Adit logged, for whoever looks into a failure of it.
    pub(crate) fn log(&self) -> String {
        let Programs::Adit { running } = &self.programs else {
            return String::new();
        };
        let ends = [&running.broker.process, &running.gateway.process].map(|process| {
            let log = process.stderr();
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
        });
        ends.join("\n")
    }

    fn wait_open(&self) -> Result<()> {
        let words = Figure::RoundTrip.load(Size::Smoke);
        let mut last = None;
        let opened = until("a byte to come back", READY, || {
            last = self.load(self.server(), &words).err();
            Ok(last.is_none())
        });
        opened.map_err(|in_vain| match last {
            Some(error) => error.context(in_vain),
            None => in_vain,
        })
    }

    /// Where programs find the server.
    fn server(&self) -> &'static str {
        match self.programs {
            Programs::Forward { .. } => "127.0.0.1",
            Programs::Direct
            | Programs::Held { .. }
            | Programs::Redsocks { .. }
            | Programs::Sshuttle { .. }
            | Programs::Adit { .. }
            | Programs::AditBare { .. } => address::SERVER,
        }
    }

    /// Where nobody listens tells which port is honest: there `connect()` fails, elsewhere what comes after it. A kernel
    /// without a queue, or a rule that is not what it seems, would have its figures under the wrong heading.
    fn check_modes(&self) -> Result<()> {
        for (port, honest) in [(CLOSED, true), (OTHER_CLOSED, false)] {
            let words = ["connect", "--count=1", "--limit-ms=1000"].map(str::to_owned);
            let port = format!("--port={port}");
            let refused = self.load(address::SERVER, &[&words[..], &[port]].concat());
            let Err(error) = refused else {
                bail!("a connection to nobody was served");
            };
            let said = error.to_string();
            ensure!(
                said.starts_with(load::CONNECTING) == honest,
                "honest: {honest}, but a connection to nobody was told: {said}"
            );
        }
        Ok(())
    }

    fn load(&self, to: &str, words: &[String]) -> Result<Numbers> {
        let mut argv = vec!["adit-load".to_owned(), to.to_owned()];
        argv.extend_from_slice(words);
        let ended = self.lab.client().timeout(PATIENCE).argv(&argv)?;
        if !ended.success() {
            return Err(anyhow!(reason(&ended.stderr, ended.code)));
        }
        serde_json::from_str(&ended.stdout)
            .with_context(|| format!("adit-load said {}", ended.stdout))
    }
}

impl Programs {
    fn start(lab: &Lab, tool: Tool) -> Result<Programs> {
        Ok(match tool {
            Tool::Direct => Programs::Direct,
            Tool::Held => Programs::Held {
                _yes: hold_and_let_go(lab)?,
            },
            Tool::Redsocks => Programs::Redsocks {
                _held: Redsocks::start(lab)?,
            },
            Tool::Sshuttle => Programs::Sshuttle {
                _held: Sshuttle::start(lab)?,
            },
            Tool::Adit | Tool::AditEarly => Programs::Adit {
                running: as_it_comes(lab, &rules(true))?,
            },
            Tool::AditPlain => Programs::Adit {
                running: as_it_comes(lab, &rules(false))?,
            },
            Tool::Forward => Programs::Forward {
                _held: Forward::start(lab)?,
            },
            Tool::AditBare => Programs::AditBare {
                _running: Box::new(at_a_stock_sshd(lab, "")?),
            },
            Tool::AditHanded => Programs::AditBare {
                _running: Box::new(at_a_stock_sshd(
                    lab,
                    "    connect: early\n    hand_over: true\n",
                )?),
            },
        })
    }
}

/// All connections of the client are held, and let go.
fn hold_and_let_go(lab: &Lab) -> Result<Process> {
    let root = lab.client().user(User::Root);
    let mut yes = root.start("adit-load", &["adit-load", "0.0.0.0", "say-yes", QUEUE])?;
    yes.line_with("ready", READY)?;
    let rule = format!("iptables-nft -A OUTPUT -p tcp --syn -j NFQUEUE --queue-num {QUEUE}");
    root.sh(&rule)?.ok()?;
    Ok(yes)
}

fn serve(lab: &Lab, host: Host) -> Result<Process> {
    let mut server = lab
        .on(host)
        .start("adit-load", &["adit-load", "0.0.0.0", "serve"])?;
    server.line_with("ready", READY)?;
    Ok(server)
}

/// What an administrator of a small site might write. The load's ports in the zone are those of the third and the
/// fourth rule; on the gateway only the application keeps it from matching the fifth.
fn rules(with_application: bool) -> String {
    let application = if with_application {
        "app: [psql, adit-load, \"/opt/erp/**\"], "
    } else {
        ""
    };
    let lines = format!(
        "  - {{name: no telnet anywhere, ports: [23], action: block}}
  - {{name: mail passes, ports: [25, 465, 587, 993], action: pass}}
  - {{name: a chatty service, {application}to: [198.51.100.0/28], ports: [{}, {OTHER_CLOSED}], action: tunnel, zone: lab, connect: early}}
  - {{name: the zone's services, {application}to: [198.51.100.0/28], ports: [443, 8000-8100], action: tunnel, zone: lab}}
  - {{name: the database at the edge, app: [psql], to: [{}], ports: [8000-8100], action: tunnel, zone: lab}}
  - {{name: administrators' shells, to: [\"{}\", \"{}\"], ports: [22], action: tunnel, zone: lab}}
  - {{name: databases, to: [198.51.100.64/26], ports: [5432, 6379], action: tunnel, zone: lab}}
  - {{name: nothing else in the zone, to: [\"{}\"], action: block}}
",
        port::OTHER_ECHO,
        address::GATEWAY,
        address::ZONE,
        address::ZONE6,
        address::ZONE
    );
    rules_with(User::Alice, &lines)
}

/// What one measure left in TIME-WAIT must not slow down the `connect()` of the next: beyond a few hundred
/// the kernel forgets them at once. The same for every tool.
fn forget_closed_connections(lab: &Lab) -> Result<()> {
    for host in [Host::Client, Host::Gateway, Host::Server] {
        let words = ["sysctl", "-qw", "net.ipv4.tcp_max_tw_buckets=256"];
        lab.on(host).user(User::Root).argv(&words)?.ok()?;
    }
    Ok(())
}

/// `anyhow` writes "Error: why" and then its causes, numbered when there are more of them.
fn reason(stderr: &str, code: Option<i32>) -> String {
    let lines = stderr
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let said = lines
        .filter(|line| *line != "Caused by:")
        .map(|line| line.trim_start_matches("Error: "))
        .map(|line| {
            line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':')
                .trim()
        })
        .take(4)
        .collect::<Vec<_>>()
        .join(": ");
    match (said.is_empty(), code) {
        (false, _) => said,
        (true, Some(124)) => "did not end in time".to_owned(),
        (true, Some(code)) => format!("adit-load ended with {code}"),
        (true, None) => "adit-load was killed".to_owned(),
    }
}

/// With the peers' cipher.
/// With `more` lines in the zone.
fn at_a_stock_sshd(lab: &Lab, more: &str) -> Result<AtStockSshd> {
    let sshd = way::start_jump(lab, Host::Gateway, address::GATEWAY, 22, "")?;
    let config = format!("{}/.ssh/config", User::Alice.home());
    lab.write(User::Alice, &config, "Ciphers aes128-gcm@openssh.com\n")?;
    let capture = Capture::start(lab)?;
    let usual = Gateway::for_user(User::Alice);
    let rules = rules(true)
        .replace(&usual, usual.trim_end_matches(":443"))
        .replacen("rules:\n", &format!("{more}rules:\n"), 1);
    let quiet = ["env", "ADIT_LOG=info"];
    let broker = Broker::start_behind(lab, User::Alice, &rules, &quiet, &[])?;
    Ok(AtStockSshd {
        _broker: broker,
        _capture: capture,
        _sshd: sshd,
    })
}

/// Adit with the log of a broker that nobody told to say more.
fn as_it_comes(lab: &Lab, rules: &str) -> Result<RunningAdit> {
    let gateway = Gateway::start(lab)?;
    let capture = Capture::start(lab)?;
    let quiet = ["env", "ADIT_LOG=info"];
    let broker = Broker::start_behind(lab, User::Alice, rules, &quiet, &[])?;
    Ok(RunningAdit {
        gateway,
        capture,
        broker,
    })
}
