//! Words that a rule file chooses from, and other single values.

use std::path::PathBuf;

use crate::decision::Refusal;
use crate::diagnostics::Fault;
use crate::language;
use crate::suggestion;
use crate::zone::{Connect, Engine, HostKeys, Method, OnDown};

/// Characters of a zone's name.
const LONGEST_ZONE: usize = 64;

/// Refuses what was surely to be the word and would be something else: words of the file are written in lower case.
pub(crate) fn not_a_slip_of(word: &str, text: &str) -> Result<(), Fault> {
    if text == word || !text.eq_ignore_ascii_case(word) {
        return Ok(());
    }
    Err(Fault::new(format!("{text:?} is not a word of rule files"))
        .hint(format!("did you mean `{word}`?")))
}

/// `on_down:`
pub(crate) fn on_down_of(word: &str) -> Result<OnDown, Fault> {
    match word {
        "reject" => Ok(OnDown::Reject),
        "hold" => Ok(OnDown::Hold),
        "pass" => Ok(OnDown::Pass),
        other => {
            let fault = Fault::new(format!("{other:?} is not a word for `on_down`"));
            Err(choose(fault, other, language::ON_DOWN))
        }
    }
}

/// `connect:`
pub(crate) fn connect_of(word: &str) -> Result<Connect, Fault> {
    match word {
        "honest" => Ok(Connect::Honest),
        "early" => Ok(Connect::Early),
        other => {
            let fault = Fault::new(format!("{other:?} is not a word for `connect`"));
            Err(choose(fault, other, language::CONNECT))
        }
    }
}

/// An entry of `methods:`
pub(crate) fn method_of(word: &str) -> Result<Method, Fault> {
    match word {
        "publickey" => Ok(Method::PublicKey),
        "keyboard-interactive" => Ok(Method::KeyboardInteractive),
        "password" => Ok(Method::Password),
        other => {
            let fault = Fault::new(format!("{other:?} is not a word for `methods`"));
            Err(choose(fault, other, language::METHODS))
        }
    }
}

/// `host_keys:`
pub(crate) fn host_keys_of(word: &str) -> Result<HostKeys, Fault> {
    match word {
        "strict" => Ok(HostKeys::Strict),
        "accept-new" => Ok(HostKeys::AcceptNew),
        "ask" => Ok(HostKeys::Ask),
        other => {
            let fault = Fault::new(format!("{other:?} is not a word for `host_keys`"));
            Err(choose(fault, other, language::HOST_KEYS))
        }
    }
}

/// `engine:`
pub(crate) fn engine_of(word: &str) -> Result<Engine, Fault> {
    match word {
        "auto" => Ok(Engine::Auto),
        "embedded" => Ok(Engine::Embedded),
        "openssh" => Ok(Engine::OpenSsh),
        other => {
            let fault = Fault::new(format!("{other:?} is not an engine"));
            Err(choose(fault, other, language::ENGINES))
        }
    }
}

/// The word of `known` that may be meant, or all of them.
pub(crate) fn choose(fault: Fault, written: &str, known: &[&str]) -> Fault {
    match suggestion::nearest(written, known.iter().copied()) {
        Some(meant) => fault.hint(format!("did you mean `{meant}`?")),
        None => fault.hint(format!("write one of {}", known.join(", "))),
    }
}

/// `with:`
pub(crate) fn refusal_of(word: &str) -> Result<Refusal, Fault> {
    match word {
        "reset" => Ok(Refusal::Reset),
        "drop" => Ok(Refusal::Drop),
        other => {
            let fault = Fault::new(format!("{other:?} is not a word for `with`"));
            Err(choose(fault, other, language::REFUSALS))
        }
    }
}

/// `protocol:`
pub(crate) fn protocol(word: &str) -> Result<(), Fault> {
    if language::PROTOCOLS.contains(&word) {
        return Ok(());
    }
    Err(Fault::new(format!("the protocol {word:?} is not carried"))
        .hint("rules are about TCP alone: `protocol: tcp`, which may be left out"))
}

/// `enabled:`, `log:` and `notify:`
pub(crate) fn switch(word: &str) -> Result<bool, Fault> {
    match word {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(Fault::new(format!(
            "{other:?} is neither `true` nor `false`"
        ))),
    }
}

/// It is a word of its own in `default: tunnel ZONE` and on command lines.
pub(crate) fn zone_name(text: &str) -> Result<String, Fault> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_name = (1..=LONGEST_ZONE).contains(&text.len())
        && !text.starts_with('-')
        && text.bytes().all(is_plain);
    if is_name {
        return Ok(text.to_owned());
    }
    Err(
        Fault::new(format!("{text:?} cannot be the name of a zone")).hint(format!(
            "take 1 to {LONGEST_ZONE} letters, digits, `-`, `_` and `.`"
        )),
    )
}

/// Reads the name of a file. Relative to nothing: a file is read by programs that run in different directories.
pub(crate) fn file(path: &str) -> Result<PathBuf, Fault> {
    if path.starts_with('/') || path.starts_with("~/") {
        return Ok(PathBuf::from(path));
    }
    Err(Fault::new(format!("{path:?} is not an absolute path"))
        .hint("begin it with `/`, or with `~/` for the user's home"))
}
