//! `adit up`: one command, no rule file, no service, and nothing left behind.

use std::time::Duration;

use adit_tests::connect::{CONNECTED, told};
use adit_tests::{Conversation, Gateway, Host, Lab, Order, Process, Routing, User, Witness};
use adit_tests::{address, adit, as_before, control_socket, kernel_state, until, way};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(15);

fn up(lab: &Lab) -> Result<Process> {
    up_in(lab, Order::of_this_run())
}

fn up_in(lab: &Lab, order: Order) -> Result<Process> {
    up_with(lab, &Gateway::for_user(User::Alice), order, &[])
}

/// What a person types behind `sudo`, and `more`; the environment is what sudo makes of it.
fn up_with(lab: &Lab, gateway: &str, order: Order, more: &[&str]) -> Result<Process> {
    let alice = User::Alice;
    let (home, control) = (alice.home(), control_socket(alice));
    let (identity, known) = (
        format!("{home}/.ssh/id_ed25519"),
        format!("{home}/.ssh/known_hosts"),
    );
    let words = ["adit", "up", gateway, address::ZONE, address::ZONE6];
    let keys = [
        "--identity",
        &identity,
        "--known-hosts",
        &known,
        "--control",
        &control,
    ];
    let order: &[&str] = match order {
        Order::Honest => &[],
        Order::Early => &["--connect", "early"],
    };
    let root = lab.client().user(User::Root);
    let sudo = root
        .env("SUDO_UID", alice.uid())
        .env("SUDO_GID", alice.uid());
    let mut up = sudo
        .env("SUDO_USER", alice.name())
        .start("up", &[&words[..], &keys[..], order, more].concat())?;
    let line = up.line_with("now go through", PATIENCE)?;
    ensure!(
        line.contains(address::ZONE) && line.contains(alice.name()),
        "it says: {line}"
    );
    Ok(up)
}

fn works(lab: &Lab) -> Result<()> {
    for address in [address::SERVER, address::SERVER6] {
        let talk = Conversation::new("both 1M; finish; end", "both 1M; end").at(address);
        talk.hold(lab, &lab.client())?
            .same_as(&talk.hold(lab, &lab.direct())?)?;
    }
    Ok(())
}

/// A connect to the zone fails, and soon.
fn blocked(lab: &Lab) -> Result<bool> {
    let to = format!("{}:80", address::SERVER);
    let dialled = lab.client().argv(&["adit-peer", "dial", &to, "end"])?;
    let soon = dialled.took < Duration::from_secs(5);
    let sight = adit_tests::sights(&dialled.ok()?)?.remove(0);
    Ok(soon && sight.steps.last().is_some_and(|last| last != "end"))
}

/// Programs of Adit that run on the client as `user`.
fn running(lab: &Lab, user: User) -> Result<String> {
    let line = format!("pgrep -l -u {} '^adit' || true", user.uid());
    Ok(lab
        .client()
        .user(User::Root)
        .sh(&line)?
        .ok()?
        .trim()
        .to_owned())
}

fn kill(lab: &Lab, user: User) -> Result<()> {
    let line = format!("pkill -KILL -u {} '^adit'", user.uid());
    lab.client()
        .user(User::Root)
        .sh(&line)?
        .ok()
        .context("nothing of Adit was there to kill")?;
    Ok(())
}

/// Ends it as Ctrl-C does; everything is as `before`.
fn ends_cleanly(lab: &Lab, mut up: Process, before: &str) -> Result<()> {
    up.signal(Signal::SIGINT)?;
    let status = up.end(PATIENCE)?;
    ensure!(status.success(), "it ended with {status}: {}", up.tale());
    for user in [User::Alice, User::Root] {
        until("its programs to be gone", PATIENCE, || {
            Ok(running(lab, user)?.is_empty())
        })?;
    }
    as_before(lab, before)?;
    Ok(())
}

#[test]
fn captures_the_caller_only_and_leaves_nothing_behind() -> Result<()> {
    let lab = Lab::new()?;
    let before = kernel_state(&lab)?;
    let gateway = Gateway::start(&lab)?;
    let up = up(&lab)?;
    works(&lab)?;
    for user in [User::Root, User::Bob] {
        let to = format!("{}:80", address::SERVER);
        let dialled = lab
            .on(Host::Client)
            .user(user)
            .argv(&["adit-peer", "dial", &to, "end"])?
            .ok()?;
        let sight = adit_tests::sights(&dialled)?.remove(0);
        ensure!(
            sight.steps == ["connect: network unreachable"],
            "{user:?}: {sight:?}"
        );
    }
    ensure!(
        !running(&lab, User::Alice)?.is_empty(),
        "the broker should run as the caller"
    );
    ends_cleanly(&lab, up, &before)?;
    drop(gateway);
    Ok(())
}

