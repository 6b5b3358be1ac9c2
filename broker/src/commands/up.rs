//! `adit up`: the main job at once. As root it starts the capture helper, then becomes the user for good.

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use adit_broker::daemon::{self, Attended, Settings};
use adit_broker::rule_sources;
use adit_broker::user::User;
use adit_rules::{
    HostKeys, Identity, MOST_JUMPS, Method, OnDown, Policy, ProxyPassword, Reach, Zone,
};
use anyhow::{Context, anyhow, bail};
use nix::unistd::geteuid;

use super::{Failure, runtime};
use crate::command_line::Up;
use crate::default_paths::sudo_uid;
use crate::{log, output, privileges};

const HELPER_PATIENCE: Duration = Duration::from_secs(10);
/// The only zone that `adit up` knows.
const ZONE: &str = "up";

pub(crate) fn run(mut options: Up) -> Result<(), Failure> {
    options.session.capture =
        std::path::absolute(options.session.capture).context("the helper's socket")?;
    let user = captured_user(&options).map_err(Failure::usage)?;
    keep_to_the_administrators_rules().map_err(Failure::usage)?;
    let reach = reach(&options).map_err(Failure::usage)?;
    if geteuid().is_root() {
        start_helper(&options, &user)?;
        if !user.uid.is_root() {
            return Err(go_on_as(&user).into());
        }
    }
    let helper = &options.session.capture;
    if UnixStream::connect(helper).is_err() {
        let path = helper.display();
        return Err(anyhow!(
            "no capture helper answers on {path}: use sudo, or start its service \
             (sudo systemctl start adit-capture.socket)"
        )
        .into());
    }
    let _log = log::start("warn");
    let line = announcement(&options, &user);
    let settings = settings(options, reach, user).context("the directory of decisions")?;
    Ok(runtime()?.block_on(daemon::run(settings, || {
        output::line(format_args!("{line}"))
    }))?)
}

/// `adit up` knows no rules but its own, and must not go around any.
fn keep_to_the_administrators_rules() -> anyhow::Result<()> {
    let Some(file) = rule_sources::of_the_administrator()? else {
        return Ok(());
    };
    bail!(
        "this machine's administrator has rules ({}), and `adit up` would go around them: write what you need into \
         ~/.config/adit/rules.yaml and run `adit broker`",
        file.display()
    )
}

/// Whose connections: the one named; under sudo the caller; else whoever runs it. Root only when named.
fn captured_user(options: &Up) -> anyhow::Result<User> {
    let own = geteuid();
    if let Some(name) = &options.user {
        let user = User::by_name(name)?;
        if !own.is_root() && user.uid != own {
            bail!("--as another user needs root: sudo adit up --as {name} …");
        }
        return Ok(user);
    }
    if !own.is_root() {
        return Ok(User::current()?);
    }
    let caller = sudo_uid().ok_or_else(|| {
        anyhow!(
            "root's own connections are captured only with `--as root`; name a user with --as USER"
        )
    })?;
    Ok(User::by_uid(caller)?)
}

fn announcement(options: &Up, user: &User) -> String {
    let networks: Vec<_> = options.networks.iter().map(ToString::to_string).collect();
    format!(
        "adit: connections of {} to {} now go through {} (Ctrl-C ends it)",
        user.name,
        networks.join(", "),
        options.gateway
    )
}

/// The way to the gateway, as the same keys of a rule file would have it.
fn reach(options: &Up) -> anyhow::Result<Reach> {
    if options.via.len() > MOST_JUMPS {
        bail!("there are at most {MOST_JUMPS} jump hosts");
    }
    let mut proxy = options.proxy.clone();
    if let Some(proxy) = &mut proxy {
        if proxy.password.is_some() {
            bail!(
                "everybody can read a command line: leave the password out of --proxy, and name a file with --proxy-password-file"
            );
        }
        if options.proxy_password_file.is_some() && proxy.user.is_none() {
            bail!("--proxy-password-file is for a user: write `USER@` before the proxy's host");
        }
        proxy.password = options.proxy_password_file.clone().map(ProxyPassword::File);
    }
    Ok(Reach {
        via: options.via.clone(),
        proxy,
        ..Reach::default()
    })
}

fn settings(options: Up, reach: Reach, user: User) -> std::io::Result<Settings> {
    let decisions = options.session.decisions(&user)?;
    let zone = Zone {
        name: ZONE.to_owned(),
        gateways: vec![options.gateway],
        reach,
        identity: options.identity.map(Identity::File),
        certificate: None,
        methods: vec![Method::PublicKey],
        known_hosts: options.known_hosts.into_iter().collect(),
        host_keys: HostKeys::Strict,
        engine: options.engine.into(),
        hands_over: false,
        on_down: OnDown::Reject,
        connect: options.connect.into(),
    };
    Ok(Settings {
        policy: Policy::for_networks(zone, options.networks),
        files: None,
        capture: options.session.capture,
        control: options.session.control.own_path(),
        on_broker_gone: options.session.on_broker_gone.into(),
        decisions,
        user,
        attended: Attended::Yes,
    })
}

