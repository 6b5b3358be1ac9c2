//! Other rules while flows live: which go on and which do not, what is told of it, and what happens when the rules are wrong.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use adit_tests::{
    Broker, Capture, Conversation, Gateway, Lab, Process, Routing, RunningAdit, User,
};
use adit_tests::{address, connecting, rules_with, until};
use anyhow::{Context, Result, ensure};
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
/// What `--rules` names: the rest is in a file that can be exchanged without an event at any directory that is watched.
const MAIN: &str = "version: 1\ninclude: top/deep/a/rules.yaml\n";

/// Two servers that echo, and what runs.
struct Rig {
    kept: SocketAddr,
    changed: SocketAddr,
    _servers: [Process; 2],
    adit: RunningAdit,
    lab: Lab,
}

impl Rig {
    fn start() -> Result<Rig> {
        let lab = Lab::with(Routing::Wire)?;
        let echo = || {
            Conversation::new("finish; end", "echo")
                .times(20)
                .listen(&lab)
        };
        let ((first, kept), (second, changed)) = (echo()?, echo()?);
        put(&lab, "top", &rules(kept, changed, "tunnel"))?;
        let adit = RunningAdit::with(&lab, Gateway::start(&lab)?, MAIN)?;
        Ok(Rig {
            kept,
            changed,
            _servers: [first, second],
            adit,
            lab,
        })
    }

    /// Puts these rules into the place of the others, and nobody hears of it.
    fn exchange(&self, rules: &str) -> Result<()> {
        put(&self.lab, "next", rules)?;
        let home = User::Alice.home();
        let line = format!("cd {home} && rm -rf last && mv top last && mv next top");
        self.lab.client().sh(&line)?.ok()?;
        Ok(())
    }

    fn block_changed(&self) -> Result<()> {
        self.exchange(&rules(self.kept, self.changed, "block"))
    }

    fn reload(&self) -> Result<Value> {
        let told = self
            .adit
            .broker
            .adit(&self.lab, &["reload", "--json"])?
            .ok()?;
        serde_json::from_str(&told).context(told)
    }

    fn talk(&self, to: SocketAddr) -> Result<Talk> {
        Talk::start(&self.lab, &self.adit.broker, to)
    }

    fn rules_error(&self) -> Result<Option<String>> {
        let status = self.adit.broker.status(&self.lab)?;
        Ok(status["rules_in_force"]["error"]["text"]
            .as_str()
            .map(str::to_owned))
    }
}

fn put(lab: &Lab, top: &str, rules: &str) -> Result<()> {
    let file = format!("{}/{top}/deep/a/rules.yaml", User::Alice.home());
    lab.write(User::Alice, &file, rules)
}

/// Both servers through the zone, or the second as said.
fn rules(kept: SocketAddr, changed: SocketAddr, action: &str) -> String {
    let (kept, changed) = (kept.port(), changed.port());
    rules_with(
        User::Alice,
        &format!(
            "  - {{name: one, to: {zone}, ports: {kept}, action: tunnel, zone: lab}}
  - {{name: other, to: {zone}, ports: {changed}, action: {action}}}
",
            zone = address::ZONE
        ),
    )
}

/// A program that says a word, hears it, and says another when it is told to. It starts no program that would share its
/// connection, so that nobody could say whose that is.
struct Talk {
    go: std::path::PathBuf,
    program: Process,
    id: u64,
}

impl Talk {
    fn start(lab: &Lab, broker: &Broker, to: SocketAddr) -> Result<Self> {
        Self::by_way_of(to, lab, broker, to)
    }

    /// By a listener that leads there.
    fn by_way_of(at: SocketAddr, lab: &Lab, broker: &Broker, to: SocketAddr) -> Result<Self> {
        static TALKS: AtomicU32 = AtomicU32::new(0);
        let number = TALKS.fetch_add(1, Ordering::Relaxed);
        let go = format!("{}/go-{number}", User::Alice.home());
        let line = format!(
            "mkfifo {go} && exec 4<>{go} 3<>/dev/tcp/{}/{} || exit 1
             echo one >&3; read -r word <&3 && echo \"heard $word\"
             read -r go <&4
             echo two >&3; read -r word <&3 && echo \"heard $word\" || echo gone",
            at.ip(),
            at.port()
        );
        let mut program = lab.client().start("talk", &["bash", "-c", &line])?;
        program.line_with("heard one", PATIENCE)?;
        let (to, own) = (to.to_string(), "an open flow");
        // Whose it is comes a moment later where no rule asks.
        let flow = broker.flow(lab, own, |flow| {
            flow.destination == to && flow.state == "open" && flow.application.is_some()
        })?;
        Ok(Talk {
            go: lab.outside(&go),
            program,
            id: flow.id,
        })
    }