/// To where nobody listens.
#[test]
fn early_accepts_what_is_refused_later() -> Result<()> {
    for (order, outcome, then) in [
        (Order::Honest, "ECONNREFUSED", None),
        (Order::Early, CONNECTED, Some("ECONNRESET")),
    ] {
        let lab = Lab::new()?;
        let before = kernel_state(&lab)?;
        let _gateway = Gateway::start(&lab)?;
        let up = up_in(&lab, order)?;
        for address in [address::SERVER, &format!("[{}]", address::SERVER6)] {
            let to = format!("{address}:4002");
            let words = ["adit-connect", "to", &to, "--read"];
            let one = told(&lab.client().argv(&words)?.ok()?)?.remove(0);
            let as_expected = one.outcome == outcome && one.then.as_deref() == then;
            ensure!(as_expected, "{order:?}: {one:?}");
        }
        works(&lab)?;
        ends_cleanly(&lab, up, &before)?;
    }
    Ok(())
}

/// How the zone is reached, as `adit status` has it.
fn zone(lab: &Lab) -> Result<Value> {
    let told = adit(lab, User::Alice, &["status", "--json"])?.ok()?;
    let mut status: Value = serde_json::from_str(&told)?;
    Ok(status["zones"][0].take())
}

#[test]
fn over_a_jump_host() -> Result<()> {
    let lab = Lab::new()?;
    let before = kernel_state(&lab)?;
    let _jump = way::start_jump(&lab, Host::Gateway, address::GATEWAY, 22, "")?;
    let _gateway = way::start_gateway_behind(&lab)?;
    let jump = format!("{}@{}", User::Alice.name(), address::GATEWAY);
    let up = up_with(
        &lab,
        &way::gateway_behind(),
        Order::of_this_run(),
        &["--via", &jump],
    )?;
    let zone = zone(&lab)?;
    ensure!(
        zone["state"] == "up" && zone["via"] == json!([jump]),
        "{zone}"
    );
    let talk = Conversation::new("both 1M; finish; end", "both 1M; end");
    let seen = talk.hold(&lab, &lab.client())?.client.remove(0).steps;
    ensure!(seen.last().is_some_and(|last| last == "end"), "{seen:?}");
    ends_cleanly(&lab, up, &before)
}

#[test]
fn through_a_proxy_that_asks_for_a_password() -> Result<()> {
    let lab = Lab::new()?;
    let before = kernel_state(&lab)?;
    let _gateway = Gateway::start(&lab)?;
    let _proxy = way::start_microsocks(&lab, &["-u", "alice", "-P", "sesame"])?;
    let file = format!("{}/word", User::Alice.home());
    lab.write(User::Alice, &file, "sesame\n")?;
    let place = format!("{}:1080", address::GATEWAY);
    let proxy = format!("socks5://alice@{place}");
    let more = ["--proxy", &proxy, "--proxy-password-file", &file];
    let gateway = Gateway::for_user(User::Alice);
    let up = up_with(&lab, &gateway, Order::of_this_run(), &more)?;
    let zone = zone(&lab)?;
    ensure!(zone["proxy"] == format!("socks5://{place}"), "{zone}");
    works(&lab)?;
    ends_cleanly(&lab, up, &before)
}

#[test]
fn by_the_systems_ssh() -> Result<()> {
    let lab = Lab::new()?;
    let before = kernel_state(&lab)?;
    let _gateway = Gateway::start(&lab)?;
    let gateway = Gateway::for_user(User::Alice);
    let up = up_with(
        &lab,
        &gateway,
        Order::of_this_run(),
        &["--engine", "openssh"],
    )?;
    let zone = zone(&lab)?;
    ensure!(zone["engine"] == "openssh", "{zone}");
    works(&lab)?;
    ends_cleanly(&lab, up, &before)
}

#[test]
fn a_way_that_makes_no_sense_is_wrong_use() -> Result<()> {
    let lab = Lab::new()?;
    let gateway = Gateway::for_user(User::Alice);
    for (more, words) in [
        (
            &["--proxy", "http://alice:sesame@192.0.2.1:3128"][..],
            "everybody can read a command line",
        ),
        (
            &[
                "--proxy",
                "http://192.0.2.1:3128",
                "--proxy-password-file",
                "/word",
            ],
            "--proxy-password-file is for a user",
        ),
        (&["--proxy", "192.0.2.1:3128"], "this is not a proxy"),
        (&["--proxy-password-file", "/word"], "--proxy <PROXY>"),
        (&["--via", "jump.%h"], "is not the name of a host"),
        (&["--via=a"; 9], "at most 8 jump hosts"),
    ] {
        let up = ["adit", "up", &gateway, address::ZONE];
        let ended = lab.client().argv(&[&up, more].concat())?;
        let is_wrong_use = ended.code == Some(2) && ended.stderr.contains(words);
        ensure!(is_wrong_use, "{more:?}: {ended}");
    }
    Ok(())
}

