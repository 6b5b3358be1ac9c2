//! Peers that misbehave, on paramiko (`peer.py`), and what has to come of what they do.
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::site::{Kept, Running, Site, wait};

/// RFC 4250 section 4.1.2.
pub(crate) const USERAUTH_SUCCESS: u64 = 52;

/// What has to come of a misbehaviour, where something has to.
pub(crate) struct Expected {
    name: &'static str,
    /// The connection's end, or none.
    ended: Option<bool>,
    /// Messages that have to come, and how many of them at least.
    come: (u64, u64),
}

pub(crate) const fn expect(name: &'static str, ended: Option<bool>, come: (u64, u64)) -> Expected {
    Expected { name, ended, come }
}

pub(crate) const NOTHING: (u64, u64) = (0, 0);

/// Runs the script against the gateway: all that it does is in `table`, in this order.
pub(crate) fn misbehave(script: &str, site: &Site, gateway: &Running, table: &[Expected]) {
    // Debian's own, which has the package's libraries.
    let mut python = Command::new("/usr/bin/python3");
    python
        .arg(format!("{}/tests/it/{script}", env!("CARGO_MANIFEST_DIR")))
        .arg(gateway.address.port().to_string())
        .arg(site.path("alice"))
        .arg("alice");
    let mut peer = Kept(python.stdout(Stdio::piped()).spawn().expect("python3"));
    let said = BufReader::new(peer.0.stdout.take().expect("stdout")).lines();
    let mut said = said.map(|line| line.expect("line"));
    for expected in table {
        let line = said.next();
        check(
            expected,
            &line.unwrap_or_else(|| panic!("nothing of {}", expected.name)),
        );
    }
    assert_eq!(said.next(), None, "what is not in the table");
    assert!(wait(&mut peer.0).success());
}

fn check(expected: &Expected, line: &str) {
    let said: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(said["name"], expected.name, "{line}");
    if let Some(ended) = expected.ended {
        assert_eq!(said["ended"], ended, "{line}");
    }
    let came = |number: u64| said["came"][number.to_string()].as_u64().unwrap_or(0);
    let (number, least) = expected.come;
    assert!(came(number) >= least, "{line}");
    let lets_in = came(USERAUTH_SUCCESS) > 0;
    assert_eq!(lets_in, number == USERAUTH_SUCCESS, "{line}");
}