    /// What becomes of the other word.
    fn go_on(mut self) -> Result<String> {
        // Of a program that has ended it is an error at once.
        let mut go = OpenOptions::new();
        let mut go = go
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(&self.go)?;
        writeln!(go)?;
        self.program.end(PATIENCE)?;
        let said = self.program.stdout();
        Ok(said.lines().last().unwrap_or_default().to_owned())
    }
}

/// Whether a new connection is made and answered.
fn connects(lab: &Lab, to: SocketAddr) -> Result<bool> {
    let line = format!(
        "exec 3<>/dev/tcp/{}/{} && echo one >&3 && read -t 10 -r word <&3 && [ \"$word\" = one ]",
        to.ip(),
        to.port()
    );
    Ok(lab.client().argv(&["bash", "-c", &line])?.success())
}

#[test]
fn what_is_asked_for_is_told() -> Result<()> {
    let rig = Rig::start()?;
    let (kept, changed) = (rig.talk(rig.kept)?, rig.talk(rig.changed)?);
    rig.block_changed()?;
    let told = rig.reload()?;
    ensure!(
        told["kept"] == 1 && told["kernel_changed"] == true,
        "{told}"
    );
    let list = told["changed"].as_array().context("no list")?;
    ensure!(list.len() == 1, "{told}");
    let one = &list[0];
    ensure!(
        one["id"] == changed.id && one["destination"] == rig.changed.to_string(),
        "{told}"
    );
    ensure!(
        one["application"]
            .as_str()
            .is_some_and(|it| it.ends_with("/bash")),
        "{told}"
    );
    ensure!(
        one["from"]["action"] == "tunnel" && one["from"]["zone"] == "lab",
        "{told}"
    );
    ensure!(
        one["to"]["action"] == "block" && one["to"]["rule"] == "other",
        "{told}"
    );
    ensure!(one["outcome"] == "closed", "{told}");
    let closed = rig.adit.broker.flow(&rig.lab, "the closed flow", |flow| {
        flow.id == changed.id && flow.state == "closed"
    })?;
    let reason = closed.reason.unwrap_or_default();
    ensure!(
        reason == "closed by a reload: block by \"other\"",
        "{reason}"
    );
    ensure!(changed.go_on()? == "gone");
    ensure!(kept.go_on()? == "heard two");
    ensure!(connects(&rig.lab, rig.kept)? && !connects(&rig.lab, rig.changed)?);
    // And back: what is opened is open at once.
    rig.exchange(&rules(rig.kept, rig.changed, "tunnel"))?;
    ensure!(rig.reload()?["kernel_changed"] == true);
    ensure!(connects(&rig.lab, rig.changed)?);
    let again = rig.adit.broker.adit(&rig.lab, &["reload"])?.ok()?;
    ensure!(again.contains("0 do not"), "{again}");
    Ok(())
}

#[test]
fn a_dry_run_tells_the_same_and_does_nothing() -> Result<()> {
    let rig = Rig::start()?;
    let (kept, changed) = (rig.talk(rig.kept)?, rig.talk(rig.changed)?);
    rig.block_changed()?;
    let words = ["reload", "--dry-run", "--json"];
    let told: Value = serde_json::from_str(&rig.adit.broker.adit(&rig.lab, &words)?.ok()?)?;
    ensure!(told["dry_run"] == true && told["kept"] == 1, "{told}");
    ensure!(told["changed"][0]["id"] == changed.id, "{told}");
    ensure!(told["changed"][0]["to"]["action"] == "block", "{told}");
    ensure!(
        connects(&rig.lab, rig.changed)?,
        "the old rules are in force"
    );
    ensure!(changed.go_on()? == "heard two");
    ensure!(kept.go_on()? == "heard two");
    Ok(())
}

