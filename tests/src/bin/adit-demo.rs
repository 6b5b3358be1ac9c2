//! `make demo`: what Adit does, shown by running it. Ends with 1 when a step does not come out as told.

#![forbid(unsafe_code)]

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use adit_tests::{Ended, Gateway, Host, Lab, Process, User, rules_with, service, until};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(15);
const UP: &str = "sudo adit up adit-alice@192.0.2.1:443 198.51.100.0/24";
const FINGERPRINT: &str = "openssl s_client -connect 198.51.100.10:443 </dev/null 2>/dev/null | \
                           openssl x509 -noout -fingerprint -sha256";
const RULES: &str = "  - {name: no test port, to: [198.51.100.0/24], ports: [8080], action: block}
  - {name: curl to the web, app: [curl], to: [198.51.100.0/24], ports: [80, 443], action: tunnel, zone: lab}
  - {name: no one else, to: [198.51.100.0/24], action: block}
";
const PICTURE: &str = "
    client 192.0.2.2 ───── 192.0.2.1 gateway 198.51.100.1 ───── 198.51.100.10 server
    programs of a user     adit-server                          nginx, PostgreSQL, git, sshd
    no route to the server 
";

fn main() -> ExitCode {
    let mut stage = Stage {
        colour: io::stdout().is_terminal(),
        step: 0,
    };
    match stage.play() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where nothing can be written, the exit code still tells.
            let _ = writeln!(
                io::stderr(),
                "\nthe demo did not come out as told: {error:#}"
            );
            ExitCode::FAILURE
        }
    }
}

struct Stage {
    colour: bool,
    step: usize,
}

impl Stage {
    fn play(&mut self) -> Result<()> {
        let started = Instant::now();
        self.say(
            "Adit, shown on three hosts that exist only inside this program (network namespaces):",
        )?;
        self.say(PICTURE.trim_end())?;
        let lab = Lab::new()?;
        let _servers = [
            service::web,
            service::postgresql,
            service::git_daemon,
            service::sshd,
        ]
        .into_iter()
        .map(|start| start(&lab))
        .collect::<Result<Vec<_>>>()?;
        let _gateway = Gateway::start(&lab)?;
        self.without_adit(&lab)?;
        self.one_command(&lab)?;
        self.rules(&lab)?;
        self.say(&format!(
            "\nAll as told, in {:.0} s. `make lab` leaves the same three hosts up for you to try.",
            started.elapsed().as_secs_f64()
        ))
    }

    fn without_adit(&mut self, lab: &Lab) -> Result<()> {
        self.title("Without Adit: the client has no route to the server")?;
        self.fails(lab, "curl -sS http://198.51.100.10/hello")?;
        Ok(())
    }

    fn one_command(&mut self, lab: &Lab) -> Result<()> {
        self.title("One command: root only for the capture rules, everything else as the user")?;
        let mut up = self.up(lab)?;
        self.title("The same curl now arrives, and the server sees the gateway's address")?;
        self.prints(
            lab,
            "curl -sS http://198.51.100.10/hello",
            "hello from the zone",
        )?;
        self.prints(lab, "curl -sS http://198.51.100.10/whoami", "198.51.100.1")?;
        self.title("TLS is not touched: the certificate is the server's own")?;
        let own = format!(
            "openssl x509 -noout -fingerprint -sha256 -in {}",
            service::CERTIFICATE
        );
        let own = lab.server().sh(&own)?.ok()?;
        self.prints(lab, FINGERPRINT, own.trim())?;
        self.note("the same fingerprint as that of the file on the server")?;
        self.title("Any program, any protocol on TCP: PostgreSQL, git, ssh")?;
        let query = "psql -h 198.51.100.10 -U postgres -Atc 'select inet_client_addr(), count(*) from pg_class'";
        self.prints(lab, query, "198.51.100.1|")?;
        let clone =
            "git clone -q git://198.51.100.10/zone.git && git -C zone rev-list --count HEAD";
        self.prints(lab, clone, "40")?;
        self.prints(
            lab,
            "ssh 198.51.100.10 'id -un; echo from ${SSH_CLIENT%% *}'",
            "from 198.51.100.1",
        )?;
        self.title("Which program goes where")?;
        self.prints(lab, "adit flows", "ssh ")?;
        self.title("Ctrl-C ends it, and nothing is left behind")?;
        up.signal(Signal::SIGINT)?;
        let status = up.end(PATIENCE)?;
        ensure!(
            status.success(),
            "adit up ended with {status}: {}",
            up.tale()
        );
        self.nothing(lab, "sudo nft list ruleset")
    }

