//! What an administrator sees when a rule file is wrong, or does not do what it seems to: `files/wrong` and `files/warned`
//! hold files, and beside each what is said of it. `UPDATE_SNAPSHOTS=1` writes that anew, for `git diff` to show.

mod reading;

use std::fs;
use std::path::{Path, PathBuf};

use reading::parse_file;

/// The rule files of a directory, in the order of their names.
fn files(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/files")
        .join(directory);
    let entries = fs::read_dir(&directory).expect("the directory is there");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.retain(|file| {
        file.extension()
            .is_some_and(|extension| extension == "yaml")
    });
    files.sort();
    files
}

/// Files that rule files name.
fn beside() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files/beside");
    let entries = fs::read_dir(directory).expect("the directory is there");
    entries
        .map(|entry| {
            let file = entry.expect("an entry").path();
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            (
                name.into_owned(),
                fs::read_to_string(&file).expect("a text"),
            )
        })
        .collect()
}

fn text_of(file: &Path) -> String {
    fs::read_to_string(file).expect("a text")
}

/// What is said of a file with this text: `Ok` when it is accepted.
fn said_of(text: &str) -> Result<String, String> {
    let beside = beside();
    let beside: Vec<(&str, &str)> = beside
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    match parse_file(Path::new("rules.yaml"), text, &beside) {
        Ok(checked) => Ok(checked.warnings.to_string()),
        Err(errors) => Err(errors.to_string()),
    }
}

#[track_caller]
fn check(file: &Path, said: &str) {
    let snapshot = file.with_extension("txt");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(&snapshot, format!("{said}\n")).expect("it can be written");
    }
    let expected = fs::read_to_string(&snapshot).unwrap_or_default();
    assert_eq!(said, expected.trim_end_matches('\n'), "{}", file.display());
}

#[test]
fn wrong_files_are_refused_with_these_words() {
    let files = files("wrong");
    assert!(files.len() >= 70, "{}", files.len());
    for file in files {
        match said_of(&text_of(&file)) {
            Err(errors) => check(&file, &errors),
            Ok(_) => panic!("{} is accepted", file.display()),
        }
    }
}

#[test]
fn doubtful_files_are_accepted_with_these_words() {
    for file in files("warned") {
        match said_of(&text_of(&file)) {
            Ok(warnings) => {
                assert_ne!(warnings, "", "{}", file.display());
                check(&file, &warnings);
            }
            Err(errors) => panic!("{} is refused:\n{errors}", file.display()),
        }
    }
}

const HEAD: &str = "version: 1\nzones: {z: {gateways: gw}}\ndefault: pass\n";

/// `line` so many times; `#` becomes a number.
fn many(times: usize, line: &str) -> String {
    let numbers = (0..times).map(|number| line.replace('#', &number.to_string()));
    numbers.collect()
}

/// Files that are wrong because of their size, each the smallest that is.
#[test]
fn files_beyond_their_bounds_are_told_so_in_these_words() {
    let rules = format!("{HEAD}rules:\n");
    let network = |rule: usize| format!("10.{}.{}", rule / 256 % 256, rule % 256);
    let odd = |rule: usize| {
        format!(
            "  - {{to: {}.1-{}.254, ports: {}, action: tunnel}}\n",
            network(rule),
            network(rule),
            1 + rule % 60_000
        )
    };
    for (name, text) in [
        ("too_long", format!("{HEAD}#{}\n", "x".repeat(16 << 20))),
        ("too_deep", format!("{HEAD}rules: {}", "[".repeat(100))),
        (
            "too_many_values",
            format!(
                "{HEAD}x: &x [{}]\ny: &y [{}]\nrules: [{}]\n",
                many(1000, "#, "),
                many(1000, "*x, "),
                many(3, "*y, ")
            ),
        ),
        (
            "too_many_zones",
            format!(
                "version: 1\ndefault: pass\nzones:\n{}",
                many(4097, "  zone-#: {gateways: [gw]}\n")
            ),
        ),
        (
            "too_many_expressions",
            format!(
                "{rules}{}",
                many(1001, "  - {to: {regex: \"^a#$\"}, action: pass}\n")
            ),
        ),
        (
            "too_large_expressions",
            format!(
                "{rules}{}",
                many(1000, "  - {to: {regex: \"(?u)\\\\w{4}#\"}, action: pass}\n")
            ),
        ),
        (
            "too_many_tests",
            format!(
                "{rules}{}tests:\n{}",
                many(1500, "  - {app: \"a*#\", action: block}\n"),
                many(1500, "  - {app: /b, to: \"192.0.2.1:1#\", expect: pass}\n")
            ),
        ),
        (
            "too_many_set_files",
            format!(
                "{HEAD}sets:\n{}rules:\n{}",
                many(257, "  s#: {file: vendor.json}\n"),
                many(257, "  - {to: \"@s#\", ports: 1#, action: block}\n")
            ),
        ),
        (
            "sets_used_too_often",
            format!(
                "{HEAD}sets:\n  s: [{}]\nrules:\n{}",
                many(5000, "host-#.corp, "),
                many(300, "  - {to: [\"@s\", x#.corp], action: block}\n")
            ),
        ),
        (
            "more_than_the_kernel_has_room_for",
            rules.clone() + &(0..10_000).map(odd).collect::<String>(),
        ),
        (
            "shadows_not_looked_for",
            format!(
                "{rules}{}",
                many(3000, "  - {app: \"*a#*\", action: block}\n")
            ),
        ),
    ] {
        let said = match said_of(&text) {
            Ok(warnings) => format!("accepted\n\n{warnings}"),
            Err(errors) => errors.to_string(),
        };

        let said: Vec<&str> = said.lines().take(12).collect();
        // The line itself may be as long as the file.
        let said: Vec<String> = said
            .iter()
            .map(|line| line.chars().take(160).collect())
            .collect();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files/beyond");
        check(&file.join(name).with_extension("yaml"), &said.join("\n"));
    }
}