#[test]
fn a_hangup_reloads() -> Result<()> {
    let rig = Rig::start()?;
    let (kept, changed) = (rig.talk(rig.kept)?, rig.talk(rig.changed)?);
    rig.block_changed()?;
    rig.adit.broker.process.signal(Signal::SIGHUP)?;
    let id = changed.id;
    rig.adit.broker.flow(&rig.lab, "the closed flow", |flow| {
        flow.id == id && flow.state == "closed"
    })?;
    ensure!(changed.go_on()? == "gone");
    ensure!(kept.go_on()? == "heard two");
    ensure!(!connects(&rig.lab, rig.changed)?);
    Ok(())
}

#[test]
fn a_file_that_changes_is_enough() -> Result<()> {
    let rig = Rig::start()?;
    let set = format!("{}/top/deep/a/set.txt", User::Alice.home());
    rig.lab.write(User::Alice, &set, "203.0.113.1\n")?;
    let port = rig.changed.port();
    let blocked = rules(rig.kept, rig.changed, "tunnel").replacen(
        "rules:\n",
        &format!("sets: {{closed: {{file: set.txt}}}}\nrules:\n  - {{name: closed, to: \"@closed\", ports: {port}, action: block}}\n"),
        1,
    );
    // The included file, written in place; then a set that it names, replaced as editors do; then what names both.
    let changed = rig.talk(rig.changed)?;
    put(&rig.lab, "top", &blocked)?;
    let names_set = || -> Result<bool> {
        let words = [
            "explain",
            "--app",
            "unknown",
            "--to",
            "203.0.113.1:1",
            "--json",
        ];
        Ok(rig
            .adit
            .broker
            .adit(&rig.lab, &words)?
            .ok()?
            .contains("closed"))
    };
    until("the set to be named", PATIENCE, names_set)?;
    let server = address::SERVER;
    let home = User::Alice.home();
    let line = format!("cd {home}/top/deep/a && echo {server} > .new && mv .new set.txt");
    rig.lab.client().sh(&line)?.ok()?;
    let id = changed.id;
    until("the flow to be closed", PATIENCE, || {
        let flows = rig.adit.broker.flows(&rig.lab)?;
        Ok(flows
            .iter()
            .any(|flow| flow.id == id && flow.state == "closed"))
    })?;
    ensure!(changed.go_on()? == "gone");
    let main = format!("{}/rules.yaml", User::Alice.home());
    rig.lab
        .write(User::Alice, &main, "version: 1\ndefault: block\n")?;
    until("all to be blocked", PATIENCE, || {
        Ok(!connects(&rig.lab, rig.kept)?)
    })
}

#[test]
fn wrong_rules_leave_the_old_ones() -> Result<()> {
    let rig = Rig::start()?;
    let talk = rig.talk(rig.changed)?;
    let right = rules(rig.kept, rig.changed, "block");
    let wrong = [
        (
            right.replace("action: block", "action: blok"),
            "error: \"blok\" is not an action",
        ),
        (
            format!(
                "{right}tests: [{{to: \"{}\", expect: pass}}]\n",
                rig.changed
            ),
            "error: this flow gets block, by \"other\", and not pass",
        ),
    ];
    for (rules, message) in &wrong {
        rig.exchange(rules)?;
        let said = rig.adit.broker.adit(&rig.lab, &["reload"])?;
        ensure!(said.code == Some(2), "{said}");
        let text = said.failed()?;
        ensure!(text.contains(message) && text.contains("^"), "{text}");
        ensure!(text.contains("top/deep/a/rules.yaml:"), "{text}");
        let json = rig
            .adit
            .broker
            .adit(&rig.lab, &["reload", "--dry-run", "--json"])?;
        ensure!(json.code == Some(2), "{json}");
        let told: Value = serde_json::from_str(&json.stdout)?;
        ensure!(told["diagnostics"][0]["severity"] == "error", "{told}");
        ensure!(
            connects(&rig.lab, rig.changed)?,
            "the old rules are in force"
        );
        let error = rig.rules_error()?.context("status says nothing")?;
        ensure!(error.contains(message), "{error}");
        let status = rig.adit.broker.adit(&rig.lab, &["status"])?.ok()?;
        ensure!(status.contains("not as in the files"), "{status}");
    }
    rig.exchange(&right)?;
    rig.reload()?;
    ensure!(rig.rules_error()?.is_none());
    ensure!(talk.go_on()? == "gone");
    Ok(())
}

