//! What comes in on purpose: SOCKS 5, HTTP CONNECT and static tunnels, judged by the same rules, and told the truth.

use std::time::Duration;

use adit_tests::{
    Broker, Capture, Conversation, Flow, Gateway, GatewayKind, Lab, Process, Routing, RunningAdit,
    Shared, User, address, control_socket, rules_with, service,
};
use anyhow::{Context, Result, ensure};

/// Names below `finance.test` are known to the gateway alone; the others to the client.
const RULES: &str = r#"  - {name: no redis, app: redis-cli, to: db.finance.test, action: block}
  - {name: finance, to: "*.finance.test", action: tunnel, zone: lab}
  - {name: forbidden, to: 198.51.100.13, action: block}
  - {name: inside, to: 198.51.100.14, action: tunnel, zone: lab}
  - {name: all but one, app: curl, to: {not: 198.51.100.15}, ports: 8080, action: pass}
  - {name: peer, app: adit-peer, to: [198.51.100.10, "2001:db8:2::10"], action: tunnel, zone: lab}
  - {name: nobody else, to: 198.51.100.10, ports: 7777, action: block}
"#;

/// What listens.
const ENTRANCES: &str = r#"entries: {socks5: 1080, http: ["127.0.0.1:3128", "[::1]:3128"]}
tunnels:
  - {name: database, listen: 5433, zone: lab, to: "db.finance.test:5432"}
  - {name: nowhere, listen: "127.0.0.1:5434", zone: lab, to: "198.51.100.10:81"}
  - {name: never, listen: "127.0.0.1:5435", zone: lab, to: "198.51.100.13:80"}
"#;

struct Zone {
    lab: Lab,
    adit: RunningAdit,
    _web: Process,
    _database: Process,
}

/// A lab in which what is passed arrives; the gateway denies port 9001.
fn zone() -> Result<&'static Zone> {
    static ZONE: Shared<Zone> = Shared::new();
    ZONE.get(|| {
        let lab = Lab::with(Routing::Open)?;
        let web = service::web(&lab)?;
        let database = service::postgresql(&lab)?;
        let silence = "nft add table inet lab
nft 'add chain inet lab in { type filter hook input priority 0; }'
nft add rule inet lab in tcp dport 7 drop";
        lab.server().sh(silence)?.ok()?;
        let allow = [
            "198.51.100.0/24:1-9000",
            "198.51.100.0/24:9002-65535",
            "[2001:db8:2::/64]:*",
        ];
        let gateway = Gateway::allowing(&lab, GatewayKind::AditServer, &allow)?;
        let rules = rules_with(User::Alice, RULES) + ENTRANCES;
        let adit = RunningAdit::with(&lab, gateway, &rules)?;
        Ok(Zone {
            lab,
            adit,
            _web: web,
            _database: database,
        })
    })
}

impl Zone {
    fn sh(&self, line: &str) -> Result<adit_tests::Ended> {
        self.lab.client().sh(line)
    }

    fn flow(&self, destination: &str, wanted: impl Fn(&Flow) -> bool) -> Result<Flow> {
        let what = format!("a flow to {destination}");
        self.adit.broker.flow(&self.lab, &what, |flow| {
            flow.destination == destination && wanted(flow)
        })
    }
}

const SOCKS: &str = "--socks5-hostname 127.0.0.1:1080";
const SOCKS6: &str = "--socks5-hostname [::1]:1080";
const HTTP: &str = "--proxytunnel --proxy http://127.0.0.1:3128";
const HTTP6: &str = "--proxytunnel --proxy http://[::1]:3128";

/// What nginx sees of curl's connection.
fn check(entry: &str, url: &str, expected: &str) -> Result<()> {
    let said = zone()?.sh(&format!("curl -sS --max-time 20 {entry} {url}/whoami"))?;
    let seen = said.ok()?;
    ensure!(seen.trim() == expected, "{entry} {url}: {seen}");
    Ok(())
}

