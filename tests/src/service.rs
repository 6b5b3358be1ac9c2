//! Real servers inside the zone, from Debian's packages, with data of their own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::adit::{keygen, make_keys};
use crate::content::Content;
use crate::lab::{Host, Lab, address};
use crate::process::Process;
use crate::users::User;

/// A file of 8 MiB that nginx and rsync serve as `big`.
pub const BIG: &str = "/run/lab/www/big";
/// The certificate that nginx shows.
pub const CERTIFICATE: &str = "/run/lab/tls/certificate.pem";
/// A bare repository that git serves, of Alice.
pub const REPOSITORY: &str = "/run/lab/home/adit-alice/zone.git";

const START: Duration = Duration::from_secs(20);

/// All servers below.
///
/// # Errors
/// When one is not ready in time.
pub fn all(lab: &Lab) -> Result<Vec<Process>> {
    [web, postgresql, redis, git_daemon, sshd, rsync]
        .into_iter()
        .map(|start| start(lab))
        .collect()
}

/// nginx: HTTP at port 80 and 8080, HTTPS at 443. `/whoami` tells the client's address as nginx sees it.
///
/// # Errors
/// When it is not ready in time.
pub fn web(lab: &Lab) -> Result<Process> {
    serve_files(lab)?;
    lab.make_dir(User::Root, "/run/lab/tls")?;
    let names = format!(
        "subjectAltName=IP:{},IP:{},DNS:web.finance.test",
        address::SERVER,
        address::SERVER6
    );
    let key = "/run/lab/tls/key.pem";
    let request = format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
         -subj /CN=app.zone.example -addext {names} -keyout {key} -out {CERTIFICATE}"
    );
    lab.server().sh(&request)?.ok()?;
    lab.write(User::Root, "/run/lab/nginx/nginx.conf", nginx_conf(key))?;
    let words = [
        "nginx",
        "-e",
        "stderr",
        "-p",
        "/run/lab/nginx",
        "-c",
        "nginx.conf",
    ];
    started(lab, lab.server().start("nginx", &words)?, 443)
}

fn nginx_conf(key: &str) -> String {
    let user = User::Daemon.name();
    format!(
        "daemon off;
user {user} {user};
worker_processes 1;
pid /run/lab/nginx/pid;
error_log stderr;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 80;
        listen [::]:80;
        listen 8080;
        listen [::]:8080;
        listen 443 ssl;
        listen [::]:443 ssl;
        ssl_certificate {CERTIFICATE};
        ssl_certificate_key {key};
        root /run/lab/www;
        location = /whoami {{ default_type text/plain; return 200 \"$remote_addr\\n\"; }}
        location = /hello {{ default_type text/plain; return 200 \"hello from the zone\\n\"; }}
    }}
}}
"
    )
}

fn serve_files(lab: &Lab) -> Result<()> {
    let mut big = vec![0; 8 << 20];
    Content::new(8).fill(&mut big);
    lab.write(User::Daemon, BIG, big)?;
    fs::set_permissions(lab.outside(BIG), fs::Permissions::from_mode(0o644))?;
    Ok(())
}

/// PostgreSQL at port 5432, user and database `postgres`, no password.
///
/// # Errors
/// When it is not ready in time.
pub fn postgresql(lab: &Lab) -> Result<Process> {
    let bin = postgresql_binaries()?;
    let (bin, data) = (bin.display(), "/run/lab/home/adit-daemon/postgresql");
    let server = lab.server().user(User::Daemon);
    let options = "--username=postgres --auth=trust --no-sync --encoding=UTF8 --locale=C";
    server
        .sh(&format!("{bin}/initdb -D {data} {options}"))?
        .ok()?;
    let everyone = "host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n";
    lab.write(User::Daemon, &format!("{data}/pg_hba.conf"), everyone)?;
    let postgres = format!("{bin}/postgres");
    let words = [&postgres, "-D", data, "-h", "*", "-k", data, "-F"];
    started(lab, server.start("postgres", &words)?, 5432)
}

/// Debian keeps the server's programs out of the path, one directory a version.
fn postgresql_binaries() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").context("PostgreSQL is not installed")?;
    let directories = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    let newest = directories.filter(|bin| bin.join("initdb").exists()).max();
    newest.context("no initdb below /usr/lib/postgresql: is the server package installed?")
}

