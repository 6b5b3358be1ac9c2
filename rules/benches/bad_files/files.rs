//! The files: what is known to take long, or might.

const HEAD: &str = "version: 1\nzones: {z: {gateways: [gw]}}\ndefault: pass\n";
const MEBIBYTE: usize = 1 << 20;
/// An error that is found at the end.
const LATE: &str = "tests: [{to: nowhere, expect: nope}]\n";
/// One that is found when the shape of the file is looked at.
const UNKNOWN: &str = "nope: 1\n";

/// A file that is written when it is asked for.
pub(crate) struct BadFile {
    pub(crate) what: &'static str,
    parts: Vec<Part>,
}

enum Part {
    Once(String),
    /// Again and again, until the file has so many bytes; `#` becomes a number, and `%` two octets of an address.
    Until(usize, String),
}

impl BadFile {
    fn new(what: &'static str) -> Self {
        let parts = Vec::new();
        Self { what, parts }
    }

    fn once(mut self, text: impl Into<String>) -> Self {
        self.parts.push(Part::Once(text.into()));
        self
    }

    fn until(mut self, length: usize, text: impl Into<String>) -> Self {
        self.parts.push(Part::Until(length, text.into()));
        self
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Once(once) => text += once,
                Part::Until(length, line) => repeat(&mut text, *length, line),
            }
        }
        text
    }
}

fn repeat(text: &mut String, length: usize, line: &str) {
    let mut number = 0u32;
    while text.len() < length {
        let octets = format!("{}.{}", number / 256 % 256, number % 256);
        *text += &line.replace('#', &number.to_string()).replace('%', &octets);
        number += 1;
    }
}

/// A mebibyte of `line` behind `head`.
fn much(what: &'static str, head: &str, line: &str) -> BadFile {
    let head = format!("{HEAD}{head}");
    BadFile::new(what).once(head).until(MEBIBYTE, line)
}

/// Rules that repeat, and an error behind them.
fn late(what: &'static str, rule: &str) -> BadFile {
    much(what, "rules:\n", &format!("  - {rule}\n")).once(LATE)
}

/// Entries of one list behind `key`, and an error behind them.
fn listed(what: &'static str, key: &str, entry: &str) -> BadFile {
    much(what, &format!("{key}["), entry)
        .once("]\n")
        .once(UNKNOWN)
}

/// All of them.
pub(crate) fn bad_files() -> Vec<BadFile> {
    let all = [
        rules(),
        wrong_rules(),
        lists(),
        shapes(),
        other_keys(),
        texts(),
        bounded(),
    ];
    all.into_iter().flatten().collect()
}

/// Right ones, many of them.
fn rules() -> Vec<BadFile> {
    vec![
        late("shortest rules", "{action: pass}"),
        late("short ports", "{ports: #, action: pass}"),
        late("short addresses", "{to: 10.%.1, action: pass}"),
        late("short names", "{to: a#, action: pass}"),
        late("short programs", "{app: a#, action: pass}"),
        late("short tunnels", "{to: a#, action: tunnel}"),
        late("quoted", "{\"to\": \"a#\", 'action': 'pass'}"),
        late(
            "lists of one",
            "{to: [a], app: [b], ports: [#], action: pass}",
        ),
        late(
            "block style",
            "name: r#\n    to:\n      - 10.%.0/24\n    action: pass",
        ),
        late(
            "everything but a match",
            "{enabled: on, log: on, notify: on, expires: 2027-01-01, action: pass}",
        ),
        late(
            "nots",
            "{name: r#, app: {not: a#}, to: {not: 10.%.0/24}, ports: {not: 443}, action: pass}",
        ),
        late(
            "networks and names",
            "{name: r#, app: /usr/bin/a#, to: [10.%.0/24, h#.corp], action: block}",
        ),
        late(
            "facts",
            "{app: {path: a#, script: /opt/#, not: {unit: u#.service}}, ports: 1-443, action: pass}",
        ),
        late(
            "people",
            "{user: [u#], group: {not: g#}, to: [\"*.a#.corp\", \"2001:db8::#\"], action: block}",
        ),
        late(
            "directories",
            "{app: [\"/opt/a#/**\", unknown], action: pass}",
        ),
        late(
            "same network",
            "{name: r#, to: 192.0.2.0/24, ports: [80, 443], app: b#, action: block}",
        ),
        late(
            "expressions",
            "{app: {regex: \"^a#[b-z]{1,9}$\"}, to: {regex: \"^h#x+$\"}, action: pass}",
        ),
        late(
            "globs",
            "{app: \"/**/x#/**/y*\", to: \"*a#*b*\", action: pass}",
        ),
        late(
            "tunnels to elsewhere",
            "{to: a#, action: tunnel, destination: b#, port: 1, on_down: hold, connect: early}",
        ),
        late(
            "wide characters",
            "{to: b\u{fc}cher#, name: \u{6771}#, action: pass}",
        ),
        late("anchors", "&a# {action: pass, to: &b# [a]}"),
        much(
            "programs everywhere",
            "rules:\n",
            "  - {app: [p#, q#], action: pass}\n",
        ),
        much(
            "the same program",
            "rules:\n",
            "  - {app: [/p#/x, y, 'z*'], ports: 1-#, action: pass}\n",
        ),
        much("merges", "x: &x {action: pass}\nrules:\n", "  - {<<: *x}\n"),
    ]
}