#[test]
fn zones_come_and_go() -> Result<()> {
    let rig = Rig::start()?;
    let (kept, changed) = (rig.talk(rig.kept)?, rig.talk(rig.changed)?);
    // A second gateway takes nothing from the first; a zone beside it takes over the other flow.
    let own = rules(rig.kept, rig.changed, "tunnel, zone: beside");
    let gateway = Gateway::for_user(User::Alice);
    let more = own.replacen(
        &format!("gateways: [\"{gateway}\"]"),
        &format!("gateways: [\"{gateway}\", \"192.0.2.9:443\"]"),
        1,
    );
    let zone =
        format!("\n  beside: {{gateways: \"{gateway}\", known_hosts: ~/.ssh/known_hosts}}\nrules:");
    rig.exchange(&more.replacen("\nrules:", &zone, 1))?;
    let told = rig.reload()?;
    ensure!(
        told["zones"]["added"] == serde_json::json!(["beside"]),
        "{told}"
    );
    ensure!(
        told["zones"]["changed"] == serde_json::json!(["lab"]),
        "{told}"
    );
    ensure!(
        told["kept"] == 1 && told["changed"][0]["to"]["zone"] == "beside",
        "{told}"
    );
    ensure!(changed.go_on()? == "gone");
    ensure!(kept.go_on()? == "heard two");
    ensure!(connects(&rig.lab, rig.changed)?);
    let kept = rig.talk(rig.kept)?;
    // The gateway that the flow goes through is another now, as its key is looked up elsewhere.
    let elsewhere = own.replacen(
        "known_hosts: ~/.ssh/known_hosts",
        "known_hosts: ~/.ssh/other_hosts",
        1,
    );
    let home = User::Alice.home();
    let line = format!("cp {home}/.ssh/known_hosts {home}/.ssh/other_hosts");
    rig.lab.client().sh(&line)?.ok()?;
    let without = elsewhere.replace("tunnel, zone: beside", "tunnel");
    rig.exchange(&without)?;
    let told = rig.reload()?;
    ensure!(
        told["zones"]["removed"] == serde_json::json!(["beside"]),
        "{told}"
    );
    let list = told["changed"].as_array().context("no list")?;
    let one = list
        .iter()
        .find(|one| one["id"] == kept.id)
        .context("it goes on")?;
    ensure!(
        one["from"]["gateway"] == gateway && one["outcome"] == "closed",
        "{told}"
    );
    ensure!(kept.go_on()? == "gone");
    ensure!(connects(&rig.lab, rig.kept)?, "through the zone's new link");
    let status = rig.adit.broker.status(&rig.lab)?;
    let zones = status["zones"].as_array().context("no zones")?;
    ensure!(zones.len() == 1 && zones[0]["state"] == "up", "{status}");
    Ok(())
}

/// A program that is held at its SYN gets what the rules give by the time that it hears anything.
#[test]
fn static_tunnels_come_and_go() -> Result<()> {
    let rig = Rig::start()?;
    let plain = rules(rig.kept, rig.changed, "tunnel");
    let with = |listens: &[&str]| {
        let tunnels = listens.iter().zip(["first", "second"]);
        let lines = tunnels.map(|(listen, name)| {
            let to = rig.changed;
            format!("  - {{name: {name}, listen: \"{listen}\", zone: lab, to: \"{to}\"}}\n")
        });
        format!("{plain}tunnels:\n{}", lines.collect::<String>())
    };
    let (first, second) = ("127.0.0.1:5433", "127.0.0.1:5434");
    let at = |listen: &str| listen.parse::<SocketAddr>();
    ensure!(!connects(&rig.lab, at(first)?)?);
    rig.exchange(&with(&[first]))?;
    rig.reload()?;
    let talk = Talk::by_way_of(at(first)?, &rig.lab, &rig.adit.broker, rig.changed)?;
    // One more takes nothing from the first, whose flow goes on.
    rig.exchange(&with(&[first, second]))?;
    ensure!(rig.reload()?["kept"] == 1);
    ensure!(talk.go_on()? == "heard two");
    ensure!(connects(&rig.lab, at(second)?)?);
    // A port that another program has: all stays as it was.
    let talk = Talk::by_way_of(at(first)?, &rig.lab, &rig.adit.broker, rig.changed)?;
    let taken = ["nc", "-l", "127.0.0.1", "5435"];
    let mut other = rig.lab.client().start("taker", &taken)?;
    until("a listener", PATIENCE, || {
        let listening = rig.lab.client().sh("ss -Hltn 'sport = :5435'")?.ok()?;
        Ok(!listening.is_empty())
    })?;
    rig.exchange(&with(&[first, "127.0.0.1:5435"]))?;
    let told = rig.adit.broker.adit(&rig.lab, &["reload"])?;
    ensure!(
        told.stderr.contains("127.0.0.1:5435") && !told.success(),
        "{told}"
    );
    ensure!(connects(&rig.lab, at(first)?)? && connects(&rig.lab, at(second)?)?);
    other.kill()?;
    // None any more: nobody comes in, and who came in that way has no way.
    rig.exchange(&plain)?;
    ensure!(rig.reload()?["changed"][0]["id"] == talk.id);
    ensure!(talk.go_on()? == "gone");
    ensure!(!connects(&rig.lab, at(first)?)? && !connects(&rig.lab, at(second)?)?);
    ensure!(connects(&rig.lab, rig.changed)?);
    Ok(())
}

