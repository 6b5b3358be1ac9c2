//! What rules may ask of a program beside its path.

use crate::Case;
use crate::lab::sh;
use crate::program::{Program, broker, until, until_runs, until_some_runs};

pub(crate) const CASES: &[Case] = &[
    ("scripts", scripts),
    ("a_script_in_another_place", a_script_in_another_place),
    ("control_groups", control_groups),
    ("ancestors", ancestors),
    (
        "ancestors_that_cannot_be_known",
        ancestors_that_cannot_be_known,
    ),
    ("hashes", hashes),
    ("facts_of_another_program", facts_of_another_program),
];

const PYTHON: &str = "import socket
s = socket.create_connection(('127.0.0.1', 7001))
s.recv(1)
";
const SHELL: &str = "exec 3<>/dev/tcp/127.0.0.1/7001; read -r <&3";

fn write_scripts() {
    for (name, text) in [
        ("sync.py", format!("#!/usr/bin/env python3\n{PYTHON}")),
        ("sync.sh", format!("#!/bin/bash -e\n{SHELL}\n")),
        ("bare", format!("{SHELL}\n")),
        ("turtle.t", format!("#!/run/bin/turtle\n{SHELL}\n")),
        (
            "away.py",
            format!("import os; os.chdir('/run/opt/there')\n{PYTHON}"),
        ),
        ("there/away.py", "another".to_owned()),
    ] {
        let path = format!("/run/opt/{name}");
        sh(&format!("mkdir -p $(dirname {path})"));
        std::fs::write(&path, text).unwrap();
        sh(&format!("chmod 755 {path}"));
    }
    sh("ln -s /run/opt/sync.py /run/opt/link");
}

fn scripts() {
    let mut broker = broker(&[("bash", "turtle")]);
    write_scripts();
    for (line, expected) in [
        ("./sync.py", "/run/opt/sync.py"),
        ("exec /run/opt/sync.py", "/run/opt/sync.py"),
        ("exec python3 sync.py x", "/run/opt/sync.py"),
        ("exec python3 -u -W ignore ./sync.py", "/run/opt/sync.py"),
        ("exec ./link", "/run/opt/sync.py"),
        ("cd /; exec python3 run/opt/sync.py", "/run/opt/sync.py"),
        ("exec ./sync.sh", "/run/opt/sync.sh"),
        ("exec bash -o pipefail bare", "/run/opt/bare"),
        ("exec ./turtle.t", "/run/opt/turtle.t"),
        ("exec /run/bin/turtle turtle.t", "/run/opt/turtle.t"),
        // Not a file.
        ("exec 3<>/dev/tcp/127.0.0.1/7001; read -r <&3", "none"),
        ("exec python3 -c \"$(cat sync.py)\" sync.py", "none"),
        ("cat sync.py | python3 -", "none"),
        ("exec /run/bin/turtle -c \"$(cat bare)\"", "none"),
        // A file, and nobody can say which.
        ("exec python3 -m sync", "unknowable"),
        ("exec python3 <sync.py", "unknowable"),
        ("exec python3 away.py", "unknowable"),
        ("PWD=/ exec python3 sync.py", "unknowable"),
        ("exec bash <(cat bare)", "unknowable"),
        // The script of one program, and another that was given it.
        ("exec /run/bin/turtle ./sync.sh", "unknowable"),
        // Another name for itself than any that it has.
        ("exec -a sync python3 sync.py", "unknowable"),
        ("exec -a /run/bin/turtle python3 sync.py", "unknowable"),
    ] {
        let program = Program::start(&mut broker, line);
        assert_eq!(program.fact(&mut broker, "script"), expected, "{line}");
    }
}

/// What is at that path for us need not be what is there for the program.
fn a_script_in_another_place() {
    let mut broker = broker(&[]);
    write_scripts();
    let user = "setpriv --reuid 1000 --regid 1000 --clear-groups";
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-ec"]).arg(format!(
        "mount --bind /run/opt/sync.py /run/opt/away.py; exec {user} /usr/bin/python3 /run/opt/away.py"
    ));
    let program = Program::of(&mut broker, command);
    assert_eq!(program.fact(&mut broker, "script"), "unknowable");
}

