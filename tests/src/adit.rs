//! Adit's own programs in the lab, set up as an administrator would: keys, files, the three daemons.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::deadline::{until, until_some};
use crate::lab::{Host, Lab, address};
use crate::order::as_this_run;
use crate::process::Process;
use crate::run::Run;
use crate::users::User;

/// Where the helper of the lab listens.
pub(crate) const CAPTURE_SOCKET: &str = "/run/adit/capture.sock";
const GATEWAY_HOME: &str = "/run/lab/gateway";
const SETTLE: Duration = Duration::from_secs(15);

/// What answers at port 443 of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayKind {
    /// `adit-server --config` as it comes.
    AditServer,
    /// `adit-server` that renews keys after so many MiB.
    Rekeying {
        /// How many.
        mib: u32,
    },
    /// `adit-server` with these lines in its file.
    Configured(&'static str),
    /// OpenSSH's `sshd` with `adit-server --stdio` as a subsystem, renewing keys after so many MiB.
    Sshd {
        /// How many.
        rekey_mib: u32,
    },
    /// The same with new keys as often as this says (sshd_config(5), RekeyLimit).
    RenewingSshd(&'static str),
    /// The same with `adit-server --stdio` as what its users run whatever they ask for (`ForceCommand`).
    ForcingSshd(&'static str),
}

/// The Secure Shell server at the zone's edge.
#[derive(Debug)]
pub struct Gateway {
    /// The daemon.
    pub process: Process,
    kind: GatewayKind,
    allow: Vec<String>,
}

impl Gateway {
    /// `USER@HOST:PORT` of it for `user`.
    #[must_use]
    pub fn for_user(user: User) -> String {
        format!("{}@{}:443", user.name(), address::GATEWAY)
    }

    /// Starts `adit-server` that allows the whole zone, and gives Alice and Bob keys for it.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub fn start(lab: &Lab) -> Result<Gateway> {
        Gateway::allowing(
            lab,
            GatewayKind::AditServer,
            &["198.51.100.0/24:*", "[2001:db8:2::/64]:*"],
        )
    }

    /// Starts a gateway that allows `allow` and nothing else.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub fn allowing(lab: &Lab, kind: GatewayKind, allow: &[&str]) -> Result<Gateway> {
        make_keys(lab)?;
        let allow: Vec<String> = allow.iter().map(|entry| (*entry).to_owned()).collect();
        let process = start_gateway(lab, kind, &allow)?;
        Ok(Gateway {
            process,
            kind,
            allow,
        })
    }

    /// Starts it again after it was killed.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub fn restart(&mut self, lab: &Lab) -> Result<()> {
        if self.process.running()? {
            self.process.kill()?;
        }
        self.process = start_gateway(lab, self.kind, &self.allow)?;
        Ok(())
    }
}

/// The capture helper.
#[derive(Debug)]
pub struct Capture {
    /// The daemon.
    pub process: Process,
}

impl Capture {
    /// Starts `adit-capture` as root on the client.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub fn start(lab: &Lab) -> Result<Capture> {
        let command = lab.client().user(User::Root);
        let mut process =
            command.start("capture", &["adit-capture", "--socket", CAPTURE_SOCKET])?;
        process.ready_when("the helper's socket", SETTLE, || {
            let line = format!("ss -Hlx src {CAPTURE_SOCKET} | grep -q .");
            Ok(lab.client().user(User::Root).sh(&line)?.success())
        })?;
        // It listens before it has tried out what the kernel can do.
        process.line_with("ready", SETTLE)?;
        Ok(Capture { process })
    }
}

/// A user's broker.
#[derive(Debug)]
pub struct Broker {
    /// The daemon.
    pub process: Process,
    /// Whose programs it serves.
    pub user: User,
}

