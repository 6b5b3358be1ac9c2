//! A kernel's program, as people read it.

use adit_rules::{KernelProgram, KernelVerdict};

/// A step a line.
#[track_caller]
pub(crate) fn check_program(program: &KernelProgram, expected: &str) {
    let word = |verdict| match verdict {
        KernelVerdict::Ask => "ask",
        KernelVerdict::HandOver => "hand over",
        KernelVerdict::Pass => "pass",
        KernelVerdict::Block => "block",
    };
    let mut lines: Vec<String> = Vec::new();
    for step in &program.steps {
        let to: Vec<String> = step.to.iter().map(ToString::to_string).collect();
        let ports: Vec<String> = step
            .ports
            .iter()
            .map(|range| format!("{}-{}", range.start(), range.end()))
            .collect();
        let ports = if ports.is_empty() {
            "all".to_owned()
        } else {
            ports.join(",")
        };
        lines.push(format!("{} {} {ports}", word(step.verdict), to.join(" ")));
    }
    lines.push(format!("else {}", word(program.default)));
    assert_eq!(lines.join("\n"), expected);
}
