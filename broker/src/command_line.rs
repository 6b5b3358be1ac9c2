//! What can be said to `adit`.

use std::path::PathBuf;

use adit_broker::user::{User, UserError};
use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use nix::unistd::Uid;

use crate::default_paths;

/// Reach services inside secured zones over SSH; programs need not know.
#[derive(Debug, Parser)]
#[command(name = "adit", version, propagate_version = true)]
pub(crate) struct Adit {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Tunnel networks through a gateway at once, without a rule file or a service
    Up(Box<Up>),
    /// Run the session daemon with a rule file
    Broker(Broker),
    /// How the broker stands: helper, zones, flows
    Status(Ask),
    /// The flows: who goes where, by which rule, how far, how many bytes
    Flows(Ask),
    /// End one flow
    Close(Close),
    /// Read the rules anew; flows that get something else now are closed
    Reload(Reload),
    /// Say that a gateway's new host key is right (a zone with `host_keys: ask`)
    Trust(Trust),
    /// Say the passphrase, the password or what else a zone's gateways wait for
    Unlock(Unlock),
    /// End the broker and leave nothing behind, also after it was killed
    Down(Down),
    /// Check a rule file
    Check(Check),
    /// Which rule a connection would match, and why
    Explain(Explain),
    /// Why the last connection from this shell failed: where, by which rule, what to do
    Why(Why),
    /// What other rules would have given for the connections of the past
    Replay(Replay),
}

#[derive(Debug, Args)]
#[command(
    after_help = "As root (sudo) it starts the capture helper itself, and drops to the calling user for everything \
    else. As an ordinary user it needs a running helper.\n\nExample: sudo adit up alice@gw.example 198.51.100.0/24"
)]
pub(crate) struct Up {
    /// The gateway: `USER@HOST[:PORT]`; with `%h` for HOST each destination is its own
    pub(crate) gateway: adit_rules::GatewayPattern,
    /// Networks or addresses behind it
    #[arg(required = true, value_parser = network)]
    pub(crate) networks: Vec<IpNet>,
    /// Capture this user's connections instead of the caller's (root only when named here)
    #[arg(long = "as", value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Private key file [default: the agent's keys, then ~/.ssh/id_*]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// Known hosts file [default: ~/.ssh/known_hosts, /etc/ssh/ssh_known_hosts]
    #[arg(long, value_name = "FILE")]
    pub(crate) known_hosts: Option<PathBuf>,
    /// A jump host on the way to the gateway; once for each, in their order [default: as ssh's configuration has it]
    #[arg(long, value_name = "USER@HOST[:PORT]")]
    pub(crate) via: Vec<adit_rules::Gateway>,
    /// What connects to the first host: `http://[USER@]HOST:PORT` or `socks5://[USER@]HOST:PORT`
    #[arg(long, value_name = "PROXY")]
    pub(crate) proxy: Option<adit_rules::Proxy>,
    /// The file whose first line is the password of the proxy's user
    #[arg(long, value_name = "FILE", requires = "proxy")]
    pub(crate) proxy_password_file: Option<PathBuf>,
    /// What speaks SSH to the gateway
    #[arg(long, value_enum, default_value_t = Engine::Auto)]
    pub(crate) engine: Engine,
    /// What a program's connect() gives
    #[arg(long, value_enum, default_value_t = Connect::Honest)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) session: Session,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// Adit's own, or ssh where only that can get there
    Auto,
    /// Adit's own
    Embedded,
    /// The system's ssh
    Openssh,
}