impl Broker {
    /// Writes `rules` to a file of the user and starts `adit broker` with it; returns once it captures.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub fn start(lab: &Lab, user: User, rules: &str) -> Result<Broker> {
        Broker::start_with(lab, user, rules, &[])
    }

    /// The same with more words on its command line.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub fn start_with(lab: &Lab, user: User, rules: &str, more: &[&str]) -> Result<Broker> {
        Broker::start_behind(lab, user, rules, &[], more)
    }

    /// The same behind words that run it, like `nohup`.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub fn start_behind(
        lab: &Lab,
        user: User,
        rules: &str,
        before: &[&str],
        more: &[&str],
    ) -> Result<Broker> {
        let file = format!("{}/rules.yaml", user.home());
        lab.write(user, &file, rules)?;
        let control = control_socket(user);
        let command = lab.client().user(user).env("ADIT_LOG", "info,adit=debug");
        let words = [
            "adit",
            "broker",
            "--rules",
            &file,
            "--capture",
            CAPTURE_SOCKET,
        ];
        let argv = [before, &words[..], &["--control", &control], more].concat();
        let process = command.start(&format!("broker-{}", user.name()), &argv)?;
        let mut broker = Broker { process, user };
        broker.wait_capturing(lab)?;
        Ok(broker)
    }

    /// Waits until it says that it captures.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_capturing(&mut self, lab: &Lab) -> Result<()> {
        let user = self.user;
        self.process
            .ready_when("the broker to capture", SETTLE, || {
                let status = adit(lab, user, &["status", "--json"])?;
                if !status.success() {
                    return Ok(false);
                }
                let status: Value = serde_json::from_str(&status.stdout)
                    .with_context(|| format!("`adit status --json` said {}", status.stdout))?;
                Ok(status["state"] == "capturing")
            })
    }

    /// Runs `adit` with these words and this broker's control socket.
    ///
    /// # Errors
    /// When it could not be run.
    pub fn adit(&self, lab: &Lab, words: &[&str]) -> Result<crate::Ended> {
        adit(lab, self.user, words)
    }

    /// `adit status --json`.
    ///
    /// # Errors
    /// When it fails or is no JSON.
    pub fn status(&self, lab: &Lab) -> Result<Value> {
        let text = self.adit(lab, &["status", "--json"])?.ok()?;
        serde_json::from_str(&text).with_context(|| format!("`adit status --json` said {text}"))
    }

    /// `adit flows --json`.
    ///
    /// # Errors
    /// When it fails or is not as documented.
    pub fn flows(&self, lab: &Lab) -> Result<Vec<Flow>> {
        let text = self.adit(lab, &["flows", "--json"])?.ok()?;
        let flows: Flows = serde_json::from_str(&text)
            .with_context(|| format!("`adit flows --json` is not as documented: {text}"))?;
        Ok(flows.flows)
    }

    /// Waits for a flow that is as `wanted` says.
    ///
    /// # Errors
    /// When there is none in time, with those that there were.
    pub fn flow(&self, lab: &Lab, what: &str, wanted: impl Fn(&Flow) -> bool) -> Result<Flow> {
        let mut seen = Vec::new();
        let found = until_some(what, Duration::from_secs(5), || {
            seen = self.flows(lab)?;
            Ok(seen.iter().rev().find(|flow| wanted(flow)).cloned())
        });
        found.with_context(|| format!("among {seen:#?}"))
    }

    /// Waits until what comes down the flow to `to` has filled all that is between, as its program does not read.
    ///
    /// # Errors
    /// When it goes on.
    pub fn until_stuck(&self, lab: &Lab, to: &str) -> Result<()> {
        let mut before = 0;
        until("the flow to be stuck", Duration::from_secs(20), || {
            let flows = self.flows(lab)?;
            let flow = flows.iter().find(|flow| flow.destination == to);
            let now = flow.map(|flow| flow.down).unwrap_or_default();
            let stands = now > 100_000 && now == before;
            before = now;
            Ok(stands)
        })
    }
}

/// A line of `adit flows --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Flow {
    /// What `adit close` takes.
    pub id: u64,
    /// Path of the binary, when known.
    pub application: Option<String>,
    /// The script that it runs, when a rule had to know.
    pub script: Option<String>,
    /// The application's end, as the broker's listener saw it.
    pub source: String,
    /// `address:port` or `name:port` that the application asked for.
    pub destination: String,
    /// Where it goes, if that is somewhere else, or was looked up.
    pub to: Option<String>,
    /// Name of the rule that decided.
    pub rule: Option<String>,
    /// Zone, when tunnelled.
    pub zone: Option<String>,
    /// tunnel, pass or block.
    pub action: Option<String>,
    /// deciding, opening, open, closed, refused, failed.
    pub state: String,
    /// Why not.
    pub reason: Option<String>,
    /// Bytes from the application.
    pub up: u64,
    /// Bytes to the application.
    pub down: u64,
    /// Milliseconds since its connect.
    pub age_ms: u64,
}