#[test]
fn names_go_to_the_gateway_unresolved() -> Result<()> {
    let zone = zone()?;
    let known = zone.sh("getent hosts web.finance.test")?;
    ensure!(!known.success(), "the client must not know it: {known}");
    for entry in [SOCKS, SOCKS6, HTTP, HTTP6] {
        check(entry, "http://web.finance.test", address::GATEWAY_INSIDE)?;
        check(entry, "http://SIX.finance.test.", address::GATEWAY6_INSIDE)?;
    }
    // Who opened it is only for people to see here, so one stays.
    let stays = "exec curl -sS --socks5-hostname 127.0.0.1:1080 telnet://web.finance.test:80";
    let stays = format!("mkfifo nothing && exec 4<>nothing && {stays} <&4");
    let _curl = zone.lab.client().start("curl", &["sh", "-c", &stays])?;
    let flow = zone.flow("web.finance.test:80", |flow| flow.application.is_some())?;
    ensure!(
        flow.rule.as_deref() == Some("finance") && flow.zone.as_deref() == Some("lab"),
        "{flow:?}"
    );
    ensure!(
        flow.application.as_deref() == Some("/usr/bin/curl"),
        "{flow:?}"
    );
    ensure!(flow.to.is_none(), "{flow:?}");
    Ok(())
}

#[test]
fn encryption_is_between_the_program_and_the_server() -> Result<()> {
    for entry in [SOCKS, HTTP] {
        let entry = format!("--cacert {} {entry}", service::CERTIFICATE);
        check(&entry, "https://web.finance.test", address::GATEWAY_INSIDE)?;
    }
    Ok(())
}

#[test]
fn a_name_that_no_rule_knows_is_judged_by_its_address_too() -> Result<()> {
    let zone = zone()?;
    for entry in [SOCKS, HTTP] {
        check(entry, "http://near.test", address::CLIENT)?;
        check(entry, "http://inside.test", address::GATEWAY_INSIDE)?;
        // The name alone leaves the `not` in doubt; its address does not.
        check(entry, "http://near.test:8080", address::CLIENT)?;
    }
    let passed = zone.flow("near.test:80", |_| true)?;
    ensure!(
        passed.action.as_deref() == Some("pass")
            && passed.to.as_deref() == Some("near.test (198.51.100.11):80"),
        "{passed:?}"
    );
    let tunnelled = zone.flow("inside.test:80", |_| true)?;
    ensure!(tunnelled.rule.as_deref() == Some("inside"), "{tunnelled:?}");
    Ok(())
}

/// A refusal by each entry: the code of RFC 1928, and the status with its error of RFC 9209.
fn refused(url: &str, code: u8, status: u16, error: &str) -> Result<()> {
    let zone = zone()?;
    let curl = "curl -sS --max-time 40";
    let socks = zone.sh(&format!("{curl} {SOCKS} {url}"))?;
    let told = format!("({code})");
    ensure!(
        socks.code == Some(97) && socks.stderr.contains(&told),
        "{url}: not ({code}), but {socks}"
    );
    let http = zone.sh(&format!("{curl} -D headers {HTTP} {url}"))?;
    let told = format!("response {status}");
    ensure!(
        http.code == Some(56) && http.stderr.contains(&told),
        "{url}: not {status}, but {http}"
    );
    let headers = zone.sh("cat headers")?.ok()?;
    let told = format!("Proxy-Status: adit; error={error}\r\n");
    ensure!(headers.contains(&told), "{url}: not {error}, but {headers}");
    Ok(())
}

#[test]
fn refusals_are_told_as_what_they_are() -> Result<()> {
    let denied = "http_request_denied";
    for (url, code, status, error) in [
        ("http://forbidden.test", 2, 403, denied),
        ("http://198.51.100.13", 2, 403, denied),
        ("http://198.51.100.10:7777", 2, 403, denied),
        ("http://web.finance.test:9001", 2, 403, denied),
        ("http://web.finance.test:81", 5, 502, "connection_refused"),
        ("http://near.test:81", 5, 502, "connection_refused"),
        ("http://none.finance.test", 4, 502, "dns_error"),
        ("http://none.test", 4, 502, "dns_error"),
        ("http://web.finance.test:7", 6, 504, "connection_timeout"),
    ] {
        refused(url, code, status, error)?;
    }
    let flow = zone()?.flow("forbidden.test:80", |flow| {
        flow.to.as_deref() == Some("forbidden.test (198.51.100.13):80")
    })?;
    ensure!(
        flow.state == "refused" && flow.rule.as_deref() == Some("forbidden"),
        "{flow:?}"
    );
    Ok(())
}

