//! The real kernel and the broker together do what the rules say, and what the kernel can decide alone it does alone: what a
//! connect() gets, case by case. Each rule says itself in which order its connections are made.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use adit_tests::connect::{CONNECTED, GAVE_UP, told};
use adit_tests::{
    Broker, Capture, Gateway, Host, Lab, Process, Routing, Shared, User, address, rules_with,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Rules, the default, and cases. `4.N` and `6.N` are addresses of the server, `4.edge` and `6.edge` the gateway's, which is no
/// part of the zone. A case is: where to, which program, what it gets, who decides. `refused` and `reset` are a tunnel to a port where
/// nobody listens: told by connect(), or after it.
struct Policy {
    name: &'static str,
    /// The zone's word for its connections.
    connect: &'static str,
    rules: &'static str,
    default: &'static str,
    cases: &'static str,
}

const POLICIES: [Policy; 8] = [
    Policy {
        name: "networks that overlap",
        connect: "honest",
        rules: r#"
  - {name: one host, to: 198.51.100.12, action: block}
  - {name: a pair, to: [198.51.100.12/31, "2001:db8:2::12/127"], action: pass}
  - {name: as v6, to: "::ffff:198.51.100.14", action: pass}
  - {name: the zone, to: [198.51.100.0/24, "2001:db8:2::/64"], action: tunnel}
"#,
        default: "block",
        cases: "
            4.12:80   connect block  kernel
            4.13:80   connect pass   kernel
            4.14:443  connect pass   kernel
            4.11:80   connect tunnel broker
            4.15:443  other   tunnel broker
            6.12:80   connect pass   kernel
            6.13:443  connect pass   kernel
            6.14:443  connect tunnel broker
            6.10:80   other   tunnel broker
            4.edge:80 connect block  kernel
            6.edge:80 connect block  kernel
        ",
    },
    Policy {
        name: "ports",
        connect: "honest",
        rules: r#"
  - {name: no telnet, ports: 23, action: block}
  - {name: some, to: [198.51.100.0/24, "2001:db8:2::/64"], ports: [80, 8000-8100], action: tunnel}
  - {name: high ones, to: [198.51.100.15, "2001:db8:2::15"], ports: {not: 1-1023}, action: block}
"#,
        default: "pass",
        cases: "
            4.11:23   connect block  kernel
            6.11:23   connect block  kernel
            4.edge:23 connect block  kernel
            6.edge:23 connect block  kernel
            4.11:80   connect tunnel broker
            6.11:8000 connect tunnel broker
            4.15:8050 connect tunnel broker
            6.15:8100 connect tunnel broker
            4.15:8101 connect block  kernel
            6.15:8101 connect block  kernel
            4.11:8101 connect pass   kernel
            6.11:22   connect pass   kernel
            4.15:22   connect pass   kernel
            4.edge:80 connect pass   kernel
        ",
    },
    Policy {
        name: "ranges, and all but some",
        connect: "honest",
        rules: r#"
  - {name: elsewhere, to: {not: [198.51.100.0/24, "2001:db8:2::/64"]}, action: pass}
  - {name: a run, to: [198.51.100.12-198.51.100.14, "2001:db8:2::12-2001:db8:2::14"], ports: {not: 80}, action: block}
  - {name: most, to: [198.51.100.16, {not: [198.51.100.15-198.51.100.18, "2001:db8:2::18/125"]}], action: tunnel}
"#,
        default: "block",
        cases: "
            4.edge:80 connect pass   kernel
            6.edge:80 connect pass   kernel
            4.12:443  connect block  kernel
            4.12:80   connect tunnel broker
            4.14:22   connect block  kernel
            4.15:80   connect block  kernel
            4.16:80   connect tunnel broker
            4.17:443  connect block  kernel
            4.19:443  connect tunnel broker
            6.13:443  connect block  kernel
            6.13:80   connect tunnel broker
            6.18:80   connect block  kernel
            6.11:443  connect tunnel broker
        ",
    },
    Policy {
        name: "applications, and silence",
        connect: "honest",
        rules: r#"
  - {name: for all, to: [198.51.100.11, "2001:db8:2::11"], action: pass}
  - {name: for one, app: other, to: [198.51.100.12, "2001:db8:2::12"], action: pass}
  - {name: not for one, app: adit-connect, to: [198.51.100.13, "2001:db8:2::13"], action: block}
  - {name: quiet, to: [198.51.100.14, "2001:db8:2::14"], ports: 80, action: block, with: drop}
  - {name: loud, to: [198.51.100.14, "2001:db8:2::14"], action: block}
  - {name: only one, app: {not: [other, unknown]}, to: [198.51.100.15, "2001:db8:2::15"], action: block}
"#,
        default: "tunnel lab",
        cases: "
            4.11:80  connect pass   kernel
            6.11:80  other   pass   kernel
            4.12:80  other   pass   broker
            4.12:443 connect tunnel broker
            6.12:80  other   pass   broker
            6.12:443 connect tunnel broker
            4.13:80  connect block  broker
            4.13:443 other   tunnel broker
            6.13:80  connect block  broker
            4.14:80  connect drop   broker
            6.14:80  connect drop   broker
            4.14:443 connect block  kernel
            6.14:443 connect block  kernel
            4.15:80  connect block  broker
            4.15:443 other   tunnel broker
            6.16:80  connect tunnel broker
        ",
    },
    Policy {
        name: "users, groups and days",
        connect: "honest",
        rules: r#"
  - {name: of another, user: adit-bob, to: [198.51.100.0/24, "2001:db8:2::/64"], action: block}
  - {name: of all others, user: {not: adit-alice}, to: 198.51.100.0/24, action: block}
  - {name: by her number, user: 61001, to: [198.51.100.11, "2001:db8:2::11"], action: pass}
  - {name: by her group, group: adit-alice, to: [198.51.100.12, "2001:db8:2::12"], action: block}
  - {name: of no group, group: {not: [adit-bob, 4294967294]}, to: 198.51.100.13, action: pass}
  - {name: off, to: [198.51.100.14, "2001:db8:2::14"], action: block, enabled: false}
  - {name: over, to: [198.51.100.15, "2001:db8:2::15"], action: block, expires: 2020-12-31}
  - {name: still, to: [198.51.100.16, "2001:db8:2::16"], action: block, expires: 9999-12-31}
  - {name: the zone, user: [adit-bob, adit-alice], to: [198.51.100.0/24, "2001:db8:2::/64"], action: tunnel}
"#,
        default: "pass",
        cases: "
            4.11:80   connect pass   kernel
            6.11:80   connect pass   kernel
            4.12:80   connect block  kernel
            6.12:443  connect block  kernel
            4.13:80   connect pass   kernel
            6.13:80   connect tunnel broker
            4.14:80   connect tunnel broker
            6.14:80   connect tunnel broker
            4.15:80   connect tunnel broker
            6.15:443  connect tunnel broker
            4.16:80   connect block  kernel
            6.16:80   connect block  kernel
            4.edge:80 connect pass   kernel
        ",
    },
    Policy {
        name: "accepted first",
        connect: "honest",
        rules: r#"
  - {name: early, to: [198.51.100.11, "2001:db8:2::11"], action: tunnel, connect: early}
  - {name: early for one, app: other, to: [198.51.100.12, "2001:db8:2::12"], ports: 80, action: tunnel, connect: early}
  - {name: but not the other, app: adit-connect, to: 198.51.100.12, ports: 80, action: block}
  - {name: honest, to: [198.51.100.0/24, "2001:db8:2::/64"], ports: [443, 444], action: tunnel, connect: honest}
"#,
        default: "pass",
        cases: "
            4.11:81  connect reset  broker
            6.11:81  other   reset  broker
            4.13:444 connect refused broker
            6.13:444 connect refused broker
            4.11:80  connect tunnel broker
            6.11:443 connect tunnel broker
            4.12:80  other   tunnel broker
            4.12:80  connect block  broker
            6.12:80  connect pass   broker
            4.12:443 connect tunnel broker
            4.13:80  connect pass   kernel
            6.13:443 connect tunnel broker
        ",
    },
    Policy {
        name: "accepted first, but for some",
        connect: "early",
        rules: r#"
  - {name: honest, to: [198.51.100.11, "2001:db8:2::11"], action: tunnel, connect: honest}
  - {name: as the zone, to: [198.51.100.0/24, "2001:db8:2::/64"], action: tunnel}
"#,
        default: "block",
        cases: "
            4.11:80  connect tunnel  broker
            6.11:80  connect tunnel  broker
            4.11:81  connect refused broker
            6.11:81  connect refused broker
            4.12:80  connect tunnel  broker
            4.12:81  connect reset   broker
            6.12:81  connect reset   broker
        ",
    },
    Policy {
        name: "all but some",
        connect: "honest",
        rules: r#"
  - {name: direct, to: [198.51.100.12/30, "2001:db8:2::12/127"], ports: [22, 443], action: pass}
  - {name: never, to: [0.0.0.0/0, "::/0"], ports: 8101, action: block}
  - {name: inside of it, to: [198.51.100.13], action: block}
"#,
        default: "tunnel lab",
        cases: "
            4.12:22   connect pass   kernel
            4.13:443  connect pass   kernel
            4.13:80   connect block  kernel
            4.12:8101 connect block  kernel
            6.11:8101 connect block  kernel
            6.13:443  connect pass   kernel
            6.13:80   connect tunnel broker
            4.16:22   connect tunnel broker
            6.edge:8101 connect block kernel
        ",
    },
];

const PORTS: [u16; 8] = [22, 23, 80, 443, 8000, 8050, 8100, 8101];
/// The gateway's own service has port 443 there.
const EDGE_PORTS: [u16; 3] = [23, 80, 8101];
/// How long who gets no answer waits for one. A real one is given at once.
const PATIENCE: &str = "10000";
const NO_PATIENCE: &str = "700";

struct Zone {
    lab: Lab,
    servers: [Process; 2],
    _gateway: Gateway,
    _capture: Capture,
}

impl Zone {
    /// Who came to where, as each of the listeners saw it.
    fn seen(&self) -> Result<Vec<Vec<(SocketAddr, SocketAddr)>>> {
        let canonical = |text: &str| -> Result<SocketAddr> {
            let address: SocketAddr = text.parse()?;
            Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
        };
        let seen = |listener: &Process| {
            let output = listener.stdout();
            let pairs = output.lines().filter_map(|line| line.split_once(' '));
            pairs
                .map(|(peer, own)| Ok((canonical(peer)?, canonical(own)?)))
                .collect()
        };
        self.servers.iter().map(seen).collect()
    }
}

fn zone() -> Result<&'static Zone> {
    static ZONE: Shared<Zone> = Shared::new();
    ZONE.get(|| {
        let lab = Lab::with(Routing::Open)?;
        let more = "for last in 11 12 13 14 15 16 17 18 19; do
            ip addr add 2001:db8:2::$last/64 dev zone nodad; done";
        lab.server().sh(more)?.ok()?;
        let servers = [
            listen(&lab, Host::Server, &PORTS)?,
            listen(&lab, Host::Gateway, &EDGE_PORTS)?,
        ];
        let gateway = Gateway::start(&lab)?;
        let capture = Capture::start(&lab)?;
        lab.client()
            .sh("cp /run/lab/bin/adit-connect other")?
            .ok()?;
        Ok(Zone {
            lab,
            servers,
            _gateway: gateway,
            _capture: capture,
        })
    })
}

