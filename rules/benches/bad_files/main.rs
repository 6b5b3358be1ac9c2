//! Rule files that are wrong, or meant to take long, a mebibyte or two of each: how long it takes to say so, for a mebibyte.
//! The aim: 100 ms for the worst of them; above it this bench fails.
//!
//! Each is read several times, and the least counts, as nothing but the machine makes one reading longer than another. Beside it:
//! what the YAML parser alone takes for the same text, up to where it finds no more YAML. `cargo bench --bench bad_files -- WORD…`
//! measures only those with such a word in their name; a word that is the path of a file measures that one.

mod files;

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use adit_rules::{Date, Policy};
use granit_parser::{Options, Parser, StrInput};

use files::bad_files;

/// The aim for a mebibyte.
const AIM: Duration = Duration::from_millis(100);
/// How often each is read.
const TIMES: usize = 15;

/// Of this thread (schedstat of proc(5): nanoseconds), so that what else runs here does not count.
fn processor_time() -> Duration {
    // The kernel counts up to the last time that the thread could be exchanged for another.
    std::thread::yield_now();
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat.split_whitespace().next();
    Duration::from_nanos(nanoseconds.and_then(|it| it.parse().ok()).unwrap_or(0))
}

/// The least that a mebibyte of `text` takes.
fn least<T>(text: &str, read: impl Fn(&str) -> T) -> Duration {
    let took = (0..TIMES).map(|_| {
        let began = processor_time();
        drop(black_box(read(black_box(text))));
        processor_time().saturating_sub(began)
    });
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    took.min().unwrap_or_default() * (1 << 20) / length
}

/// All that `adit check` does with a file; whether it is right.
fn check(text: &str) -> bool {
    let today = Date::new(2026, 7, 1).unwrap_or_else(|| unreachable!("it is a day"));
    let mut none = |_: &Path, _: usize| Err("there is none".to_owned());
    let said = match Policy::parse(Path::new("rules.yaml"), text, today, &mut none) {
        Ok(checked) => Ok(checked.warnings.to_string()),
        Err(errors) => Err(errors.to_string()),
    };
    black_box(&said).is_ok()
}

/// Events up to the end, or to what is no YAML.
fn parse(text: &str) -> usize {
    let mut options = Options::default();
    options.emit_unresolved_aliases = true;
    let mut parser = Parser::<StrInput<'_>>::new_from_str_with_options(text, options);
    let mut events = 0;
    while let Some(Ok(event)) = parser.next_event() {
        black_box(&event);
        events += 1;
    }
    events
}

#[allow(clippy::print_stdout, reason = "a bench tells what it measured")]
fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&String> = words.iter().filter(|it| !it.starts_with('-')).collect();
    let is_chosen = |what: &str| words.is_empty() || words.iter().any(|it| what.contains(*it));
    let known = bad_files();
    let known = known.iter().filter(|it| is_chosen(it.what));
    let named = words
        .iter()
        .filter_map(|word| Some((word.as_str(), fs::read_to_string(word).ok()?)));
    let chosen = known.map(|it| (it.what, it.text())).chain(named);
    let mut measured: Vec<_> = chosen
        .map(|(what, text)| {
            let (all, parser) = (least(&text, check), least(&text, parse));
            (all, parser, what, check(&text))
        })
        .collect();
    measured.sort_unstable_by(|one, other| other.cmp(one));
    println!("for a MiB   parser alone");
    for (all, parser, what, is_right) in &measured {
        let [all, parser] = [all, parser].map(|it| format!("{:.1} ms", it.as_secs_f64() * 1e3));
        let right = if *is_right { " (right)" } else { "" };
        println!("{all:>9} {parser:>14}   {what}{right}");
    }
    let is_too_slow = measured.first().is_some_and(|(all, ..)| *all > AIM);
    if is_too_slow {
        println!("the aim is {} ms", AIM.as_millis());
    }
    ExitCode::from(u8::from(is_too_slow))
}
