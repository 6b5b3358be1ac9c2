//! The first line of a script: which command line the kernel makes of it (execve(2)).

use std::path::Path;

/// The kernel reads no further.
pub(super) const MOST: usize = 256;

/// The words before the script's own name in the command line of what interprets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shebang<'a> {
    /// The interpreter's path, as written; not of `env`, which looks another one up.
    pub(super) path: Option<&'a Path>,
    /// Its name in the command line, and what stands between that and the script.
    pub(super) words: Vec<&'a [u8]>,
}

/// Whether a file with these bytes at its beginning is one that the kernel gives to an interpreter.
pub(super) fn is_script(head: &[u8]) -> bool {
    head.starts_with(b"#!")
}

/// `None`: no such line, or one that cannot be followed.
pub(super) fn parse(head: &[u8]) -> Option<Shebang<'_>> {
    let rest = head.strip_prefix(b"#!")?;
    let line = rest.split(|byte| *byte == b'\n').next()?.trim_ascii();
    // Cut off: kernels differ in what they do then.
    if head.len() >= MOST && !rest.contains(&b'\n') {
        return None;
    }
    let end = line.iter().position(|byte| b" \t".contains(byte));
    let (path, argument) = line.split_at(end.unwrap_or(line.len()));
    let argument = argument.trim_ascii();
    let is_env = path == b"env" || path.ends_with(b"/env");
    if path.is_empty() {
        return None;
    }
    let words = match (is_env, argument.strip_prefix(b"-S")) {
        (true, Some(several)) => split(several),
        (true, None) => vec![argument],
        (false, _) if argument.is_empty() => vec![path],
        (false, _) => vec![path, argument],
    };
    // Options and settings of env, and its quoting, are not followed.
    let first = words.first().filter(|first| !first.is_empty())?;
    let is_plain = |word: &&[u8]| !word.iter().any(|byte| b"'\"\\$".contains(byte));
    if is_env && (first.starts_with(b"-") || first.contains(&b'=') || !words.iter().all(is_plain)) {
        return None;
    }
    Some(Shebang {
        path: (!is_env).then(|| as_path(path)),
        words,
    })
}

fn split(words: &[u8]) -> Vec<&[u8]> {
    let words = words.split(|byte| b" \t".contains(byte));
    words.filter(|word| !word.is_empty()).collect()
}

fn as_path(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt as _;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, path: Option<&str>, words: &[&str]) {
        let text = format!("{line}\nmore");
        let read = parse(text.as_bytes()).unwrap();
        assert_eq!(read.path, path.map(Path::new), "{line}");
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        assert_eq!(read.words, words, "{line}");
    }

    #[test]
    fn as_the_kernel_and_env_do() {
        check("#!/bin/sh", Some("/bin/sh"), &["/bin/sh"]);
        check("#! /bin/sh -e ", Some("/bin/sh"), &["/bin/sh", "-e"]);
        check("#!/bin/x -a -b", Some("/bin/x"), &["/bin/x", "-a -b"]);
        check("#!/usr/bin/env python3", None, &["python3"]);
        check("#!/usr/bin/env -S python3 -u", None, &["python3", "-u"]);
    }

    #[test]
    fn what_cannot_be_followed() {
        for line in [
            "",
            "#",
            "#!",
            "#!  ",
            "#!/usr/bin/env",
            "#!/usr/bin/env -i x",
            "#!/usr/bin/env -S X=1 x",
            "#!/usr/bin/env -S x '$HOME'",
        ] {
            assert_eq!(parse(format!("{line}\n").as_bytes()), None, "{line}");
        }
        let long = format!("#!/bin/{}", "x".repeat(MOST));
        assert_eq!(parse(&long.as_bytes()[..MOST]), None);
    }

    #[test]
    fn a_line_without_an_end_is_one_when_the_file_ends_there() {
        assert!(parse(b"#!/bin/sh").is_some());
    }
}