/// Rules with an error in each of them.
fn wrong_rules() -> Vec<BadFile> {
    vec![
        much("empty rules", "rules:\n", "  - {}\n"),
        much("nothing", "rules:\n", "  -\n"),
        much("same rule", "rules:\n", "  - {name: r#, action: pass}\n"),
        much("without an action", "rules:\n", "  - {to: a}\n"),
        much(
            "unknown protocols",
            "rules:\n",
            "  - {protocol: p#, action: block}\n",
        ),
        much("slips", "rules:\n", "  - {ap#: firefox, action: block}\n"),
        much("wrong actions", "rules:\n", "  - {action: pas}\n"),
        much(
            "wrong words",
            "rules:\n",
            "  - {ports: x, action: pass, enabled: x, expires: x, log: x}\n",
        ),
        much("colons", "rules:\n", "  - a: \n"),
        much(
            "long unknown keys",
            "rules:\n",
            "  - {aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: 1}\n",
        ),
        much(
            "wrong addresses",
            "rules:\n",
            "  - {to: [10.0.0.5/8, 10.0.0.256], action: pass}\n",
        ),
        much(
            "one rule's keys",
            "rules:\n  - action: pass\n",
            "    k#: 1\n",
        ),
        BadFile::new("unknown sets")
            .once(HEAD)
            .once("sets:\n")
            .until(MEBIBYTE / 2, "  s#: [a]\n")
            .once("rules:\n")
            .until(MEBIBYTE, "  - {to: \"@t#\", action: pass}\n"),
        BadFile::new("unknown zones")
            .once("version: 1\nzones:\n")
            .until(
                MEBIBYTE / 2,
                "  a-rather-long-name-of-a-zone-#: {gateways: [gw]}\n",
            )
            .once("default: pass\nrules:\n")
            .until(
                MEBIBYTE,
                "  - {to: 10.0.0.1, action: tunnel, zone: a-rather-long-name-of-a-zoon-#}\n",
            ),
    ]
}

/// One list, and everything in it.
fn lists() -> Vec<BadFile> {
    let to = "rules:\n  - action: pass\n    to: ";
    let lines = "rules:\n  - action: pass\n    to:\n";
    vec![
        listed("networks in a list", to, "10.%.0/24, "),
        much("networks in lines", lines, "      - 10.%.0/24\n").once(UNKNOWN),
        listed("short items", "rules:\n  - action: pass\n    ports: ", "1,"),
        much("short lines", lines, "      - a\n").once(UNKNOWN),
        listed("expressions in a list", to, "{regex: \"^a#$\"}, "),
        listed(
            "globs in a list",
            "rules:\n  - action: pass\n    app: ",
            "\"/a#/**/b*\", ",
        ),
        much("one list", &format!("{to}["), "10.0.0.#, "),
    ]
}

