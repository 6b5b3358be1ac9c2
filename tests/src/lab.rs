//! Three hosts: a client without a route into the zone, a gateway that does not forward, a server behind it.
//!
//! ```text
//!  client 192.0.2.2 ──────── 192.0.2.1 gateway 198.51.100.1 ──────── 198.51.100.10 … .20 server
//!   2001:db8:1::2      2001:db8:1::1     2001:db8:2::1          2001:db8:2::10
//! ```

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::accounts;
use crate::deadline::until;
use crate::requirements;
use crate::run::Run;
use crate::sandbox::Sandbox;
use crate::users::User;

/// Addresses of the lab, from the ranges that RFC 5737 and RFC 3849 keep for documentation.
pub mod address {
    /// The client.
    pub const CLIENT: &str = "192.0.2.2";
    /// The gateway, towards the client.
    pub const GATEWAY: &str = "192.0.2.1";
    /// The gateway, inside the zone: what a server in the zone sees.
    pub const GATEWAY_INSIDE: &str = "198.51.100.1";
    /// The server. 198.51.100.11 to .20 are its too.
    pub const SERVER: &str = "198.51.100.10";
    /// An address of the zone that nobody has.
    pub const NOBODY: &str = "198.51.100.99";
    /// The network of the zone.
    pub const ZONE: &str = "198.51.100.0/24";
    /// The network that client and gateway share.
    pub const OUTSIDE: &str = "192.0.2.0/24";
    /// The client.
    pub const CLIENT6: &str = "2001:db8:1::2";
    /// The gateway, towards the client.
    pub const GATEWAY6: &str = "2001:db8:1::1";
    /// The gateway, inside the zone.
    pub const GATEWAY6_INSIDE: &str = "2001:db8:2::1";
    /// The server.
    pub const SERVER6: &str = "2001:db8:2::10";
    /// The network of the zone.
    pub const ZONE6: &str = "2001:db8:2::/64";
}

/// One of the lab's machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// Where people run programs, and Adit captures them.
    Client,
    /// Where `adit-server` runs. From here the zone is reached directly.
    Gateway,
    /// Inside the zone.
    Server,
    /// The gateway of a second zone, where there is one; see [`crate::OtherZone`].
    OtherGateway,
    /// Inside the second zone.
    OtherServer,
}

impl Host {
    pub(crate) fn namespace(self) -> &'static str {
        match self {
            Host::Client => "client",
            Host::Gateway => "gateway",
            Host::Server => "server",
            Host::OtherGateway => "other-gateway",
            Host::OtherServer => "other-server",
        }
    }
}

/// What the client and the gateway know of the way into the zone, Adit aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// The client has no route: `connect()` fails with "network is unreachable".
    None,
    /// The client has a route, the gateway does not forward: what leaves in clear is seen and gets nowhere.
    Wire,
    /// The client has a route and the gateway forwards: what is passed arrives.
    Open,
}

/// A running lab. Everything in it is gone when it is dropped, or when its process ends in any way.
#[derive(Debug)]
pub struct Lab {
    sandbox: Sandbox,
    logs: AtomicU32,
    bin: PathBuf,
}

/// What is `/etc/hosts` on the gateway.
pub(crate) const GATEWAY_HOSTS: &str = "/run/lab/gateway-hosts";

const WIRING: &str = include_str!("wiring.sh");

impl Lab {
    /// Builds a lab in which the client has no route into the zone.
    ///
    /// # Errors
    /// When this machine can't: not root, no namespaces, a program or a built binary missing.
    pub fn new() -> Result<Lab> {
        Lab::with(Routing::None)
    }

    /// Builds a lab.
    ///
    /// # Errors
    /// See [`Lab::new`].
    pub fn with(routing: Routing) -> Result<Lab> {
        requirements::check(&built_binaries()?)?;
        let lab = Lab {
            sandbox: Sandbox::start()?,
            logs: AtomicU32::new(0),
            bin: built_binaries()?,
        };
        lab.add_people()?;
        lab.add_binaries()?;
        let routing = match routing {
            Routing::None => "none",
            Routing::Wire => "wire",
            Routing::Open => "open",
        };
        lab.script(&format!("ROUTING={routing}\n{WIRING}"))
            .context("wiring the lab's hosts")?;
        Ok(lab)
    }