/// Redis at port 6379.
///
/// # Errors
/// When it is not ready in time.
pub fn redis(lab: &Lab) -> Result<Process> {
    let words = [
        "redis-server",
        "--port",
        "6379",
        "--bind",
        "*",
        "-::*",
        "--save",
        "",
    ];
    let more = ["--protected-mode", "no", "--daemonize", "no"];
    let server = lab.server().user(User::Daemon);
    started(
        lab,
        server.start("redis", &[&words[..], &more[..]].concat())?,
        6379,
    )
}

/// `git daemon` at port 9418 with [`REPOSITORY`] as `/zone.git`.
///
/// # Errors
/// When it is not ready in time.
pub fn git_daemon(lab: &Lab) -> Result<Process> {
    make_repository(lab)?;
    let base = format!("--base-path={}", User::Alice.home());
    let server = lab.server().user(User::Alice);
    let words = ["git", "daemon", "--export-all", "--reuseaddr", &base];
    started(lab, server.start("git-daemon", &words)?, 9418)
}

/// 40 commits over 200 files, some of them large.
fn make_repository(lab: &Lab) -> Result<()> {
    let line = format!(
        "set -e
test -d {REPOSITORY} && exit
git config --global user.name Alice
git config --global user.email alice@example.org
git config --global init.defaultBranch main
git init -q work && cd work
head -c 3000000 /dev/urandom >large
for commit in $(seq 40); do
    for file in 1 2 3 4 5; do seq $((commit * file)) >$commit-$file; done
    git add . && git commit -qm \"Commit $commit\"
done
cd .. && git clone -q --bare work {REPOSITORY} && rm -rf work
"
    );
    lab.server().user(User::Alice).sh(&line)?.ok()?;
    Ok(())
}

/// OpenSSH at port 22, for Alice and Bob with the keys that they have; and its repository.
///
/// # Errors
/// When it is not ready in time.
pub fn sshd(lab: &Lab) -> Result<Process> {
    make_keys(lab)?;
    make_repository(lab)?;
    let home = User::Root.home();
    let key = format!("{home}/server_ed25519");
    keygen(&lab.server(), &key)?;
    let public = lab.read(&format!("{key}.pub"))?;
    for user in [User::Alice, User::Bob] {
        let file = format!("{}/.ssh/known_hosts", user.home());
        let known = lab.read(&file)?;
        let (v4, v6) = (address::SERVER, address::SERVER6);
        lab.write(user, &file, format!("{known}{v4},{v6} {public}"))?;
    }
    let config = format!(
        "HostKey {key}
PidFile none
UsePAM no
PasswordAuthentication no
StrictModes no
MaxStartups 1000
Subsystem sftp internal-sftp
"
    );
    let file = format!("{home}/server_sshd_config");
    lab.write(User::Root, &file, config)?;
    started(
        lab,
        lab.server()
            .start("sshd", &["/usr/sbin/sshd", "-D", "-e", "-f", &file])?,
        22,
    )
}

/// rsync as a daemon at port 873; module `files` has [`BIG`], module `inbox` can be written to.
///
/// # Errors
/// When it is not ready in time.
pub fn rsync(lab: &Lab) -> Result<Process> {
    serve_files(lab)?;
    let inbox = format!("{}/inbox", User::Daemon.home());
    lab.make_dir(User::Daemon, &inbox)?;
    let (user, file) = (User::Daemon.name(), "/run/lab/rsyncd.conf");
    let config = format!(
        "uid = {user}
gid = {user}
use chroot = no
reverse lookup = no
pid file = /run/lab/rsyncd.pid
[files]
path = /run/lab/www
[inbox]
path = {inbox}
read only = no
"
    );
    lab.write(User::Root, file, config)?;
    let config = format!("--config={file}");
    let words = ["rsync", "--daemon", "--no-detach", &config];
    started(lab, lab.server().start("rsync", &words)?, 873)
}

fn started(lab: &Lab, mut process: Process, port: u16) -> Result<Process> {
    let what = format!("a listener at port {port} of the server");
    process.ready_when(&what, START, || lab.listening(Host::Server, port))?;
    ensure!(process.running()?, "{}", process.tale());
    Ok(process)
}
