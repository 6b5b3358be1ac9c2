//! From a zone as written to gateways that can be dialled: paths made absolute, defaults filled in.

use std::path::{Path, PathBuf};

use adit_rules::{Gateway, Identity, Zone};

use crate::gateway::{Target, Unsaid};
use crate::user::User;

/// The gateways of `zone` in order, as `user` reaches them.
pub fn targets_of(zone: &Zone, user: &User) -> Vec<Target> {
    let absolute = |path: &Path| expand_home(path, &user.home);
    let known_hosts = match &zone.known_hosts[..] {
        [] => default_known_hosts(&user.home),
        files => files.iter().map(|file| absolute(file)).collect(),
    };
    let identity = zone.identity.as_ref().map(|identity| match identity {
        Identity::Agent => Identity::Agent,
        Identity::File(file) => Identity::File(absolute(file)),
    });
    let unsaid = Unsaid {
        identity: zone.identity.is_none(),
        known_hosts: zone.known_hosts.is_empty(),
        via: zone.reach.via.is_empty(),
    };
    let alone = |gateway: &Gateway| Target {
        gateway: gateway.clone(),
        via: Vec::new(),
        proxy: None,
        login: user.name.clone(),
        identity: identity.clone(),
        certificate: zone.certificate.as_deref().map(absolute),
        methods: zone.methods.clone(),
        known_hosts: known_hosts.clone(),
        host_keys: zone.host_keys,
        home: user.home.clone(),
        engine: zone.engine,
        unsaid: zone.reach.ssh_config.then_some(unsaid),
    };
    let reached = |gateway| {
        let mut target = alone(gateway);
        target.via = zone.reach.via.iter().map(alone).collect();
        let proxy = zone.reach.proxy.clone();
        match target.via.first_mut() {
            Some(first) => first.proxy = proxy,
            None => target.proxy = proxy,
        }
        target
    };
    zone.gateways.iter().map(reached).collect()
}

/// Where OpenSSH looks (ssh_config(5), UserKnownHostsFile and GlobalKnownHostsFile).
fn default_known_hosts(home: &Path) -> Vec<PathBuf> {
    vec![
        home.join(".ssh/known_hosts"),
        PathBuf::from("/etc/ssh/ssh_known_hosts"),
    ]
}

/// `~/` at the start of a path is the user's home.
pub(crate) fn expand_home(path: &Path, home: &Path) -> PathBuf {
    match path.strip_prefix("~") {
        Ok(rest) => home.join(rest),
        Err(_) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_is_expanded_only_at_the_start() {
        let home = Path::new("/home/alice");
        let check = |written: &str, expected: &str| {
            assert_eq!(expand_home(Path::new(written), home), Path::new(expected));
        };
        check("~/.ssh/id_ed25519", "/home/alice/.ssh/id_ed25519");
        check("/etc/adit/key", "/etc/adit/key");
        check("/srv/~/key", "/srv/~/key");
    }
}
