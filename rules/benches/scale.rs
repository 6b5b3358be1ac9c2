//! How long it takes to read rule files of 10, 1,000 and 100,000 rules, to judge a flow by them and to make the kernel's
//! program. The aim: 100,000 rules read in 2 s, a flow judged in 1 µs.

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use adit_rules::{Application, Checked, Date, Destination, Judgement, Policy};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const SIZES: [usize; 3] = [10, 1_000, 100_000];

/// A file with so many rules, of the kinds that are found together: of ten, four are for a network, one of these with IPv6, two
/// for a network and an application, one for a range, two for names, and one for an application alone.
fn file(rules: usize) -> String {
    file_of(rules, 10)
}

/// Of the ten kinds only the first few.
fn file_of(rules: usize, kinds: usize) -> String {
    let mut text = String::from(
        "version: 1\nzones: {a: {gateways: gw.a.example}, b: {gateways: gw.b.example}}\ndefault: pass\nrules:\n",
    );
    for rule in 0..rules {
        let (high, low) = (rule / 256 % 256, rule % 256);
        let network = match rule / 65_536 {
            0 => format!("10.{high}.{low}"),
            _ => format!("172.{}.{low}", 16 + high % 16),
        };
        // The same network again gets another port.
        let port = 1 + rule / 65_536 * 4096 + rule / 4096;
        let matchers = match rule % kinds {
            0..=2 => format!("to: {network}.0/24, ports: [443, {port}, 8000-8100]"),
            3 => format!("to: \"2001:db8:{high:x}:{low:x}::/64\", ports: {port}"),
            4 | 5 => format!(
                "app: [firefox, /opt/app{rule}/client], to: {network}.128/25, ports: {port}"
            ),
            6 => format!("to: {network}.1-{network}.9, ports: [22, {port}]"),
            7 => format!("to: service{rule}.finance.example"),
            8 => format!("to: \"*.team{rule}.example\", ports: [443, 8443]"),
            _ => format!("app: /opt/program{rule}/bin/run"),
        };
        let action = match rule % 7 {
            0 => "block",
            1 | 2 => "pass",
            3 | 4 => "tunnel, zone: a",
            _ => "tunnel, zone: b, on_down: hold",
        };
        let _ = writeln!(
            text,
            "  - {{name: rule {rule}, {matchers}, action: {action}}}"
        );
    }
    // "rule N" is what a rule without a name would be called.
    text.replace("name: rule ", "name: number ")
}

fn read(text: &str) -> Checked {
    let today = Date::new(2026, 7, 1).unwrap_or_else(|| unreachable!("it is a day"));
    let mut none = |_: &Path, _: usize| Err("there is none".to_owned());
    match Policy::parse(Path::new("rules.yaml"), text, today, &mut none) {
        Ok(checked) => checked,
        Err(errors) => panic!("the file is right, but:\n{errors}"),
    }
}

fn reading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(10));
    for rules in SIZES {
        let text = file(rules);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_with_input(
            BenchmarkId::from_parameter(rules),
            &text,
            |bencher, text| {
                bencher.iter(|| read(black_box(text)));
            },
        );
    }
    group.finish();
}

/// Flows all over the file: in the middle, at its end, and one that no rule is for.
fn judging(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("judge");
    let application = Application::of("/usr/bin/curl");
    for rules in SIZES {
        let policy = read(&file(rules)).policy;
        let middle = rules / 20 * 10;
        let network = format!("10.{}.{}", middle / 256 % 256, middle % 256);
        let program = format!("/opt/program{}/bin/run", middle + 9);
        let flows = [
            ("network", format!("{network}.7:443"), application.clone()),
            (
                "name",
                format!("service{}.finance.example:443", middle + 7),
                application.clone(),
            ),
            (
                "program",
                "192.0.2.1:443".to_owned(),
                Application::of(program),
            ),
            ("default", "192.0.2.1:443".to_owned(), application.clone()),
        ];
        for (what, to, application) in flows {
            let destination = Destination::parse(&to).unwrap_or_else(|why| panic!("{why}"));
            let judge = || policy.judge(black_box(&destination), black_box(Some(&application)));
            let Judgement::Decided(decision) = judge() else {
                panic!("everything was given");
            };
            assert_eq!(
                decision.rule() == "default",
                what == "default",
                "{what} {rules}"
            );
            group.bench_function(BenchmarkId::new(what, rules), |bencher| bencher.iter(judge));
        }
        // All over the file, so that nothing is near in memory.
        let flows: Vec<Destination> = (0..4096)
            .map(|flow| {
                let rule = flow * 7919 % rules;
                let to = match flow % 2 {
                    0 => format!("10.{}.{}.7:443", rule / 256 % 256, rule % 256),
                    _ => format!("service{}.finance.example:443", rule / 10 * 10 + 7),
                };
                Destination::parse(&to).unwrap_or_else(|why| panic!("{why}"))
            })
            .collect();
        let mut flows = flows.iter().cycle();
        group.bench_function(BenchmarkId::new("all over", rules), |bencher| {
            bencher.iter(|| {
                flows
                    .next()
                    .map(|flow| policy.judge(black_box(flow), Some(&application)))
            });
        });
    }
    group.finish();
}

fn programming(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kernel program");
    group.sample_size(10);
    for rules in SIZES {
        // A rule for an application alone leaves everything to the broker, and the program would end there.
        let policy = read(&file_of(rules, 9)).policy;
        group.bench_function(BenchmarkId::from_parameter(rules), |bencher| {
            bencher.iter(|| black_box(&policy).kernel_program());
        });
    }
    group.finish();
}

/// What reading takes of memory at its height, and what is resident afterwards (proc(5), status). The smallest file first: what
/// one leaves free, the next takes.
#[allow(clippy::print_stdout, reason = "a bench tells what it measured")]
fn memory(_: &mut Criterion) {
    let kibibytes = |key: &str| -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        number.unwrap_or(0)
    };
    for rules in SIZES {
        let text = file(rules);
        let before = kibibytes("VmRSS");
        let kept = read(&text);
        let (after, height) = (kibibytes("VmRSS"), kibibytes("VmHWM"));
        println!(
            "memory of {rules} rules: {} KiB resident, {} KiB at the height of reading, for a file of {} KiB",
            after.saturating_sub(before),
            height.saturating_sub(before),
            text.len() / 1024
        );
        drop(kept);
    }
}

criterion_group!(benches, memory, reading, judging, programming);
criterion_main!(benches);