fn listen(lab: &Lab, host: Host, ports: &[u16]) -> Result<Process> {
    let mut words = ["adit-connect", "listen", "::"].map(str::to_owned).to_vec();
    words.extend(ports.iter().map(|port| format!("--port={port}")));
    let mut listener = lab.on(host).user(User::Root).start("listener", &words)?;
    listener.line_with("listening", Duration::from_secs(10))?;
    Ok(listener)
}

#[derive(Debug, Clone)]
struct Case {
    to: SocketAddr,
    program: &'static str,
    gets: &'static str,
    decides: &'static str,
}

impl Policy {
    fn cases(&self) -> Result<Vec<Case>> {
        let lines = self.cases.lines().filter(|line| !line.trim().is_empty());
        lines.map(|line| case(line).context(line)).collect()
    }
}

fn case(line: &'static str) -> Result<Case> {
    let [to, program, gets, decides] = line.split_whitespace().collect::<Vec<_>>()[..] else {
        bail!("four words");
    };
    let (host, port) = to.split_once(':').context("no port")?;
    let host = match host.split_once('.').context("no family")? {
        ("4", "edge") => address::GATEWAY.to_owned(),
        ("6", "edge") => address::GATEWAY6.to_owned(),
        ("4", last) => format!("198.51.100.{last}"),
        (_, last) => format!("2001:db8:2::{last}"),
    };
    Ok(Case {
        to: SocketAddr::new(host.parse()?, port.parse()?),
        program,
        gets,
        decides,
    })
}

