//! Rules of several authors: what the administrator of the machine decides is decided, whatever a user writes or names.

use std::time::Duration;

use adit_tests::{
    Broker, Capture, Conversation, Gateway, Lab, Process, Routing, User, address, control_socket,
};
use adit_tests::{rules_for_networks, until};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
const ADMINISTRATORS: &str = "/etc/adit/rules.d/10-machine.yaml";
const USERS: &str = ".config/adit/rules.yaml";

/// The zone is tunnelled, but for this port.
fn administrators(port: u16, default: &str) -> String {
    let rules = rules_for_networks(User::Alice, &[address::ZONE]);
    let blocks = format!("rules:\n  - {{name: not this port, ports: {port}, action: block}}\n");
    rules.replacen("rules:\n", &blocks, 1).replacen(
        "default: pass",
        &format!("default: {default}"),
        1,
    )
}

/// Writes a file as the administrator does; everyone may read it.
fn write(lab: &Lab, file: &str, text: &str) -> Result<()> {
    lab.write(User::Root, file, text)?;
    let line = format!("chmod 644 {file}");
    lab.client().user(User::Root).sh(&line)?.ok()?;
    Ok(())
}

/// `adit broker` with these words alone.
fn broker(lab: &Lab, more: &[&str]) -> Result<Broker> {
    let control = control_socket(User::Alice);
    let words = ["adit", "broker", "--control", &control];
    let process = lab.client().start("broker", &[&words[..], more].concat())?;
    let mut broker = Broker {
        process,
        user: User::Alice,
    };
    broker.wait_capturing(lab)?;
    Ok(broker)
}

fn ends(lab: &Lab, mut broker: Broker) -> Result<()> {
    broker.adit(lab, &["down"])?.ok()?;
    broker.process.end(PATIENCE)?;
    Ok(())
}

/// `ACTION by RULE` for a connection to `to`, and that it is what happens to one.
fn given(lab: &Lab, broker: &Broker, to: &str) -> Result<String> {
    let words = ["explain", "--app", "/usr/bin/bash", "--to", to, "--json"];
    let told: Value = serde_json::from_str(&broker.adit(lab, &words)?.ok()?)?;
    let (action, rule) = (told["action"].as_str(), told["rule"].as_str());
    let (action, rule) = action.zip(rule).context("no decision")?;
    let (host, port) = to.rsplit_once(':').context("no port")?;
    let line = format!("exec 3<>/dev/tcp/{host}/{port}");
    let connected = lab.client().argv(&["bash", "-c", &line])?;
    if action == "block" {
        ensure!(connected.stderr.contains("refused"), "{to}: {connected}");
    } else {
        ensure!(connected.success(), "{to}: {connected}");
    }
    Ok(format!("{action} by {rule}"))
}

/// Fields are dropped in order.
struct Machine {
    servers: [(Process, String); 2],
    _capture: Capture,
    _gateway: Gateway,
    lab: Lab,
}

/// A lab with an `/etc` of its own, a helper, a gateway and a server of which two ports answer.
fn started() -> Result<Machine> {
    let lab = Lab::with(Routing::Wire)?;
    lab.own_etc()?;
    let gateway = Gateway::start(&lab)?;
    let capture = Capture::start(&lab)?;
    let server = || -> Result<(Process, String)> {
        let (process, to) = Conversation::new("finish; end", "echo")
            .times(20)
            .listen(&lab)?;
        Ok((process, to.to_string()))
    };
    let servers = [server()?, server()?];
    Ok(Machine {
        servers,
        _capture: capture,
        _gateway: gateway,
        lab,
    })
}

fn port(to: &str) -> Result<u16> {
    Ok(to.rsplit_once(':').context("no port")?.1.parse()?)
}

#[test]
fn a_users_layer_adds_and_never_weakens() -> Result<()> {
    let machine = started()?;
    let lab = &machine.lab;
    let [(_, blocked), (_, open)] = &machine.servers;
    write(lab, ADMINISTRATORS, &administrators(port(blocked)?, "pass"))?;
    let users = format!("{}/{USERS}", User::Alice.home());
    let opens = format!(
        "version: 1\nrules:\n  - {{name: mine, ports: {}, action: pass}}\n  - {{name: not for me, to: 192.0.2.77, ports: 9, action: block}}\n",
        port(blocked)?
    );
    lab.write(User::Alice, &users, &opens)?;
    let running = broker(lab, &[])?;
    ensure!(given(lab, &running, blocked)? == "block by not this port");
    ensure!(given(lab, &running, open)? == "tunnel by the zone");
    ensure!(given(lab, &running, "192.0.2.77:9")? == "block by not for me");
    let status = running.status(lab)?;
    let files = serde_json::json!([ADMINISTRATORS, users]);
    ensure!(status["rules_in_force"]["files"] == files, "{status}");

    // What the administrator adds is there without anybody's doing.
    let tighter = administrators(port(open)?, "block").replace("not this port", "that neither");
    let later = "/etc/adit/rules.yaml";
    write(
        lab,
        later,
        "version: 1\nrules: [{name: later, to: 192.0.2.78, action: block}]\n",
    )?;
    write(lab, ADMINISTRATORS, &tighter)?;
    until("the rules to be read", PATIENCE, || {
        let words = ["explain", "--app", "unknown", "--to", open, "--json"];
        Ok(running.adit(lab, &words)?.ok()?.contains("that neither"))
    })?;
    ensure!(given(lab, &running, open)? == "block by that neither");
    ensure!(given(lab, &running, "192.0.2.78:9")? == "block by later");
    ensure!(given(lab, &running, "192.0.2.79:9")? == "block by default");
    ends(lab, running)?;

    // Naming a file does not get past it, and what it says is told with its place.
    let own = rules_for_networks(User::Alice, &[address::ZONE]);
    let own = own
        .replace("  lab:", "  own:")
        .replace("zone: lab", "zone: own")
        .replace("the zone", "my way");
    lab.write(
        User::Alice,
        &format!("{}/own.yaml", User::Alice.home()),
        own,
    )?;
    let running = broker(
        lab,
        &["--rules", &format!("{}/own.yaml", User::Alice.home())],
    )?;
    ensure!(given(lab, &running, open)? == "block by that neither");
    ensure!(given(lab, &running, "192.0.2.79:9")? == "block by default");
    let tale = running.process.tale();
    ensure!(
        tale.contains("would weaken the default of the administrator"),
        "{tale}"
    );
    ensure!(tale.contains("own.yaml:"), "{tale}");
    ends(lab, running)
}

