//! Files that nobody would write, made of files that somebody did: whatever they are, reading them ends, without a panic, in an
//! answer that has a place. What chance found once stays in `corpus`.
//!
//! `make test` tries the same few hundred each time. `make fuzz` goes on for as long as it is told (`ADIT_FUZZ_SECONDS`), with
//! another seed each time (`ADIT_FUZZ_SEED` repeats one), and tells which files took longest for their length.

mod reading;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use adit_rules::{AccountName, Application, Destination, Group, User};
use reading::parse_file;

/// How many files a run without a word about its length tries.
const FEW: u64 = 500;
/// Files that grow are cut off here.
const LONGEST: usize = 96 << 10;
/// For shorter ones the time says nothing about their length.
const WORTH_TIMING: usize = 16 << 10;
/// The aim for a mebibyte is 100 ms; a file that took so much longer is no accident of the machine.
const FAR_TOO_SLOW: Duration = Duration::from_millis(500);

/// Of so many files in a long run, one is very large.
const ONE_LARGE_OF: u64 = 32;
/// Rules that are repeated, with another number for each `#`: what takes the square of their number shows in large files alone.
const REPEATED: [&str; 8] = [
    "  - {name: r#, app: {not: a#}, to: {not: 10.%.0/24}, ports: {not: 443}, action: pass}",
    "  - {name: r#, app: /usr/bin/a#, to: [10.%.0/24, h#.corp], action: block}",
    "  - {app: {path: a#, script: /opt/#, not: {unit: u#.service}}, ports: 1-443, action: pass}",
    "  - {user: [u#], group: {not: g#}, to: [\"*.a#.corp\", \"2001:db8::#\"], action: block}",
    "  - {app: [\"/opt/a#/**\", unknown], action: pass}",
    "  - {name: r#, to: 192.0.2.0/24, ports: [80, 443], app: b#, action: block}",
    "  - {protocol: p#, action: block}",
    "  - {ap#: firefox, action: block}",
];

/// A file of so many bytes of one rule after another, with numbers for what differs.
fn repeated(rules: &[&str], default: &str, length: usize) -> String {
    let mut text = "version: 1\nrules:\n".to_owned();
    for (number, rule) in (0u32..).zip(rules.iter().cycle()) {
        if text.len() >= length {
            break;
        }
        let octets = format!("{}.{}", number / 256 % 256, number % 256);
        text += &rule.replace('#', &number.to_string()).replace('%', &octets);
        text.push('\n');
    }
    text + "default: " + default + "\n"
}

fn very_large(chance: &mut Chance) -> String {
    let rules: Vec<&str> = (0..=chance.below(3))
        .map(|_| chance.one_of(&REPEATED))
        .collect();
    let default = chance.one_of(&["pass", "nope"]);
    let length = (1 << 20) + chance.below(1 << 20);
    repeated(&rules, default, length)
}

/// splitmix64: any seed is as good as another.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    fn one_of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// All files that other tests read, and what was found before.
fn corpus() -> Vec<String> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut files: Vec<_> = ["", "corpus", "files/wrong", "files/warned"]
        .into_iter()
        .flat_map(|directory| fs::read_dir(tests.join(directory)).expect("it is there"))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|it| it == "yaml"))
        .collect();
    files.sort();
    let text = |file| String::from_utf8_lossy(&fs::read(file).expect("a file")).into_owned();
    files.iter().map(text).collect()
}

const WORDS: [&str; 36] = [
    "{not: ",
    "not: ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    ": ",
    "\n",
    "\n  - ",
    "&a ",
    "*a",
    "<<: *a",
    "\"@vendor\"",
    "\"@s\"",
    "{regex: \"(a|b)*c\"}",
    "10.0.0.0/8",
    "10.0.0.0-10.255.255.255",
    "\"::/0\"",
    "\"*.corp\"",
    "\"a*b*c*d.corp\"",
    "app: ",
    "to: ",
    "ports: ",
    "1-65535",
    "action: tunnel",
    "zone: z",
    "unknown",
    "any",
    "user: ",
    "script: ",
    "'",
    "\"",
    "\u{feff}",
    "\u{0}",
    "# ",
];

/// A text made of those of the corpus.
fn made(chance: &mut Chance, corpus: &[String]) -> String {
    let all: Vec<&str> = corpus.iter().map(String::as_str).collect();
    let mut text = chance.one_of(&all).to_owned();
    for _ in 0..=chance.below(4) {
        text = match chance.below(8) {
            0 | 1 => words_changed(chance, &text),
            2 => lines_changed(chance, &text),
            3 => spliced(&text, chance.one_of(&all), chance),
            4 | 5 => one_line_many_times(chance, &text),
            6 => deepened(chance, &text),
            _ => widened(chance, &text),
        };
        if text.len() > LONGEST {
            text.truncate(boundary(&text, LONGEST));
        }
    }
    text
}

