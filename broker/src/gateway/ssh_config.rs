//! What the configuration of the system's `ssh` says of a gateway, for what the rules leave out: `ssh -G`, so that `Match`, `Include` and
//! patterns are ssh's own to understand. Key words are those of ssh_config(5).

use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_rules::{Gateway, Identity};
use tokio::process::Command;
use tokio::sync::Semaphore;

use super::bounded_program::{NotTold, told_by};
use super::connection::Target;
use super::key_file;
use crate::zone_targets::expand_home;

/// `Match exec` may run programs.
const PATIENCE: Duration = Duration::from_secs(5);
/// A zone may lead to hundreds of hosts, whose links are made at once.
const MOST_AT_ONCE: usize = 8;
static AT_ONCE: Semaphore = Semaphore::const_new(MOST_AT_ONCE);
const LONGEST_COMPLAINT: usize = 400;
/// As many as a zone may have.
const MOST_JUMPS: usize = 8;
/// Those that are tried without a configuration (ssh_config(5), IdentityFile).
const USUAL_KEYS: &[&str] = &[
    "id_rsa",
    "id_ecdsa",
    "id_ecdsa_sk",
    "id_ed25519",
    "id_ed25519_sk",
    "id_xmss",
    "id_dsa",
];

/// What the rules do not say of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsaid {
    /// What to authenticate with.
    pub identity: bool,
    /// Which host keys are known.
    pub known_hosts: bool,
    /// The jump hosts.
    pub via: bool,
}

/// Why the configuration can't be followed.
#[derive(Debug, thiserror::Error)]
#[error(
    "the configuration of ssh for {host}: {reason}; `ssh_config: false` in the zone does without it"
)]
pub struct SshConfigError {
    /// For which host.
    host: String,
    /// Why.
    reason: String,
}

/// A target as it is reached.
pub(super) struct Completed {
    pub(super) target: Target,
    /// Whether only ssh itself can get there, by its ProxyCommand.
    pub(super) by_command: bool,
}

/// Fills in what the rules leave out. Where there is no `ssh`, nothing is.
pub(super) async fn completed(target: &Target) -> Result<Completed, SshConfigError> {
    let mut done = target.clone();
    let mut by_command = false;
    if let Some(answer) = asked(&done).await? {
        let unsaid_way = done.unsaid.is_some_and(|unsaid| unsaid.via);
        answer.fill(&mut done);
        if unsaid_way {
            by_command = answer.has_command && answer.jumps.is_empty() && done.proxy.is_none();
            pass_by(&mut done, target, &answer)?;
        }
    }
    complete_jumps(&mut done, target).await?;
    Ok(Completed {
        target: done,
        by_command,
    })
}

/// Puts the jump hosts of `answer` before those of `target`. They are as the rules have it: what the configuration says of `target`, such as
/// its key, is not said of them.
fn pass_by(target: &mut Target, asked_for: &Target, answer: &Answer) -> Result<(), SshConfigError> {
    if target.via.len() + answer.jumps.len() > MOST_JUMPS {
        return Err(SshConfigError {
            host: target.gateway.to_string(),
            reason: format!("its ProxyJump leads over more than {MOST_JUMPS} hosts"),
        });
    }
    let hop = |gateway: &Gateway| Target {
        gateway: gateway.clone(),
        via: Vec::new(),
        proxy: None,
        ..asked_for.clone()
    };
    let hops: Vec<Target> = answer.jumps.iter().map(hop).collect();
    target.via.splice(0..0, hops);
    if let Some(first) = target.via.first_mut() {
        first.proxy = first.proxy.take().or_else(|| target.proxy.take());
    }
    Ok(())
}

/// The first hop is connected to, so its own ProxyJump counts (ssh_config(5)); that of the others is given already.
async fn complete_jumps(target: &mut Target, asked_for: &Target) -> Result<(), SshConfigError> {
    let mut index = 0;
    while let Some(hop) = target.via.get_mut(index) {
        let Some(answer) = asked(hop).await? else {
            index += 1;
            continue;
        };
        let unsaid_way = hop.unsaid.is_some_and(|unsaid| unsaid.via);
        answer.fill(hop);
        hop.unsaid = None;
        let is_first = index == 0 && unsaid_way && hop.proxy.is_none();
        if is_first && !answer.jumps.is_empty() {
            pass_by(target, asked_for, &answer)?;
            continue;
        }
        if is_first && answer.has_command {
            return Err(SshConfigError {
                host: hop.gateway.to_string(),
                reason: "a jump host behind a ProxyCommand cannot be followed".to_owned(),
            });
        }
        index += 1;
    }
    Ok(())
}

