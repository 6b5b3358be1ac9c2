//! From a zone as written to gateways that can be dialled: paths made absolute, defaults filled in, `%h` replaced.

use std::path::{Path, PathBuf};

use adit_rules::{
    Destination, Engine, Gateway, GatewayPattern, HostKeys, Identity, Method, Proxy, Zone,
};

use crate::behind::Behind;
use crate::gateway::{Target, Unsaid};
use crate::user::User;

/// The gateways of a zone, as a user reaches them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneTargets {
    gateways: Vec<GatewayPattern>,
    via: Vec<Gateway>,
    proxy: Option<Proxy>,
    login: Login,
}

/// How to get into a gateway or a jump host of the zone, whichever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Login {
    user: String,
    identity: Option<Identity>,
    certificate: Option<PathBuf>,
    methods: Vec<Method>,
    known_hosts: Vec<PathBuf>,
    host_keys: HostKeys,
    home: PathBuf,
    engine: Engine,
    hands_over: bool,
    unsaid: Option<Unsaid>,
}

impl ZoneTargets {
    /// Those of `zone`, in order, as `user` reaches them.
    pub fn of(zone: &Zone, user: &User) -> Self {
        Self {
            gateways: zone.gateways.clone(),
            via: zone.reach.via.clone(),
            proxy: zone.reach.proxy.clone(),
            login: Login::of(zone, user),
        }
    }

    /// What lies behind the link that carries flows to `destination`. `None`: that is no host.
    pub fn behind(&self, destination: &Destination) -> Option<Behind> {
        match self.are_from_destination() {
            false => Some(Behind::Zone),
            true => destination.host().map(Behind::Host),
        }
    }

    /// The gateways before what is behind them, in order; those that cannot be there are left out.
    ///
    /// # Errors
    /// Why the first one cannot be there, where none can.
    pub fn before(&self, behind: &Behind) -> Result<Vec<Target>, String> {
        if self.are_from_destination() != behind.host().is_some() {
            return Err("the zone's gateways are of another kind".to_owned());
        }
        let host = behind.host().unwrap_or_default();
        let all = self.gateways.iter().map(|gateway| gateway.for_host(host));
        let (there, not_there): (Vec<_>, Vec<_>) = all.partition(Result::is_ok);
        match not_there.into_iter().next() {
            Some(Err(why)) if there.is_empty() => Err(why),
            Some(_) | None => {
                let there = there.into_iter().flatten();
                Ok(there.map(|gateway| self.target(gateway, behind)).collect())
            }
        }
    }

    fn are_from_destination(&self) -> bool {
        let mut gateways = self.gateways.iter();
        gateways.any(GatewayPattern::is_from_destination)
    }

    fn target(&self, gateway: Gateway, behind: &Behind) -> Target {
        let alone = |gateway: &Gateway| self.login.at(gateway, behind);
        let mut target = alone(&gateway);
        target.via = self.via.iter().map(alone).collect();
        let proxy = self.proxy.clone();
        match target.via.first_mut() {
            Some(first) => first.proxy = proxy,
            None => target.proxy = proxy,
        }
        target
    }
}

impl Login {
    fn of(zone: &Zone, user: &User) -> Self {
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
        Self {
            user: user.name.clone(),
            identity,
            certificate: zone.certificate.as_deref().map(absolute),
            methods: zone.methods.clone(),
            known_hosts,
            host_keys: zone.host_keys,
            home: user.home.clone(),
            engine: zone.engine,
            hands_over: zone.hands_over,
            unsaid: zone.reach.ssh_config.then_some(unsaid),
        }
    }

    fn at(&self, gateway: &Gateway, behind: &Behind) -> Target {
        Target {
            gateway: gateway.clone(),
            via: Vec::new(),
            proxy: None,
            login: self.user.clone(),
            identity: self.identity.clone(),
            certificate: self.certificate.clone(),
            methods: self.methods.clone(),
            known_hosts: self.known_hosts.clone(),
            host_keys: self.host_keys,
            home: self.home.clone(),
            engine: self.engine,
            hands_over: self.hands_over,
            unsaid: self.unsaid,
            host_key_alias: None,
            behind: behind.clone(),
        }
    }
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