#[derive(Deserialize)]
struct Flows {
    flows: Vec<Flow>,
}

/// All three daemons, Alice's broker among them.
#[derive(Debug)]
pub struct RunningAdit {
    /// At the zone's edge.
    pub gateway: Gateway,
    /// As root on the client.
    pub capture: Capture,
    /// As Alice on the client.
    pub broker: Broker,
}

impl RunningAdit {
    /// Starts everything; Alice's programs reach the whole zone through the gateway.
    ///
    /// # Errors
    /// When one of the daemons is not ready in time.
    pub fn start(lab: &Lab) -> Result<RunningAdit> {
        let rules = rules_for_networks(User::Alice, &[address::ZONE, address::ZONE6]);
        RunningAdit::with(lab, Gateway::start(lab)?, &rules)
    }

    /// Starts the helper and Alice's broker beside a gateway that runs.
    ///
    /// # Errors
    /// When one of the daemons is not ready in time.
    pub fn with(lab: &Lab, gateway: Gateway, rules: &str) -> Result<RunningAdit> {
        let capture = Capture::start(lab)?;
        let broker = Broker::start(lab, User::Alice, rules)?;
        Ok(RunningAdit {
            gateway,
            capture,
            broker,
        })
    }
}

/// A rule file that tunnels `networks` for `user` and passes the rest.
#[must_use]
pub fn rules_for_networks(user: User, networks: &[&str]) -> String {
    let to = networks
        .iter()
        .map(|network| format!("\"{network}\""))
        .collect::<Vec<_>>()
        .join(", ");
    rules_with(
        user,
        &format!("  - {{name: the zone, to: [{to}], action: tunnel, zone: lab}}\n"),
    )
}

