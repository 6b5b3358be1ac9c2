//! The administrator's reference shows only what is true.

mod reading;

use std::collections::BTreeSet;
use std::path::Path;

use adit_rules::{Application, Author, Date, Destination, Layer, Policy};
use reading::{parse_file, parse_on};
use serde_json::Value;

const MANUAL: &str = include_str!("../../docs/rules.md");
const README: &str = include_str!("../../README.md");

/// Where a user's own rules are.
const USERS: &str = "/home/alice/.config/adit/rules.yaml";

/// A fenced block: the words behind its fence, and what is inside.
fn blocks() -> Vec<(&'static str, &'static str)> {
    let fences: Vec<&str> = MANUAL.split("```").collect();
    let inside = fences.iter().skip(1).step_by(2);
    inside
        .map(|block| block.split_once('\n').expect("a fence ends its line"))
        .collect()
}

/// As a user's file behind an administrator's that blocks.
fn layered(text: &str) -> Result<String, String> {
    let layers = [(Author::Administrator, "a.yaml"), (Author::User, USERS)];
    let layers = layers.map(|(author, file)| Layer {
        author,
        files: vec![file.into()],
    });
    let mut files = |path: &Path, _: usize| {
        let is_users = path == Path::new(USERS);
        let administrators = "version: 1\ndefault: block\n";
        Ok(if is_users { text } else { administrators }.to_owned())
    };
    let today = Date::new(2026, 7, 1).expect("there is such a day");
    match Policy::read(&layers, today, &mut files) {
        Ok(checked) => Ok(checked.warnings.to_string()),
        Err(errors) => Err(errors.to_string()),
    }
}

/// The files that lie beside the rule files.
fn beside() -> Vec<(&'static str, &'static str)> {
    let named =
        |(kind, text): (&'static str, &'static str)| Some((kind.split_once(" beside ")?.1, text));
    blocks().into_iter().filter_map(named).collect()
}

fn parse(text: &str) -> Result<String, String> {
    match parse_file(Path::new("rules.yaml"), text, &beside()) {
        Ok(checked) => Ok(checked.warnings.to_string()),
        Err(errors) => Err(errors.to_string()),
    }
}

/// Of the words `$ adit explain --rules rules.yaml --app APP --to HOST:PORT`.
fn explain(rules: &str, question: &str) -> String {
    let asked = question.strip_prefix("$ adit explain --rules rules.yaml --app ");
    let (app, to) = asked
        .and_then(|asked| asked.split_once(" --to "))
        .unwrap_or_else(|| panic!("not a question: {question}"));
    // Its path is shown in full, from wherever it was asked.
    let file = Path::new("/etc/adit/rules.yaml");
    let checked = parse_file(file, rules, &[]).expect("it is valid");
    let destination = Destination::parse(to).expect("a destination");
    let application = Application::parse(app).expect("an application");
    let explanation = checked.policy.explain(&destination, &application);
    explanation.to_string()
}

#[test]
fn every_example_does_what_the_page_says() {
    let blocks = blocks();
    let mut examples = 0;
    for (index, (kind, text)) in blocks.iter().enumerate() {
        let shown = || {
            let (kind, shown) = blocks[index + 1];
            assert_eq!(kind, "text", "what is shown of:\n{text}");
            shown.trim_end().to_owned()
        };
        match *kind {
            "yaml" => assert_eq!(parse(text), Ok(String::new()), "{text}"),
            "yaml warned" => assert_eq!(parse(text), Ok(shown()), "{text}"),
            "yaml wrong" => assert_eq!(parse(text), Err(shown()), "{text}"),
            "yaml layered" => assert_eq!(layered(text), Ok(shown()), "{text}"),
            "text" => continue,
            beside if beside.contains(" beside ") => continue,
            "console" => {
                let (question, answer) = text.split_once('\n').expect("a question");
                let (_, rules) = blocks[..index]
                    .iter()
                    .rfind(|(kind, _)| *kind == "yaml")
                    .expect("rules to explain");
                assert_eq!(explain(rules, question), answer.trim_end(), "{question}");
                continue;
            }
            other => panic!("a block of unknown kind {other:?}:\n{text}"),
        }
        examples += 1;
    }
    assert_eq!(examples, 28);
}

/// All keys of mappings below `schema`.
fn keys_of(schema: &Value, keys: &mut BTreeSet<String>) {
    if let Some(properties) = schema["properties"].as_object() {
        keys.extend(properties.keys().cloned());
    }
    match schema {
        Value::Object(entries) => entries.values().for_each(|it| keys_of(it, keys)),
        Value::Array(items) => items.iter().for_each(|it| keys_of(it, keys)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn every_key_has_an_example() {
    let mut keys = BTreeSet::new();
    keys_of(&adit_rules::schema(), &mut keys);
    assert!(keys.len() > 30, "{keys:?}");
    let is_valid = |(kind, _): &(&str, &str)| matches!(*kind, "yaml" | "yaml warned");
    let examples: Vec<&str> = blocks()
        .into_iter()
        .filter(is_valid)
        .map(|it| it.1)
        .collect();
    let has = |example: &str, key: &str| {
        let is_key =
            |at: usize| !example[..at].ends_with(|it: char| it.is_alphanumeric() || it == '_');
        example
            .match_indices(&format!("{key}:"))
            .any(|(at, _)| is_key(at))
    };
    keys.retain(|key| !examples.iter().any(|example| has(example, key)));
    assert!(keys.is_empty(), "no example has {keys:?}");
}

#[test]
fn the_readme_shows_a_rule_file_that_is_right() {
    let section = README.split("## A rule file").nth(1).expect("its section");
    let example = section.split("```yaml\n").nth(1).expect("an example");
    let example = example.split("```").next().unwrap_or_default();
    assert_eq!(parse(example), Ok(String::new()));
}

/// A day turns no good file into a bad one.
#[test]
fn every_example_is_accepted_on_any_day() {
    for (year, month, day) in [(1970, 1, 1), (2027, 1, 1), (9999, 12, 31)] {
        let today = Date::new(year, month, day).expect("there is such a day");
        for (kind, text) in blocks() {
            if kind == "yaml" || kind == "yaml warned" {
                let read = parse_on(today, Path::new("rules.yaml"), text, &beside());
                assert!(read.is_ok(), "{today}: {}\n{text}", read.unwrap_err());
            }
        }
    }
}

/// Entries of the tables of `app` and `to`, each in a rule of its own.
#[test]
fn every_pattern_in_the_tables_is_accepted() {
    let mut patterns = 0;
    for key in ["app", "to"] {
        let section = MANUAL
            .split(&format!("### `{key}`"))
            .nth(1)
            .expect("its section");
        let section = section.split("\n#").next().unwrap_or_default();
        let section = section.split("\n| key |").next().unwrap_or_default();
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        for row in rows {
            let cell = row.split('|').nth(1).expect("a first cell");
            for pattern in cell.split('`').skip(1).step_by(2) {
                let text = format!(
                    "version: 1\nsets: {{browsers: [firefox], erp: [10.0.0.1]}}\nrules: [{{{key}: {pattern}, action: pass}}]\ndefault: block\n"
                );
                assert!(parse(&text).is_ok(), "{pattern}: {:?}", parse(&text));
                patterns += 1;
            }
        }
    }
    assert_eq!(patterns, 25);
}
