//! What the helper could do to the host, and can not.

use crate::Case;
use crate::lab::{Helper, Puppet, adit_capture, hand_over, sh};

pub(crate) const CASES: &[Case] = &[
    ("directories_of_others", directories_of_others),
    ("powers", powers),
    ("files", files),
];

const USER: u32 = 1000;
const ZONE: [&str; 2] = ["10.9.0.0/24", "fd09::/64"];

/// Where others can change what a name leads to, root neither makes nor removes files.
fn directories_of_others() {
    let check = |make: &str, socket: &str, changeable: &str| {
        sh(make);
        let before = sh("find /run -printf '%p %m %u %y\\n' | grep -v /adit | sort");
        let (done, log) = adit_capture(&["--socket", socket]);
        assert!(!done, "{socket}");
        let why = format!("others than root can change what is in {changeable};");
        assert!(log.contains(&why), "{log}");
        let after = sh("find /run -printf '%p %m %u %y\\n' | grep -v /adit | sort");
        assert_eq!(after, before, "{socket}");
    };
    check(
        "mkdir /run/theirs && chown 1000 /run/theirs",
        "/run/theirs/x",
        "/run/theirs",
    );
    check("mkdir -m 1777 /run/sticky", "/run/sticky/x", "/run/sticky");
    check("mkdir -m 775 /run/group", "/run/group/x", "/run/group");
    check(
        "mkdir /run/theirs/roots",
        "/run/theirs/roots/x",
        "/run/theirs",
    );
    check("ln -s theirs /run/link", "/run/link/x", "/run/theirs");
    // Root's own below a sticky one is nobody else's.
    sh("mkdir -m 755 /run/sticky/roots");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_adit-capture"))
        .args(["--until-idle", "--socket", "/run/sticky/roots/x"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut log = std::io::BufRead::lines(log);
    assert!(log.any(|line| line.unwrap().contains("ready")));
    sh(&format!("kill -TERM {}", child.id()));
    assert!(child.wait().unwrap().success());
    // And so is the lock's directory.
    sh("rm -r /run/adit && mkdir -m 777 /run/adit");
    check("chmod 777 /run/adit", "/run/sticky/roots/x", "/run/adit");
}

/// proc(5): the sets are masks; CAP_NET_ADMIN is bit 12 (capability.h).
fn powers() {
    let helper = Helper::start(&[]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", helper.pid())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} in {status}"))
            .trim()
            .to_owned()
    };
    for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapInh:"] {
        assert_eq!(field(set), "0000000000001000", "{set}");
    }
    assert_eq!(field("CapAmb:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Umask:"), "0077");
    // And it still does its work.
    Puppet::broker(USER, &hand_over(&ZONE, "block")).expect("release", "ok");
}

/// What the helper starts tries to write, and to read what only root may: it starts a script in nft's place.
fn files() {
    sh(
        r#"mount -t tmpfs tmpfs /usr/games && cp "$(readlink -f /usr/sbin/nft)" /usr/games/nft
        mount -t tmpfs tmpfs /srv
        cat > /run/nft <<'END'
#!/bin/sh
for path in /etc/shadow /etc/passwd /srv/new /run/adit/new /tmp/adit-new; do
    if (: >> $path) 2>/dev/null; then exit 91; fi
done
if (: < /etc/shadow) 2>/dev/null; then exit 92; fi
exec /usr/games/nft "$@"
END
        chmod 755 /run/nft && mount --bind /run/nft "$(readlink -f /usr/sbin/nft)""#,
    );
    let helper = Helper::start(&[]);
    Puppet::broker(USER, &hand_over(&ZONE, "block")).expect("release", "ok");
    assert!(helper.stop().success());
    assert_eq!(sh("ls /run/adit/*.sock 2>/dev/null || echo none"), "none\n");
}