    /// A command on `host`: as Alice on the client, as root elsewhere, unless said otherwise.
    pub fn on(&self, host: Host) -> Run<'_> {
        Run::new(self, host)
    }

    /// A command of Alice on the client.
    pub fn client(&self) -> Run<'_> {
        self.on(Host::Client)
    }

    /// A command of root on the gateway.
    pub fn gateway(&self) -> Run<'_> {
        self.on(Host::Gateway)
    }

    /// A command of root on the server.
    pub fn server(&self) -> Run<'_> {
        self.on(Host::Server)
    }

    /// A command of Alice where the zone is reached directly, with the address that the gateway has there:
    /// what Adit is compared with.
    pub fn direct(&self) -> Run<'_> {
        self.on(Host::Gateway).user(User::Alice)
    }

    /// Writes a file that belongs to `user`, and the directories above it that are missing.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, user: User, path: &str, contents: impl AsRef<[u8]>) -> Result<()> {
        let outside = self.outside(path);
        if let Some(parent) = Path::new(path).parent() {
            self.make_dir(user, parent)?;
        }
        fs::write(&outside, contents).with_context(|| format!("writing {path}"))?;
        chown(&outside, Some(user.uid()), Some(user.uid()))?;
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o600))?;
        Ok(())
    }

    /// Makes a directory that belongs to `user`, and those above it that are missing.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn make_dir(&self, user: User, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let outside = self.outside(path);
        if outside.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.make_dir(user, parent)?;
        }
        fs::create_dir(&outside).with_context(|| format!("making {}", path.display()))?;
        chown(&outside, Some(user.uid()), Some(user.uid()))?;
        Ok(())
    }

    /// Reads a file of the lab.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn read(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.outside(path)).with_context(|| format!("reading {path}"))
    }

    /// From now on the lab has an `/etc` of its own, in which files can be made as an administrator would.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn own_etc(&self) -> Result<()> {
        // With what this lab has laid over single files of the machine's.
        self.script(
            "mkdir /run/lab/etc && cp -a /etc/. /run/lab/etc && mount --bind /run/lab/etc /etc",
        )
    }

    /// A path of the lab as this process, outside, can open it.
    #[must_use]
    pub fn outside(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.sandbox.outside(inside)
    }

    /// Does something listen at `port` of `host`?
    ///
    /// # Errors
    /// When the host could not be asked.
    pub fn listening(&self, host: Host, port: u16) -> Result<bool> {
        let line = format!("ss -Hltn 'sport = :{port}' | grep -q .");
        Ok(self.on(host).user(User::Root).sh(&line)?.success())
    }

    /// Waits until something listens at `port` of `host`.
    ///
    /// # Errors
    /// When nothing does within ten seconds.
    pub fn wait_listening(&self, host: Host, port: u16) -> Result<()> {
        let what = format!("a listener at port {port} of {host:?}");
        until(&what, Duration::from_secs(10), || {
            self.listening(host, port)
        })
    }

    /// The lab's first process: when it is gone, so is the lab.
    #[must_use]
    pub fn first_process(&self) -> u32 {
        self.sandbox.first_process()
    }

    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    pub(crate) fn log_file(&self, name: &str, kind: &str) -> PathBuf {
        let number = self.logs.fetch_add(1, Ordering::Relaxed);
        self.outside(format!("/run/lab/log/{number:03}-{name}.{kind}"))
    }

    /// Accounts, and leave for them to use sudo, that only this lab knows of.
    fn add_people(&self) -> Result<()> {
        self.overlay("/etc/passwd", 0o644, accounts::passwd)?;
        self.overlay("/etc/group", 0o644, accounts::group)?;
        self.overlay("/etc/shadow", 0o600, accounts::shadow)?;
        self.overlay("/etc/hosts", 0o644, |_| accounts::HOSTS.to_owned())?;
        let of_gateway = [accounts::HOSTS, accounts::HOSTS_OF_THE_ZONE].concat();
        fs::write(self.outside(GATEWAY_HOSTS), of_gateway)?;
        if Path::new("/etc/sudoers").exists() {
            self.overlay("/etc/sudoers", 0o440, |_| accounts::SUDOERS.to_owned())?;
        }
        self.make_dir(User::Root, "/run/lab/home")?;
        self.make_dir(User::Root, "/run/lab/log")?;
        for user in [User::Root].into_iter().chain(User::ADDED) {
            self.make_dir(user, user.home())?;
            // Where a login puts sockets of the session; elsewhere they would outlive the lab.
            let runtime = format!("/run/user/{}", user.uid());
            self.make_dir(User::Root, "/run/user")?;
            self.make_dir(user, &runtime)?;
            fs::set_permissions(self.outside(&runtime), fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    /// Lays a changed copy over one of the machine's files, in this lab alone.
    fn overlay(&self, file: &str, mode: u32, change: impl Fn(&str) -> String) -> Result<()> {
        let own = fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
        let ours = format!("/run/lab/{}", file.trim_start_matches("/etc/"));
        fs::write(self.outside(&ours), change(&own))?;
        fs::set_permissions(self.outside(&ours), fs::Permissions::from_mode(mode))?;
        self.script(&format!("mount --bind {ours} {file}"))
    }

    /// The built binaries, where every user can run them however closed the directories above them are.
    fn add_binaries(&self) -> Result<()> {
        self.make_dir(User::Root, "/run/lab/bin")?;
        self.script(&format!(
            "mount --bind '{}' /run/lab/bin",
            self.bin.display()
        ))
    }

    pub(crate) fn script(&self, text: &str) -> Result<()> {
        let mut command = self.sandbox.enter(None);
        command.args(["bash", "-eu", "-s"]).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .context("nsenter (util-linux) did not start")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(text.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {said}", output.status);
        Ok(())
    }
}

/// Everything that Adit changes in the client's kernel: rules of nftables, policy routing, routes.
///
/// # Errors
/// When the client could not be asked.
pub fn kernel_state(lab: &Lab) -> Result<String> {
    let line =
        "nft list ruleset; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all
sysctl -a 2>/dev/null | grep -E 'conf.(all|gate|lo).(route_localnet|rp_filter|src_valid_mark|forwarding)'";
    lab.client().user(User::Root).sh(line)?.ok()
}

/// The client's kernel is as it was `before`; see [`kernel_state`].
///
/// # Errors
/// When it is not, with the lines that came and went.
pub fn as_before(lab: &Lab, before: &str) -> Result<()> {
    let after = kernel_state(lab)?;
    let missing = |these: &str, from: &str, sign: &str| {
        let absent = |line: &&str| !from.lines().any(|other| other == *line);
        let lines = these
            .lines()
            .filter(absent)
            .map(|line| format!("\n  {sign} {line}"));
        lines.collect::<String>()
    };
    let came = missing(&after, before, "+");
    let went = missing(before, &after, "-");
    ensure!(
        after == before,
        "the client's kernel is not as before:{came}{went}"
    );
    Ok(())
}

/// `ADIT_BIN_DIR`, else where cargo put the binary that runs now.
fn built_binaries() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("ADIT_BIN_DIR") {
        return fs::canonicalize(&named)
            .with_context(|| format!("ADIT_BIN_DIR={}", named.display()));
    }
    let running = std::env::current_exe().context("who am I?")?;
    let directory = running
        .ancestors()
        .skip(1)
        .find(|directory| !directory.ends_with("deps") && !directory.ends_with("examples"));
    Ok(directory
        .context("this program has no directory")?
        .to_owned())
}