/// What `ssh -G` says of `target`; `None` where it is not to be asked, or there is none.
async fn asked(target: &Target) -> Result<Option<Answer>, SshConfigError> {
    if target.unsaid.is_none() {
        return Ok(None);
    }
    // Nobody closes it.
    let _turn = AT_ONCE.acquire().await;
    let gateway = &target.gateway;
    let failed = |reason: String| SshConfigError {
        host: gateway.to_string(),
        reason,
    };
    let mut command = Command::new("ssh");
    command.arg("-G");
    if gateway.has_port {
        command.arg("-p").arg(gateway.port.to_string());
    }
    if let Some(user) = &gateway.user {
        command.arg("-l").arg(user);
    }
    command.arg("--").arg(&gateway.host);
    let told = match told_by(command, PATIENCE).await {
        Err(NotTold::NotRun(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        other => other.map_err(|error| failed(format!("ssh -G {error}")))?,
    };
    if !told.succeeded {
        let complaint: String = told
            .stderr
            .chars()
            .map(|it| if it.is_control() { ' ' } else { it })
            .take(LONGEST_COMPLAINT)
            .collect();
        return Err(failed(format!("ssh -G says: {}", complaint.trim())));
    }
    let answer = Answer::of(&told.stdout, &gateway.host, &target.home);
    answer.map(Some).map_err(failed)
}

/// What of it is of use here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    host: String,
    user: String,
    port: u16,
    /// Those that a configuration names.
    identities: Vec<PathBuf>,
    known_hosts: Vec<PathBuf>,
    host_key_alias: Option<String>,
    jumps: Vec<Gateway>,
    has_command: bool,
}

impl Answer {
    /// A line for each value: the key word in lower case, a space, the value. It is about the host that was `named`.
    fn of(text: &str, named: &str, home: &Path) -> Result<Self, String> {
        let mut answer = Self::default();
        for line in text.lines() {
            let Some((word, value)) = line.split_once(' ') else {
                continue;
            };
            let files = value.split(' ').filter(|file| *file != "none");
            let files = files.map(|file| expand_home(Path::new(file), home));
            match word {
                "hostname" => answer.host = host(value)?,
                "user" => value.clone_into(&mut answer.user),
                "port" => answer.port = value.parse().map_err(|_| format!("port {value:?}"))?,
                "identityfile" => {
                    let file = expand_home(Path::new(value), home);
                    let usual = |name| file == home.join(".ssh").join(name);
                    if value != "none" && !USUAL_KEYS.iter().any(usual) {
                        answer.identities.push(file);
                    }
                }
                "userknownhostsfile" => answer.known_hosts.splice(0..0, files).for_each(drop),
                "globalknownhostsfile" => answer.known_hosts.extend(files),
                "hostkeyalias" => answer.host_key_alias = Some(alias(value)?),
                "proxyjump" if value != "none" => answer.jumps = jumps(value)?,
                "proxycommand" => answer.has_command = value != "none",
                _ => {}
            }
        }
        if answer.host.is_empty() || answer.port == 0 {
            return Err("ssh -G names no host and port".to_owned());
        }
        let files = answer.identities.iter().chain(&answer.known_hosts);
        let files: Vec<_> = files
            .map(|file| answer.with_tokens(file, named, home))
            .collect();
        let (identities, known_hosts) = files.split_at(answer.identities.len());
        (answer.identities, answer.known_hosts) = (identities.to_vec(), known_hosts.to_vec());
        Ok(answer)
    }

    /// What ssh makes of the name of a file (ssh_config(5), TOKENS), which it prints as it is written. A token that is not known here
    /// stays: there is no such file.
    fn with_tokens(&self, file: &Path, named: &str, home: &Path) -> PathBuf {
        let Some(text) = file.to_str() else {
            return file.to_owned();
        };
        let mut parts = text.split('%');
        let mut made = parts.next().unwrap_or_default().to_owned();
        while let Some(part) = parts.next() {
            let token = part.chars().next();
            match token {
                Some('d') => made.push_str(&home.to_string_lossy()),
                Some('h') => made.push_str(&self.host),
                Some('k') => made.push_str(self.host_key_alias.as_deref().unwrap_or(named)),
                Some('n') => made.push_str(named),
                Some('p') => made.push_str(&self.port.to_string()),
                Some('r') => made.push_str(&self.user),
                Some(_) => {
                    made.push('%');
                    made.push_str(part);
                    continue;
                }
                // Of two in a row the second stands for itself, and ends no part.
                None => {
                    made.push('%');
                    made.push_str(parts.next().unwrap_or_default());
                    continue;
                }
            }
            made.push_str(part.get(1..).unwrap_or_default());
        }
        made.into()
    }

    fn fill(&self, target: &mut Target) {
        let Some(unsaid) = target.unsaid else {
            return;
        };
        target.gateway.host.clone_from(&self.host);
        target.host_key_alias.clone_from(&self.host_key_alias);
        if !target.gateway.has_port {
            target.gateway.port = self.port;
            target.gateway.has_port = self.port != 22;
        }
        if target.gateway.user.is_none() {
            target.login.clone_from(&self.user);
        }
        if unsaid.known_hosts {
            target.known_hosts.clone_from(&self.known_hosts);
        }
        // The agent may have the key of which only the public half is there.
        let is_there = |file: &&PathBuf| file.exists() || key_file::public(file).is_some();
        let file = self.identities.iter().find(is_there);
        if unsaid.identity
            && let Some(file) = file
        {
            target.identity = Some(Identity::File(file.clone()));
        }
    }
}

fn host(text: &str) -> Result<String, String> {
    let bracketed = match text.contains(':') {
        true => format!("[{text}]"),
        false => text.to_owned(),
    };
    bracketed.parse().map(|gateway: Gateway| gateway.host)
}

/// One word, as it is one of a line of known hosts.
fn alias(text: &str) -> Result<String, String> {
    let is_word = |it: char| !it.is_whitespace() && !it.is_control() && it != ',';
    match !text.is_empty() && text.chars().all(is_word) {
        true => Ok(text.to_owned()),
        false => Err(format!("HostKeyAlias {text:?} is no name in known_hosts")),
    }
}

fn jumps(text: &str) -> Result<Vec<Gateway>, String> {
    let hop = |hop: &str| hop.strip_prefix("ssh://").unwrap_or(hop).parse();
    text.split(',').map(hop).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gateway::plain_target::plain_target;

    #[test]
    fn reads_what_ssh_prints() {
        let text = "user eve\nhostname 2001:DB8::1\nport 2222\nidentityfile ~/.ssh/id_rsa\nidentityfile ~/keys/gw\n\
            globalknownhostsfile /etc/ssh/ssh_known_hosts\nuserknownhostsfile /home/eve/.ssh/a ~/b\n\
            hostkeyalias gate\nproxyjump eve@one:22,ssh://two\nproxycommand none\nlogverbose none\n";
        let answer = Answer::of(text, "corp", Path::new("/home/eve")).unwrap();
        let expected = Answer {
            host: "2001:db8::1".to_owned(),
            user: "eve".to_owned(),
            port: 2222,
            identities: vec!["/home/eve/keys/gw".into()],
            known_hosts: [
                "/home/eve/.ssh/a",
                "/home/eve/b",
                "/etc/ssh/ssh_known_hosts",
            ]
            .map(PathBuf::from)
            .to_vec(),
            host_key_alias: Some("gate".to_owned()),
            jumps: vec!["eve@one:22".parse().unwrap(), "two".parse().unwrap()],
            has_command: false,
        };
        assert_eq!(answer, expected);
    }

    #[test]
    fn tokens_of_files_are_followed() {
        let check = |alias: &str, written: &str, expected: &str| {
            let text = format!(
                "user eve\nhostname gw.example\nport 2222\n{alias}userknownhostsfile {written}\nidentityfile {written}\n"
            );
            let answer = Answer::of(&text, "corp", Path::new("/home/eve")).unwrap();
            assert_eq!(answer.known_hosts, [PathBuf::from(expected)], "{written}");
            assert_eq!(answer.identities, answer.known_hosts, "{written}");
        };
        check("", "~/hosts/%k", "/home/eve/hosts/corp");
        check("hostkeyalias gate\n", "%d/hosts/%k", "/home/eve/hosts/gate");
        check("", "/h/%r@%h:%p-%n", "/h/eve@gw.example:2222-corp");
        check("", "/h/%%k%%%k%", "/h/%k%corp%");
        check("", "/h/%C%h", "/h/%Cgw.example");
    }

    fn asked_for() -> Target {
        Target {
            unsaid: Some(Unsaid {
                identity: true,
                known_hosts: true,
                via: true,
            }),
            ..plain_target("corp")
        }
    }

    #[tokio::test]
    async fn a_jump_host_has_none_of_what_is_said_of_the_host_behind_it() {
        let directory = tempfile::tempdir().unwrap();
        let [key, known] = ["key", "known"].map(|name| directory.path().join(name));
        std::fs::write(&key, "").unwrap();
        let text = format!(
            "user eve\nhostname gw.example\nport 22\nidentityfile {}\nuserknownhostsfile {}\nhostkeyalias gate\nproxyjump hop\n",
            key.display(),
            known.display()
        );
        let answer = Answer::of(&text, "corp", Path::new("/home/eve")).unwrap();
        let asked_for = asked_for();
        let mut done = asked_for.clone();
        answer.fill(&mut done);
        assert_eq!(done.identity, Some(Identity::File(key)));
        pass_by(&mut done, &asked_for, &answer).unwrap();
        let hop = Target {
            gateway: "hop".parse().unwrap(),
            ..asked_for
        };
        assert_eq!(done.via, [hop]);
    }

    proptest! {
        #[test]
        fn never_panics(text in "((hostname|port|proxyjump|identityfile|userknownhostsfile) .{0,20}\n){0,6}") {
            let _ = Answer::of(&text, "corp", Path::new("/home/eve"));
        }
    }
}
