//! `adit-server hash-password`: asks twice on a terminal, reads one line of anything else.
use std::io::{self, BufRead, IsTerminal, Write};

use adit_server::password::{self, MAX_PASSWORD};
use anyhow::{Context, bail};
use zeroize::Zeroizing;

pub(crate) fn run() -> anyhow::Result<()> {
    let password = match io::stdin().is_terminal() {
        true => ask()?,
        false => read(io::stdin().lock())?,
    };
    let hash = password::hash(&password)?;
    writeln!(io::stdout(), "{hash}").context("the hash could not be written")
}

fn ask() -> anyhow::Result<Zeroizing<String>> {
    let ask = |prompt| rpassword::prompt_password(prompt).map(Zeroizing::new);
    let password = ask("Password: ").context("the terminal gives no password")?;
    if *ask("Again: ").context("the terminal gives no password")? != *password {
        bail!("the two are not the same; nothing was printed");
    }
    Ok(password)
}

/// The first line. All room at once: a buffer that grows leaves copies behind.
fn read(from: impl BufRead) -> anyhow::Result<Zeroizing<String>> {
    let most = MAX_PASSWORD + 2;
    let mut line = Zeroizing::new(String::with_capacity(most));
    from.take(most as u64)
        .read_line(&mut line)
        .context("no password on standard input")?;
    let ends = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(ends);
    Ok(line)
}
