//! Whose a connection is when its socket is not simply in the hands of one process.

use crate::Case;
use crate::lab::sh;
use crate::program::{Program, broker, until, until_runs, until_some_runs};

pub(crate) const CASES: &[Case] = &[
    ("another_thread_connects", another_thread_connects),
    ("exec_after_connect", exec_after_connect),
    (
        "handed_down_to_the_same_program",
        handed_down_to_the_same_program,
    ),
    (
        "handed_down_to_another_program",
        handed_down_to_another_program,
    ),
    ("handed_down_to_an_orphan", handed_down_to_an_orphan),
    ("handed_down_and_given_up", handed_down_and_given_up),
    (
        "handed_down_by_one_that_is_known",
        handed_down_by_one_that_is_known,
    ),
    (
        "handed_down_over_a_generation",
        handed_down_over_a_generation,
    ),
    (
        "a_process_that_nobody_may_look_into",
        a_process_that_nobody_may_look_into,
    ),
];

const CONNECT: &str = "exec 3<>/dev/tcp/127.0.0.1/7001";

/// Also after its first thread has ended, when its own directory in /proc shows nothing any more.
fn another_thread_connects() {
    let mut broker = broker(&[]);
    let python = sh("readlink -f /usr/bin/python3").trim().to_owned();
    for end in [
        "threading.Event().wait()",
        "ctypes.CDLL(None).syscall(60, 0)",
    ] {
        let script = format!(
            "import ctypes, socket, threading
def connect():
    global s
    s = socket.create_connection(('127.0.0.1', 7001))
    s.recv(1)
threading.Thread(target=connect).start()
{end}"
        );
        std::fs::write("/run/opt/threads.py", script).unwrap();
        let program = Program::start(&mut broker, "exec /usr/bin/python3 threads.py");
        if end.contains("syscall") {
            let status = format!("/proc/{}/status", program.pid());
            until("the first thread to end", || {
                std::fs::read_to_string(&status)
                    .unwrap()
                    .contains("State:\tZ")
            });
        }
        // Twice: found anew, and remembered.
        for _ in 0..2 {
            let said = broker.ask(&format!("owner {} {}", program.from, crate::program::THERE));
            assert_eq!(said, format!("1000 {} {python}", program.pid()), "{end}");
        }
        assert_eq!(program.fact(&mut broker, "script"), "/run/opt/threads.py");
    }
}

/// What counts is which program it is when it is looked up: it and no earlier one will use the connection.
fn exec_after_connect() {
    let mut broker = broker(&[("bash", "before"), ("bash", "after")]);
    let line = format!(
        "exec /run/bin/before -c '{CONNECT}; read -r; exec /run/bin/after -c \"read -r <&3\"'"
    );
    let mut program = Program::start(&mut broker, &line);
    for _ in 0..2 {
        assert_eq!(program.owner(&mut broker), "/run/bin/before");
    }
    program.go_on();
    until_runs(program.pid(), "/run/bin/after");
    assert_eq!(program.owner(&mut broker), "/run/bin/after");
}

fn handed_down_to_the_same_program() {
    let mut broker = broker(&[("bash", "shell")]);
    let line = format!("exec /run/bin/shell -c '{CONNECT}; (read -r <&3; :); :'");
    let mut program = Program::start(&mut broker, &line);
    let children = format!("/proc/{0}/task/{0}/children", program.pid());
    until("its child", || {
        !std::fs::read_to_string(&children).unwrap().is_empty()
    });
    // The parent's, although its child is newer.
    let said = broker.ask(&format!("owner {} {}", program.from, crate::program::THERE));
    assert_eq!(said, format!("1000 {} /run/bin/shell", program.pid()));
    program.kill();
    assert_eq!(program.owner(&mut broker), "/run/bin/shell");
}

/// Nobody can say which of them connects: neither is named, until one of them alone has it.
fn handed_down_to_another_program() {
    let mut broker = broker(&[("bash", "shell"), ("sleep", "tool")]);
    for redirection in ["<&3", "4<&3 3<&-"] {
        let line = format!("exec /run/bin/shell -c '{CONNECT}; /run/bin/tool 60 {redirection}; :'");
        let mut program = Program::start(&mut broker, &line);
        until_some_runs("/run/bin/tool");
        for _ in 0..2 {
            assert_eq!(program.owner(&mut broker), "unknown", "{redirection}");
        }
        program.kill();
        assert_eq!(program.owner(&mut broker), "/run/bin/tool", "{redirection}");
        sh("kill $(pidof /run/bin/tool)");
        until("the tool to end", || {
            !sh("pidof /run/bin/tool || echo gone").starts_with(char::is_numeric)
        });
    }
}