/// A rule file with the lab's zone and these lines under `rules:`; what none matches is passed.
///
/// Connections to the zone are made as `ADIT_TEST_CONNECT` says, or as they are without a word of it.
#[must_use]
pub fn rules_with(user: User, lines: &str) -> String {
    let gateway = Gateway::for_user(user);
    let rules = format!(
        "version: 1
zones:
  lab:
    gateways: [\"{gateway}\"]
    identity: ~/.ssh/id_ed25519
    known_hosts: ~/.ssh/known_hosts
rules:
{lines}default: pass
"
    );
    as_this_run(rules)
}

/// Runs `adit` as `user` on the client, with the control socket of that user's broker.
///
/// # Errors
/// When it could not be run.
pub fn adit(lab: &Lab, user: User, words: &[&str]) -> Result<crate::Ended> {
    let control = control_socket(user);
    lab.client()
        .user(user)
        .argv(&[&["adit"], words, &["--control", &control]].concat())
}

/// Where the broker of `user` listens for commands in the lab.
#[must_use]
pub fn control_socket(user: User) -> String {
    format!("{}/control.sock", user.home())
}

/// Keys of the gateway and of its users, made once for each lab.
pub(crate) fn make_keys(lab: &Lab) -> Result<()> {
    let service = User::Service;
    if lab.outside(GATEWAY_HOME).is_dir() {
        return Ok(());
    }
    lab.make_dir(service, GATEWAY_HOME)?;
    lab.make_dir(service, format!("{GATEWAY_HOME}/keys"))?;
    let host_key = format!("{GATEWAY_HOME}/host_ed25519");
    let on_gateway = lab.gateway().user(service);
    keygen(&on_gateway, &host_key)?;
    let public = lab.read(&format!("{host_key}.pub"))?;
    for user in [User::Alice, User::Bob] {
        let home = user.home();
        lab.make_dir(user, format!("{home}/.ssh"))?;
        keygen(&lab.client().user(user), &format!("{home}/.ssh/id_ed25519"))?;
        let key = lab.read(&format!("{home}/.ssh/id_ed25519.pub"))?;
        lab.write(
            service,
            &format!("{GATEWAY_HOME}/keys/{}", user.name()),
            &key,
        )?;
        lab.write(user, &format!("{home}/.ssh/authorized_keys"), &key)?;
        let (v4, v6) = (address::GATEWAY, address::GATEWAY6);
        lab.write(
            user,
            &format!("{home}/.ssh/known_hosts"),
            format!("[{v4}]:443,[{v6}]:443 {public}"),
        )?;
    }
    Ok(())
}

pub(crate) fn keygen(run: &Run<'_>, file: &str) -> Result<()> {
    run.argv(&[
        "ssh-keygen",
        "-q",
        "-t",
        "ed25519",
        "-N",
        "",
        "-C",
        "lab",
        "-f",
        file,
    ])?
    .ok()?;
    Ok(())
}

fn start_gateway(lab: &Lab, kind: GatewayKind, allow: &[String]) -> Result<Process> {
    let mut process = match kind {
        GatewayKind::AditServer => start_adit_server(lab, Host::Gateway, allow, "")?,
        GatewayKind::Configured(more) => start_adit_server(lab, Host::Gateway, allow, more)?,
        GatewayKind::Rekeying { mib } => {
            let more = format!("rekey_bytes: {}\n", mib << 20);
            start_adit_server(lab, Host::Gateway, allow, &more)?
        }
        GatewayKind::Sshd { rekey_mib } => {
            start_sshd(lab, allow, &format!("{rekey_mib}M"), subsystem)?
        }
        GatewayKind::RenewingSshd(often) => start_sshd(lab, allow, often, subsystem)?,
        GatewayKind::ForcingSshd(often) => start_sshd(lab, allow, often, only_command)?,
    };
    process.ready_when("the gateway to listen", SETTLE, || {
        lab.listening(Host::Gateway, 443)
    })?;
    Ok(process)
}

pub(crate) fn start_adit_server(
    lab: &Lab,
    host: Host,
    allow: &[String],
    more: &str,
) -> Result<Process> {
    let allow = allow
        .iter()
        .map(|entry| format!("\"{entry}\""))
        .collect::<Vec<_>>()
        .join(", ");
    let config = format!("{GATEWAY_HOME}/{}.yaml", host.namespace());
    let text = format!(
        "version: 1
listen: [\"[::]:443\"]
host_keys: [{GATEWAY_HOME}/host_ed25519]
authorized_keys: {GATEWAY_HOME}/keys/%u
{more}policy:
  - name: lab
    users: [{}, {}]
    allow: [{allow}]
",
        User::Alice.name(),
        User::Bob.name(),
    );
    lab.write(User::Service, &config, text)?;
    let command = lab.on(host).user(User::Service).env("ADIT_LOG", "info");
    command.start(host.namespace(), &["adit-server", "--config", &config])
}

fn subsystem(relay: &str) -> String {
    format!("Subsystem adit-link {relay}")
}

/// A subsystem that is asked for has to be there, whatever is run instead.
fn only_command(relay: &str) -> String {
    format!(
        "Subsystem adit-link /bin/false
ForceCommand {relay}
DisableForwarding yes
PermitTTY no"
    )
}

/// `runs`: the lines that make it run the relay.
fn start_sshd(
    lab: &Lab,
    allow: &[String],
    rekey: &str,
    runs: impl Fn(&str) -> String,
) -> Result<Process> {
    let root = User::Root.home();
    // sshd accepts a host key only if it belongs to the user it runs as.
    let key = lab.read(&format!("{GATEWAY_HOME}/host_ed25519"))?;
    lab.write(User::Root, &format!("{root}/gateway_ed25519"), key)?;
    let allow: String = allow
        .iter()
        .map(|entry| format!(" --allow {entry}"))
        .collect();
    let lines = runs(&format!(
        "/run/lab/bin/adit-server --stdio --log-to stderr{allow}"
    ));
    let config = format!(
        "Port 443
HostKey {root}/gateway_ed25519
PidFile none
UsePAM no
PasswordAuthentication no
StrictModes no
LogLevel DEBUG1
RekeyLimit {rekey}
{lines}
"
    );
    let file = format!("{root}/gateway_sshd_config");
    lab.write(User::Root, &file, config)?;
    lab.gateway()
        .start("gateway-sshd", &["/usr/sbin/sshd", "-D", "-e", "-f", &file])
}
