//! What a run ran on: figures without it can't be compared with others.

use std::fs;
use std::process::Command;
use std::thread;

use serde::Serialize;

/// The machine and the peers.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    processor: String,
    cores: usize,
    kernel: String,
    peers: Vec<String>,
    /// Runnable processes, on average, of the minute before the run.
    load_before: f64,
}

impl Machine {
    pub(crate) fn look() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown", |(_, name)| name);
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().and_then(|load| load.parse().ok());
        Machine {
            processor: processor.to_owned(),
            cores: thread::available_parallelism().map_or(0, usize::from),
            kernel: first_line("uname", &["-sr"]),
            peers: vec![
                first_line("ssh", &["-V"]),
                first_line("redsocks", &["-v"]),
                format!("sshuttle {}", first_line("sshuttle", &["--version"])),
            ],
            load_before: load.unwrap_or(0.0),
        }
    }

    pub(crate) fn line(&self) -> String {
        let (cores, peers) = (self.cores, self.peers.join(", "));
        format!(
            "{}, {cores} cores, {}; {peers}",
            self.processor, self.kernel
        )
    }

    /// A sentence, when something else seems to run.
    pub(crate) fn warning(&self) -> Option<String> {
        let load = self.load_before;
        (load > 0.5).then(|| {
            format!(
                "The machine was not idle before this run (load {load:.1}): mistrust its figures."
            )
        })
    }
}

fn first_line(program: &str, words: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(words).output() else {
        return format!("{program}: not installed");
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    said.lines().next().unwrap_or("unknown").to_owned()
}
