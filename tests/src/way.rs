//! What can stand on the way to a gateway: jump hosts, proxies; and a gateway that can be reached by no other way.
//!
//! ```text
//!  client ──────── 192.0.2.1 jump host, proxy ──────── 198.51.100.10 second jump host, gateway
//! ```

use std::time::Duration;

use anyhow::{Context, Result};

use crate::adit::{keygen, make_keys, rules_for_networks, start_adit_server};
use crate::lab::{Host, Lab, address};
use crate::process::Process;
use crate::users::User;

const SETTLE: Duration = Duration::from_secs(15);

/// The gateway that the client has no route to, for Alice.
#[must_use]
pub fn gateway_behind() -> String {
    format!("{}@{}:443", User::Alice.name(), address::SERVER)
}

/// Starts it: `adit-server` on the server itself.
///
/// # Errors
/// When it is not ready in time.
pub fn start_gateway_behind(lab: &Lab) -> Result<Process> {
    start_gateway_behind_allowing(lab, &[&format!("{}:*", address::ZONE)], "")
}

/// The same that allows `allow` and nothing else, with these lines more in its file.
///
/// # Errors
/// When it is not ready in time.
pub fn start_gateway_behind_allowing(lab: &Lab, allow: &[&str], more: &str) -> Result<Process> {
    make_keys(lab)?;
    let allow: Vec<String> = allow.iter().map(|entry| (*entry).to_owned()).collect();
    let process = start_adit_server(lab, Host::Server, &allow, more)?;
    lab.wait_listening(Host::Server, 443)?;
    let key = lab.read("/run/lab/gateway/host_ed25519.pub")?;
    trust(lab, &format!("[{}]:443", address::SERVER), &key)?;
    Ok(process)
}

/// Starts an sshd as a jump host at `place`, a port of `address`, which `host` has; `more` stands in its configuration.
///
/// # Errors
/// When it is not ready in time.
pub fn start_jump(lab: &Lab, host: Host, address: &str, port: u16, more: &str) -> Result<Process> {
    make_keys(lab)?;
    let root = User::Root.home();
    // The lab's hosts share their files.
    let own = match host == Host::Gateway {
        true => format!("{root}/jump_{port}"),
        false => format!("{root}/jump_{}_{port}", host.namespace()),
    };
    let key = format!("{own}_ed25519");
    keygen(&lab.on(host), &key)?;
    // As ssh writes it (sshd(8), known hosts).
    let name = match port {
        22 => address.to_owned(),
        other => format!("[{address}]:{other}"),
    };
    trust(lab, &name, &lab.read(&format!("{key}.pub"))?)?;
    let file = format!("{own}_config");
    let config = format!(
        "Port {port}
HostKey {key}
PidFile none
UsePAM no
PasswordAuthentication no
StrictModes no
{more}
LogLevel VERBOSE
"
    );
    lab.write(User::Root, &file, config)?;
    let words = ["/usr/sbin/sshd", "-D", "-e", "-f", &file];
    let mut process = lab.on(host).start(&format!("jump-{port}"), &words)?;
    let ready = || lab.listening(host, port);
    process.ready_when("the jump host to listen", SETTLE, ready)?;
    Ok(process)
}

/// Starts Dropbear on the gateway's host at port 22.
///
/// # Errors
/// When it is not ready in time.
pub fn start_dropbear(lab: &Lab) -> Result<Process> {
    make_keys(lab)?;
    let key = format!("{}/dropbear_ed25519", User::Root.home());
    let root = lab.gateway().user(User::Root);
    let line = format!("dropbearkey -t ed25519 -f {key} >/dev/null && dropbearkey -y -f {key}");
    let said = root.sh(&line)?.ok()?;
    let public = said.lines().find(|line| line.starts_with("ssh-ed25519 "));
    trust(lab, address::GATEWAY, public.context("no public key")?)?;
    let words = ["dropbear", "-F", "-E", "-p", "22", "-r", &key, "-P", ""];
    let mut process = root.start("dropbear", &words)?;
    let ready = || lab.listening(Host::Gateway, 22);
    process.ready_when("Dropbear to listen", SETTLE, ready)?;
    Ok(process)
}

/// Lets whoever has Alice's key connect to anywhere.
const ASYNCSSH: &str = "import asyncio, asyncssh, logging, sys
logging.basicConfig(level=logging.DEBUG)
asyncssh.set_debug_level(1)
class Server(asyncssh.SSHServer):
    def connection_requested(self, *_): return True
async def main():
    address, key, authorized, *rekey = sys.argv[1:]
    limit = {'rekey_bytes': int(rekey[0])} if rekey else {}
    await asyncssh.listen(address, 22, server_factory=Server, server_host_keys=[key],
        authorized_client_keys=authorized, login_timeout=30, **limit)
    await asyncio.Event().wait()
asyncio.run(main())
";

