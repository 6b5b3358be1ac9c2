//! connect() tells a program through Adit what it tells where nothing is in between, however the program waits for it.

use adit_tests::connect::{CONNECTED, Family, Target, Targets, Told, Way, gateway, honestly, told};
use adit_tests::{Lab, Routing, Run, RunningAdit, Shared, User, address};
use anyhow::{Context, Result, ensure};

/// How much longer than directly an answer may take.
const LATER: u64 = 700;
/// An ICMP message that comes while the kernel still sends is told the program only when the SYN is sent again.
const SENT_AGAIN: u64 = 1_000;

struct Zone {
    lab: Lab,
    adit: RunningAdit,
    _targets: Targets,
}

impl Zone {
    fn with(routing: Routing) -> Result<Zone> {
        let lab = Lab::with(routing)?;
        let targets = Targets::start(&lab)?;
        let gateway = gateway(&lab)?;
        let adit = RunningAdit::with(&lab, gateway, &honestly(User::Alice))?;
        Ok(Zone {
            lab,
            adit,
            _targets: targets,
        })
    }
}

/// The client has no route of its own to any of the targets.
fn zone() -> Result<&'static Zone> {
    static ZONE: Shared<Zone> = Shared::new();
    ZONE.get(|| Zone::with(Routing::None))
}

/// The client has a route, and nothing of what it sends there arrives.
fn routed() -> Result<&'static Zone> {
    static ZONE: Shared<Zone> = Shared::new();
    ZONE.get(|| Zone::with(Routing::Wire))
}

fn connect(run: &Run<'_>, way: Way, target: Target, family: Family, within: u64) -> Result<Told> {
    let (to, within) = (target.at(family).to_string(), within.to_string());
    let words = ["adit-connect", "to", &to, "--way", way.word(), "--read"];
    let more = ["--within", &within];
    let text = run.argv(&[&words[..], &more[..]].concat())?.ok()?;
    told(&text)?.pop().context("it told nothing")
}

/// Every way of waiting, both families, a client with a route and one without: the same as directly, and `outcome`.
fn check(target: Target, within: u64, outcome: &str) -> Result<()> {
    let all = Family::ALL
        .into_iter()
        .flat_map(|family| Way::ALL.map(|way| (family, way)));
    check_all(all, target, within, outcome)
}

fn check_all(
    all: impl Iterator<Item = (Family, Way)>,
    target: Target,
    within: u64,
    outcome: &str,
) -> Result<()> {
    for (family, way) in all {
        let direct = directly(way, target, family, within, outcome)?;
        for (zone, name) in [(zone()?, "no route"), (routed()?, "a route")] {
            let through = connect(&zone.lab.client(), way, target, family, within)?;
            let what = format!("{way:?} {family:?} {name}: {through:?}, directly {direct:?}");
            let compared = compare(target, &through, &direct);
            compared.with_context(|| zone.adit.broker.process.tale())?;
            ensure!(direct.outcome == outcome, "{what}");
        }
    }
    Ok(())
}

/// `io_uring` may say that a connection is there, and its first read that it never was, when the answer comes while it still asks: then it
/// is asked again.
fn directly(way: Way, target: Target, family: Family, within: u64, outcome: &str) -> Result<Told> {
    let lab = &zone()?.lab;
    let first = connect(&lab.direct(), way, target, family, within)?;
    if way == Way::Uring && first.outcome == CONNECTED && first.then.as_deref() == Some(outcome) {
        return connect(&lab.direct(), way, target, family, within);
    }
    Ok(first)
}

fn compare(target: Target, through: &Told, direct: &Told) -> Result<()> {
    let what = format!("{through:?}, directly {direct:?}");
    ensure!(through.story() == direct.story(), "{what}");
    ensure!(through.ms().abs_diff(direct.ms()) < later(target), "{what}");
    // A router's word may come while the call still runs, as all hosts are one machine: then it is the call's own outcome.
    if target != Target::Rejected {
        // What is known at once is the call's own outcome, which a SYN that was sent can't have.
        let same = direct.events.is_none() || through.events == direct.events;
        ensure!(same, "{what}");
    }
    Ok(())
}

fn later(target: Target) -> u64 {
    match target {
        Target::Rejected | Target::Nobody | Target::Nowhere | Target::Denied => LATER + SENT_AGAIN,
        Target::Open | Target::Closed | Target::Filtered | Target::Spare => LATER,
    }
}

#[test]
fn open_is_connected() -> Result<()> {
    check(Target::Open, 10_000, CONNECTED)
}

#[test]
fn closed_is_refused() -> Result<()> {
    check(Target::Closed, 10_000, "ECONNREFUSED")
}

#[test]
fn an_address_that_nobody_has_is_an_unreachable_host() -> Result<()> {
    // Each takes the gateway 3 s to find out.
    let some = Family::ALL.into_iter().cycle().zip(Way::ALL);
    check_all(some, Target::Nobody, 10_000, "EHOSTUNREACH")
}

#[test]
fn what_a_router_calls_unreachable_is_an_unreachable_host() -> Result<()> {
    check(Target::Rejected, 10_000, "EHOSTUNREACH")
}