#[test]
fn who_is_held_is_judged_by_the_new_rules() -> Result<()> {
    let mut rig = Rig::start()?;
    let held = |action| {
        let rules = connecting("honest", &rules(rig.kept, rig.changed, action));
        rules.replacen("\nrules:", "\n    on_down: hold\nrules:", 1)
    };
    let (tunnel, block) = (held("tunnel"), held("block"));
    rig.exchange(&tunnel)?;
    rig.reload()?;
    rig.adit.gateway.process.kill()?;
    let line = |to: SocketAddr| {
        format!(
            "exec 3<>/dev/tcp/{}/{} && echo connected",
            to.ip(),
            to.port()
        )
    };
    let mut kept = rig
        .lab
        .client()
        .start("kept", &["bash", "-c", &line(rig.kept)])?;
    let mut changed = rig
        .lab
        .client()
        .start("changed", &["bash", "-c", &line(rig.changed)])?;
    let waits = |to: SocketAddr| {
        let to = to.to_string();
        rig.adit.broker.flow(&rig.lab, "a held flow", |flow| {
            flow.destination == to && flow.state == "opening"
        })
    };
    let (first, second) = (waits(rig.kept)?, waits(rig.changed)?);
    rig.exchange(&block)?;
    let told = rig.reload()?;
    ensure!(told["kept"] == 1, "{told}");
    let one = &told["changed"][0];
    ensure!(
        one["id"] == second.id && one["outcome"] == "judged_again",
        "{told}"
    );
    ensure!(!changed.end(PATIENCE)?.success());
    ensure!(changed.stderr().contains("refused"), "{}", changed.tale());
    ensure!(kept.running()?, "{}", kept.tale());
    rig.adit.gateway.restart(&rig.lab)?;
    ensure!(kept.end(PATIENCE)?.success(), "{}", kept.tale());
    let flows = rig.adit.broker.flows(&rig.lab)?;
    ensure!(
        flows
            .iter()
            .any(|flow| flow.id == first.id && flow.rule.as_deref() == Some("one"))
    );
    Ok(())
}

/// Without the helper the kernel cannot follow: nothing changes until it is back.
#[test]
fn nothing_is_half_applied_without_the_helper() -> Result<()> {
    let mut rig = Rig::start()?;
    let talk = rig.talk(rig.kept)?;
    rig.adit.capture.process.kill()?;
    until("the broker to miss it", PATIENCE, || {
        Ok(rig.adit.broker.status(&rig.lab)?["capture"]["connected"] == false)
    })?;
    rig.block_changed()?;
    let said = rig.adit.broker.adit(&rig.lab, &["reload"])?;
    ensure!(said.code == Some(1), "{said}");
    ensure!(
        said.failed()?
            .contains("the capture helper does not answer")
    );
    ensure!(rig.rules_error()?.is_some());
    let explain = ["explain", "--app", "unknown", "--json", "--to"];
    let to = rig.changed.to_string();
    let given = rig
        .adit
        .broker
        .adit(&rig.lab, &[&explain[..], &[&to]].concat())?
        .ok()?;
    ensure!(given.contains("tunnel"), "{given}");
    rig.adit.capture = Capture::start(&rig.lab)?;
    until("the rules to be in force", PATIENCE, || {
        Ok(rig.rules_error()?.is_none())
    })?;
    ensure!(!connects(&rig.lab, rig.changed)?);
    ensure!(talk.go_on()? == "heard two");
    Ok(())
}
