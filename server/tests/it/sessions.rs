//! The control socket: who is logged in, ending sessions, draining, and what a reload closes.
use std::process::{Command, Output};
use std::time::Duration;

use adit_link::RefusalReason;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::destinations::echo;
use crate::flows::{Broker, flow, try_log_in};
use crate::site::{PATIENCE, Running, Site, output};

const POLICY: &str =
    r#"[{name: loopback, users: [alice, bob], allow: ["127.0.0.1:*", "*.zone.test:*"]}]"#;

fn start(site: &Site, policy: &str) -> Running {
    site.start(policy, &extra(site))
}

pub(crate) fn extra(site: &Site) -> String {
    format!("control: {}", site.path("control.sock").display())
}

pub(crate) fn ask(site: &Site, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit-server"));
    command
        .args(arguments)
        .arg("--control")
        .arg(site.path("control.sock"));
    output(command)
}

/// Asks off the thread that the test's sockets live on.
pub(crate) async fn done(site: &Site, arguments: &[&str]) -> String {
    let output = tokio::task::block_in_place(|| ask(site, arguments));
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

pub(crate) async fn sessions(site: &Site) -> Vec<Value> {
    let text = done(site, &["sessions", "--json"]).await;
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    answer["sessions"].as_array().expect("a list").clone()
}

async fn is_reset(program: &mut TcpStream) -> bool {
    let read = timeout(PATIENCE, program.read_u8()).await.expect("in time");
    read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

pub(crate) async fn echoes(program: &mut TcpStream) {
    program.write_all(b"seven b").await.expect("write");
    let mut back = [0; 7];
    let read = timeout(PATIENCE, program.read_exact(&mut back)).await;
    read.expect("in time").expect("read");
    assert_eq!(&back, b"seven b");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_with_their_flows_and_can_be_ended() {
    let site = Site::new();
    let gateway = start(&site, POLICY);
    assert!(sessions(&site).await.is_empty());
    let broker = Broker::connect(&site, gateway.address).await;
    let other = Broker::connect(&site, gateway.address).await;
    let at = echo().await;
    let mut program = flow(&broker.link, "db.zone.test", at.port()).await;
    echoes(&mut program).await;

    let listed = sessions(&site).await;
    assert_eq!(listed.len(), 2, "{listed:#?}");
    let login = gateway.wait_log(|line| line["message"] == "logged in");
    let session = &listed[0];
    assert_eq!(
        (&session["user"], &session["proof"]),
        (&"alice".into(), &"publickey".into())
    );
    assert_eq!(
        (&session["id"], &session["key"], &session["from"]),
        (&login["session"], &login["key"], &login["from"])
    );
    assert_eq!(
        (&session["sent"], &session["received"]),
        (&7.into(), &7.into())
    );
    let open = gateway.wait_log(|line| line["event"] == "open");
    let listed_flow = &session["flows"][0];
    assert_eq!(listed_flow["id"], open["stream"]);
    assert_eq!(listed_flow["asked"], format!("db.zone.test:{}", at.port()));
    assert_eq!(listed_flow["dialled"], at.to_string());
    assert_eq!(
        (&listed_flow["entry"], &listed_flow["application"]),
        (&"loopback".into(), &"/usr/bin/test".into())
    );
    let table = done(&site, &["sessions"]).await;
    assert!(
        table.starts_with("ID") && table.contains("alice") && table.contains("db.zone.test"),
        "{table}"
    );

    let id = session["id"].to_string();
    done(&site, &["kill", &id]).await;
    assert!(is_reset(&mut program).await);
    let killed = gateway.wait_log(|line| line["event"] == "kill");
    assert_eq!(
        (&killed["id"], &killed["session"], &killed["user"]),
        (&302.into(), &session["id"], &"alice".into())
    );
    let end = timeout(PATIENCE, broker.link.ended())
        .await
        .expect("in time");
    assert!(format!("{end:?}").contains("Closed"), "no goodbye: {end:?}");
    other.flow(at).await;
    let gone = async { while sessions(&site).await.len() != 1 {} };
    timeout(PATIENCE, gone).await.expect("the session is gone");
    let again = tokio::task::block_in_place(|| ask(&site, &["kill", &id]));
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("there is no session"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_closes_the_flows_that_are_not_allowed_any_more_and_no_others() {
    let site = Site::new();
    let gateway = start(&site, POLICY);
    let broker = Broker::connect(&site, gateway.address).await;
    let (one, other) = (echo().await, echo().await);
    let mut denied = broker.flow(one).await;
    let mut allowed = broker.flow(other).await;
    // The same under a name: the address that was dialled counts.
    let mut denied_name = flow(&broker.link, "db.zone.test", one.port()).await;
    let mut allowed_name = flow(&broker.link, "db.zone.test", other.port()).await;
    echoes(&mut denied).await;
    let narrower = format!("[{{name: one, users: [alice], allow: [\"{other}\"]}}]");
    site.config(&narrower, &extra(&site));
    let closed: Value =
        serde_json::from_str(&done(&site, &["reload", "--json"]).await).expect("JSON");
    assert_eq!(
        closed["reloaded"],
        serde_json::json!({"sessions": 0, "flows": 2, "at_next_start": []})
    );
    assert!(is_reset(&mut denied).await && is_reset(&mut denied_name).await);
    echoes(&mut allowed).await;
    echoes(&mut allowed_name).await;
    let end = gateway.wait_log(|line| line["event"] == "end");
    assert_eq!(end["end"], "closed: not allowed any more");
    let refusal = broker.refusal("127.0.0.1", one.port()).await;
    assert_eq!(refusal.reason, RefusalReason::Denied);

    // A bad file changes nothing, and says why.
    site.config("[{name: nonsense}]", &extra(&site));
    let bad = tokio::task::block_in_place(|| ask(&site, &["reload"]));
    assert_eq!(bad.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&bad.stderr).contains("gateway.yaml:5"),
        "{bad:?}"
    );
    echoes(&mut allowed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_closes_the_sessions_whose_login_would_be_refused_now() {
    let site = Site::new();
    site.authorize("bob", &site.public_key("alice"));
    let gateway = start(&site, POLICY);
    let broker = Broker::connect(&site, gateway.address).await;
    let (bob, success) = try_log_in(&site, gateway.address, "bob").await;
    assert!(success);
    let at = echo().await;
    let mut program = broker.flow(at).await;
    // Her key goes, his stays. Until the reload both may go on.
    site.authorize("alice", "");
    echoes(&mut program).await;
    let closed = done(&site, &["reload"]).await;
    assert!(closed.contains("1 sessions, 0 flows"), "{closed}");
    assert!(is_reset(&mut program).await);
    timeout(PATIENCE, broker.link.ended())
        .await
        .expect("in time");
    assert!(!bob.is_closed() && bob.channel_open_session().await.is_ok());
    // Now both are revoked: the list is asked again as well, though the file of keys is the same.
    let revoked = site.write("revoked", &site.public_key("alice"));
    site.config(
        POLICY,
        &format!("{}\nrevoked_keys: [{}]", extra(&site), revoked.display()),
    );
    let closed = done(&site, &["reload"]).await;
    assert!(closed.contains("1 sessions"), "{closed}");
    let ended = async {
        while !bob.is_closed() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, ended).await.expect("closed");
    // And nobody comes back in.
    assert!(!try_log_in(&site, gateway.address, "bob").await.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_narrows_what_a_key_permits() {
    let site = Site::new();
    let gateway = start(&site, POLICY);
    let broker = Broker::connect(&site, gateway.address).await;
    let (one, other) = (echo().await, echo().await);
    let (mut kept, mut closed) = (broker.flow(one).await, broker.flow(other).await);
    let key = site.public_key("alice");
    site.authorize("alice", &format!("permitopen=\"{one}\" {key}"));
    done(&site, &["reload"]).await;
    assert!(is_reset(&mut closed).await);
    echoes(&mut kept).await;
    let refusal = broker.refusal("127.0.0.1", other.port()).await;
    assert!(refusal.detail.contains("does not permit"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_the_old_finish_and_takes_nothing_new() {
    let site = Site::new();
    let gateway = start(&site, POLICY);
    let broker = Broker::connect(&site, gateway.address).await;
    let at = echo().await;
    let mut program = broker.flow(at).await;
    done(&site, &["drain", "--deadline", "600"]).await;
    let drain = gateway.wait_log(|line| line["event"] == "drain");
    assert_eq!(
        (&drain["id"], &drain["deadline"]),
        (&301.into(), &600.into())
    );
    // The broker is told, and takes no more streams for this link.
    let told = async {
        while !broker.link.is_closing() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, told).await.expect("told");
    assert!(
        TcpStream::connect(gateway.address).await.is_err(),
        "a new connection"
    );
    // Longer than a goodbye takes; there is no event to wait for when nothing happens.
    tokio::time::sleep(Duration::from_secs(5)).await;
    echoes(&mut program).await;
    program.shutdown().await.expect("shutdown");
    assert_eq!(program.read(&mut [0]).await.expect("read"), 0);
    let ended = tokio::task::spawn_blocking(move || gateway.ended());
    assert!(ended.await.expect("ended").success());
    assert!(!site.path("control.sock").exists());
}

/// A drain may last: what is revoked meanwhile has to end, and the log may be moved away.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_a_kill_and_a_new_log_work_while_it_drains() {
    let site = Site::new();
    let log = site.path("audit.json");
    let extra = format!("{}\naudit: {}", extra(&site), log.display());
    let gateway = site.start(POLICY, &extra);
    let (at, other) = (echo().await, echo().await);
    let (first, second) = (
        Broker::connect(&site, gateway.address).await,
        Broker::connect(&site, gateway.address).await,
    );
    let (mut denied, mut killed) = (first.flow(at).await, second.flow(at).await);
    let mut kept = first.flow(other).await;
    done(&site, &["drain", "--deadline", "600"]).await;
    gateway.wait_log(|line| line["event"] == "drain");

    std::fs::rename(&log, site.path("audit.json.1")).expect("rename");
    gateway.signal(nix::sys::signal::Signal::SIGHUP);
    gateway.wait_log(|line| line["event"] == "reload");
    let there = async {
        while !log.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, there).await.expect("a new file");

    let second_id = sessions(&site).await[1]["id"].to_string();
    done(&site, &["kill", &second_id]).await;
    assert!(is_reset(&mut killed).await);
    let narrower = format!("[{{name: one, users: [alice], allow: [\"{other}\"]}}]");
    site.config(&narrower, &extra);
    let closed = done(&site, &["reload"]).await;
    assert!(closed.contains("0 sessions, 1 flows"), "{closed}");
    assert!(is_reset(&mut denied).await);
    echoes(&mut kept).await;
    drop(kept);
    let ended = tokio::task::spawn_blocking(move || gateway.ended());
    assert!(ended.await.expect("ended").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_names_what_takes_effect_at_the_next_start() {
    let site = Site::new();
    let control = extra(&site);
    let gateway = site.start(POLICY, &control);
    let changed = format!(
        "{control}\nthreads: 2\naudit: {}\nsession_timeout_seconds: 60\nlogin_grace_seconds: 9\n\
         max_connections: 7\nmotd: hello\nport_forwarding: false\nlog: {{level: debug}}",
        site.path("audit.json").display()
    );
    site.config(POLICY, &changed);
    let said = done(&site, &["reload"]).await;
    let keys =
        "threads, max_connections, login_grace_seconds, session_timeout_seconds, log.level, audit";
    let expected = format!("changed, but takes effect at the next start: {keys}");
    assert!(said.contains(&expected), "{said}");
    let answer: Value =
        serde_json::from_str(&done(&site, &["reload", "--json"]).await).expect("JSON");
    let listed = answer["reloaded"]["at_next_start"]
        .as_array()
        .expect("a list");
    assert_eq!(listed.len(), 6, "{answer}");
    gateway.wait_log(|line| line["level"] == "WARN" && line["keys"] == keys);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_at_its_deadline() {
    let site = Site::new();
    let gateway = start(&site, POLICY);
    let broker = Broker::connect(&site, gateway.address).await;
    let mut program = broker.flow(echo().await).await;
    done(&site, &["drain", "--deadline", "1"]).await;
    echoes(&mut program).await;
    assert!(is_reset(&mut program).await);
    let ended = tokio::task::spawn_blocking(move || gateway.ended());
    assert!(ended.await.expect("ended").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_lasts_as_long_as_it_may() {
    let site = Site::new();
    let gateway = site.start(POLICY, "session_timeout_seconds: 2");
    let broker = Broker::connect(&site, gateway.address).await;
    let mut program = broker.flow(echo().await).await;
    echoes(&mut program).await;
    assert!(is_reset(&mut program).await);
    let end = gateway.wait_log(|line| line["event"] == "end");
    assert!(
        end["seconds"].as_f64().is_some_and(|seconds| seconds > 1.0),
        "{end}"
    );
    // Whoever comes again begins anew.
    Broker::connect(&site, gateway.address)
        .await
        .flow(echo().await)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_without_a_flow_ends_and_one_with_a_flow_goes_on() {
    let site = Site::new();
    let gateway = site.start(POLICY, "idle_timeout_seconds: 1");
    let (idle, busy) = (
        Broker::connect(&site, gateway.address).await,
        Broker::connect(&site, gateway.address).await,
    );
    let mut program = busy.flow(echo().await).await;
    timeout(PATIENCE, idle.link.ended()).await.expect("ended");
    // Nothing is said on it, and it is open: that is not idle.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    echoes(&mut program).await;
    drop(program);
    timeout(PATIENCE, busy.link.ended()).await.expect("ended");
}

/// What the gateway says next, whichever the link.
async fn said(broker: &Broker, after: u64) -> adit_link::Notice {
    timeout(PATIENCE, broker.link.notice_after(after))
        .await
        .expect("a notice")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_is_warned_before_its_session_ends() {
    let site = Site::new();
    let gateway = site.start(POLICY, "session_timeout_seconds: 5\nwarning_seconds: 60");
    let broker = Broker::connect(&site, gateway.address).await;
    let _program = broker.flow(echo().await).await;
    // A tenth of five seconds before the end.
    let warned = said(&broker, 0).await;
    assert!(broker.link.end().is_none(), "after the end");
    assert!(
        warned
            .words
            .starts_with("this session ends in 1 s, with all that is open"),
        "{warned:?}"
    );
    timeout(PATIENCE, broker.link.ended()).await.expect("ended");
    let none = site.start(POLICY, "session_timeout_seconds: 2\nwarning_seconds: 0");
    let broker = Broker::connect(&site, none.address).await;
    tokio::select! {
        said = broker.link.notice_after(0) => panic!("{said:?}"),
        ended = timeout(PATIENCE, broker.link.ended()) => drop(ended.expect("ended")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warning_is_taken_back_when_a_flow_was_opened_in_time() {
    let site = Site::new();
    let gateway = site.start(POLICY, "idle_timeout_seconds: 10");
    let broker = Broker::connect(&site, gateway.address).await;
    let warned = said(&broker, 0).await;
    assert_eq!(
        &*warned.words,
        "this session ends in 1 s unless a flow is opened"
    );
    let mut program = broker.flow(echo().await).await;
    let taken_back = said(&broker, warned.number).await;
    assert_eq!(&*taken_back.words, "");
    echoes(&mut program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_told_to_those_who_have_something_open() {
    let site = Site::new();
    let gateway = site.start(POLICY, &extra(&site));
    let broker = Broker::connect(&site, gateway.address).await;
    let mut program = broker.flow(echo().await).await;
    done(&site, &["drain", "--deadline", "600"]).await;
    let told = said(&broker, 0).await;
    let words = "the gateway takes nothing new; what is open can go on for 600 s";
    assert_eq!(&*told.words, words);
    echoes(&mut program).await;
}

#[test]
fn whoever_asks_for_a_shell_reads_the_message_of_the_day() {
    let site = Site::new();
    let gateway = site.start(
        POLICY,
        "motd: |\n  Maintenance on Sunday.\n  There is no shell.",
    );
    let ssh = || site.ssh(gateway.address, "alice", "alice");
    let quoted: Vec<_> = ssh()
        .get_args()
        .map(|word| format!("'{}'", word.display()))
        .collect();
    // script(1) makes a terminal; ssh then asks for one first, which is refused.
    let mut on_a_terminal = Command::new("script");
    on_a_terminal.args(["-qec", &format!("ssh {}", quoted.join(" ")), "/dev/null"]);
    for command in [ssh(), on_a_terminal] {
        let output = output(command);
        let shown = [output.stderr, output.stdout].concat();
        let shown = String::from_utf8_lossy(&shown).replace('\r', "");
        assert!(
            shown.contains("Maintenance on Sunday.\nThere is no shell."),
            "{shown}"
        );
        assert_eq!(output.status.code(), Some(1), "{shown}");
    }
    // Nobody else does.
    let mut ssh = site.ssh(gateway.address, "alice", "alice");
    ssh.arg("id");
    let stderr = String::from_utf8_lossy(&output(ssh).stderr).into_owned();
    assert!(
        stderr.contains("exec request failed") && !stderr.contains("Sunday"),
        "{stderr}"
    );
}

#[test]
fn a_banner_is_shown_before_the_login() {
    let site = Site::new();
    let gateway = site.start(
        POLICY,
        "banner: |\n  Private. What you do here is logged.\n  Have a nice day.",
    );
    let mut ssh = site.ssh(gateway.address, "alice", "mallory");
    ssh.args(["-s", "adit-link"]);
    let stderr = String::from_utf8_lossy(&output(ssh).stderr).into_owned();
    let banner = "Private. What you do here is logged.";
    let place = stderr
        .find(banner)
        .unwrap_or_else(|| panic!("no banner: {stderr}"));
    assert!(stderr[place..].contains("Permission denied"), "{stderr}");
}