/// Opens channels of each kind, and of one that nobody knows, to whoever has logged in; then it says what came of them.
const OPENING: &str = "class Opening(Server):
    def connection_made(self, conn): self.conn = conn
    def auth_completed(self): asyncio.ensure_future(self.open())
    async def open(self):
        s, n = (lambda text: len(text).to_bytes(4, 'big') + text), (9).to_bytes(4, 'big')
        kinds = {b'forwarded-tcpip': [s(b'a'), n, s(b'b'), n], b'direct-tcpip': [s(b'a'), n, s(b'b'), n],
            b'forwarded-streamlocal@openssh.com': [s(b'/a'), s(b'')], b'x11': [s(b'a'), n],
            b'auth-agent@openssh.com': [], b'session': [], b'nobody@example.com': []}
        answers = {}
        for kind, args in list(kinds.items()) * 100:
            channel = self.conn.create_tcp_channel(encoding=None)
            try: answer = 'opened' if await channel._open(kind, *args) else ''
            except asyncssh.ChannelOpenError as refusal: answer = refusal.code
            answers[answer] = answers.get(answer, 0) + 1
        logging.info('answers %s', answers)
Server = Opening
";

/// Starts a server of AsyncSSH on the gateway's host at port 22, which wants new keys after so many bytes.
///
/// # Errors
/// When it is not ready in time.
pub fn start_asyncssh(lab: &Lab, rekey: Option<u64>) -> Result<Process> {
    start_script(lab, ASYNCSSH, rekey)
}

/// Starts one that opens 700 channels to whoever has logged in, and logs how many of them had which answer.
///
/// # Errors
/// When it is not ready in time.
pub fn start_asyncssh_that_opens(lab: &Lab) -> Result<Process> {
    let main = "async def main";
    start_script(
        lab,
        &ASYNCSSH.replace(main, &format!("{OPENING}{main}")),
        None,
    )
}

fn start_script(lab: &Lab, python: &str, rekey: Option<u64>) -> Result<Process> {
    make_keys(lab)?;
    let root = User::Root.home();
    let (key, script) = (
        format!("{root}/asyncssh_ed25519"),
        format!("{root}/gateway_of_asyncssh.py"),
    );
    keygen(&lab.gateway(), &key)?;
    trust(lab, address::GATEWAY, &lab.read(&format!("{key}.pub"))?)?;
    lab.write(User::Root, &script, python)?;
    let authorized = format!("{}/.ssh/authorized_keys", User::Alice.home());
    let rekey = rekey.map(|bytes| bytes.to_string());
    let words = [
        "/usr/bin/python3",
        "-W",
        "ignore",
        &script,
        address::GATEWAY,
        &key,
        &authorized,
    ];
    let words = [&words[..], rekey.as_deref().as_slice()].concat();
    let mut process = lab.gateway().user(User::Root).start("asyncssh", &words)?;
    let ready = || lab.listening(Host::Gateway, 22);
    process.ready_when("AsyncSSH to listen", SETTLE, ready)?;
    Ok(process)
}

/// Starts a proxy on the gateway's host at port 3128 that speaks HTTP; `more` stands in its configuration.
///
/// # Errors
/// When it is not ready in time.
pub fn start_tinyproxy(lab: &Lab, more: &str) -> Result<Process> {
    let file = "/run/lab/home/adit-daemon/tinyproxy.conf";
    let config = format!("Port 3128\nTimeout 600\nMaxClients 20\nLogLevel Info\n{more}\n");
    lab.write(User::Daemon, file, config)?;
    let words = ["tinyproxy", "-d", "-c", file];
    let process = lab
        .gateway()
        .user(User::Daemon)
        .start("tinyproxy", &words)?;
    lab.wait_listening(Host::Gateway, 3128)
        .with_context(|| process.tale())?;
    Ok(process)
}

/// Starts a proxy on the gateway's host at port 1080 that speaks SOCKS 5, with these words on its command line.
///
/// # Errors
/// When it is not ready in time.
pub fn start_microsocks(lab: &Lab, more: &[&str]) -> Result<Process> {
    let words = [&["microsocks", "-i", "::", "-p", "1080"], more].concat();
    let process = lab
        .gateway()
        .user(User::Daemon)
        .start("microsocks", &words)?;
    lab.wait_listening(Host::Gateway, 1080)
        .with_context(|| process.tale())?;
    Ok(process)
}

/// Adds a host's key to those that Alice knows.
///
/// # Errors
/// When the file can't be written.
pub fn trust(lab: &Lab, host: &str, public_key: &str) -> Result<()> {
    let file = format!("{}/.ssh/known_hosts", User::Alice.home());
    let known = lab.read(&file)?;
    lab.write(
        User::Alice,
        &file,
        format!("{}\n{host} {public_key}", known.trim_end()),
    )
}

/// A rule file that tunnels the zone's network through [`gateway_behind`]; `lines` are more of its zone's.
#[must_use]
pub fn rules_behind(lines: &[&str]) -> String {
    let usual = crate::Gateway::for_user(User::Alice);
    let more: String = lines.iter().map(|line| format!("    {line}\n")).collect();
    rules_for_networks(User::Alice, &[address::ZONE])
        .replace(&usual, &gateway_behind())
        .replacen("rules:\n", &format!("{more}rules:\n"), 1)
}
