//! The tables of a run, for a terminal and for a page in Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::figure::{Better, Figure, ROWS, Row};
use crate::path::Tool;
use crate::results::Results;

/// Which characters draw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Terminal,
    Markdown,
}

/// Every row's median for every tool.
pub(crate) fn medians(results: &Results, tools: &[Tool], style: Style) -> String {
    let mut lines = vec![headings("", tools)];
    for row in measured(results, tools) {
        let mut cells = vec![format!("{}, {}", row.label, row.unit)];
        cells.extend(tools.iter().map(|tool| cell(results, *tool, row)));
        lines.push(cells);
    }
    drawn(&lines, style)
}

/// How many times better Adit is than each of the others, row by row.
pub(crate) fn ratios(results: &Results, tools: &[Tool], style: Style) -> String {
    let others: Vec<Tool> = tools
        .iter()
        .copied()
        .filter(|tool| *tool != Tool::Adit)
        .collect();
    let mut lines = vec![headings("Adit is better by, ×", &others)];
    for row in measured(results, tools).filter(|row| row.unit != "×") {
        let mut cells = vec![row.label.to_owned()];
        cells.extend(others.iter().map(|other| better_by(results, *other, row)));
        lines.push(cells);
    }
    drawn(&lines, style)
}

/// What failed, and why, a line for each reason of a tool.
pub(crate) fn failures(results: &Results, tools: &[Tool]) -> Vec<String> {
    let mut by_reason: BTreeMap<(Tool, &str), Vec<String>> = BTreeMap::new();
    for figure in Figure::all() {
        for tool in tools {
            if let Some(why) = results.failed(*figure, *tool) {
                let figures = by_reason.entry((*tool, why)).or_default();
                figures.push(figure.name());
            }
        }
    }
    let lines = by_reason.into_iter().map(|((tool, why), figures)| {
        format!("{} fails at {}: {why}", tool.label(), figures.join(", "))
    });
    lines.collect()
}

fn headings(first: &str, tools: &[Tool]) -> Vec<String> {
    let labels = tools.iter().map(|tool| tool.label().to_owned());
    [first.to_owned()].into_iter().chain(labels).collect()
}

fn measured(results: &Results, tools: &[Tool]) -> impl Iterator<Item = Row> {
    ROWS.into_iter().filter(|row| {
        tools
            .iter()
            .any(|tool| results.of(row.figure, *tool).is_some())
    })
}

fn cell(results: &Results, tool: Tool, row: Row) -> String {
    match results.median(row.figure, tool, row.number) {
        Some(number) => plain(number),
        None if results.failed(row.figure, tool).is_some() => "fails".to_owned(),
        None => "–".to_owned(),
    }
}

fn better_by(results: &Results, other: Tool, row: Row) -> String {
    match results.median_ratio(row.figure, row.number, Tool::Adit, other) {
        Some(ratio) => plain(match row.better {
            Better::Higher => ratio,
            Better::Lower => 1.0 / ratio,
        }),
        None if results.failed(row.figure, Tool::Adit).is_some() => "Adit fails".to_owned(),
        None if results.failed(row.figure, other).is_some() => "it fails".to_owned(),
        None => "–".to_owned(),
    }
}

/// Three significant digits, and no fraction from a hundred on.
fn plain(number: f64) -> String {
    match number {
        n if n >= 100.0 => grouped(n),
        n if n >= 10.0 => format!("{n:.1}"),
        n => format!("{n:.2}"),
    }
}

fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn drawn(lines: &[Vec<String>], style: Style) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells = line
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| {
                if column == 0 {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            });
        let cells: Vec<String> = cells.collect();
        // Writing to a string can't fail.
        let _ = match style {
            Style::Terminal => writeln!(text, "{}", cells.join("  ")),
            Style::Markdown => writeln!(text, "| {} |", cells.join(" | ")),
        };
        if number == 0 && style == Style::Markdown {
            let rules = widths.iter().enumerate().map(
                |(column, _)| {
                    if column == 0 { "---" } else { "---:" }
                },
            );
            let _ = writeln!(text, "| {} |", rules.collect::<Vec<_>>().join(" | "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_significant_digits() {
        let check = |number, expected: &str| assert_eq!(plain(number), expected);
        check(0.126, "0.13");
        check(9.123, "9.12");
        check(16.44, "16.4");
        check(407.4, "407");
        check(22_300.0, "22,300");
        check(1_234_567.0, "1,234,567");
    }

    #[test]
    fn markdown_has_a_rule_below_its_heading() {
        let lines = [["", "a"], ["row", "1"]].map(|line| line.map(str::to_owned).to_vec());
        let expected = "|     | a |\n| --- | ---: |\n| row | 1 |\n";
        assert_eq!(drawn(&lines, Style::Markdown), expected);
    }
}