/// Where a character begins, not behind `at`.
fn boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn words_changed(chance: &mut Chance, text: &str) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for _ in 0..=chance.below(5) {
        let start = chance.below(characters.len() + 1);
        let end = (start + chance.below(12)).min(characters.len());
        let word = chance.one_of(&WORDS);
        characters.splice(start..end, word.chars());
    }
    characters.into_iter().collect()
}

fn lines_changed(chance: &mut Chance, text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    for _ in 0..=chance.below(3) {
        let (one, other) = (chance.below(lines.len()), chance.below(lines.len()));
        match chance.below(3) {
            _ if lines.is_empty() => {}
            0 => lines.swap(one, other),
            1 => drop(lines.remove(one)),
            _ => lines.insert(one, lines[other]),
        }
    }
    lines.join("\n")
}

fn spliced(text: &str, other: &str, chance: &mut Chance) -> String {
    let (mut lines, more): (Vec<&str>, Vec<&str>) =
        (text.lines().collect(), other.lines().collect());
    let at = chance.below(lines.len() + 1);
    let from = chance.below(more.len());
    let many = chance.below(more.len() - from + 1);
    lines.splice(at..at, more[from..from + many].iter().copied());
    lines.join("\n")
}

/// Its digits count, so that names and addresses differ.
fn one_line_many_times(chance: &mut Chance, text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let Some(line) = lines.get(chance.below(lines.len())) else {
        return text.to_owned();
    };
    let (times, counts) = (1 << chance.below(11), chance.below(3) > 0);
    let mut grown = String::new();
    for other in &lines {
        grown.push_str(other);
        grown.push('\n');
        if std::ptr::eq(*other, *line) {
            for number in 0..times {
                let number = number.to_string();
                let digits = |it: char| it.is_ascii_digit();
                let numbered = match line.rfind(digits) {
                    Some(at) if counts => format!("{}{number}{}", &line[..at], &line[at + 1..]),
                    Some(_) | None => format!("{line} "),
                };
                grown.push_str(&numbered);
                grown.push('\n');
            }
        }
    }
    grown
}

fn deepened(chance: &mut Chance, text: &str) -> String {
    let at = boundary(text, chance.below(text.len() + 1));
    let (open, close) = chance.one_of(&[
        &("[", "]"),
        &("{a: ", "}"),
        &("{not: ", "}"),
        &("- ", ""),
        &("&a [*a, ", "]"),
    ]);
    let depth = 1 << chance.below(13);
    let closing = if chance.below(2) == 0 {
        close.repeat(depth)
    } else {
        String::new()
    };
    format!(
        "{}{}{closing}{}",
        &text[..at],
        open.repeat(depth),
        &text[at..]
    )
}

/// One value becomes a long list of its like.
fn widened(chance: &mut Chance, text: &str) -> String {
    let values = [
        "10.0.#.0/24",
        "host-#.corp",
        "\"*.z#.corp\"",
        "\"*a#*b*\"",
        "{regex: \"^a#[b-z]{1,9}$\"}",
        "/opt/#/**",
        "\"/**/x#/**/y\"",
        "#-60000",
        "{path: /p#, parent: \"/**/q*\"}",
        "\"2001:db8:#::/48\"",
    ];
    let value = chance.one_of(&values);
    let many: Vec<String> = (1..=1 << chance.below(12))
        .map(|number: usize| value.replace('#', &number.to_string()))
        .collect();
    let keys: Vec<usize> = ["to: ", "app: ", "ports: ", "not: ", "s: ", "user: "]
        .into_iter()
        .filter_map(|key| text.find(key).map(|at| at + key.len()))
        .collect();
    match keys.get(chance.below(keys.len())) {
        Some(&at) => format!("{}[{}], x: {}", &text[..at], many.join(", "), &text[at..]),
        None => format!("{text}\nx: [{}]", many.join(", ")),
    }
}

const VENDOR: &str = "{\"a\": [\"192.0.2.0/24\", \"*.vendor.example\"]}";
const PARTNERS: &str = "203.0.113.0/28 # the office\n";

