//! How long it takes until a claim is in force, from the broker's request to the helper's `done`, for what brokers make of rule
//! files of 1,000, 10,000 and 100,000 rules; beside it `nft -f` of a table with nothing but the same networks. The aim: 2 s for
//! 100,000 rules.
//!
//! Runs in namespaces of its own, as root.
#![allow(clippy::print_stdout, reason = "a bench tells what it measured")]

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use adit_capture::{Claim, Client, OnBrokerGone, Step, Verdict};
use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;

const SOCKET: &str = "/run/adit/capture.sock";
const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
const TIMES: usize = 5;
/// Whose claim it is, and whose are made beside it.
const LARGE: u32 = 61_001;
const SMALL: u32 = 61_002;

fn main() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["inside"] => inside(),
        ["broker", rules] => broker(rules.parse()?),
        _ => outside(),
    }
}

fn outside() -> Result<()> {
    let ended = Command::new("unshare")
        .args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .arg(env::current_exe()?)
        .arg("inside")
        .status()
        .context("unshare (util-linux)")?;
    ensure!(ended.success(), "{ended}");
    Ok(())
}

fn inside() -> Result<()> {
    let prepared = Command::new("sh")
        .args(["-ec", "mount -t tmpfs tmpfs /run && ip link set lo up"])
        .status()?;
    ensure!(prepared.success(), "namespaces need root");
    let mut helper = helper()?;
    for rules in SIZES {
        let claim = claim(rules);
        let networks: usize = claim.steps.iter().map(|step| step.to.len()).sum();
        println!(
            "{rules} rules: {} steps, {networks} networks",
            claim.steps.len()
        );
        let plain = median(|| plain_table(&claim))?;
        let before = processor_time(&helper)?;
        let mut large = Broker::start(LARGE, rules)?;
        let said = large.said()?;
        let each = (processor_time(&helper)? - before) / u32::try_from(TIMES)?;
        println!("  claimed in {said}; `nft -f` of the networks alone takes {plain:.0?}");
        println!("  the helper and what it runs take {each:.0?} of a processor for it");
        let mut small = Broker::start(SMALL, 10)?;
        println!("  beside it, another user's 10 rules in {}", small.said()?);
        small.end()?;
        large.end()?;
        println!(
            "  the helper had {} KiB at its height, {} KiB now",
            memory(&helper, "VmHWM"),
            memory(&helper, "VmRSS")
        );
    }
    helper.kill()?;
    helper.wait()?;
    Ok(())
}

fn helper() -> Result<Child> {
    let mut helper = Command::new(env!("CARGO_BIN_EXE_adit-capture"))
        .args(["--socket", SOCKET])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let log = helper.stderr.take().context("a log")?;
    let mut lines = BufReader::new(log).lines();
    while !lines.next().context("the helper ended")??.contains("ready") {}
    std::thread::spawn(move || lines.for_each(drop));
    Ok(helper)
}

fn memory(process: &Child, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.unwrap_or("?").to_owned()
}

/// Of the process and of all that it has waited for (proc(5), stat), to a hundredth of a second.
fn processor_time(process: &Child) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.id()))?;
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    // The third field is the first behind the name.
    let ticks = fields.split_whitespace().skip(14 - 3).take(4);
    let ticks: u64 = ticks.map(str::parse::<u64>).sum::<Result<_, _>>()?;
    Ok(Duration::from_millis(10 * ticks))
}

/// This program as a user's broker, until it is told to end.
struct Broker(Child);

impl Broker {
    fn start(uid: u32, rules: usize) -> Result<Broker> {
        let uid = uid.to_string();
        let child = Command::new("setpriv")
            .args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"])
            .arg(env::current_exe()?)
            .args(["broker", &rules.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Broker(child))
    }

    fn said(&mut self) -> Result<String> {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().context("an output")?).read_line(&mut line)?;
        ensure!(!line.is_empty(), "the broker ended");
        Ok(line.trim().to_owned())
    }

    fn end(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        let ended = self.0.wait()?;
        ensure!(ended.success(), "the broker: {ended}");
        Ok(())
    }
}

