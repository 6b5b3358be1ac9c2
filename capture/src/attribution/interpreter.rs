//! What command lines of interpreters say they run.

/// What an interpreter was told to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs<'a> {
    /// This file.
    File(&'a [u8]),
    /// What stands in the command line, or nothing.
    Words,
    /// What it reads from its standard input.
    Input,
    /// An option that we do not know, or a module that only the interpreter finds.
    Unclear,
}

/// How an interpreter reads its command line up to the script.
#[derive(Debug)]
pub(super) struct Interpreter {
    names: &'static [&'static str],
    /// Letters of options without a value.
    plain: &'static str,
    /// Letters whose value is the rest of the word, if there is any.
    attached: &'static str,
    /// Letters whose value is the rest of the word, or else the next word.
    valued: &'static str,
    /// Letters whose value is the next word; nothing may follow them in theirs.
    next: &'static str,
    /// Letters after which no file is run.
    words: &'static str,
    /// Letters after which the standard input is run.
    input: &'static str,
    /// Long options without a value.
    long: &'static [&'static str],
    /// Long options whose value is the next word.
    long_valued: &'static [&'static str],
    /// Long options after which no file is run.
    long_words: &'static [&'static str],
    /// Whether a `-` alone stands for the standard input; else it ends the options.
    dash_is_input: bool,
}

/// An interpreter without any options.
const NONE: Interpreter = Interpreter {
    names: &[],
    plain: "",
    attached: "",
    valued: "",
    next: "",
    words: "",
    input: "",
    long: &[],
    long_valued: &[],
    long_words: &[],
    dash_is_input: true,
};

/// From their manuals. What is missing here is unclear there.
const KNOWN: &[Interpreter] = &[
    Interpreter {
        names: &["sh", "bash", "rbash", "dash", "ksh", "mksh", "zsh"],
        plain: "abefhiklmnprtuvxBCEHPT",
        next: "oO",
        words: "c",
        input: "s",
        long: &[
            "login",
            "noediting",
            "noprofile",
            "norc",
            "posix",
            "restricted",
            "verbose",
        ],
        long_valued: &["init-file", "rcfile"],
        dash_is_input: false,
        ..NONE
    },
    Interpreter {
        names: &["python", "pypy"],
        plain: "bBdEiIOPqRsSuvx",
        valued: "WX",
        words: "chV",
        long_valued: &["check-hash-based-pycs"],
        long_words: &["help", "version"],
        ..NONE
    },
    Interpreter {
        names: &["perl"],
        plain: "acfnpstTuUwWX0123456789l",
        attached: "CdDFimMx",
        valued: "I",
        words: "eEhvV",
        ..NONE
    },
    Interpreter {
        names: &["ruby"],
        plain: "acdlnpsUvwy0123456789",
        attached: "FiTWx",
        valued: "EIKr",
        words: "eh",
        long: &["debug", "jit", "verbose", "yjit"],
        long_valued: &[
            "disable",
            "enable",
            "external-encoding",
            "internal-encoding",
        ],
        long_words: &["copyright", "help", "version"],
        ..NONE
    },
    Interpreter {
        names: &["node", "nodejs"],
        plain: "ci",
        next: "rC",
        words: "ehpv",
        long: &[
            "check",
            "enable-source-maps",
            "expose-gc",
            "expose_gc",
            "inspect",
            "inspect-brk",
            "interactive",
            "no-deprecation",
            "no-warnings",
            "preserve-symlinks",
            "preserve-symlinks-main",
            "throw-deprecation",
            "trace-deprecation",
            "trace-uncaught",
            "trace-warnings",
            "use-openssl-ca",
            "watch",
        ],
        long_valued: &[
            "conditions",
            "env-file",
            "experimental-loader",
            "icu-data-dir",
            "import",
            "loader",
            "require",
            "title",
        ],
        long_words: &["eval", "help", "print", "run", "test", "version"],
        ..NONE
    },
    Interpreter {
        names: &["lua", "luajit"],
        plain: "iEvW",
        valued: "el",
        ..NONE
    },
    Interpreter {
        names: &["php"],
        plain: "nq",
        valued: "cdz",
        words: "aBEhimrRv",
        ..NONE
    },
];

/// The interpreter of this name. What follows it in digits and dots is a version: `python3.11`.
pub(super) fn called(name: &[u8]) -> Option<&'static Interpreter> {
    let version = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
    let length = name.iter().rposition(|byte| !version(byte))? + 1;
    let name = std::str::from_utf8(name.get(..length)?).ok()?;
    KNOWN.iter().find(|known| known.names.contains(&name))
}

