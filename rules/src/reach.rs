//! How a zone's gateways are reached, as the administrator describes it.

use smol_str::SmolStr;

use crate::compile::Compiler;
use crate::diagnostics::Fault;
use crate::findings::Findings;
use crate::gateway::{self, Gateway};
use crate::keys::Keys;
use crate::proxy::{self, Proxy, ProxyPassword};
use crate::words;
use crate::written::At;

/// More jump hosts on one way than anybody has.
pub const MOST_JUMPS: usize = 8;

/// The way to the gateways of a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Jump hosts, in the order in which they are passed: only the first is connected to.
    pub via: Vec<Gateway>,
    /// What connects to the first host for us.
    pub proxy: Option<Proxy>,
    /// Whether the configuration of the system's `ssh` says what is left out here.
    pub ssh_config: bool,
}

impl Default for Reach {
    fn default() -> Self {
        Self {
            via: Vec::new(),
            proxy: None,
            ssh_config: true,
        }
    }
}

/// The same, as written.
#[derive(Debug)]
pub(crate) struct WrittenReach {
    via: Option<Vec<At<SmolStr>>>,
    proxy: Option<At<SmolStr>>,
    proxy_password_file: Option<At<SmolStr>>,
    ssh_config: Option<At<SmolStr>>,
}

impl WrittenReach {
    /// As it is where nothing is said of it.
    pub(crate) const NOTHING: Self = Self {
        via: None,
        proxy: None,
        proxy_password_file: None,
        ssh_config: None,
    };

    /// Takes its keys; a list that is wrong is noted, and left out.
    pub(crate) fn take(keys: &mut Keys, findings: &mut Findings) -> Self {
        Self {
            via: keys.list("via", findings, crate::keys::scalar).flatten(),
            proxy: keys.scalar("proxy", findings),
            proxy_password_file: keys.scalar("proxy_password_file", findings),
            ssh_config: keys.scalar("ssh_config", findings),
        }
    }
}

impl Compiler<'_> {
    pub(crate) fn reach(&mut self, written: &WrittenReach) -> Option<Reach> {
        let hops = written.via.iter().flatten();
        let via = hops
            .filter_map(|at| self.noted(at.place, jump_host(&at.value)))
            .collect();
        if let Some(over) = written.via.iter().flatten().nth(MOST_JUMPS) {
            let fault = Fault::new(format!("there are at most {MOST_JUMPS} jump hosts"));
            self.noted::<()>(over.place, Err(fault));
        }
        let proxy = self.optional(written.proxy.as_ref(), proxy::parse)?;
        let file = self.optional(written.proxy_password_file.as_ref(), words::file)?;
        let proxy = match (proxy, file, &written.proxy_password_file) {
            (proxy, Some(file), Some(at)) => {
                Some(self.noted(at.place, with_password_in(proxy, file))?)
            }
            (proxy, _, _) => proxy,
        };
        let ssh_config = self.optional(written.ssh_config.as_ref(), words::switch)?;
        Some(Reach {
            via,
            proxy,
            ssh_config: ssh_config.unwrap_or(true),
        })
    }
}

/// `%h` would make a way to each host of its own.
fn jump_host(text: &str) -> Result<Gateway, Fault> {
    match text.contains("%h") {
        true => Err(Fault::new(format!(
            "`%h` in {text:?}: a jump host is the same one for every connection"
        ))
        .hint("it stands for the host of a connection in `gateways` only")),
        false => gateway::parse(text),
    }
}

fn with_password_in(proxy: Option<Proxy>, file: std::path::PathBuf) -> Result<Proxy, Fault> {
    let key = "`proxy_password_file`";
    let Some(proxy) = proxy else {
        return Err(Fault::new(format!("{key} stands without a proxy"))
            .hint("write `proxy: http://USER@HOST:PORT`, or leave it out"));
    };
    if proxy.password.is_some() {
        return Err(
            Fault::new(format!("the proxy has a password, and {key} another"))
                .hint("take the one out of `proxy`"),
        );
    }
    if proxy.user.is_none() {
        return Err(
            Fault::new(format!("{key} is for a user, and the proxy has none"))
                .hint("write `USER@` before the proxy's host"),
        );
    }
    Ok(Proxy {
        password: Some(ProxyPassword::File(file)),
        ..proxy
    })
}