impl From<Engine> for adit_rules::Engine {
    fn from(word: Engine) -> Self {
        match word {
            Engine::Auto => Self::Auto,
            Engine::Embedded => Self::Embedded,
            Engine::Openssh => Self::OpenSsh,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Connect {
    /// What a direct connection would give
    Honest,
    /// Success at once, a round trip sooner; a refusal is a reset
    Early,
}

impl From<Connect> for adit_rules::Connect {
    fn from(word: Connect) -> Self {
        match word {
            Connect::Honest => Self::Honest,
            Connect::Early => Self::Early,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Broker {
    /// A rule file, or a directory of them, after those of /etc/adit [default: ~/.config/adit/rules.yaml]
    #[arg(long, value_name = "PATH")]
    pub(crate) rules: Option<PathBuf>,
    /// The user's own rules, which add to all others
    #[arg(long, value_name = "PATH")]
    pub(crate) user_rules: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) session: Session,
}

/// What `up` and `broker` share.
#[derive(Debug, Args)]
pub(crate) struct Session {
    /// The capture helper's socket
    #[arg(long, value_name = "SOCKET", default_value = adit_capture::DEFAULT_SOCKET)]
    pub(crate) capture: PathBuf,
    #[command(flatten)]
    pub(crate) control: Control,
    /// What becomes of tunnelled destinations when the broker is gone without a goodbye
    #[arg(long, value_enum, default_value_t = OnBrokerGone::Block)]
    pub(crate) on_broker_gone: OnBrokerGone,
    #[command(flatten)]
    pub(crate) state: State,
    /// Do not record decisions: `adit replay` has nothing to judge then
    #[arg(long)]
    pub(crate) no_decision_log: bool,
}

/// What stays on disk.
#[derive(Debug, Args)]
pub(crate) struct State {
    /// Where the broker keeps what stays [default: $XDG_STATE_HOME/adit, ~/.local/state/adit]
    #[arg(long = "state", value_name = "DIR")]
    directory: Option<PathBuf>,
}

impl State {
    /// Where decisions are recorded of this user.
    pub(crate) fn decisions(&self, user: &User) -> PathBuf {
        let usual = || default_paths::state_directory(user);
        let directory = self.directory.clone().unwrap_or_else(usual);
        directory.join("decisions")
    }
}

impl Session {
    /// Where decisions are to be recorded, if they are.
    pub(crate) fn decisions(&self, user: &User) -> std::io::Result<Option<PathBuf>> {
        let directory = (!self.no_decision_log).then(|| self.state.decisions(user));
        directory.map(std::path::absolute).transpose()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnBrokerGone {
    /// Their connections are refused: nothing leaves in clear
    Block,
    /// Their connections go direct again
    Release,
}

impl From<OnBrokerGone> for adit_capture::OnBrokerGone {
    fn from(word: OnBrokerGone) -> Self {
        match word {
            OnBrokerGone::Block => Self::Block,
            OnBrokerGone::Release => Self::Release,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Control {
    /// The broker's control socket [default: $XDG_RUNTIME_DIR/adit/control.sock]
    #[arg(long = "control", value_name = "SOCKET")]
    path: Option<PathBuf>,
}

impl Control {
    /// As given, or the usual one of whoever runs this.
    pub(crate) fn own_path(&self) -> PathBuf {
        let usual = || default_paths::control_socket(nix::unistd::geteuid());
        self.path.clone().unwrap_or_else(usual)
    }
}

/// Which broker is meant.
#[derive(Debug, Args)]
pub(crate) struct Whose {
    /// The broker of this user [default: your own; under sudo the calling user's]
    #[arg(long = "as", value_name = "USER")]
    user: Option<String>,
    #[command(flatten)]
    control: Control,
}

/// A broker's socket, and who may be behind it.
#[derive(Debug)]
pub(crate) struct Addressed {
    pub(crate) path: PathBuf,
    pub(crate) user: Uid,
    /// The path was given, so whoever serves it is meant.
    pub(crate) by_path: bool,
}

impl Whose {
    pub(crate) fn addressed(&self) -> Result<Addressed, UserError> {
        let user = match &self.user {
            Some(name) => User::by_name(name)?.uid,
            None => default_paths::usual_user(),
        };
        let given = self.control.path.clone();
        Ok(Addressed {
            by_path: given.is_some(),
            path: given.unwrap_or_else(|| default_paths::control_socket(user)),
            user,
        })
    }
}

/// A question to the broker.
#[derive(Debug, Args)]
pub(crate) struct Ask {
    #[command(flatten)]
    pub(crate) whose: Whose,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Form {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Close {
    /// The flow's id, as `adit flows` shows it
    pub(crate) id: u64,
    #[command(flatten)]
    pub(crate) whose: Whose,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Debug, Args)]
pub(crate) struct Trust {
    /// The zone [default: every zone whose gateways wait for a word]
    pub(crate) zone: Option<String>,
    /// The fingerprint that the gateway's administrator told you; nothing is asked then
    #[arg(long, value_name = "SHA256:…")]
    pub(crate) fingerprint: Option<String>,
    #[command(flatten)]
    pub(crate) whose: Whose,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Debug, Args)]
pub(crate) struct Unlock {
    /// The zone [default: every zone that is locked]
    pub(crate) zone: Option<String>,
    /// Read the answers from standard input, one a line, and ask nothing
    #[arg(long)]
    pub(crate) stdin: bool,
    #[command(flatten)]
    pub(crate) whose: Whose,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Debug, Args)]
pub(crate) struct Reload {
    /// Only say what would change
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) whose: Whose,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    /// The capture helper's socket, for what a killed broker left [default: the one it noted]
    #[arg(long, value_name = "SOCKET")]
    pub(crate) capture: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) whose: Whose,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// A rule file, or a directory of them [default: all that a broker would read]
    pub(crate) file: Option<PathBuf>,
    /// The user's own rules, after those of /etc/adit and FILE
    #[arg(long, value_name = "PATH", conflicts_with = "schema")]
    pub(crate) user_rules: Option<PathBuf>,
    /// Print a JSON Schema of rule files instead
    #[arg(long, conflicts_with_all = ["file", "json"])]
    pub(crate) schema: bool,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// A rule file, or a directory of them, after those of /etc/adit [default: the running broker's rules]
    #[arg(long, value_name = "PATH")]
    pub(crate) rules: Option<PathBuf>,
    /// Path of the application's binary, or `unknown`
    #[arg(
        long,
        value_name = "PATH",
        required_unless_present = "pid",
        conflicts_with = "pid"
    )]
    pub(crate) app: Option<String>,
    /// A live process instead: what can be found out of it now
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// Where it wants to go: ADDRESS:PORT or NAME:PORT; without a port when all ports get the same
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) to: String,
    /// Whose connection, by name or number [default: the broker's user; with --rules yours]
    #[arg(long = "user", value_name = "USER")]
    pub(crate) asked_user: Option<String>,
    /// A group of that user; may be repeated [default: the groups that the system knows]
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Vec<String>,
    #[command(flatten)]
    pub(crate) whose: Whose,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Debug, Args)]
pub(crate) struct Why {
    /// A flow's id, as `adit flows` shows it [default: the last one from this shell that failed]
    pub(crate) id: Option<u64>,
    #[command(flatten)]
    pub(crate) whose: Whose,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// The rule file to judge by
    #[arg(long, value_name = "FILE")]
    pub(crate) rules: PathBuf,
    /// Only what was decided since: 90m, 1h, 2d, or a time like 2026-12-31T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = crate::commands::replay::since)]
    pub(crate) since: Option<jiff::Timestamp>,
    #[command(flatten)]
    pub(crate) state: State,
    #[command(flatten)]
    pub(crate) form: Form,
}

/// A network, or an address as the network that holds it alone.
fn network(text: &str) -> Result<IpNet, String> {
    let network = match text.parse::<std::net::IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text
            .parse::<IpNet>()
            .map_err(|_| "not a network like 198.51.100.0/24".to_owned())?,
    };
    if network.trunc() != network {
        return Err(format!(
            "has bits set after its prefix: meant {}?",
            network.trunc()
        ));
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Adit::command().debug_assert();
    }

    #[test]
    fn networks_as_people_write_them() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let parsed = network(text).map(|network| network.to_string());
            assert_eq!(
                parsed,
                expected.map(str::to_owned).map_err(str::to_owned),
                "{text}"
            );
        };
        check("198.51.100.0/24", Ok("198.51.100.0/24"));
        check("198.51.100.7", Ok("198.51.100.7/32"));
        check("2001:db8::/32", Ok("2001:db8::/32"));
        check("0.0.0.0/0", Ok("0.0.0.0/0"));
        check(
            "198.51.100.7/24",
            Err("has bits set after its prefix: meant 198.51.100.0/24?"),
        );
        check("gw.example", Err("not a network like 198.51.100.0/24"));
    }
}