/// Claims again and again, as after changes of the rules.
fn broker(rules: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listeners = [
            TcpListener::bind("127.0.0.1:0")?,
            TcpListener::bind("[::1]:0")?,
        ];
        let listeners = listeners.each_ref().map(|listener| listener.as_fd());
        let client = Client::connect(Path::new(SOCKET)).await?;
        let _queue = client.queue().await?;
        let claims = [claim(rules), claim(rules - 1)];
        let mut took = Vec::new();
        for claim in claims.iter().cycle().take(TIMES) {
            let began = Instant::now();
            client.claim(claim, &listeners).await?;
            took.push(began.elapsed());
        }
        let first = took[0];
        took.sort_unstable();
        println!("{:.0?} (the first time {first:.0?})", took[TIMES / 2]);
        io::stdin().read_line(&mut String::new())?;
        client.release().await?;
        Ok(())
    })
}

/// Of 100 rules, 34 are for a network, 11 of IPv6, 22 for a network and an application, 11 for a range, and the rest for names;
/// what they say, and about which ports, is the same for some hundred of them.
fn claim(rules: usize) -> Claim {
    let mut steps: Vec<Step> = Vec::new();
    for rule in 0..rules {
        let (high, low) = (rule / 256 % 256, rule % 256);
        let network = match rule / 65_536 {
            0 => format!("10.{high}.{low}"),
            _ => format!("172.{}.{low}", 16 + high % 16),
        };
        let port = port(1 + rule / 65_536 * 4096 + rule / 4096);
        let web = [443..=443, port..=port, 8000..=8100];
        let (to, ports): (&[String], &[RangeInclusive<u16>]) = match rule % 9 {
            0..=2 => (&[format!("{network}.0/24")], &web),
            3 => (&[format!("2001:db8:{high:x}:{low:x}::/64")], &[port..=port]),
            4 | 5 => (&[format!("{network}.128/25")], &[port..=port]),
            6 => {
                let parts = ["1/32", "2/31", "4/30", "8/31"];
                (
                    &parts.map(|part| format!("{network}.{part}")),
                    &[22..=22, port..=port],
                )
            }
            _ => continue,
        };
        let verdict = match (rule % 7, rule % 9) {
            (3.., _) | (_, 4 | 5) => Verdict::Ask,
            (0, _) => Verdict::Block,
            _ => continue,
        };
        let to = to.iter().filter_map(|text| text.parse::<IpNet>().ok());
        match steps
            .iter_mut()
            .find(|step| step.verdict == verdict && step.ports == ports)
        {
            Some(step) => step.to.extend(to),
            None => steps.push(Step {
                to: to.collect(),
                ports: ports.to_vec(),
                verdict,
            }),
        }
    }
    Claim {
        steps,
        default: Verdict::Pass,
        on_broker_gone: OnBrokerGone::Block,
    }
}

fn port(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// Each step's networks as a set and a rule, and no more.
fn plain_table(claim: &Claim) -> Result<Duration> {
    let mut text = String::from(
        "add table inet plain\ndelete table inet plain\nadd table inet plain\nadd chain inet plain every\n",
    );
    for step in &claim.steps {
        for (field, v4) in [("ip", true), ("ip6", false)] {
            let networks = step
                .to
                .iter()
                .filter(|network| matches!(network, IpNet::V4(_)) == v4);
            let networks: Vec<String> = networks.map(ToString::to_string).collect();
            if !networks.is_empty() {
                writeln!(
                    text,
                    "add rule inet plain every {field} daddr {{ {} }} accept",
                    networks.join(", ")
                )?;
            }
        }
    }
    let file = Path::new("/run/plain.nft");
    fs::write(file, text)?;
    let began = Instant::now();
    let done = Command::new("nft").arg("-f").arg(file).status()?;
    let took = began.elapsed();
    ensure!(done.success(), "nft: {done}");
    let removed = Command::new("nft")
        .args(["delete", "table", "inet", "plain"])
        .status()?;
    ensure!(removed.success(), "nft: {removed}");
    Ok(took)
}

fn median(mut once: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let mut took = (0..TIMES).map(|_| once()).collect::<Result<Vec<_>>>()?;
    took.sort_unstable();
    match took.get(TIMES / 2) {
        Some(median) => Ok(*median),
        None => bail!("measured nothing"),
    }
}
