//! The peers, set up as their own documentation says: Debian's redsocks before OpenSSH's `ssh -D`, and
//! Debian's sshuttle. Both end in the same `sshd` on the gateway, with the same cipher.

use std::time::Duration;

use adit_tests::{Host, Lab, Process, User, address};
use anyhow::Result;

const DIRECTORY: &str = "/run/lab/peer";
const SSH_PORT: u16 = 22;
const SOCKS_PORT: u16 = 1080;
const REDSOCKS_PORT: u16 = 12345;
const READY: Duration = Duration::from_secs(15);

/// redsocks, `ssh -D` and what redirects Alice's connections to them.
#[derive(Debug)]
pub(crate) struct Redsocks {
    _redsocks: Process,
    _ssh: Process,
    _sshd: Process,
}

impl Redsocks {
    pub(crate) fn start(lab: &Lab) -> Result<Redsocks> {
        let sshd = sshd(lab)?;
        let listen = format!("127.0.0.1:{SOCKS_PORT}");
        let mut words = ssh_words();
        words.extend(["-N".to_owned(), "-D".to_owned(), listen, login()]);
        let ssh = lab.client().user(User::Root).start("ssh", &words)?;
        lab.wait_listening(Host::Client, SOCKS_PORT)?;

        let file = format!("{DIRECTORY}/redsocks.conf");
        lab.write(User::Root, &file, redsocks_conf())?;
        let words = ["redsocks", "-c", &file];
        let redsocks = lab.client().user(User::Root).start("redsocks", &words)?;
        lab.wait_listening(Host::Client, REDSOCKS_PORT)?;

        let file = format!("{DIRECTORY}/redirect.nft");
        lab.write(User::Root, &file, redirect())?;
        let nft = lab.client().user(User::Root).argv(&["nft", "-f", &file])?;
        nft.ok()?;
        Ok(Redsocks {
            _redsocks: redsocks,
            _ssh: ssh,
            _sshd: sshd,
        })
    }
}

/// sshuttle with its defaults, latency control among them.
#[derive(Debug)]
pub(crate) struct Sshuttle {
    _sshuttle: Process,
    _sshd: Process,
}

impl Sshuttle {
    pub(crate) fn start(lab: &Lab) -> Result<Sshuttle> {
        let sshd = sshd(lab)?;
        let ssh = ssh_words().join(" ");
        let login = login();
        let words = [
            "sshuttle",
            "--method=nft",
            "-e",
            &ssh,
            "-r",
            &login,
            address::ZONE,
        ];
        let mut sshuttle = lab.client().user(User::Root).start("sshuttle", &words)?;
        sshuttle.line_with("Connected to server", READY)?;
        Ok(Sshuttle {
            _sshuttle: sshuttle,
            _sshd: sshd,
        })
    }
}

pub(crate) fn ssh_words() -> Vec<String> {
    let known = format!("UserKnownHostsFile={DIRECTORY}/known_hosts");
    let port = SSH_PORT.to_string();
    let key = format!("{DIRECTORY}/key");
    ["ssh", "-F", "none", "-p", &port, "-i", &key, "-o", &known]
        .into_iter()
        .chain(["-c", "aes128-gcm@openssh.com", "-o", "BatchMode=yes"])
        .map(str::to_owned)
        .collect()
}

pub(crate) fn login() -> String {
    format!("{}@{}", User::Alice.name(), address::GATEWAY)
}

pub(crate) fn sshd(lab: &Lab) -> Result<Process> {
    lab.make_dir(User::Root, DIRECTORY)?;
    for name in ["key", "host"] {
        let file = format!("{DIRECTORY}/{name}");
        let words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &file];
        lab.gateway().argv(&words)?.ok()?;
    }
    let host = lab.read(&format!("{DIRECTORY}/host.pub"))?;
    let known = format!("{} {host}", address::GATEWAY);
    lab.write(User::Root, &format!("{DIRECTORY}/known_hosts"), known)?;
    let key = lab.read(&format!("{DIRECTORY}/key.pub"))?;
    let keys = format!("{}/peer_keys", User::Alice.home());
    lab.write(User::Alice, &keys, key)?;
    let config = format!(
        "Port {SSH_PORT}
HostKey {DIRECTORY}/host
AuthorizedKeysFile {keys}
PidFile none
UsePAM no
StrictModes no
"
    );
    let file = format!("{DIRECTORY}/sshd_config");
    lab.write(User::Root, &file, config)?;
    let words = ["/usr/sbin/sshd", "-D", "-e", "-f", &file];
    let sshd = lab.gateway().start("sshd", &words)?;
    lab.wait_listening(Host::Gateway, SSH_PORT)?;
    Ok(sshd)
}

fn redsocks_conf() -> String {
    format!(
        "base {{
    log_debug = off;
    log_info = off;
    log = stderr;
    daemon = off;
    redirector = iptables;
    redsocks_conn_max = 4000;
}}
redsocks {{
    local_ip = 127.0.0.1;
    local_port = {REDSOCKS_PORT};
    listenq = 1024;
    ip = 127.0.0.1;
    port = {SOCKS_PORT};
    type = socks5;
}}
"
    )
}

fn redirect() -> String {
    let (zone, alice) = (address::ZONE, User::Alice.uid());
    format!(
        "table ip peer {{
    chain output {{
        type nat hook output priority -100; policy accept;
        ip daddr {zone} meta skuid {alice} meta l4proto tcp redirect to :{REDSOCKS_PORT}
    }}
}}
"
    )
}