#[test]
fn each_destination_is_its_own_gateway() -> Result<()> {
    let lab = Lab::with(Routing::Open)?;
    let before = kernel_state(&lab)?;
    let _host = way::start_gateway_behind_allowing(&lab, &["127.0.0.0/8:*"], "")?;
    let gateway = format!("{}@%h:443", User::Alice.name());
    let up = up_with(&lab, &gateway, Order::of_this_run(), &[])?;
    let service = ["adit-peer", "serve", "127.0.0.1", "echo", "--port", "7000"];
    let mut service = lab.server().start("service", &service)?;
    service.line_with("port", PATIENCE)?;
    let to = format!("{}:7000", address::SERVER);
    let dial = ["adit-peer", "dial", &to, "ping 3; finish; end"];
    let seen = lab.client().argv(&dial)?.ok()?;
    let steps = adit_tests::sights(&seen)?.remove(0).steps;
    ensure!(steps.last().is_some_and(|last| last == "end"), "{steps:?}");
    let zone = zone(&lab)?;
    ensure!(zone["host"] == address::SERVER, "{zone}");
    ends_cleanly(&lab, up, &before)
}

#[test]
fn needs_a_name_to_capture_root() -> Result<()> {
    let lab = Lab::new()?;
    let _gateway = Gateway::start(&lab)?;
    let words = ["adit", "up", &Gateway::for_user(User::Alice), address::ZONE];
    let ended = lab.client().user(User::Root).argv(&words)?;
    ensure!(
        ended.code == Some(2) && ended.stderr.contains("--as"),
        "{ended}"
    );
    Ok(())
}

/// Kills one half without a goodbye. What was tunnelled is blocked until the next start, which cleans up.
fn survives_the_death_of(half: User) -> Result<()> {
    let lab = Lab::with(Routing::Wire)?;
    let before = kernel_state(&lab)?;
    let _gateway = Gateway::start(&lab)?;
    let witness = Witness::start(&lab)?;
    let mut first = up(&lab)?;
    works(&lab)?;
    kill(&lab, half)?;
    if half == User::Alice {
        first.end(PATIENCE)?;
        until("the zone to be blocked", PATIENCE, || blocked(&lab))?;
    }
    for _ in 0..20 {
        // With the helper gone, the broker may still carry flows; none may go direct.
        let to = format!("{}:80", address::SERVER);
        lab.client()
            .argv(&["adit-peer", "dial", &to, "end"])?
            .ok()?;
    }
    if first.running()? {
        first.signal(Signal::SIGINT)?;
        first.end(PATIENCE)?;
    }
    let second = up(&lab)?;
    works(&lab)?;
    witness.finish(&lab)?.nothing()?;
    ends_cleanly(&lab, second, &before)
}

#[test]
fn broker_half_killed() -> Result<()> {
    survives_the_death_of(User::Alice)
}

#[test]
fn helper_half_killed() -> Result<()> {
    survives_the_death_of(User::Root)
}

#[test]
fn without_its_helper_it_ends_and_its_word_stays_in_force() -> Result<()> {
    let lab = Lab::with(Routing::Wire)?;
    let before = kernel_state(&lab)?;
    let _gateway = Gateway::start(&lab)?;
    let mut up = up(&lab)?;
    works(&lab)?;
    let witness = Witness::start(&lab)?;
    kill(&lab, User::Root)?;
    let status = up.end(PATIENCE)?;
    let tale = up.tale();
    ensure!(status.code() == Some(1), "{status}: {tale}");
    ensure!(tale.contains("the capture helper is gone"), "{tale}");
    ensure!(blocked(&lab)?, "nobody said goodbye: it should be blocked");
    witness.finish(&lab)?.nothing()?;
    let control = control_socket(User::Alice);
    let sudo = ["sudo", "adit", "down", "--control", &control];
    lab.client().argv(&sudo)?.ok()?;
    as_before(&lab, &before)
}

#[test]
fn both_halves_killed_and_down_cleans() -> Result<()> {
    let lab = Lab::with(Routing::Wire)?;
    let before = kernel_state(&lab)?;
    let _gateway = Gateway::start(&lab)?;
    let mut first = up(&lab)?;
    let witness = Witness::start(&lab)?;
    kill(&lab, User::Root)?;
    kill(&lab, User::Alice)?;
    first.end(PATIENCE)?;
    ensure!(
        blocked(&lab)?,
        "the zone should be blocked with both halves gone"
    );
    witness.finish(&lab)?.nothing()?;
    let control = control_socket(User::Alice);
    let root = lab
        .client()
        .user(User::Root)
        .env("SUDO_UID", User::Alice.uid());
    root.argv(&["adit", "down", "--control", &control])?.ok()?;
    as_before(&lab, &before)?;
    Ok(())
}
