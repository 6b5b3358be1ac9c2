//! What a puppet can find out of who made a connection.

use std::net::SocketAddr;
use std::time::Instant;

use adit_capture::attribution::{Ancestors, Attributor, Hashes, Process, Unknowable};

pub(crate) struct Looker {
    attributor: Attributor,
    /// A process that was found.
    kept: Option<Process>,
}

impl Default for Looker {
    fn default() -> Looker {
        Looker {
            attributor: Attributor::new().unwrap(),
            kept: None,
        }
    }
}

impl Looker {
    /// `None`: not one of its orders.
    pub(crate) fn obey(&mut self, order: &str, rest: &str) -> Option<String> {
        Some(match order {
            "owner" => self.owner(rest),
            "facts" => self.process(rest).map_or("none".into(), |it| facts(&it)),
            "keep" => {
                self.kept = self.process(rest);
                "ok".into()
            }
            "kept" => facts(self.kept.as_ref().unwrap()),
            "bench" => self.bench(rest),
            _ => return None,
        })
    }

    fn owner(&mut self, rest: &str) -> String {
        let (source, destination) = ends(rest);
        match self.attributor.owner(source, destination).unwrap() {
            None => "none".into(),
            Some(owner) => match self.attributor.process(&owner) {
                None => format!("{} unknown", owner.uid),
                Some(process) => {
                    format!("{} {} {}", owner.uid, process.pid, process.path.display())
                }
            },
        }
    }

    fn process(&mut self, rest: &str) -> Option<Process> {
        let (source, destination) = ends(rest);
        let owner = self.attributor.owner(source, destination).unwrap()?;
        self.attributor.process(&owner)
    }

    /// Microseconds for one lookup of owner, and of process.
    fn bench(&mut self, rest: &str) -> String {
        const ROUNDS: u32 = 2000;
        let (source, destination) = ends(rest);
        let owner = self.attributor.owner(source, destination).unwrap().unwrap();
        let start = Instant::now();
        (0..ROUNDS).for_each(|_| {
            assert!(
                self.attributor
                    .owner(source, destination)
                    .unwrap()
                    .is_some()
            )
        });
        let owners = start.elapsed() / ROUNDS;
        let start = Instant::now();
        (0..ROUNDS).for_each(|_| assert!(self.attributor.process(&owner).is_some()));
        format!(
            "{} {}",
            owners.as_micros(),
            (start.elapsed() / ROUNDS).as_micros()
        )
    }
}

fn ends(rest: &str) -> (SocketAddr, SocketAddr) {
    let (source, destination) = rest.split_once(' ').unwrap();
    (source.parse().unwrap(), destination.parse().unwrap())
}

/// Everything that can be found out beside the path.
fn facts(process: &Process) -> String {
    let shown = |fact: Result<Option<String>, Unknowable>| match fact {
        Ok(Some(fact)) => fact,
        Ok(None) => "none".into(),
        Err(Unknowable) => "unknowable".into(),
    };
    let script = process
        .script()
        .map(|script| Some(script?.display().to_string()));
    let Ancestors { binaries, complete } = process.ancestors();
    let binaries: Vec<String> = binaries.iter().map(|it| it.display().to_string()).collect();
    let hash = Hashes::default().of(process);
    let hash = hash.map(|hash| Some(hash.iter().map(|byte| format!("{byte:02x}")).collect()));
    format!(
        "path {} group {} script {} parents {} {} sha256 {}",
        process.path.display(),
        shown(process.cgroup()),
        shown(script),
        binaries.join(","),
        if complete { "all" } else { "and more" },
        shown(hash),
    )
}
