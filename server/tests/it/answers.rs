//! Passwords and one-time codes, as the system's `ssh` asks for them; the codes are `oathtool`'s.
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::flows::try_log_in;
use crate::site::{Kept, PATIENCE, Running, Site, output};

const POLICY: &str = r#"[{name: loopback, users: [alice, bob], allow: ["127.0.0.1:*"]}]"#;
/// Logged in: there is no such subsystem.
const IN: &str = "subsystem request failed";
const OUT: &str = "Permission denied";
pub(crate) const SECRET: &str = "MFRGGZDFMZTWQ2LKNNWG23TPOBYXE43U";
const OTHER_SECRET: &str = "ORUGS4ZANFZSAYLON52GQZLSEBXW4ZJO";

/// Gives the answers in the file beside it, one each time it is called, and notes the questions.
const ASKPASS: &str = r#"#!/bin/sh
printf '%s\n' "$1" >>"$0.asked"
head -n 1 "$0.answers"
sed -i 1d "$0.answers"
"#;

/// What `ssh` said, with `-v`, and what it was asked.
pub(crate) struct Tried {
    stderr: String,
    asked: Vec<String>,
}

impl Tried {
    pub(crate) fn check(&self, words: &str) -> &Self {
        assert!(self.stderr.contains(words), "{words}: {}", self.stderr);
        self
    }

    /// Each question stands behind `(user@host)`.
    fn was_asked(&self, questions: &[&str]) {
        let asked: Vec<_> = self
            .asked
            .iter()
            .map(|asked| asked.split(") ").last().unwrap_or_default())
            .collect();
        assert_eq!(asked, questions, "{}", self.stderr);
    }
}

/// Tries to log in as `user` with a key and with these answers.
pub(crate) fn try_with(
    site: &Site,
    gateway: &Running,
    (user, key): (&str, &str),
    answers: &[&str],
) -> Tried {
    let askpass = site.write("askpass", ASKPASS);
    fs::set_permissions(&askpass, fs::Permissions::from_mode(0o700)).expect("chmod");
    site.write("askpass.answers", &(answers.join("\n") + "\n"));
    let asked = site.write("askpass.asked", "");
    let mut ssh = site.asking_ssh(gateway.address, user, key);
    ssh.env("SSH_ASKPASS", &askpass)
        .env("SSH_ASKPASS_REQUIRE", "force")
        .args(["-o", &format!("NumberOfPasswordPrompts={}", answers.len())])
        .args(["-v", "-s", "sftp"]);
    let output = output(ssh);
    let asked = fs::read_to_string(asked).expect("questions");
    Tried {
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        asked: asked.lines().map(str::to_owned).collect(),
    }
}

/// The program's hash of a password.
pub(crate) fn hash(password: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adit-server"));
    command.arg("hash-password").stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("stdin");
    std::io::Write::write_all(&mut stdin, password.as_bytes()).expect("write");
    drop(stdin);
    let output = child.wait_with_output().expect("output");
    assert!(output.status.success());
    String::from_utf8(output.stdout)
        .expect("text")
        .trim()
        .to_owned()
}

/// The code so many steps of 30 seconds from now.
fn code(secret: &str, steps: i64) -> String {
    let mut oathtool = Command::new("oathtool");
    let at = format!("now {:+} seconds", steps * 30);
    oathtool.args(["--totp", "--base32", "--now", &at, secret]);
    let output = output(oathtool);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)
        .expect("text")
        .trim()
        .to_owned()
}

/// A code that is none of these minutes'.
pub(crate) fn wrong_code(secret: &str) -> String {
    let near: Vec<_> = (-3..=3).map(|steps| code(secret, steps)).collect();
    let mut guesses = ["000000", "111111", "222222", "333333"].into_iter();
    let wrong = guesses.find(|guess| !near.iter().any(|code| code == guess));
    wrong.expect("one that is wrong").to_owned()
}

pub(crate) fn secrets(site: &Site, name: &str, lines: &[(&str, &str)]) -> String {
    let text: Vec<_> = lines
        .iter()
        .map(|(user, secret)| format!("{user}:{secret}\n"))
        .collect();
    let file = site.write(name, &text.concat());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
    format!("{name}: {}\n", file.display())
}

/// Two users with a password and a secret each.
fn files(site: &Site) -> String {
    site.authorize("bob", &site.public_key("alice"));
    let passwords = [("alice", hash("open sesame")), ("bob", hash("swordfish"))];
    let passwords = passwords
        .each_ref()
        .map(|(user, hash)| (*user, hash.as_str()));
    secrets(site, "passwords", &passwords)
        + &secrets(site, "totp", &[("alice", SECRET), ("bob", OTHER_SECRET)])
}