/// The process between them has ended, so that nothing leads from one to the other.
fn handed_down_to_an_orphan() {
    let mut broker = broker(&[("bash", "shell"), ("sleep", "tool")]);
    let line = format!(
        "exec setsid /run/bin/shell -c '{CONNECT}; (/run/bin/tool 60 <&3 >/dev/null 2>&1 &); read -r'"
    );
    let program = Program::start(&mut broker, &line);
    let tool = until_some_runs("/run/bin/tool");
    let status = format!("/proc/{tool}/status");
    until("it to be an orphan", || {
        std::fs::read_to_string(&status)
            .unwrap()
            .contains("PPid:\t1\n")
    });
    assert_eq!(program.owner(&mut broker), "unknown");
}

/// What starts a script's socket: to be handed down.
const SOCKET: &str = "import os, socket, subprocess, sys
def start(*words): return subprocess.Popen(words, close_fds=False)
s = socket.socket()
os.set_inheritable(s.fileno(), True)
connect = f\"import socket; s = socket.socket(fileno={s.fileno()}); s.connect(('127.0.0.1', 7001)); s.recv(1)\"
";

fn script(broker: &mut crate::lab::Puppet, text: &str) -> Program {
    std::fs::write("/run/opt/script.py", format!("{SOCKET}{text}")).unwrap();
    Program::start(broker, "exec /usr/bin/python3 script.py")
}

/// Two that have it from a parent which closed its own: one of them connects.
fn handed_down_and_given_up() {
    let mut broker = broker(&[("/usr/bin/python3", "other"), ("sleep", "tool")]);
    let starts = [
        "start('/run/bin/tool', '60'), start('/run/bin/other', '-c', connect)",
        "start('/run/bin/other', '-c', connect), start('/run/bin/tool', '60')",
    ];
    for both in starts {
        let text = format!(
            "both = [{both}]\ns.close()\nopen('/run/opt/closed', 'w')\nfor one in both: one.wait()\n"
        );
        let program = script(&mut broker, &text);
        let tool = until_some_runs("/run/bin/tool");
        until("its parent to have closed it", || {
            std::fs::exists("/run/opt/closed").unwrap()
        });
        std::fs::remove_file("/run/opt/closed").unwrap();
        for _ in 0..2 {
            assert_eq!(program.owner(&mut broker), "unknown", "{both}");
        }
        sh(&format!("kill {tool}"));
        until("the tool to end", || {
            std::fs::read_link(format!("/proc/{tool}/exe")).is_err()
        });
        assert_eq!(program.owner(&mut broker), "/run/bin/other", "{both}");
        sh("kill $(pidof /run/bin/other)");
    }
}

/// One whose connections were its own so far.
fn handed_down_by_one_that_is_known() {
    let mut broker = broker(&[("/usr/bin/python3", "other")]);
    let mut program = script(
        &mut broker,
        "kept = []
for _ in range(4):
    own = socket.create_connection(('127.0.0.1', 7001))
    kept.append(own)
    sys.stdin.readline()
start('/run/bin/other', '-c', connect).wait()
",
    );
    let python = sh("readlink -f /usr/bin/python3").trim().to_owned();
    for _ in 0..4 {
        assert_eq!(program.owner(&mut broker), python);
        program.go_on_once();
        let accepted = broker.expect("accept 0", "ok");
        program.from = accepted.split(' ').next().unwrap().to_owned();
    }
    for _ in 0..2 {
        assert_eq!(program.owner(&mut broker), "unknown");
    }
    sh("kill $(pidof /run/bin/other)");
}

/// One that made it, and what a child started that has closed it.
fn handed_down_over_a_generation() {
    let mut broker = broker(&[("/usr/bin/python3", "other"), ("sleep", "tool")]);
    let program = script(
        &mut broker,
        "s.connect(('127.0.0.1', 7001))
middle = f\"import os, subprocess; t = subprocess.Popen(['/run/bin/tool', '60'], close_fds=False); os.close({s.fileno()}); \\
open('/run/opt/closed', 'w'); t.wait()\"
start('/run/bin/other', '-c', middle).wait()
",
    );
    until_some_runs("/run/bin/tool");
    until("the one between to have closed it", || {
        std::fs::exists("/run/opt/closed").unwrap()
    });
    for _ in 0..2 {
        assert_eq!(program.owner(&mut broker), "unknown");
    }
    sh("kill $(pidof /run/bin/tool)");
}

/// A binary that its user may run and not read, as any program that asks for it (`PR_SET_DUMPABLE`): its descriptors are
/// nobody's to see.
fn a_process_that_nobody_may_look_into() {
    let mut broker = broker(&[("bash", "shell"), ("bash", "secret")]);
    sh("chmod 711 /run/bin/secret");
    let wait = format!("{CONNECT}; read -r <&3");
    let secret = Program::start(&mut broker, &format!("exec /run/bin/secret -c '{wait}'"));
    let open = Program::start(&mut broker, &format!("exec /run/bin/shell -c '{wait}'"));
    for _ in 0..2 {
        assert_eq!(secret.owner(&mut broker), "unknown");
        assert_eq!(open.owner(&mut broker), "/run/bin/shell");
    }
}
