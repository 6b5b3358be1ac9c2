//! Programs that fall back when a destination does not answer: what they come to through Adit is what they come to
//! directly.

use std::net::SocketAddr;
use std::time::Duration;

use adit_tests::connect::{MANY, REFUSING, REFUSING6, SILENT, SILENT6, Targets, gateway, honestly};
use adit_tests::{Ended, Lab, Process, Routing, RunningAdit, Shared, User};
use adit_tests::{address, service};
use anyhow::{Context, Result, ensure};

/// Names with two addresses, of which this one is tried first; the server is the other.
const NAMES: [(&str, &str); 4] = [
    ("half-dead.test", SILENT6),
    ("half-closed.test", REFUSING6),
    ("half-unreachable.test", UNREACHABLE6),
    ("first-refuses.test", REFUSING),
];
/// Behind the gateway's last route.
const UNREACHABLE6: &str = "2001:db8:ffff::1";

/// How much longer than directly a program may take.
const LATER: Duration = Duration::from_millis(1500);

struct Zone {
    lab: Lab,
    adit: RunningAdit,
    _services: Vec<Process>,
    _targets: Targets,
}

/// The client has a route, so that `getaddrinfo()` sorts addresses as on the gateway.
fn zone() -> Result<&'static Zone> {
    static ZONE: Shared<Zone> = Shared::new();
    ZONE.get(|| {
        let lab = Lab::with(Routing::Wire)?;
        let names =
            NAMES.map(|(name, first)| format!("{first} {name}\\n{} {name}\\n", address::SERVER));
        let line = format!("printf '{}' >>/etc/hosts", names.concat());
        // What runs directly runs on the gateway, which has a file of its own.
        for host in [lab.client().user(User::Root), lab.gateway()] {
            host.sh(&line)?.ok()?;
        }
        let services = vec![service::web(&lab)?, service::postgresql(&lab)?];
        let targets = Targets::start(&lab)?;
        let gateway = gateway(&lab)?;
        let rules = honestly(User::Alice);
        let adit = RunningAdit::with(&lab, gateway, &rules)?;
        Ok(Zone {
            lab,
            adit,
            _services: services,
            _targets: targets,
        })
    })
}

/// Runs a line of shell directly and through Adit: the same end, the same words, about the same time.
fn check(line: &str) -> Result<Ended> {
    let zone = zone()?;
    let direct = zone.lab.direct().sh(line)?;
    let through = zone.lab.client().sh(line)?;
    let same = through.code == direct.code
        && through.stdout == direct.stdout
        && through.stderr == direct.stderr
        && through.took.abs_diff(direct.took) < LATER;
    ensure!(
        same,
        "directly {direct}\nthrough Adit {through}\n{}",
        zone.adit.broker.process.tale()
    );
    Ok(through)
}

/// The same, and the program got what it asked for.
fn check_works(line: &str, expected: &str) -> Result<()> {
    let said = check(line)?.ok()?;
    ensure!(said.trim() == expected, "`{said}` instead of `{expected}`");
    Ok(())
}

/// A program that had two addresses did try this one through Adit.
fn was_tried(first: &str) -> Result<()> {
    let to = SocketAddr::new(first.parse()?, 4001).to_string();
    let zone = zone()?;
    let flows = zone.adit.broker.flows(&zone.lab)?;
    let was = flows.iter().any(|flow| flow.destination == to);
    ensure!(was, "{to} was not tried: {flows:#?}");
    Ok(())
}

/// A program is a file in Alice's home.
fn program(name: &str, text: &str) -> Result<String> {
    let file = format!("{}/{name}", User::Alice.home());
    zone()?.lab.write(User::Alice, &file, text)?;
    Ok(file)
}

#[test]
fn curl_goes_on_to_the_second_address_when_the_first_refuses() -> Result<()> {
    let server = address::SERVER;
    let line = format!(
        "curl -sS --resolve web.test:80:{REFUSING},{server} -w ' from %{{remote_ip}}' http://web.test/hello"
    );
    let said = check(&line)?.ok()?;
    ensure!(said.ends_with(&format!(" from {server}")), "{said}");
    Ok(())
}

#[test]
fn curl_goes_on_to_the_second_address_when_the_first_is_silent() -> Result<()> {
    let server = address::SERVER;
    let line = format!(
        "curl -sS --connect-timeout 4 --resolve web.test:80:{SILENT},{server} -w ' from %{{remote_ip}}' http://web.test/hello"
    );
    let said = check(&line)?.ok()?;
    ensure!(said.ends_with(&format!(" from {server}")), "{said}");
    Ok(())
}

