//! What the lab lays over the machine's own account files.

use crate::users::User;

/// Alice and Bob may do everything, as the person at a desk of their own may.
pub(crate) const SUDOERS: &str = "Defaults secure_path=/run/lab/bin:/usr/sbin:/usr/bin:/sbin:/bin
root ALL=(ALL:ALL) ALL
adit-alice ALL=(ALL:ALL) NOPASSWD: ALL
adit-bob ALL=(ALL:ALL) NOPASSWD: ALL
";

/// The machine's own name, which sudo looks up, and hosts that everybody knows.
pub(crate) const HOSTS: &str = "127.0.0.1 localhost adit-lab
::1 localhost
198.51.100.11 near.test
198.51.100.13 forbidden.test
198.51.100.14 inside.test
";

/// Names that only the gateway can look up.
pub(crate) const HOSTS_OF_THE_ZONE: &str = "198.51.100.10 db.finance.test web.finance.test
2001:db8:2::10 six.finance.test
";

pub(crate) fn passwd(own: &str) -> String {
    with_lines(own, |user| {
        let (name, id, home) = (user.name(), user.uid(), user.home());
        format!("{name}:x:{id}:{id}:lab:{home}:/bin/bash")
    })
}

pub(crate) fn group(own: &str) -> String {
    with_lines(own, |user| format!("{}:x:{}:", user.name(), user.uid()))
}

pub(crate) fn shadow(own: &str) -> String {
    with_lines(own, |user| format!("{}:*:20000:0:99999:7:::", user.name()))
}

fn with_lines(own: &str, line: impl Fn(User) -> String) -> String {
    let added = User::ADDED
        .into_iter()
        .map(line)
        .collect::<Vec<_>>()
        .join("\n");
    format!("{}\n{added}\n", own.trim_end())
}
