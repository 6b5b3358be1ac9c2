//! What a login takes: chains of methods, each shown in its order; any chain that is complete lets in.
use std::fmt;

use russh::{MethodKind, MethodSet};

/// Longest list of chains.
pub const MAX_CHAINS: usize = 16;

/// One way of showing who one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A key, or a certificate of one (RFC 4252 section 7).
    PublicKey,
    /// A password, asked for by keyboard-interactive (RFC 4256).
    Password,
    /// A one-time code (RFC 6238), asked for in the same way.
    Totp,
}

impl Method {
    const ALL: [Self; 3] = [Self::PublicKey, Self::Password, Self::Totp];

    /// As it stands in the gateway's file.
    pub fn name(self) -> &'static str {
        match self {
            Self::PublicKey => "publickey",
            Self::Password => "password",
            Self::Totp => "totp",
        }
    }

    /// By what it is shown.
    fn kind(self) -> MethodKind {
        match self {
            Self::PublicKey => MethodKind::PublicKey,
            Self::Password | Self::Totp => MethodKind::KeyboardInteractive,
        }
    }
}

/// Methods, all of which have to be shown, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain(Vec<Method>);

/// Why a text is no chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadChain {
    /// None of ours.
    #[error("{0:?} is no method")]
    Unknown(String),
    /// It would be shown once.
    #[error("{0:?} stands there twice")]
    Twice(&'static str),
    /// Six digits can be guessed by whoever may ask often enough.
    #[error("a one-time code alone lets nobody in")]
    CodeAlone,
}

impl std::str::FromStr for Chain {
    type Err = BadChain;

    fn from_str(text: &str) -> Result<Self, BadChain> {
        let mut methods = Vec::new();
        for name in text.split(',').map(str::trim) {
            let mut all = Method::ALL.into_iter();
            let method = all.find(|method| method.name() == name);
            let method = method.ok_or_else(|| BadChain::Unknown(name.to_owned()))?;
            if methods.contains(&method) {
                return Err(BadChain::Twice(method.name()));
            }
            methods.push(method);
        }
        match methods.as_slice() {
            [Method::Totp] => Err(BadChain::CodeAlone),
            _ => Ok(Self(methods)),
        }
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|method| method.name()).collect();
        f.write_str(&names.join(","))
    }
}

/// All chains, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Methods(Vec<Chain>);

impl Default for Methods {
    fn default() -> Self {
        Self(vec![Chain(vec![Method::PublicKey])])
    }
}

impl Methods {
    /// These chains.
    pub fn new(chains: Vec<Chain>) -> Self {
        Self(chains)
    }

    /// The chain that lets in before `chain` is complete, so that the rest of it is asked of nobody.
    pub fn shorter(&self, chain: &Chain) -> Option<&Chain> {
        let is_shorter =
            |other: &&Chain| other.0.len() < chain.0.len() && chain.0.starts_with(&other.0);
        self.0.iter().find(is_shorter)
    }

    /// Is it in any of them?
    pub fn has(&self, method: Method) -> bool {
        self.0.iter().any(|chain| chain.0.contains(&method))
    }

    /// What whoever has shown `shown` can show next.
    pub(crate) fn next(&self, shown: &[Method]) -> Vec<Method> {
        let mut next = Vec::new();
        for chain in &self.0 {
            if let Some([method, ..]) = chain.0.strip_prefix(shown)
                && !next.contains(method)
            {
                next.push(*method);
            }
        }
        next
    }

    /// Is that a whole chain?
    pub(crate) fn admit(&self, shown: &[Method]) -> bool {
        self.0.iter().any(|chain| chain.0 == shown)
    }
}

/// By what these are shown, as RFC 4252 section 5.1 lists it.
pub(crate) fn kinds(methods: &[Method]) -> MethodSet {
    let kinds: Vec<_> = methods.iter().map(|method| method.kind()).collect();
    MethodSet::from(kinds.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Method::{Password, PublicKey, Totp};

    fn methods(chains: &[&str]) -> Methods {
        Methods::new(chains.iter().map(|c| c.parse().expect("chain")).collect())
    }

    #[test]
    fn chains_are_shown_in_order_and_each_whole_one_lets_in() {
        let all = methods(&["publickey,totp", "publickey,password", "password, totp"]);
        for (shown, next, admitted) in [
            (&[][..], &[PublicKey, Password][..], false),
            (&[PublicKey], &[Totp, Password], false),
            (&[Password], &[Totp], false),
            (&[PublicKey, Totp], &[], true),
            (&[PublicKey, Password], &[], true),
            (&[Password, Totp], &[], true),
            (&[Totp], &[], false),
            (&[Totp, PublicKey], &[], false),
        ] {
            assert_eq!(all.next(shown), next, "{shown:?}");
            assert_eq!(all.admit(shown), admitted, "{shown:?}");
        }
        assert_eq!(
            kinds(&[Totp, Password, PublicKey]).to_vec(),
            [MethodKind::KeyboardInteractive, MethodKind::PublicKey]
        );
    }

    #[test]
    fn what_is_no_chain_says_why() {
        for (text, why) in [
            ("", "\"\" is no method"),
            ("publickey,", "\"\" is no method"),
            ("hostbased", "\"hostbased\" is no method"),
            ("publickey,publickey", "\"publickey\" stands there twice"),
            ("totp", "a one-time code alone lets nobody in"),
        ] {
            let error = text.parse::<Chain>().expect_err(text).to_string();
            assert_eq!(error, why);
        }
    }

    #[test]
    fn a_chain_that_another_one_makes_useless_is_found() {
        let all = methods(&["publickey", "publickey,totp", "password,totp"]);
        let shorter = |text: &str| {
            let chain = text.parse().expect("chain");
            all.shorter(&chain).map(ToString::to_string)
        };
        assert_eq!(shorter("publickey,totp").as_deref(), Some("publickey"));
        assert_eq!(shorter("publickey"), None);
        assert_eq!(shorter("password,totp"), None);
    }
}