/// All cases of a policy: what they get, what `adit explain` says they get, and whether the broker was asked.
fn check(policy: &Policy) -> Result<()> {
    let (zone, cases) = (zone()?, policy.cases()?);
    let rules = rules_with(User::Alice, policy.rules.trim_start_matches('\n'));
    let rules = rules.replace("default: pass", &format!("default: {}", policy.default));
    let rules = adit_tests::connecting(policy.connect, &rules);
    let mut broker = Broker::start(&zone.lab, User::Alice, &rules)?;
    for program in ["connect", "other"] {
        let run = cases.iter().filter(|case| case.program == program);
        let (silent, heard): (Vec<_>, Vec<_>) = run.cloned().partition(|case| case.gets == "drop");
        for (cases, within) in [(heard, PATIENCE), (silent, NO_PATIENCE)] {
            let got = got(program, &cases, within)?;
            for case in &cases {
                let got = got.get(&case.to).context("it told nothing")?;
                let meant = match case.gets {
                    "block" => "refused",
                    other => other,
                };
                ensure!(*got == meant, "{}: {case:?} gets {got}", policy.name);
            }
        }
    }
    for case in &cases {
        let said = explained(&broker, case)?;
        let meant = match case.gets {
            "drop" => "block",
            "refused" | "reset" => "tunnel",
            other => other,
        };
        ensure!(said == meant, "{}: {case:?}, explained {said}", policy.name);
    }
    let asked = broker.flows(&zone.lab)?;
    for case in &cases {
        let is_asked = asked
            .iter()
            .any(|flow| flow.destination == case.to.to_string());
        let is_the_brokers = case.decides == "broker";
        ensure!(is_asked == is_the_brokers, "{}: {case:?}", policy.name);
    }
    broker.adit(&zone.lab, &["down"])?.ok()?;
    broker.process.end(Duration::from_secs(20))?;
    Ok(())
}