#[test]
fn rules_for_applications_hold_here_too() -> Result<()> {
    for entry in ["socks5=127.0.0.1:1080", "http=127.0.0.1:3128"] {
        let talk = Conversation::new("ping 3; finish; end", "echo").through(entry);
        let had = talk.hold(&zone()?.lab, &zone()?.lab.client())?;
        ensure!(had.server[0].peer == address::GATEWAY_INSIDE, "{had:?}");
    }
    Ok(())
}

#[test]
fn ends_and_resets_pass_through_entries() -> Result<()> {
    let lab = &zone()?.lab;
    let talks = [
        Conversation::new(
            "send 300K; finish; expect 500K; end",
            "expect 300K; end; send 500K; finish",
        ),
        Conversation::new(
            "expect 300K; end; send 500K; finish",
            "send 300K; finish; expect 500K; end",
        ),
        Conversation::new("ping 20; reset", "echo"),
        // At once it could be over before whoever dials for the program has heard that it has begun.
        Conversation::new("send 1; expect 5; end", "expect 1; send 5; reset"),
    ];
    for (index, talk) in talks.into_iter().enumerate() {
        for (at, entry) in [
            (address::SERVER, "socks5=127.0.0.1:1080"),
            (address::SERVER6, "socks5=[::1]:1080"),
            (address::SERVER, "http=[::1]:3128"),
            (address::SERVER6, "http=127.0.0.1:3128"),
        ] {
            let talk = talk.clone().at(at);
            let direct = talk.hold(lab, &lab.direct())?;
            let had = talk.through(entry).hold(lab, &lab.client())?;
            had.same_as(&direct)
                .with_context(|| format!("conversation {index} by {entry} to {at}"))?;
        }
    }
    Ok(())
}

#[test]
fn payload_may_follow_the_request_at_once() -> Result<()> {
    let request = r"CONNECT web.finance.test:80 HTTP/1.1\r\n\r\nGET /hello HTTP/1.0\r\n\r\n";
    let line = format!("exec 3<>/dev/tcp/127.0.0.1/3128; printf '{request}' >&3; cat <&3");
    let said = zone()?.lab.client().argv(&["bash", "-c", &line])?.ok()?;
    ensure!(
        said.starts_with("HTTP/1.1 200 ") && said.ends_with("hello from the zone\n"),
        "{said}"
    );
    Ok(())
}

#[test]
fn whoever_says_nothing_is_let_go() -> Result<()> {
    // `nc -d` says nothing and waits for the end.
    for port in ["1080", "3128"] {
        let waiting = zone()?.sh(&format!("nc -d 127.0.0.1 {port}"))?;
        ensure!(waiting.code.is_some_and(|code| code != 124), "{waiting}");
    }
    Ok(())
}

#[test]
fn programs_of_others_are_refused() -> Result<()> {
    let zone = zone()?;
    let bob = zone.lab.client().user(User::Bob);
    for entry in [SOCKS, HTTP] {
        for user in [User::Bob, User::Root] {
            let line = format!("curl -sS --max-time 20 {entry} http://bob.finance.test/");
            // Reset while it connects, or when it speaks.
            zone.lab.client().user(user).sh(&line)?.failed()?;
        }
    }
    let psql = bob.sh("psql -h 127.0.0.1 -p 5433 -U postgres -tAc 'select 42'")?;
    ensure!(!psql.success(), "{psql}");
    let flows = zone.adit.broker.flows(&zone.lab)?;
    let of_bob = |flow: &&Flow| flow.destination.starts_with("bob.");
    ensure!(!flows.iter().any(|flow| of_bob(&flow)), "{flows:#?}");
    Ok(())
}

