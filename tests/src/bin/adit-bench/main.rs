//! Adit beside its peers, in one run on one machine: docs/PERFORMANCE.md tells the method.

#![forbid(unsafe_code)]

mod figure;
mod forward;
mod gate;
mod machine;
mod path;
mod peer;
mod results;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;

use crate::figure::{Figure, Size};
use crate::gate::{GATES, Judged};
use crate::machine::Machine;
use crate::path::{Path, Tool};
use crate::results::Results;
use crate::table::Style;

/// Measures Adit beside a direct path, redsocks + `ssh -D`, and sshuttle.
#[derive(Parser)]
#[command(name = "adit-bench")]
struct Words {
    /// Only these tools.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "TOOL,…")]
    only: Vec<Tool>,
    /// Only these figures.
    #[arg(
        long = "figure",
        value_enum,
        value_delimiter = ',',
        value_name = "NAME,…"
    )]
    figures: Vec<Figure>,
    /// How often each figure is measured for each tool; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Everything tiny, once: fails when Adit, or the direct path, fails at anything.
    #[arg(long)]
    smoke: bool,
    /// Writes every number of every round to a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Prints tables in Markdown.
    #[arg(long)]
    markdown: bool,
    /// Fails when a gate is missed.
    #[arg(long)]
    gate: bool,
}

fn main() -> Result<ExitCode> {
    let words = Words::parse();
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raising the limit of open files")?;
    let machine = Machine::look();
    let mut run = Run::new(&words);
    run.measure()?;
    report(&words, &machine, &run)
}

/// A run under way.
struct Run {
    tools: Vec<Tool>,
    figures: Vec<Figure>,
    rounds: usize,
    size: Size,
    /// By [`Tool::path`].
    paths: BTreeMap<Tool, Result<Path, String>>,
    results: Results,
}

impl Run {
    fn new(words: &Words) -> Run {
        let tools = if words.only.is_empty() {
            Tool::COMPARED.to_vec()
        } else {
            words.only.clone()
        };
        let figures = if words.figures.is_empty() {
            Figure::all().to_vec()
        } else {
            words.figures.clone()
        };
        Run {
            tools,
            figures,
            rounds: if words.smoke { 1 } else { words.rounds },
            size: if words.smoke { Size::Smoke } else { Size::Full },
            paths: BTreeMap::new(),
            results: Results::default(),
        }
    }

    /// Figure by figure, and within it round by round through all the tools, so that the machine's drift
    /// hits all alike.
    fn measure(&mut self) -> Result<()> {
        let paths: BTreeSet<Tool> = self.tools.iter().map(|tool| tool.path()).collect();
        for tool in paths {
            progress(&format!("setting up {}", tool.label()))?;
            self.build(tool);
        }
        for figure in self.figures.clone() {
            let concerned = self.tools.iter().copied();
            let concerned: Vec<Tool> = concerned.filter(|tool| figure.concerns(*tool)).collect();
            for round in 0..self.rounds * figure.turns(self.size) {
                for tool in order(&concerned, round) {
                    self.measure_one(figure, tool, round)?;
                }
            }
        }
        Ok(())
    }

    fn build(&mut self, tool: Tool) {
        // The old one goes first: two of them would share the machine.
        self.paths.remove(&tool);
        let built = Path::build(tool).map_err(|error| format!("can't be set up: {error:#}"));
        self.paths.insert(tool, built);
    }

    /// A tool that failed at a figure is spared the other rounds of it, and set up anew for the next.
    fn measure_one(&mut self, figure: Figure, tool: Tool, round: usize) -> Result<()> {
        if self.results.failed(figure, tool).is_some() {
            return Ok(());
        }
        let began = Instant::now();
        let (found, again) = match self.paths.get(&tool.path()) {
            Some(Ok(path)) => {
                let found = path.measure(figure, tool, self.size);
                let failed = found.is_err();
                if failed {
                    progress(&path.log())?;
                }
                (found, failed)
            }
            Some(Err(why)) => (Err(anyhow::anyhow!(why.clone())), false),
            None => return Ok(()),
        };
        let said = match &found {
            Ok(numbers) => numbers
                .iter()
                .map(|(name, number)| format!("{name} {number:.2}"))
                .collect::<Vec<_>>()
                .join(", "),
            Err(error) => format!("fails: {error:#}"),
        };
        let took = began.elapsed().as_secs_f64();
        let round_number = round + 1;
        let (name, label) = (figure.name(), tool.label());
        progress(&format!(
            "{name} {round_number} {label} ({took:.1} s): {said}"
        ))?;
        self.results.add(figure, tool, round, found);
        if again {
            self.build(tool.path());
        }
        Ok(())
    }
}