#[test]
fn check_reads_what_a_broker_would_read() -> Result<()> {
    let lab = Lab::new()?;
    lab.own_etc()?;
    let check = |more: &[&str]| lab.client().argv(&[&["adit", "check"], more].concat());
    let none = check(&[])?;
    ensure!(
        none.code == Some(2) && none.stderr.contains("there are no rules"),
        "{none}"
    );
    let broker = lab.client().argv(&["adit", "broker"])?;
    ensure!(
        broker.code == Some(2) && broker.stderr.contains("there are no rules"),
        "{broker}"
    );
    write(&lab, ADMINISTRATORS, "version: 1\ndefault: block\n")?;
    check(&[])?.ok()?;
    let users = format!("{}/{USERS}", User::Alice.home());
    lab.write(
        User::Alice,
        &users,
        "version: 1\nrules: [{ports: 0, action: block}]\n",
    )?;
    let wrong = check(&["--json"])?;
    ensure!(wrong.code == Some(2), "{wrong}");
    let told: Value = serde_json::from_str(&wrong.stdout)?;
    ensure!(told["diagnostics"][0]["file"] == users.as_str(), "{told}");
    let missing = check(&["--json", "missing.yaml"])?;
    ensure!(missing.code == Some(2), "{missing}");
    let told: Value = serde_json::from_str(&missing.stdout)?;
    ensure!(told["ok"] == false && told["more"] == 0, "{told}");
    let only = &told["diagnostics"][0];
    ensure!(
        only["severity"] == "error" && only["file"] == "missing.yaml",
        "{told}"
    );
    ensure!(
        only["message"]
            .as_str()
            .is_some_and(|it| it.contains("No such file")),
        "{told}"
    );
    // A user's file alone lacks what the administrator says.
    lab.write(
        User::Alice,
        &users,
        "version: 1\nrules: [{ports: 1, action: block}]\n",
    )?;
    check(&[])?.ok()?;
    check(&["--user-rules", &users])?.ok()?;
    let alone = check(&[&users])?;
    ensure!(
        alone.code == Some(2) && alone.stdout.contains("has no `default`"),
        "{alone}"
    );
    Ok(())
}

#[test]
fn explain_warns_of_a_path_that_no_program_has() -> Result<()> {
    let lab = Lab::new()?;
    let home = User::Alice.home();
    let (rules, link) = (format!("{home}/own.yaml"), format!("{home}/a-link"));
    lab.write(User::Alice, &rules, "version: 1\ndefault: pass\n")?;
    let own = std::fs::canonicalize("/bin/sh")?;
    let own = own.to_str().context("a path")?;
    lab.client().argv(&["ln", "-s", own, &link])?.ok()?;
    let explain = |app: &str| {
        let words = [
            "explain",
            "--rules",
            &rules,
            "--to",
            "192.0.2.1:443",
            "--app",
            app,
        ];
        lab.client().argv(&[&["adit"], &words[..]].concat())
    };
    let linked = explain(&link)?;
    ensure!(
        linked
            .stderr
            .contains(&format!("is a link: its own path is {own}")),
        "{linked}"
    );
    linked.ok()?;
    ensure!(explain(own)?.stderr.is_empty());
    Ok(())
}

#[test]
fn adit_up_does_not_go_around_the_administrator() -> Result<()> {
    let machine = started()?;
    let lab = &machine.lab;
    let gateway = Gateway::for_user(User::Alice);
    let up = ["adit", "up", &gateway, address::ZONE];
    write(lab, ADMINISTRATORS, &administrators(1, "pass"))?;
    let told = lab.client().argv(&up)?;
    ensure!(told.code == Some(2), "{told}");
    ensure!(told.stderr.contains(ADMINISTRATORS), "{told}");
    let line = format!("rm {ADMINISTRATORS}");
    lab.client().user(User::Root).sh(&line)?.ok()?;
    let mut up = lab.client().start("up", &up)?;
    up.line_with("now go through", PATIENCE)?;
    Ok(())
}