pub(crate) const ALICE: (&str, &str) = ("alice", "alice");

#[test]
fn a_key_and_a_code_let_in_and_the_code_once() {
    let site = Site::new();
    let extra = secrets(&site, "totp", &[("alice", SECRET)]) + "methods: [\"publickey,totp\"]";
    let gateway = site.start(POLICY, &extra);
    let used = code(SECRET, 0);
    let tried = try_with(&site, &gateway, ALICE, &[&used]);
    tried
        .check(IN)
        .check("Authenticated using \"publickey\" with partial success")
        .check("Authentications that can continue: keyboard-interactive")
        .was_asked(&["Verification code: "]);
    gateway.wait_log(|line| line["event"] == "login" && line["how"] == "publickey,totp");
    // The same again, three times as ssh has it.
    try_with(&site, &gateway, ALICE, &[&used, &used, &used]).check(OUT);
    gateway.wait_log(|line| line["why"] == "a code that was used before");
    // A wrong one, then the next.
    let (wrong, next) = (wrong_code(SECRET), code(SECRET, 1));
    let tried = try_with(&site, &gateway, ALICE, &[&wrong, &next]);
    tried.check(IN).was_asked(&["Verification code: "; 2]);
    gateway.wait_log(|line| line["why"] == "a wrong code" && line["method"] == "totp");
    // The code without the key, and the key without a code.
    let without = try_with(&site, &gateway, ("alice", "mallory"), &[&next]);
    without.check(OUT).was_asked(&[]);
    try_with(&site, &gateway, ALICE, &["", "", ""]).check(OUT);
}

#[test]
fn any_whole_chain_lets_in_and_none_that_is_not_whole_or_in_order() {
    let site = Site::new();
    let methods = "methods: [\"publickey,password\", \"publickey,totp\", \"password,totp\"]";
    let gateway = site.start(POLICY, &(files(&site) + methods));
    let mallory = ("alice", "mallory");
    // After a key, the answer says which of the two it is.
    let either = "Verification code or password: ";
    try_with(&site, &gateway, ALICE, &["open sesame"])
        .check(IN)
        .was_asked(&[either]);
    try_with(&site, &gateway, ALICE, &[&code(SECRET, 0)]).check(IN);
    for how in ["publickey,password", "publickey,totp"] {
        gateway.wait_log(|line| line["event"] == "login" && line["how"] == how);
    }
    // Without one, both, a password first.
    let tried = try_with(&site, &gateway, mallory, &["open sesame", &code(SECRET, 1)]);
    tried
        .check("Authenticated using \"keyboard-interactive\" with partial success")
        .check(IN)
        .was_asked(&["Password: ", "Verification code: "]);
    let login = gateway.wait_log(|line| line["how"] == "password,totp");
    assert_eq!(login["key"], "-");
    let bobs = code(OTHER_SECRET, 0);
    let bob = ("bob", "mallory");
    try_with(&site, &gateway, bob, &[&bobs, &bobs, &bobs])
        .check(OUT)
        .was_asked(&["Password: "; 3]);
    // What one user has shown, or has, is no other's.
    try_with(&site, &gateway, ALICE, &["swordfish", &bobs, "x"]).check(OUT);
    try_with(&site, &gateway, bob, &["swordfish", &bobs]).check(IN);
}

#[test]
fn passwords_are_right_or_wrong_and_strangers_are_asked_the_same() {
    let site = Site::new();
    // Three for the log in alone; all chains without a key.
    let extra = files(&site).lines().next().expect("passwords").to_owned();
    let gateway = site.start(POLICY, &(extra + "\nmethods: [password]\n"));
    let known = ("alice", "mallory");
    try_with(&site, &gateway, known, &["wrong", "open sesame"])
        .check(IN)
        .was_asked(&["Password: "; 2]);
    let took = |who| {
        let since = Instant::now();
        try_with(&site, &gateway, who, &["open sesamE"; 3])
            .check(OUT)
            .was_asked(&["Password: "; 3]);
        since.elapsed()
    };
    // A second each, whoever asks; what a hash takes is within it.
    for who in [
        known,
        ("nobody", "mallory"),
        ("../alice", "mallory"),
        ("root", "mallory"),
    ] {
        let took = took(who);
        assert!(took >= Duration::from_secs(3), "{who:?}: {took:?}");
    }
    gateway.wait_log(|line| line["user"] == "nobody" && line["why"] == "a wrong answer");
    // In the file, and none of the policy's users.
    secrets(&site, "passwords", &[("carol", &hash("carols"))]);
    try_with(&site, &gateway, ("carol", "mallory"), &["carols"; 3]).check(OUT);
    gateway.wait_log(|line| {
        line["user"] == "carol"
            && line["why"] == "a user that no entry or group of the policy names"
    });
}