/// What is no rule file.
fn shapes() -> Vec<BadFile> {
    vec![
        listed("flow maps", "rules: ", "{},"),
        listed("flow lists", "rules: ", "[],"),
        listed("pairs in a list", "rules: ", "a: b,"),
        listed("empty pairs", "x: ", ":,"),
        much("keys in a map", "x: {", "a#: ,").once("}\n"),
        much("question marks", "x:\n", "  ? a#\n  : b\n"),
        much("unknown keys", "", "key#: 1\n"),
        much("aliases", "x: &x [1, 2, 3, 4, 5, 6, 7, 8]\ny:\n", " - *x\n"),
        BadFile::new("deep lists").until(MEBIBYTE, "["),
        BadFile::new("deep entries").until(MEBIBYTE, "- "),
        BadFile::new("no yaml")
            .once("version: 1\nrules: ")
            .until(MEBIBYTE, "\"\\x\""),
    ]
}

/// What is beside rules.
fn other_keys() -> Vec<BadFile> {
    vec![
        much(
            "tests",
            "tests:\n",
            "  - {app: a#, to: '10.0.0.1:1', expect: pass}\n",
        )
        .once(UNKNOWN),
        much("short tests", "tests:\n", "  - {to: 'a:1', expect: pass}\n").once(UNKNOWN),
        much(
            "failing tests",
            "rules:\n",
            "  - {app: [firefox], to: 10.%.0/24, action: block}\n",
        )
        .once("tests:\n")
        .until(2 * MEBIBYTE, "  - {to: '10.0.0.1:1', expect: block}\n"),
        much("sets", "sets:\n", "  s#: [a#]\n").once(UNKNOWN),
        BadFile::new("many zones")
            .once("version: 1\nzones:\n")
            .until(MEBIBYTE, "  z#: {gateways: [g#]}\n")
            .once(UNKNOWN),
        much(
            "static tunnels",
            "tunnels:\n",
            "  - {name: t#, listen: 1#, zone: z, to: 'a:1'}\n",
        ),
        listed("includes", "include: ", "a#.yaml, "),
    ]
}

/// Long texts, and what is none.
fn texts() -> Vec<BadFile> {
    vec![
        much(
            "escapes",
            "rules:\n",
            "  - {to: \"\\u0061\\x62#\", action: pass}\n",
        ),
        much("one long text", "x: \"", "\\t").once("\"\n"),
        much("one plain text", "x:\n", "  word\n").once(UNKNOWN),
        much("a block text", "x: |\n", "  word\n").once(UNKNOWN),
        much("empty lines", "", "\n").once(UNKNOWN),
        // `#` would become a number.
        BadFile::new("remarks")
            .once(HEAD)
            .once("#\n".repeat(MEBIBYTE / 2))
            .once(UNKNOWN),
        BadFile::new("rules with remarks")
            .once(HEAD)
            .once("rules:\n")
            .once("  - {action: pass} # as ever\n".repeat(MEBIBYTE / 32))
            .once(LATE),
    ]
}

/// What takes long in itself, and is bounded.
fn bounded() -> Vec<BadFile> {
    let glob = "*a".repeat(2000);
    let path = "a".repeat(4000);
    let programs: Vec<String> = (0..2000).map(|it| format!("'*{it}#'")).collect();
    let programs = programs.join(", ");
    vec![
        much(
            "long lists of programs",
            "rules:\n",
            &format!("  - {{app: [{programs}], action: pass}}\n"),
        ),
        much(
            "globs and long paths",
            "rules:\n",
            &format!(
                "  - {{app: \"{glob}b#\", action: pass}}\n  - {{app: /{path}#, action: pass}}\n"
            ),
        ),
        BadFile::new("a set everywhere")
            .once(HEAD)
            .once("sets:\n  s:\n")
            .until(MEBIBYTE / 16, "    - a-host-of-many-#.example\n")
            .once("rules:\n")
            .until(
                MEBIBYTE,
                "  - {to: ['@s', 10.0.0.1], ports: 1-#, action: pass}\n",
            ),
        much(
            "large expressions",
            "rules:\n",
            "  - {app: {regex: '(?:[a-z]{30}x#){20}'}, action: pass}\n",
        ),
        BadFile::new("expressions and paths")
            .once(HEAD)
            .once("rules:\n")
            .until(
                MEBIBYTE / 16,
                "  - {app: {regex: '[a-q][^u-z]{13}x#'}, action: pass}\n",
            )
            .until(
                MEBIBYTE,
                "  - {app: /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/x#, action: pass}\n",
            ),
    ]
}
