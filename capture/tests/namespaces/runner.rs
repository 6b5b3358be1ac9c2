//! Runs cases, each in namespaces of its own.

use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::{Case, lab};

/// How many cases at once.
const WIDTH: usize = 2;
/// A case that takes longer is killed, with all that it started (timeout(1) kills unshare, and `--kill-child` the rest).
const DEADLINE: Duration = Duration::from_secs(90);

pub(crate) fn run(cases: &[Case], arguments: &[String]) -> ExitCode {
    let words: Vec<&String> = arguments
        .iter()
        .filter(|word| !word.starts_with('-'))
        .collect();
    let chosen: Vec<&Case> = cases
        .iter()
        .filter(|(name, _)| words.is_empty() || words.iter().any(|word| name.contains(*word)))
        .collect();
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let (queue, failed) = (Mutex::new(chosen.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..WIDTH {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some((name, _)) = next else { return };
                    if !one(name) {
                        failed.lock().unwrap().push(*name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    if !failed.is_empty() {
        println!("\nfailed: {}", failed.join(", "));
    }
    println!(
        "\n{} passed, {} failed",
        chosen.len() - failed.len(),
        failed.len()
    );
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn one(name: &str) -> bool {
    let start = Instant::now();
    let output = Command::new("timeout")
        .args(["--signal=KILL", &DEADLINE.as_secs().to_string()])
        .args([
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["inside", name])
        .stdin(Stdio::null())
        .output()
        .expect("unshare (util-linux) and timeout (coreutils) are installed");
    let took = start.elapsed().as_secs_f32();
    if output.status.success() {
        println!("test {name} ... ok ({took:.1} s)");
        return true;
    }
    println!(
        "test {name} ... FAILED ({took:.1} s, {})\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

pub(crate) fn inside(cases: &[Case], name: &str) -> ExitCode {
    let (_, case) = cases
        .iter()
        .find(|(known, _)| *known == name)
        .expect("a case of that name");
    lab::prepare();
    case();
    ExitCode::SUCCESS
}