/// All that is done with a rule file.
fn exercise(text: &str) {
    let beside = [("vendor.json", VENDOR), ("partners.txt", PARTNERS)];
    let checked = match parse_file(Path::new("rules.yaml"), text, &beside) {
        Ok(checked) => checked,
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without a word");
            let lines = text.lines().count() + 2;
            for error in errors.iter() {
                assert!(error.line() >= 1 && error.column() >= 1, "{errors}");
                assert!(
                    error.line() <= lines || error.file() != Path::new("rules.yaml"),
                    "{errors}"
                );
            }
            assert!(errors.to_string().len() <= 1 << 20, "too much to read");
            return;
        }
    };
    assert!(
        checked.warnings.to_string().len() <= 1 << 20,
        "too much to read"
    );
    let alice = User {
        name: AccountName::Is("alice".to_owned()),
        uid: Some(1000),
        groups: Some(vec![Group {
            name: AccountName::Is("staff".to_owned()),
            gid: Some(50),
        }]),
    };
    let policy = checked.policy.for_user(alice);
    let program = policy.kernel_program();
    assert!(program.steps.len() <= adit_rules::KERNEL_ROOM.steps + 1);
    for to in ["10.0.0.1:443", "[2001:db8::1]:22", "a.corp:80"] {
        let destination = Destination::parse(to).expect("a destination");
        for application in [Application::Unknown, Application::of("/usr/bin/firefox")] {
            let _ = policy.judge(&destination, Some(&application));
            let _ = policy.explain(&destination, &application).to_string();
        }
    }
}

fn try_out(text: &str, seed: u64) {
    let outcome = catch_unwind(AssertUnwindSafe(|| exercise(text)));
    if let Err(panic) = outcome {
        let file = kept(text, seed);
        eprintln!(
            "found with ADIT_FUZZ_SEED={seed}; the file is {}",
            file.display()
        );
        std::panic::resume_unwind(panic);
    }
}

/// For whoever looks into it.
fn kept(text: &str, seed: u64) -> PathBuf {
    let file = std::env::temp_dir().join(format!("adit-fuzz-{seed}.yaml"));
    fs::write(&file, text).expect("a file can be written");
    file
}

/// Of this thread, so that what else runs here does not count (schedstat of proc(5): nanoseconds).
fn processor_time() -> Duration {
    // The kernel counts up to the last time that the thread could be exchanged for another.
    std::thread::yield_now();
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat
        .split_whitespace()
        .next()
        .and_then(|it| it.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

#[test]
fn what_was_found_before_stays_harmless() {
    for text in corpus() {
        exercise(&text);
    }
}

#[test]
fn time_does_not_grow_with_the_square_of_the_length() {
    let took = |text: &str| {
        let began = processor_time();
        let _ = parse_file(Path::new("rules.yaml"), text, &[]).map_err(|it| it.to_string());
        processor_time().saturating_sub(began)
    };
    for (rule, default) in REPEATED.iter().zip(["pass", "nope"].iter().cycle()) {
        // Eight times as long: 64 times the time would be the square.
        let grows = || {
            let [short, long] =
                [32 << 10, 256 << 10].map(|it| took(&repeated(&[rule], default, it)));
            long >= short * 24
        };
        // What else the machine does may have been in between once.
        assert!(!(grows() && grows()), "{rule}, {default}");
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn no_file_is_read_without_an_answer() {
    let corpus = corpus();
    let until =
        number("ADIT_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let chosen = number("ADIT_FUZZ_SEED");
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let first = match (chosen, until) {
        (Some(seed), _) => seed,
        (None, Some(_)) => now.as_secs() << 24,
        (None, None) => 0,
    };
    let mut slowest: Vec<(Duration, usize, u64)> = Vec::new();
    for seed in first.. {
        let tried = seed - first;
        let over = match until {
            Some(until) => Instant::now() >= until,
            None => tried >= if chosen.is_some() { 1 } else { FEW },
        };
        if over {
            eprintln!("{tried} files, from seed {first}");
            break;
        }
        let mut chance = Chance(seed);
        let is_large = seed % ONE_LARGE_OF == 0 && (chosen.is_some() || until.is_some());
        let text = match is_large {
            true => very_large(&mut chance),
            false => made(&mut chance, &corpus),
        };
        if chosen.is_some() {
            eprintln!("the file is {}", kept(&text, seed).display());
        }
        let began = processor_time();
        try_out(&text, seed);
        let took = processor_time().saturating_sub(began);
        if chosen.is_some() || until.is_some() && text.len() >= WORTH_TIMING {
            let took = took * (1 << 20) / u32::try_from(text.len().max(1)).unwrap_or(u32::MAX);
            slowest.push((took, text.len(), seed));
            slowest.sort_unstable_by(|one, other| other.cmp(one));
            slowest.truncate(10);
        }
    }
    for (took, length, seed) in &slowest {
        eprintln!("{took:?} for a MiB: {length} bytes, ADIT_FUZZ_SEED={seed}");
    }
    let too_slow = slowest
        .first()
        .is_some_and(|(took, _, _)| *took > FAR_TOO_SLOW);
    assert!(!too_slow, "far from 100 ms for a MiB");
}