#[test]
fn curl_says_why_there_is_no_connection() -> Result<()> {
    // Its times are of the run; the rest of its words is not.
    let words = "2>&1 | sed -E 's/after [0-9]+ ms/after a while/'";
    for url in [
        format!("http://{}:4002/", address::SERVER),
        format!("http://[{}]:4002/", address::SERVER6),
        "http://203.0.113.1/".to_owned(),
        format!("http://{}/", address::NOBODY),
    ] {
        let said = check(&format!("curl -sS -g {url} {words}"))?.ok()?;
        ensure!(said.contains("curl: (7) Failed to connect"), "{said}");
    }
    Ok(())
}

#[test]
fn psql_goes_on_to_the_second_host() -> Result<()> {
    let server = address::SERVER;
    for (hosts, more) in [
        (format!("{REFUSING},{server}"), ""),
        (format!("{SILENT},{server}"), " connect_timeout=2"),
    ] {
        let line = format!(
            "psql 'host={hosts} user=postgres dbname=postgres{more}' -Atc \"select 'there', inet_server_addr()\""
        );
        check_works(&line, &format!("there|{server}"))?;
    }
    let line = format!("psql 'host={REFUSING},{REFUSING} user=postgres' -Atc 'select 1'");
    let said = check(&line)?.failed()?;
    ensure!(said.contains("Connection refused"), "{said}");
    Ok(())
}

const ASYNCIO: &str = "
import asyncio, sys

async def main():
    reader, writer = await asyncio.open_connection(sys.argv[1], 4001, happy_eyeballs_delay=0.1)
    print(writer.get_extra_info('peername')[0], (await reader.read()).decode().strip())
    writer.close()

asyncio.run(main())
";

#[test]
fn happy_eyeballs_of_asyncio_leave_a_dead_family_behind() -> Result<()> {
    let file = program("eyeballs.py", ASYNCIO)?;
    for (name, first) in NAMES {
        let line = format!("/usr/bin/python3 {file} {name}");
        check_works(&line, &format!("{} adit", address::SERVER))?;
        was_tried(first)?;
    }
    Ok(())
}

const GO: &str = r#"package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

func main() {
	for _, name := range os.Args[1:] {
		dialer := net.Dialer{Timeout: 5 * time.Second}
		conn, err := dialer.Dial("tcp", name)
		if err != nil {
			fmt.Println(err)
			continue
		}
		said, err := io.ReadAll(conn)
		fmt.Printf("%s %q %v\n", conn.RemoteAddr(), said, err)
		conn.Close()
	}
}
"#;

#[test]
fn gos_dialer_falls_back_and_says_why_it_can_not() -> Result<()> {
    let file = program("dial.go", GO)?;
    let build = zone()?.lab.client().env("GOFLAGS", "-mod=mod");
    let build = build.env("GOPROXY", "off").env("CGO_ENABLED", "0");
    let build = build.timeout(Duration::from_secs(240));
    build.sh(&format!("go build -o dial {file}"))?.ok()?;
    let dial = format!("{}/dial", User::Alice.home());
    // The gateway and the client have the same files, and no address of their own in what is said.
    let names = NAMES.map(|(name, _)| format!("{name}:4001 ")).concat();
    let said = check(&format!(
        "{dial} {names} {}:4002 203.0.113.1:4001",
        address::SERVER
    ))?;
    let said = said.ok()?;
    let lines: Vec<&str> = said.lines().collect();
    let server = format!(r#"{}:4001 "adit\n" <nil>"#, address::SERVER);
    let [found @ .., refused, unreachable] = &lines[..] else {
        anyhow::bail!("{said}");
    };
    ensure!(found == vec![server; NAMES.len()], "{said}");
    ensure!(refused.ends_with("connection refused"), "{said}");
    ensure!(unreachable.ends_with("network is unreachable"), "{said}");
    NAMES
        .into_iter()
        .try_for_each(|(_, first)| was_tried(first))
}

#[test]
fn a_probe_of_two_hundred_ports_finds_what_it_finds_directly() -> Result<()> {
    for address in [address::SERVER, address::SERVER6] {
        let line = format!("nc -n -z -v -w1 {address} {}-{}", MANY.start(), MANY.end());
        let said = check(&line).context(line)?.stderr;
        let with = |word: &str| said.lines().filter(|line| line.contains(word)).count();
        let found = (with("succeeded"), with("refused"), with("timed out"));
        ensure!(found == (30, 165, 5), "{found:?}: {said}");
    }
    Ok(())
}