#[test]
fn a_file_that_cannot_be_believed_lets_nobody_in() {
    let site = Site::new();
    let methods = "methods: [\"publickey,totp\", \"publickey,password\"]";
    let gateway = site.start(POLICY, &(files(&site) + methods));
    let tries = |answers: &[&str]| try_with(&site, &gateway, ALICE, answers).asked.len();
    let code = code(SECRET, 0);
    let password = "open sesame";
    for (file, mode, answers, problem) in [
        ("totp", 0o604, [&code, password], "everyone can read it"),
        ("passwords", 0o620, [password, &code], "can write to it"),
    ] {
        fs::set_permissions(site.path(file), fs::Permissions::from_mode(mode)).expect("chmod");
        // What the other one has lets in.
        assert_eq!(tries(&answers), 2, "{file}");
        gateway.wait_log(|line| {
            line["level"] == "ERROR"
                && line["why"]
                    .as_str()
                    .is_some_and(|why| why.contains(problem))
        });
        fs::set_permissions(site.path(file), fs::Permissions::from_mode(0o600)).expect("chmod");
    }
    for file in ["totp", "passwords"] {
        fs::remove_file(site.path(file)).expect("remove");
    }
    assert_eq!(tries(&[&code, password, "x"]), 3);
    gateway.wait_log(|line| {
        line["why"]
            .as_str()
            .is_some_and(|why| why.contains("No such file"))
    });
}

#[test]
fn wrong_answers_owe_as_wrong_keys_do_and_are_bounded_on_a_connection() {
    let site = Site::new();
    let extra = files(&site).lines().next().expect("passwords").to_owned();
    let gateway = site.start(
        POLICY,
        &(extra + "\nmethods: [password]\npenalty_exempt: []\nlogin_grace_seconds: 30\n"),
    );
    // As many as ssh would give.
    let asked = try_with(&site, &gateway, ("alice", "alice"), &["wrong"; 20]).asked;
    assert!((3..=6).contains(&asked.len()), "{asked:?}");
    // Three connections of wrong answers are enough: see penalties.
    let since = Instant::now();
    loop {
        let tried = try_with(&site, &gateway, ("alice", "alice"), &["wrong"; 3]);
        if !tried.stderr.contains(OUT) {
            break;
        }
        assert!(
            since.elapsed() < PATIENCE,
            "still listened to: {}",
            tried.stderr
        );
    }
    gateway.wait_log(|line| {
        line["message"]
            .as_str()
            .is_some_and(|m| m.starts_with("not listened to"))
    });
}