/// Each round begins with another tool, and every second one goes backwards: two tools side by side in the list
/// go before each other equally often.
fn order(tools: &[Tool], round: usize) -> Vec<Tool> {
    let mut order = tools.to_vec();
    if !order.is_empty() {
        order.rotate_left(round / 2 % tools.len());
    }
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

fn report(words: &Words, machine: &Machine, run: &Run) -> Result<ExitCode> {
    let (results, tools) = (&run.results, &run.tools);
    // Tiny measures say nothing about speed.
    let judged = GATES.iter().filter(|_| run.size == Size::Full);
    let gates: Vec<Judged> = judged.filter_map(|gate| gate.judge(results)).collect();
    let failures = table::failures(results, tools);
    let style = if words.markdown {
        Style::Markdown
    } else {
        Style::Terminal
    };
    let mut paragraphs = vec![machine.line()];
    paragraphs.extend(machine.warning());
    if tools.contains(&Tool::Adit) && tools.len() > 1 {
        paragraphs.push(table::ratios(results, tools, style));
    }
    paragraphs.push(table::medians(results, tools, style));
    let bullet = if words.markdown { "- " } else { "" };
    for lines in [
        failures.clone(),
        gates.iter().map(ToString::to_string).collect(),
    ] {
        let lines: Vec<String> = lines.iter().map(|line| format!("{bullet}{line}")).collect();
        paragraphs.push(lines.join("\n"));
    }
    paragraphs.retain(|paragraph| !paragraph.is_empty());
    say(&paragraphs
        .iter()
        .map(|text| text.trim_end())
        .collect::<Vec<_>>()
        .join("\n\n"))?;
    if let Some(file) = &words.json {
        let everything = Everything {
            machine,
            results,
            gates: &gates,
        };
        fs::write(file, serde_json::to_string_pretty(&everything)?)
            .with_context(|| format!("writing {}", file.display()))?;
    }
    let ours_failed = [Tool::Direct, Tool::Adit, Tool::AditEarly, Tool::AditPlain]
        .into_iter()
        .any(|tool| {
            let failed = |figure: &Figure| results.failed(*figure, tool).is_some();
            run.figures.iter().any(failed)
        });
    let missed = words.gate && !gates.iter().all(Judged::passed);
    Ok(if missed || (words.smoke && ours_failed) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

#[derive(Serialize)]
struct Everything<'a> {
    machine: &'a Machine,
    results: &'a Results,
    gates: &'a [Judged],
}

fn say(text: &str) -> Result<()> {
    writeln!(io::stdout(), "{text}").context("writing to standard output")
}

fn progress(line: &str) -> Result<()> {
    writeln!(io::stderr(), "{line}").context("writing to standard error")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_tools_each_goes_first_in_half_of_the_rounds() {
        let tools = Tool::COMPARED;
        let place = |order: &[Tool], tool| order.iter().position(|other| *other == tool);
        for (one, other) in [
            (Tool::Adit, Tool::AditEarly),
            (Tool::Direct, Tool::Adit),
            (Tool::Redsocks, Tool::Adit),
        ] {
            let rounds = 2 * tools.len();
            let first = (0..rounds).filter(|round| {
                let order = order(&tools, *round);
                assert_eq!(order.len(), tools.len(), "each once");
                place(&order, one) < place(&order, other)
            });
            assert_eq!(first.count(), tools.len(), "{one:?} before {other:?}");
        }
    }

    #[test]
    fn nothing_has_an_order_too() {
        assert_eq!(order(&[], 3), []);
    }
}