fn control_groups() {
    let mut broker = broker(&[]);
    sh("mkdir /run/groups && mount -t cgroup2 groups /run/groups");
    let group = format!("/adit-test-{}/app-tool.scope", std::process::id());
    let directory = format!("/run/groups{group}");
    sh(&format!("mkdir -p {directory} && chmod 777 {directory}"));
    let mut program = Program::start(&mut broker, SHELL);
    let before = sh(&format!("sed -n s/^0:://p /proc/{}/cgroup", program.pid()));
    let found = program.fact(&mut broker, "group");
    sh(&format!("echo {} >{directory}/cgroup.procs", program.pid()));
    let moved = program.fact(&mut broker, "group");
    program.kill();
    let parent = directory.rsplit_once('/').unwrap().0;
    until("the group to be empty", || {
        std::fs::remove_dir(&directory).is_ok()
    });
    std::fs::remove_dir(parent).unwrap();
    assert_eq!((found.as_str(), moved), (before.trim(), group));
}

fn ancestors() {
    let mut broker = broker(&[("bash", "terminal"), ("bash", "shell"), ("bash", "tool")]);
    std::fs::write("/run/opt/tool", format!("/run/bin/tool -c '{SHELL}'; :")).unwrap();
    std::fs::write("/run/opt/shell", "/run/bin/shell /run/opt/tool; :").unwrap();
    let line = "exec /run/bin/terminal /run/opt/shell";
    let program = Program::start(&mut broker, line);
    assert_eq!(program.fact(&mut broker, "path"), "/run/bin/tool");
    // The first of another user is root's: none of those that count.
    let said = broker.ask(&format!("facts {} {}", program.from, crate::program::THERE));
    assert!(
        said.contains(" parents /run/bin/shell,/run/bin/terminal all "),
        "{said}"
    );
}

fn ancestors_that_cannot_be_known() {
    let mut broker = broker(&[("bash", "terminal"), ("bash", "secret"), ("bash", "tool")]);
    sh("chmod 711 /run/bin/secret");
    std::fs::write("/run/opt/tool", format!("/run/bin/tool -c '{SHELL}'; :")).unwrap();
    // One that nobody may look into is of the same user all the same; beyond it, it goes on.
    std::fs::write("/run/opt/secret", "/run/bin/secret -c '. /run/opt/tool'; :").unwrap();
    let program = Program::start(&mut broker, "exec /run/bin/terminal /run/opt/secret");
    let said = broker.ask(&format!("facts {} {}", program.from, crate::program::THERE));
    assert!(
        said.contains(" parents /run/bin/terminal and more "),
        "{said}"
    );
    drop(program);
    sh("kill $(pidof /run/bin/tool)");
    // One whose parent has ended.
    let line = "exec setsid /run/bin/terminal -c '(. /run/opt/tool) <&- >/dev/null 2>&1 &'";
    let program = Program::start(&mut broker, line);
    let tool = until_some_runs("/run/bin/tool");
    until("it to be adopted", || {
        let above = sh(&format!("sed -n 's/^PPid:\\t//p' /proc/{tool}/status"));
        sh(&format!(
            "sed -n 's/^PPid:\\t//p' /proc/{}/status",
            above.trim()
        ))
        .trim()
            == "1"
    });
    let said = broker.ask(&format!("facts {} {}", program.from, crate::program::THERE));
    assert!(
        said.contains(" parents /run/bin/terminal and more "),
        "{said}"
    );
}

fn hashes() {
    let mut broker = broker(&[("bash", "tool"), ("bash", "secret")]);
    let expected = sh("sha256sum </run/bin/tool")
        .split(' ')
        .next()
        .unwrap()
        .to_owned();
    let program = Program::start(&mut broker, &format!("exec /run/bin/tool -c '{SHELL}'"));
    assert_eq!(program.fact(&mut broker, "sha256"), expected);
    // Of what runs, not of what is at its path by now.
    sh("cp /bin/cat /run/bin/new && mv /run/bin/new /run/bin/tool");
    assert_eq!(program.fact(&mut broker, "sha256"), expected);
    assert_eq!(program.fact(&mut broker, "path"), "/run/bin/tool");
}

/// What is asked of a process is not answered with what it became meanwhile.
fn facts_of_another_program() {
    let mut broker = broker(&[("bash", "before"), ("bash", "after")]);
    let line = "exec /run/bin/before -c 'exec 3<>/dev/tcp/127.0.0.1/7001; read -r; exec /run/bin/after -c \"read -r <&3\"'";
    let mut program = Program::start(&mut broker, line);
    broker.expect(
        &format!("keep {} {}", program.from, crate::program::THERE),
        "ok",
    );
    assert!(broker.ask("kept").contains(" script none "));
    program.go_on();
    until_runs(program.pid(), "/run/bin/after");
    let said = broker.ask("kept");
    assert!(
        said.contains(" group unknowable script unknowable "),
        "{said}"
    );
    assert!(said.ends_with(" sha256 unknowable"), "{said}");
}