/// The helper: the one that runs already, or one of our own that ends when nothing is claimed any more.
fn start_helper(options: &Up, user: &User) -> anyhow::Result<()> {
    let socket = &options.session.capture;
    if UnixStream::connect(socket).is_ok() {
        return Ok(());
    }
    let mut command = helper_command()?;
    command.arg("--socket").arg(socket).arg("--until-idle");
    if options.user.is_some() && user.uid.as_raw() < 1000 {
        command.arg("--allow-uid").arg(user.uid.to_string());
    }
    // A process group of its own: Ctrl-C is for the broker, which then says goodbye to the helper.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0);
    let child = command.spawn().context("cannot start adit-capture")?;
    await_helper(child, socket)
}

fn await_helper(mut child: Child, socket: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + HELPER_PATIENCE;
    while UnixStream::connect(socket).is_err() {
        if let Some(status) = child.try_wait()? {
            bail!("the capture helper ended at once ({status})");
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!(
                "the capture helper did not start within {} s",
                HELPER_PATIENCE.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// `adit-capture`, as installed beside this program, or where packages put it. Never from a PATH: root runs it.
pub(crate) fn helper_command() -> anyhow::Result<Command> {
    let own = std::env::current_exe().context("cannot find myself")?;
    let usual = ["/usr/local/bin/adit-capture", "/usr/bin/adit-capture"];
    let candidates = [own.with_file_name("adit-capture")]
        .into_iter()
        .chain(usual.map(PathBuf::from));
    let mut there = candidates.filter(|path| path.is_file());
    let binary = there.next().ok_or_else(|| {
        anyhow!(
            "adit-capture is not beside {}, nor installed",
            own.display()
        )
    })?;
    let mut command = Command::new(binary);
    keep_only(&mut command, &["ADIT_LOG"]);
    if std::env::var_os("ADIT_LOG").is_none() {
        command.env("ADIT_LOG", "warn");
    }
    Ok(command)
}

/// Root's environment is nobody else's: what goes on gets a search path and these, as far as they are set.
fn keep_only(command: &mut Command, names: &[&str]) {
    command.env_clear().env(
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    );
    for name in names {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
}

/// Becomes the user and starts over with the same arguments; returns only when that failed.
fn go_on_as(user: &User) -> anyhow::Error {
    let agent = callers_agent();
    if let Err(error) = privileges::become_user(user) {
        return error.into();
    }
    let own = match std::env::current_exe() {
        Ok(own) => own,
        Err(error) => return anyhow::Error::new(error).context("cannot find myself"),
    };
    let mut command = Command::new(&own);
    command.args(std::env::args_os().skip(1));
    keep_only(&mut command, &["TERM", "LANG", "LC_ALL", "TZ", "ADIT_LOG"]);
    command
        .env("HOME", &user.home)
        .env("USER", &user.name)
        .env("LOGNAME", &user.name);
    if let Some(socket) = agent {
        command.env("SSH_AUTH_SOCK", socket);
    }
    let error = command.exec();
    anyhow::Error::new(error).context(format!("{} cannot run {}", user.name, own.display()))
}

/// sudo hides SSH_AUTH_SOCK from us but has it in its own environment; it is used as the user only.
fn callers_agent() -> Option<std::ffi::OsString> {
    use std::os::unix::ffi::OsStringExt;
    if let Some(given) = std::env::var_os("SSH_AUTH_SOCK") {
        return Some(given);
    }
    sudo_uid()?;
    let mut process = nix::unistd::getppid();
    // With a terminal of its own (use_pty) sudo stands twice above us.
    for _ in 0..3 {
        let environment = std::fs::read(format!("/proc/{process}/environ")).ok()?;
        let found = environment
            .split(|byte| *byte == 0)
            .find_map(|entry| entry.strip_prefix(b"SSH_AUTH_SOCK="));
        if let Some(path) = found {
            return Some(std::ffi::OsString::from_vec(path.to_vec()));
        }
        process = parent_of(process)?;
    }
    None
}

fn parent_of(process: nix::unistd::Pid) -> Option<nix::unistd::Pid> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    parent.trim().parse().ok().map(nix::unistd::Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_the_kernels() {
        let own = nix::unistd::getpid();
        assert_eq!(parent_of(own), Some(nix::unistd::getppid()));
    }
}