impl Interpreter {
    /// What it runs when it is given these words after its own name.
    pub(super) fn runs<'a>(&self, words: &[&'a [u8]]) -> Runs<'a> {
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            let after = match word {
                b"-" if self.dash_is_input => return Runs::Input,
                b"-" | b"--" => return words.next().map_or(Runs::Input, Runs::File),
                [b'-', b'-', long @ ..] => self.long(long),
                [b'-' | b'+', short @ ..] if word != b"+" => self.short(short),
                file => return Runs::File(file),
            };
            match after {
                After::Word => {}
                After::Value if words.next().is_some() => {}
                After::Value => return Runs::Unclear,
                After::Ended(runs) => return runs,
            }
        }
        Runs::Input
    }

    fn long(&self, option: &[u8]) -> After {
        let Ok(option) = std::str::from_utf8(option) else {
            return After::Ended(Runs::Unclear);
        };
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        if self.long_words.contains(&name) {
            return After::Ended(Runs::Words);
        }
        match value {
            // Whatever it is, its value is here.
            Some(_) => After::Word,
            None if self.long.contains(&name) => After::Word,
            None if self.long_valued.contains(&name) => After::Value,
            None => After::Ended(Runs::Unclear),
        }
    }

    fn short(&self, letters: &[u8]) -> After {
        for (place, letter) in letters.iter().enumerate() {
            let is_in = |letters: &str| letters.as_bytes().contains(letter);
            let is_last = place + 1 == letters.len();
            if is_in(self.plain) {
                continue;
            }
            return if is_in(self.words) {
                After::Ended(Runs::Words)
            } else if is_in(self.input) {
                After::Ended(Runs::Input)
            } else if is_in(self.attached) || (is_in(self.valued) && !is_last) {
                After::Word
            } else if is_last && (is_in(self.valued) || is_in(self.next)) {
                After::Value
            } else {
                After::Ended(Runs::Unclear)
            };
        }
        After::Word
    }
}

/// What follows an option.
enum After {
    /// The next word, as before.
    Word,
    /// Its value, and then the next.
    Value,
    /// Nothing that we have to read.
    Ended(Runs<'static>),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command line, and what is run: a file, or `(words)`, `(input)`, `(unclear)`.
    #[track_caller]
    fn check(line: &str, expected: &str) {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let (name, rest) = words.split_first().unwrap();
        let runs = called(name).expect("an interpreter").runs(rest);
        let shown = match runs {
            Runs::File(file) => std::str::from_utf8(file).unwrap(),
            Runs::Words => "(words)",
            Runs::Input => "(input)",
            Runs::Unclear => "(unclear)",
        };
        assert_eq!(shown, expected, "{line}");
    }

    #[test]
    fn names_and_versions() {
        for name in [
            "python3",
            "python3.11",
            "perl5.36.0",
            "bash",
            "sh",
            "nodejs",
            "lua5.4",
        ] {
            assert!(called(name.as_bytes()).is_some(), "{name}");
        }
        for name in [
            "",
            "3.1",
            "curl",
            "pythonic",
            "bash-static",
            "python3.13t",
            "sshd",
        ] {
            assert!(called(name.as_bytes()).is_none(), "{name}");
        }
    }

    #[test]
    fn shells() {
        check("bash a.sh b", "a.sh");
        check("bash -x a.sh", "a.sh");
        check("bash -eo pipefail a.sh", "a.sh");
        check("bash -oe pipefail a.sh", "(unclear)");
        check("bash +o posix a.sh", "a.sh");
        check("bash --rcfile x a.sh", "a.sh");
        check("bash --norc - a.sh", "a.sh");
        check("bash -- -a.sh", "-a.sh");
        check("bash -c a.sh", "(words)");
        check("bash -xec a.sh b", "(words)");
        check("bash", "(input)");
        check("bash -i", "(input)");
        check("bash -s a.sh", "(input)");
        check("bash --debugger a.sh", "(unclear)");
        check("bash -o", "(unclear)");
        check("sh -z a.sh", "(unclear)");
    }

    #[test]
    fn python() {
        check("python3 a.py -m x", "a.py");
        check("python3 -u a.py", "a.py");
        check("python3.11 -W ignore -Xdev -X utf8 a.py", "a.py");
        check("python3 -Wignore a.py", "a.py");
        check("python3 --check-hash-based-pycs never a.py", "a.py");
        check("python3 -c a.py", "(words)");
        check("python3 -Bc a.py b.py", "(words)");
        check("python3 -m a.py", "(unclear)");
        check("python3 -um a b", "(unclear)");
        check("python3 --fancy a.py", "(unclear)");
        check("python3 -", "(input)");
        check("python3 -i", "(input)");
        check("python3 -- a.py", "a.py");
    }

    #[test]
    fn others() {
        check("perl -w a.pl", "a.pl");
        check("perl -I lib -Ilib -MCarp -mx -0777 -d:NYTProf a.pl", "a.pl");
        check("perl -lane a.pl b", "(words)");
        check("perl -pi.bak -e a.pl", "(words)");
        check("perl -S a.pl", "(unclear)");
        check("ruby -I lib -rjson -W0 a.rb", "a.rb");
        check("ruby -e a.rb", "(words)");
        check("ruby -C dir a.rb", "(unclear)");
        check("node a.js", "a.js");
        check("node -r ./hook.js --max-old-space-size=99 a.js", "a.js");
        check("node --import ./hook.mjs --inspect a.js", "a.js");
        check("node --some-new-flag a.js", "(unclear)");
        check("node -pe a.js", "(words)");
        check("node --eval=1 a.js", "(words)");
        check("node --print a.js", "(words)");
        check("lua -e x=1 -lm a.lua", "a.lua");
        check("php -d x=1 a.php", "a.php");
        check("php -r a.php", "(words)");
        check("php -f a.php", "(unclear)");
    }
}