/// What a program gets from each destination, by what it was told and by whom the listener saw.
fn got(program: &str, cases: &[Case], within: &str) -> Result<BTreeMap<SocketAddr, &'static str>> {
    let zone = zone()?;
    if cases.is_empty() {
        return Ok(BTreeMap::new());
    }
    let path = match program {
        "connect" => "adit-connect",
        _ => "./other",
    };
    let mut words = vec![path, "to", "--read", "--within", within];
    let to: Vec<String> = cases.iter().map(|case| case.to.to_string()).collect();
    words.extend(to.iter().map(String::as_str));
    let before = zone.seen()?;
    let ended = zone.lab.client().argv(&words)?.ok()?;
    let mut seen = zone.seen()?;
    for (seen, before) in seen.iter_mut().zip(&before) {
        seen.drain(..before.len());
    }
    let told = told(&ended)?.into_iter();
    told.map(|told| {
        let peer = seen.iter().flatten().find(|(_, own)| *own == told.to);
        let got = match (told.outcome.as_str(), told.then.as_deref(), peer) {
            (CONNECTED, Some("data"), Some((peer, _))) => way(*peer)?,
            (CONNECTED, Some("ECONNRESET"), None) => "reset",
            ("ECONNREFUSED", None, None) => "refused",
            (GAVE_UP, None, None) => "drop",
            _ => bail!("{told:?}, seen {peer:?}"),
        };
        Ok((told.to, got))
    })
    .collect()
}

fn way(peer: SocketAddr) -> Result<&'static str> {
    match peer.ip().to_string().as_str() {
        address::CLIENT | address::CLIENT6 => Ok("pass"),
        address::GATEWAY_INSIDE | address::GATEWAY6_INSIDE => Ok("tunnel"),
        _ => bail!("a stranger came: {peer}"),
    }
}

fn explained(broker: &Broker, case: &Case) -> Result<String> {
    let app = match case.program {
        "connect" => "/run/lab/bin/adit-connect",
        _ => "/run/lab/home/adit-alice/other",
    };
    let to = case.to.to_string();
    let words = ["explain", "--app", app, "--to", &to, "--json"];
    let text = broker.adit(&zone()?.lab, &words)?.ok()?;
    let said: Value = serde_json::from_str(&text).context(text)?;
    Ok(said["action"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn kernel_and_broker_do_what_the_rules_say() -> Result<()> {
    let mut count = 0;
    for policy in &POLICIES {
        check(policy).with_context(|| policy.name)?;
        count += policy.cases()?.len();
    }
    ensure!(count >= 60, "{count} cases");
    Ok(())
}