#[test]
fn a_network_without_a_route_is_an_unreachable_network() -> Result<()> {
    check(Target::Nowhere, 10_000, "ENETUNREACH")
}

#[test]
fn filtered_is_silence_until_the_program_gives_up() -> Result<()> {
    check(Target::Filtered, 1_500, "gave up")
}

/// Nobody is denied without Adit; what a policy of a network says is an unreachable host (RFC 1812, 5.2.7.1).
#[test]
fn denied_by_the_gateway_is_an_unreachable_host() -> Result<()> {
    let zone = zone()?;
    for family in Family::ALL {
        for way in Way::ALL {
            let direct = connect(&zone.lab.direct(), way, Target::Denied, family, 10_000)?;
            ensure!(direct.outcome == CONNECTED, "{direct:?}");
            let through = connect(&zone.lab.client(), way, Target::Denied, family, 10_000)?;
            ensure!(through.outcome == "EHOSTUNREACH", "{way:?}: {through:?}");
            ensure!(through.ms() < later(Target::Denied), "{way:?}: {through:?}");
            let closed = connect(&zone.lab.direct(), way, Target::Closed, family, 10_000)?;
            ensure!(closed.events == through.events, "{closed:?} {through:?}");
        }
    }
    Ok(())
}

/// A service that starts two seconds after the program that needs it: refused, refused, connected.
#[test]
fn a_port_that_opens_later_is_found_by_trying_again() -> Result<()> {
    let zone = zone()?;
    let spare = |family| Target::Spare.at(family);
    for (way, family) in Way::ALL.into_iter().zip(Family::ALL.into_iter().cycle()) {
        let mut stories = Vec::new();
        for run in [zone.lab.direct(), zone.lab.client()] {
            let to = spare(family);
            let (address, port) = (to.ip().to_string(), to.port().to_string());
            let words = ["adit-connect", "listen", &address, "--port", &port];
            let late = [&words[..], &["--after", "2000"]].concat();
            let listener = zone.lab.server().start("late", &late)?;
            let to = to.to_string();
            let words = ["adit-connect", "to", &to, "--way", way.word(), "--read"];
            let again = ["--again", "30", "--every", "200"];
            let text = run.argv(&[&words[..], &again[..]].concat())?.ok()?;
            drop(listener);
            let one = told(&text)?.pop().context("it told nothing")?;
            ensure!(one.before.len() > 5, "{one:?}");
            stories.push((one.story(), one.ms()));
        }
        let ((direct, at), (through, then)) = (&stories[0], &stories[1]);
        let same = direct == through && at.abs_diff(*then) < LATER;
        ensure!(same, "{way:?}: {stories:#?}");
        ensure!(stories[0].0.contains("ECONNREFUSED"), "{stories:#?}");
    }
    Ok(())
}

#[test]
fn status_tells_how_connections_are_held() -> Result<()> {
    let zone = zone()?;
    let connect = zone.adit.broker.status(&zone.lab)?["connect"].clone();
    let by = connect["by"].as_str().unwrap_or_default();
    ensure!(
        connect["mode"] == "honest" && connect["reason"].is_null(),
        "{connect}"
    );
    ensure!(["nft", "xtables"].contains(&by), "{connect}");
    let for_people = zone.adit.broker.adit(&zone.lab, &["status"])?.ok()?;
    ensure!(for_people.contains("honest"), "{for_people}");
    Ok(())
}

#[test]
fn flows_tell_why() -> Result<()> {
    let zone = zone()?;
    for (target, state, reason) in [
        (Target::Closed, "refused", "refused"),
        (Target::Rejected, "refused", "unreachable"),
        (Target::Nowhere, "refused", "unreachable"),
        (Target::Denied, "refused", "denied"),
    ] {
        connect(
            &zone.lab.client(),
            Way::Blocking,
            target,
            Family::V4,
            10_000,
        )?;
        let to = target.at(Family::V4).to_string();
        let flow = zone.adit.broker.flow(&zone.lab, "its flow", |flow| {
            flow.destination == to && flow.state != "opening"
        })?;
        let said = flow.reason.clone().unwrap_or_default().to_lowercase();
        ensure!(flow.state == state && said.contains(reason), "{flow:?}");
        let source =
            flow.source.starts_with("127.0.0.1") || flow.source.starts_with(address::CLIENT);
        ensure!(source, "{flow:?}");
    }
    Ok(())
}

/// Nothing waits for its answer longer than it must: all at once take as long as the slowest.
#[test]
fn silent_destinations_hold_nobody_else_up() -> Result<()> {
    let zone = zone()?;
    let to = Target::Filtered.at(Family::V4).to_string();
    let words = [
        "adit-connect",
        "to",
        &to,
        "--at-once",
        "100",
        "--within",
        "20000",
    ];
    let waiting = zone.lab.client().start("waiting", &words)?;
    zone.adit
        .broker
        .flow(&zone.lab, "a silent flow", |flow| flow.destination == to)?;
    for _ in 0..20 {
        let closed = connect(
            &zone.lab.client(),
            Way::Poll,
            Target::Closed,
            Family::V4,
            5_000,
        )?;
        ensure!(
            closed.outcome == "ECONNREFUSED" && closed.ms() < LATER,
            "{closed:?}"
        );
    }
    drop(waiting);
    Ok(())
}