#[test]
fn another_password_or_other_methods_end_a_session_at_a_reload() {
    let site = Site::new();
    let extra = files(&site).lines().next().expect("passwords").to_owned();
    let gateway = site.start(POLICY, &(extra.clone() + "\nmethods: [password]\n"));
    let hold = || {
        let askpass = site.write("askpass", "#!/bin/sh\necho open sesame\n");
        fs::set_permissions(&askpass, fs::Permissions::from_mode(0o700)).expect("chmod");
        let mut ssh = site.asking_ssh(gateway.address, "alice", "alice");
        ssh.env("SSH_ASKPASS", &askpass)
            .env("SSH_ASKPASS_REQUIRE", "force")
            .arg("-N")
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        Kept(ssh.spawn().expect("ssh"))
    };
    let logged_in = |number: usize| {
        let logins = || {
            let lines = gateway.log_lines();
            lines.iter().filter(|line| line["event"] == "login").count()
        };
        let since = Instant::now();
        while logins() < number {
            assert!(since.elapsed() < PATIENCE, "{:#?}", gateway.log_lines());
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let reload = || gateway.signal(nix::sys::signal::Signal::SIGHUP);
    let mut first = hold();
    logged_in(1);
    reload();
    gateway.wait_log(|line| line["event"] == "reload" && line["sessions"] == 0);
    secrets(&site, "passwords", &[("alice", &hash("open sesame"))]);
    reload();
    crate::site::wait(&mut first.0);
    gateway.wait_log(|line| {
        line["why"]
            .as_str()
            .is_some_and(|why| why.starts_with("another password"))
    });
    let mut second = hold();
    logged_in(2);
    site.config(POLICY, &(extra + "\nmethods: [\"publickey,password\"]\n"));
    reload();
    crate::site::wait(&mut second.0);
    gateway.wait_log(|line| {
        line["why"]
            .as_str()
            .is_some_and(|why| why.starts_with("what was shown is no whole chain"))
    });
}

/// RFC 4252 section 5: with another name, what was shown before counts for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_user_has_shown_is_no_others() {
    use russh::client::KeyboardInteractiveAuthResponse::{Failure, InfoRequest, Success};
    let site = Site::new();
    let extra = files(&site).lines().next().expect("passwords").to_owned();
    let gateway = site.start(POLICY, &(extra + "\nmethods: [\"publickey,password\"]\n"));
    let (mut session, whole) = try_log_in(&site, gateway.address, "alice").await;
    assert!(!whole, "a key was enough");
    let asked = session.authenticate_keyboard_interactive_start("bob", None);
    let asked = timeout(PATIENCE, asked)
        .await
        .expect("in time")
        .expect("asked");
    let Failure {
        remaining_methods,
        partial_success: false,
    } = asked
    else {
        panic!("{asked:?}");
    };
    assert_eq!(remaining_methods.to_vec(), [russh::MethodKind::PublicKey]);
    let asked = session.authenticate_keyboard_interactive_start("alice", None);
    let asked = timeout(PATIENCE, asked)
        .await
        .expect("in time")
        .expect("asked");
    assert!(matches!(asked, Failure { .. }), "{asked:?}");
    // One question has one answer.
    for (answers, is_in) in [
        (vec![], false),
        (vec!["open sesame"; 2], false),
        (vec!["open sesame"], true),
    ] {
        let (mut session, _) = try_log_in(&site, gateway.address, "alice").await;
        let asked = session.authenticate_keyboard_interactive_start("alice", None);
        let asked = timeout(PATIENCE, asked)
            .await
            .expect("in time")
            .expect("asked");
        assert!(matches!(asked, InfoRequest { .. }), "{asked:?}");
        let answers = answers.into_iter().map(str::to_owned).collect();
        let answered = session.authenticate_keyboard_interactive_respond(answers);
        let answered = timeout(PATIENCE, answered).await.expect("in time");
        assert_eq!(matches!(answered, Ok(Success)), is_in, "{answered:?}");
    }
}

#[test]
fn a_password_to_hash_comes_from_a_line_or_twice_from_a_terminal() {
    let run = |program: &mut Command, input: &str| {
        let program = program.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = program.stderr(Stdio::piped()).spawn().expect("starts");
        let mut stdin = child.stdin.take().expect("stdin");
        std::io::Write::write_all(&mut stdin, input.as_bytes()).expect("write");
        drop(stdin);
        child.wait_with_output().expect("output")
    };
    let program = env!("CARGO_BIN_EXE_adit-server");
    let long = "x".repeat(1025);
    for (input, code) in [("good\nmore\n", 0), ("\n", 1), ("", 1), (&long, 1)] {
        let output = run(Command::new(program).arg("hash-password"), input);
        assert_eq!(output.status.code(), Some(code), "{input:?}: {output:?}");
        let hashes = output
            .stdout
            .starts_with(b"$argon2id$v=19$m=19456,t=2,p=1$");
        assert_eq!(hashes, code == 0, "{output:?}");
    }
    let typed = |first: &str, second: &str| {
        let mut python = Command::new("python3");
        python.args(["-c", ON_A_TERMINAL, program, first, second]);
        let output = output(python);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let same = typed("typed words", "typed words");
    assert!(same.contains("$argon2id$"), "{same}");
    assert!(!same.contains("typed"), "shown: {same}");
    let different = typed("one", "other");
    assert!(different.contains("not the same") && !different.contains("$argon2id$"));
}

/// Types a line at each question, once the terminal shows nothing that is typed; prints what it showed.
const ON_A_TERMINAL: &str = r#"
import os, pty, sys, termios, time
child, terminal = pty.fork()
if child == 0:
    os.execv(sys.argv[1], [sys.argv[1], "hash-password"])
shown, deadline = b"", time.monotonic() + 15
for question, words in zip((b"Password: ", b"Again: "), sys.argv[2:]):
    while question not in shown:
        shown += os.read(terminal, 1000)
    while termios.tcgetattr(terminal)[3] & termios.ECHO:
        assert time.monotonic() < deadline, "what is typed is shown"
    os.write(terminal, words.encode() + b"\n")
try:
    while piece := os.read(terminal, 1000):
        shown += piece
except OSError:
    pass
os.waitpid(child, 0)
sys.stdout.buffer.write(shown)
"#;
