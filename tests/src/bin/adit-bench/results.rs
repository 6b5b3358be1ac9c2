//! What the rounds found, and what they say together.

use std::collections::BTreeMap;

use adit_tests::load::Numbers;
use anyhow::Error;
use serde::Serialize;

use crate::figure::Figure;
use crate::path::Tool;

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Results {
    figures: BTreeMap<Figure, BTreeMap<Tool, Rounds>>,
}

/// One figure of one tool.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct Rounds {
    /// By round; a tool that failed is left out of the later ones.
    pub(crate) numbers: BTreeMap<usize, Numbers>,
    /// Why it failed.
    pub(crate) failed: Option<String>,
}

impl Results {
    pub(crate) fn add(
        &mut self,
        figure: Figure,
        tool: Tool,
        round: usize,
        found: Result<Numbers, Error>,
    ) {
        let rounds = self
            .figures
            .entry(figure)
            .or_default()
            .entry(tool)
            .or_default();
        match found {
            Ok(numbers) => {
                rounds.numbers.insert(round, numbers);
            }
            Err(error) => rounds.failed = Some(one_line(&format!("{error:#}"))),
        }
    }

    pub(crate) fn of(&self, figure: Figure, tool: Tool) -> Option<&Rounds> {
        self.figures.get(&figure)?.get(&tool)
    }

    pub(crate) fn failed(&self, figure: Figure, tool: Tool) -> Option<&str> {
        self.of(figure, tool)?.failed.as_deref()
    }

    /// Median over the rounds; nothing when the tool failed.
    pub(crate) fn median(&self, figure: Figure, tool: Tool, number: &str) -> Option<f64> {
        let rounds = self.of(figure, tool)?;
        if rounds.failed.is_some() {
            return None;
        }
        let found = rounds.numbers.values();
        median(
            found
                .filter_map(|numbers| numbers.get(number).copied())
                .collect(),
        )
    }

    /// Median over the rounds of one tool's number to the other's in the same round, so that what the
    /// machine does to all alike falls out.
    pub(crate) fn median_ratio(
        &self,
        figure: Figure,
        number: &str,
        one: Tool,
        other: Tool,
    ) -> Option<f64> {
        self.median_of_pairs(figure, number, [one, other], |one, other| one / other)
    }

    /// The same of one tool's number less the other's.
    pub(crate) fn median_difference(
        &self,
        figure: Figure,
        number: &str,
        one: Tool,
        other: Tool,
    ) -> Option<f64> {
        self.median_of_pairs(figure, number, [one, other], |one, other| one - other)
    }

    fn median_of_pairs(
        &self,
        figure: Figure,
        number: &str,
        [one, other]: [Tool; 2],
        compare: impl Fn(f64, f64) -> f64,
    ) -> Option<f64> {
        let (one, other) = (self.of(figure, one)?, self.of(figure, other)?);
        if one.failed.is_some() || other.failed.is_some() {
            return None;
        }
        let pairs = one.numbers.iter().filter_map(|(round, numbers)| {
            let other = other.numbers.get(round)?.get(number)?;
            Some(compare(*numbers.get(number)?, *other))
        });
        median(pairs.collect())
    }
}

fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(*values.get(middle - 1)?, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: Option<f64>, expected: Option<f64>) {
        let same = match (found, expected) {
            (Some(found), Some(expected)) => (found - expected).abs() < 1e-9,
            (None, None) => true,
            _ => false,
        };
        assert!(same, "{found:?} instead of {expected:?}");
    }

    fn results(adit: &[f64], peer: &[f64]) -> Results {
        let mut results = Results::default();
        for (tool, values) in [(Tool::Adit, adit), (Tool::Redsocks, peer)] {
            for (round, value) in values.iter().enumerate() {
                let numbers = Numbers::from([("n".to_owned(), *value)]);
                results.add(Figure::Up, tool, round, Ok(numbers));
            }
        }
        results
    }

    #[test]
    fn medians() {
        let check = |values: &[f64], expected| close(median(values.to_vec()), expected);
        check(&[], None);
        check(&[3.0], Some(3.0));
        check(&[3.0, 1.0], Some(2.0));
        check(&[9.0, 1.0, 2.0], Some(2.0));
    }

    /// A machine that halves its speed for a whole round changes no ratio.
    #[test]
    fn ratios_are_taken_round_by_round() {
        let check = |adit: &[f64], peer: &[f64], expected| {
            let ratio =
                results(adit, peer).median_ratio(Figure::Up, "n", Tool::Adit, Tool::Redsocks);
            close(ratio, expected);
        };
        check(&[6.0, 3.0, 6.0], &[4.0, 2.0, 4.0], Some(1.5));
        check(&[6.0, 3.0], &[4.0], Some(1.5));
        check(&[6.0], &[], None);
    }

    #[test]
    fn differences_are_taken_round_by_round() {
        let check = |adit: &[f64], peer: &[f64], expected| {
            let difference =
                results(adit, peer).median_difference(Figure::Up, "n", Tool::Adit, Tool::Redsocks);
            close(difference, expected);
        };
        check(&[6.0, 3.0, 9.0], &[4.0, 2.0, 4.0], Some(2.0));
        check(&[2.0], &[4.0], Some(-2.0));
        check(&[], &[4.0], None);
    }

    #[test]
    fn a_failure_takes_the_numbers_before_it_along() {
        let mut results = results(&[6.0], &[4.0]);
        results.add(Figure::Up, Tool::Adit, 1, Err(anyhow::anyhow!("reset")));
        close(results.median(Figure::Up, Tool::Adit, "n"), None);
        assert_eq!(results.failed(Figure::Up, Tool::Adit), Some("reset"));
        let ratio = results.median_ratio(Figure::Up, "n", Tool::Adit, Tool::Redsocks);
        close(ratio, None);
    }
}