    fn rules(&mut self, lab: &Lab) -> Result<()> {
        self.title(
            "With rules: by application, port and destination; the first that matches counts",
        )?;
        lab.write(
            User::Alice,
            "/run/lab/home/adit-alice/rules.yaml",
            rules_with(User::Alice, RULES),
        )?;
        self.prints(lab, "sed -n '/^rules/,$p' rules.yaml", "curl to the web")?;
        self.prints(lab, "adit check rules.yaml", "")?;
        let _helper = self.daemon(lab, "sudo adit-capture --socket /run/adit/capture.sock")?;
        until("the helper's socket", PATIENCE, || {
            Ok(lab.outside("/run/adit/capture.sock").exists())
        })?;
        let mut broker = self.daemon(lab, "adit broker --rules rules.yaml")?;
        broker.ready_when("the broker to capture", PATIENCE, || {
            let status = lab.client().sh("adit status --json")?;
            Ok(status.success()
                && status
                    .stdout
                    .replace(' ', "")
                    .contains("\"state\":\"capturing\""))
        })?;
        self.title("curl is tunnelled; git, to the very same address and port, is not")?;
        self.prints(lab, "curl -sS http://198.51.100.10/whoami", "198.51.100.1")?;
        self.fails(lab, "git ls-remote http://198.51.100.10/zone.git")?;
        self.title("A port that the rules refuse")?;
        self.fails(lab, "curl -sS http://198.51.100.10:8080/hello")?;
        self.title("Why? The rules explain themselves, before or after")?;
        let why = "adit explain --app /usr/lib/git-core/git-remote-http --to 198.51.100.10:80";
        self.prints(lab, why, "no one else")?;
        self.title("The flows and the state of things")?;
        self.prints(lab, "adit flows", "curl ")?;
        self.prints(lab, "adit status", "capturing")?;
        self.title("The end")?;
        self.prints(lab, "adit down", "")?;
        self.nothing(lab, "sudo nft list ruleset")
    }

    fn up(&mut self, lab: &Lab) -> Result<Process> {
        let mut up = self.daemon(lab, UP)?;
        let line = up.line_with("now go through", PATIENCE)?;
        self.output(&line)?;
        Ok(up)
    }

    /// Starts what stays, as a person would in another terminal.
    fn daemon(&mut self, lab: &Lab, line: &str) -> Result<Process> {
        self.command(&format!("{line} &"))?;
        let words: Vec<&str> = line.split(' ').collect();
        lab.client().start(words[0], &words)
    }

    /// The command does its work and prints `expected`.
    fn prints(&mut self, lab: &Lab, line: &str, expected: &str) -> Result<()> {
        let ended = self.run(lab, line)?;
        ensure!(ended.success(), "{ended}");
        if !ended.stdout.contains(expected) {
            bail!("`{expected}` is missing in what `{line}` printed");
        }
        Ok(())
    }

    /// The command fails, and soon.
    fn fails(&mut self, lab: &Lab, line: &str) -> Result<()> {
        let ended = self.run(lab, line)?;
        ensure!(
            !ended.success() && ended.took < PATIENCE,
            "it should have failed: {ended}"
        );
        Ok(())
    }

    /// The command has nothing to show.
    fn nothing(&mut self, lab: &Lab, line: &str) -> Result<()> {
        let ended = self.run(lab, line)?;
        ensure!(ended.success() && ended.stdout.trim().is_empty(), "{ended}");
        self.note("(empty)")
    }

    fn run(&mut self, lab: &Lab, line: &str) -> Result<Ended> {
        self.command(line)?;
        let ended = lab
            .on(Host::Client)
            .timeout(PATIENCE)
            .sh(line)
            .context(line.to_owned())?;
        self.output(&format!("{}{}", ended.stdout, ended.stderr))?;
        Ok(ended)
    }

    fn title(&mut self, text: &str) -> Result<()> {
        self.step += 1;
        let text = format!("{}. {text}", self.step);
        self.say(&format!("\n{}", self.painted("1", &text)))
    }

    fn command(&self, line: &str) -> Result<()> {
        self.say(&format!("   {}", self.painted("32", &format!("$ {line}"))))
    }

    fn output(&self, text: &str) -> Result<()> {
        for line in text.lines() {
            self.say(&format!("   {line}"))?;
        }
        Ok(())
    }

    fn note(&self, text: &str) -> Result<()> {
        self.say(&format!("   {}", self.painted("2", text)))
    }

    fn painted(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn say(&self, text: &str) -> Result<()> {
        let mut out = io::stdout();
        writeln!(out, "{text}")?;
        Ok(out.flush()?)
    }
}