#[test]
fn a_static_tunnel_leads_to_its_destination() -> Result<()> {
    let zone = zone()?;
    for host in ["127.0.0.1", "::1"] {
        let line = format!("psql -h {host} -p 5433 -U postgres -tAc 'select 6 * 7'");
        let said = zone.sh(&line)?.ok()?;
        ensure!(said.trim() == "42", "{said}");
    }
    // Who opened it is only for people to see here, so one stays.
    let stays = "psql -h 127.0.0.1 -p 5433 -U postgres -c 'select pg_sleep(60)'";
    let _psql = zone.lab.client().start("psql", &["sh", "-c", stays])?;
    let flow = zone.flow("db.finance.test:5432", |flow| flow.application.is_some())?;
    ensure!(
        flow.rule.as_deref() == Some("database") && flow.zone.as_deref() == Some("lab"),
        "{flow:?}"
    );
    let application = flow.application.as_deref().unwrap_or_default();
    ensure!(application.ends_with("/psql"), "{flow:?}");
    Ok(())
}

#[test]
fn a_static_tunnel_goes_around_no_rule_that_blocks() -> Result<()> {
    let zone = zone()?;
    for (port, destination, rule) in [
        ("5434", "198.51.100.10:81", "nowhere"),
        ("5435", "198.51.100.13:80", "forbidden"),
    ] {
        let to = format!("127.0.0.1:{port}");
        let dialled = zone.lab.client().argv(&["adit-peer", "dial", &to, "end"])?;
        let sight = adit_tests::sights(&dialled.ok()?)?.remove(0);
        ensure!(
            sight.steps == ["connected", "End: connection reset"],
            "{to}: {sight:?}"
        );
        let flow = zone.flow(destination, |flow| flow.state == "refused")?;
        ensure!(flow.rule.as_deref() == Some(rule), "{flow:?}");
    }
    let redis = zone.sh("redis-cli -h 127.0.0.1 -p 5433 ping")?;
    let flow = zone.flow("db.finance.test:5432", |flow| flow.state == "refused")?;
    ensure!(
        flow.rule.as_deref() == Some("no redis"),
        "{flow:?}: {redis}"
    );
    Ok(())
}

#[test]
fn status_says_where_it_listens() -> Result<()> {
    let zone = zone()?;
    let status = zone.adit.broker.status(&zone.lab)?;
    let listening = status["listening"].as_array().context("a list")?;
    let said: Vec<String> = listening
        .iter()
        .map(|it| format!("{} {} {}", it["address"], it["speaks"], it["tunnel"]))
        .collect();
    let expected = [
        r#""127.0.0.1:1080" "socks5" null"#,
        r#""127.0.0.1:3128" "http" null"#,
        r#""127.0.0.1:5433" null "database""#,
        r#""127.0.0.1:5434" null "nowhere""#,
        r#""127.0.0.1:5435" null "never""#,
        r#""[::1]:1080" "socks5" null"#,
        r#""[::1]:3128" "http" null"#,
        r#""[::1]:5433" null "database""#,
    ];
    ensure!(said == expected, "{said:#?}");
    let text = zone.adit.broker.adit(&zone.lab, &["status"])?.ok()?;
    for line in [
        "entry    socks5 at 127.0.0.1:1080\n",
        "tunnel   database at [::1]:5433\n",
    ] {
        ensure!(text.contains(line), "{text}");
    }
    Ok(())
}

#[test]
fn a_port_that_is_taken_is_an_error_at_start() -> Result<()> {
    let lab = Lab::new()?;
    let _gateway = Gateway::start(&lab)?;
    let _capture = Capture::start(&lab)?;
    let entries = "entries: {socks5: \"127.0.0.1:1080\"}\n";
    let alice = rules_with(User::Alice, "") + entries;
    let _first = Broker::start(&lab, User::Alice, &alice)?;
    let file = format!("{}/rules.yaml", User::Bob.home());
    lab.write(User::Bob, &file, rules_with(User::Bob, "") + entries)?;
    let control = control_socket(User::Bob);
    let words = ["adit", "broker", "--rules", &file, "--control", &control];
    let second = lab
        .client()
        .user(User::Bob)
        .timeout(Duration::from_secs(20))
        .argv(&words)?;
    ensure!(second.code == Some(1), "{second}");
    let said = second.failed()?;
    ensure!(
        said.contains("cannot listen on 127.0.0.1:1080: Address already in use"),
        "{said}"
    );
    Ok(())
}
