//! Logging in by key (RFC 4252, section 7), or by a certificate for one (PROTOCOL.certkeys of OpenSSH): in files, or in the agent.

use std::path::Path;
use std::sync::Arc;

use russh::AgentAuthError;
use russh::client::AuthResult;
use russh::keys::agent::AgentIdentity;
use russh::keys::signature::Signer as _;
use russh::keys::ssh_encoding::Encode;
use russh::keys::ssh_key::Certificate;
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey};
use tokio::time::timeout;

use super::agent::{self, Agent, AgentSigner};
use super::authentication::{Attempt, AuthenticationError, Outcome, late, nothing_said};
use super::connection::HANDSHAKE_TIMEOUT;
use super::fingerprint;
use super::key_file::{self, KeyFile, LockedKey};

/// sshd's default MaxAuthTries is 6 (sshd_config(5)): one key more would end the connection.
const MAX_KEYS: usize = 6;

impl Attempt<'_> {
    pub(super) async fn anything(&mut self) -> Outcome<AuthResult> {
        let mut answer = nothing_said();
        let usual = ["id_ed25519", "id_ecdsa", "id_rsa"];
        let usual = usual.map(|name| self.target.home.join(".ssh").join(name));
        match self.listed().await {
            Ok((agent, mut held)) => {
                // As ssh does, and a gateway does not let anyone try all of many.
                let own: Vec<_> = usual.iter().filter_map(|it| key_file::public(it)).collect();
                held.sort_by_key(|it| {
                    !own.iter()
                        .any(|own| own.key_data() == it.public_key().key_data())
                });
                answer = self.agent(agent, held).await?;
            }
            Err(error) => tracing::debug!("no key of an agent is offered: {error}"),
        }
        let mut locked = Vec::new();
        for file in usual {
            if went_on(&answer) || !file.exists() || self.offered.len() >= MAX_KEYS {
                continue;
            }
            match key_file::read(&file, self.unlocking) {
                Ok(KeyFile::Open(key)) => answer = self.key(&file, key).await?,
                Ok(KeyFile::Locked(key)) => locked.push(key),
                Err(error) => tracing::warn!("{error}: passing over it"),
            }
        }
        for key in locked {
            if !went_on(&answer) && self.offered.len() < MAX_KEYS {
                answer = self.locked_key(key).await?;
            }
        }
        Ok(answer)
    }

    /// The key that this file names. One that it does not give of itself may be in the agent.
    pub(super) async fn file(&mut self, file: &Path) -> Outcome<AuthResult> {
        let read = match key_file::read(file, self.unlocking) {
            Ok(KeyFile::Open(key)) if !agent::is_touched(key.public_key()) => {
                return self.key(file, key).await;
            }
            read => read,
        };
        if let Some(answer) = self.agents_copy(file).await? {
            return Ok(answer);
        }
        match read? {
            KeyFile::Open(key) => self.key(file, key).await,
            KeyFile::Locked(key) => self.locked_key(key).await,
        }
    }

    /// The same key by the agent, and its certificate first; `None`: it does not have it, or does not sign.
    async fn agents_copy(&mut self, file: &Path) -> Outcome<Option<AuthResult>> {
        let Some(public) = key_file::public(file) else {
            return Ok(None);
        };
        let Ok((mut agent, held)) = self.listed().await else {
            return Ok(None);
        };
        let Some(holder) = agent::holder_of(&held, public.key_data()) else {
            return Ok(None);
        };
        let named = self.target.certificate.as_deref();
        if let Some(certificate) = certificate_for(named, file, &public)? {
            let offered = self.agents_certificate(&mut agent, certificate, holder.clone());
            match offered.await? {
                Some(answer) if went_on(&answer) => return Ok(Some(answer)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
        self.agents_key(&mut agent, public, holder).await
    }

    /// The agent and what it holds, which is noted.
    pub(super) async fn listed(&self) -> Result<(Agent, Vec<AgentIdentity>), String> {
        let listed = agent::listed().await;
        let held = listed.as_ref().map(|(_, held)| agent::fingerprints(held));
        self.unlocking.agent_holds(held.unwrap_or_default());
        listed
    }

    async fn locked_key(&mut self, key: LockedKey) -> Outcome<AuthResult> {
        let file = key.file().to_owned();
        let gateway = self.target.gateway.to_string();
        let key = key.unlock(&gateway, self.unlocking).await?;
        self.key(&file, key).await
    }

    /// The certificate for the key first, as ssh does, then the key alone.
    async fn key(&mut self, file: &Path, key: Arc<PrivateKey>) -> Outcome<AuthResult> {
        let named = self.target.certificate.as_deref();
        let hash = self.hash_for(key.public_key()).await?;
        if let Some(certificate) = certificate_for(named, file, key.public_key())? {
            self.offer(
                &format!("certificate {:?}", certificate.key_id()),
                key.public_key(),
            );
            let mut signer = FileSigner(key.clone());
            let offered = self.session.authenticate_certificate_with(
                self.user,
                certificate,
                hash,
                &mut signer,
            );
            let answer = timeout(HANDSHAKE_TIMEOUT, offered).await.map_err(late)?;
            let answer = self.heard(answer.map_err(signing)?)?;
            if went_on(&answer) {
                return Ok(answer);
            }
        }
        self.offer(&file.display().to_string(), key.public_key());
        let key = PrivateKeyWithHashAlg::new(key, hash);
        let offered = self.session.authenticate_publickey(self.user, key);
        let answer = timeout(HANDSHAKE_TIMEOUT, offered).await.map_err(late)??;
        self.heard(answer)
    }

    pub(super) async fn agent(
        &mut self,
        mut agent: Agent,
        held: Vec<AgentIdentity>,
    ) -> Outcome<AuthResult> {
        let mut answer = nothing_said();
        let named = key_file::certificate(self.target.certificate.as_deref(), None)?;
        if let Some(certificate) = named
            && let Some(holder) = agent::holder_of(&held, certificate.public_key())
        {
            let offered = self.agents_certificate(&mut agent, certificate, holder);
            match offered.await? {
                Some(said) => answer = said,
                None => return Ok(answer),
            }
        }
        for identity in held.into_iter().take(MAX_KEYS) {
            if went_on(&answer) {
                break;
            }
            let said = match &identity {
                AgentIdentity::Certificate { certificate, .. } => {
                    let certificate = certificate.clone();
                    self.agents_certificate(&mut agent, certificate, identity)
                        .await?
                }
                AgentIdentity::PublicKey { key, .. } => {
                    let key = key.clone();
                    self.agents_key(&mut agent, key, identity).await?
                }
            };
            match said {
                Some(said) => answer = said,
                None => break,
            }
        }
        Ok(answer)
    }

    async fn agents_key(
        &mut self,
        agent: &mut Agent,
        key: PublicKey,
        identity: AgentIdentity,
    ) -> Outcome<Option<AuthResult>> {
        let hash = self.hash_for(&key).await?;
        self.offer("agent", &key);
        let mut signer = self.signer(agent, identity);
        let offered = self
            .session
            .authenticate_publickey_with(self.user, key, hash, &mut signer);
        let answer = timeout(agent::PATIENCE + HANDSHAKE_TIMEOUT, offered).await;
        self.signed(answer.map_err(late)?)
    }

    async fn agents_certificate(
        &mut self,
        agent: &mut Agent,
        certificate: Certificate,
        identity: AgentIdentity,
    ) -> Outcome<Option<AuthResult>> {
        let key = PublicKey::from(certificate.public_key().clone());
        let hash = self.hash_for(&key).await?;
        self.offer(
            &format!("agent, certificate {:?}", certificate.key_id()),
            &key,
        );
        let mut signer = self.signer(agent, identity);
        let offered =
            self.session
                .authenticate_certificate_with(self.user, certificate, hash, &mut signer);
        let answer = timeout(agent::PATIENCE + HANDSHAKE_TIMEOUT, offered).await;
        self.signed(answer.map_err(late)?)
    }

    fn signer<'a>(&self, agent: &'a mut Agent, identity: AgentIdentity) -> AgentSigner<'a>
    where
        Self: 'a,
    {
        AgentSigner {
            agent,
            unlocking: self.unlocking,
            identity,
        }
    }

    /// A key that the agent does not sign with is as good as refused; `None`: there is nothing more to be had from it.
    fn signed(
        &mut self,
        answer: Result<AuthResult, AgentAuthError>,
    ) -> Outcome<Option<AuthResult>> {
        match answer {
            Ok(answer) => self.heard(answer).map(Some),
            Err(AgentAuthError::Key(error)) => {
                tracing::warn!("the SSH agent does not sign: {error}");
                self.unsigned = true;
                let is_gone = matches!(error, russh::keys::Error::IO(_));
                Ok((!is_gone).then(nothing_said))
            }
            Err(AgentAuthError::Send(_)) => Err(russh::Error::SendError.into()),
        }
    }

    /// A session that has ended says no to everything, and means nothing by it.
    fn heard(&self, answer: AuthResult) -> Outcome<AuthResult> {
        match &answer {
            AuthResult::Failure {
                remaining_methods,
                partial_success: false,
            } if remaining_methods.is_empty()
                && self.offered.len() < 2
                && self.session.is_closed() =>
            {
                Err(russh::Error::Disconnect.into())
            }
            AuthResult::Failure { .. } | AuthResult::Success => Ok(answer),
        }
    }

    fn offer(&mut self, what: &str, key: &PublicKey) {
        self.offered.push(format!("{what} ({})", fingerprint(key)));
    }

    /// RSA keys sign with SHA-2 or not at all (RFC 8332).
    async fn hash_for(&self, key: &PublicKey) -> Outcome<Option<HashAlg>> {
        if !key.algorithm().is_rsa() {
            return Ok(None);
        }
        // While a gateway is about to exchange new keys, it is not asked for anything else.
        let asked = timeout(HANDSHAKE_TIMEOUT, self.session.best_supported_rsa_hash());
        let supported = asked.await.map_err(late)??.flatten();
        Ok(Some(supported.unwrap_or(HashAlg::Sha256)))
    }
}

/// The certificate that goes with a key. One that only lies beside it, and does not, is passed over.
fn certificate_for(
    named: Option<&Path>,
    file: &Path,
    key: &PublicKey,
) -> Outcome<Option<Certificate>> {
    let found = match key_file::certificate(named, Some(file)) {
        Ok(Some(found)) if found.public_key() != key.key_data() => {
            let why = format!("the certificate {:?} is for another key", found.key_id());
            Err(AuthenticationError::KeyFile {
                file: file.to_owned(),
                reason: why,
            })
        }
        found => found,
    };
    match found {
        Err(error) if named.is_none() => {
            tracing::warn!("{error}: offering the key alone");
            Ok(None)
        }
        found => found,
    }
}

fn signing(error: AgentAuthError) -> AuthenticationError {
    match error {
        AgentAuthError::Send(_) => russh::Error::SendError.into(),
        AgentAuthError::Key(error) => russh::Error::from(error).into(),
    }
}

/// Whether it was let in, or one step further.
fn went_on(answer: &AuthResult) -> bool {
    match answer {
        AuthResult::Success => true,
        AuthResult::Failure {
            partial_success, ..
        } => *partial_success,
    }
}

/// Signs for a certificate with the key that it is for.
struct FileSigner(Arc<PrivateKey>);

impl russh::Signer for FileSigner {
    type Error = AgentAuthError;

    async fn auth_sign(
        &mut self,
        _key: &AgentIdentity,
        hash: Option<HashAlg>,
        mut to_sign: Vec<u8>,
    ) -> Result<Vec<u8>, Self::Error> {
        let signed = match self.0.key_data().rsa() {
            Some(key) => (key, hash).try_sign(&to_sign),
            None => self.0.key_data().try_sign(&to_sign),
        };
        let signature = signed.map_err(|_| russh::keys::Error::AgentFailure)?;
        let encoded = signature.encode_prefixed(&mut to_sign);
        encoded.map_err(|_| russh::keys::Error::AgentFailure)?;
        Ok(to_sign)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use adit_rules::{Engine, HostKeys, Method};
    use tokio::io::{copy_bidirectional, duplex};
    use tokio::sync::mpsc;

    use super::*;
    use crate::behind::Behind;
    use crate::gateway::Questions;
    use crate::gateway::connection::{Target, client_config};
    use crate::gateway::host_key::HostKeyCheck;
    use crate::gateway::known_hosts::KnownHost;

    struct Silent;

    impl russh::server::Handler for Silent {
        type Error = russh::Error;
    }

    fn key(directory: &Path, name: &str, kind: &str) -> PrivateKey {
        let file = directory.join(name);
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", kind, "-N", "", "-f"]).arg(&file);
        assert!(keygen.status().unwrap().success());
        russh::keys::load_secret_key(file, None).unwrap()
    }

    fn target(home: &Path) -> Target {
        Target {
            gateway: "gw.example".parse().unwrap(),
            via: Vec::new(),
            proxy: None,
            login: "alice".to_owned(),
            identity: None,
            certificate: None,
            methods: vec![Method::PublicKey],
            known_hosts: vec![home.join("known_hosts")],
            host_keys: HostKeys::AcceptNew,
            home: home.to_owned(),
            engine: Engine::Embedded,
            hands_over: false,
            unsaid: None,
            host_key_alias: None,
            behind: Behind::Zone,
        }
    }

    /// A session whose server takes nothing any more, as while new keys are exchanged.
    #[tokio::test]
    async fn a_gateway_that_stands_still_is_given_up_before_a_key_is_offered() {
        let home = tempfile::tempdir().unwrap();
        let config = Arc::new(russh::server::Config {
            keys: vec![key(home.path(), "host", "ed25519")],
            ..Default::default()
        });
        key(home.path(), "rsa", "rsa");
        // Less than a message has room on the way.
        let (near, mut here) = duplex(16);
        let (mut there, far) = duplex(1 << 16);
        tokio::spawn(async move { russh::server::run_stream(config, far, Silent).await?.await });
        let (target, questions) = (target(home.path()), Questions::default());
        let known = KnownHost::read(&target.known_hosts, "gw.example", 22).unwrap();
        let config = Arc::new(client_config(&known));
        let check = HostKeyCheck {
            gateway: target.gateway.clone(),
            files: target.known_hosts.clone(),
            known,
            unknown_is: target.host_keys,
            questions: questions.clone(),
            announced: None,
            refusals: mpsc::channel(1).0,
        };
        let connected = tokio::select! {
            connected = russh::client::connect_stream(config, near, check) => connected,
            _ = copy_bidirectional(&mut here, &mut there) => panic!("it ended"),
        };
        let mut session = connected.unwrap();
        let asked = session.authenticate_none(&target.login);
        let asked = timeout(Duration::from_millis(500), asked).await;
        assert!(asked.is_err(), "{asked:?}");
        let mut attempt = Attempt {
            session: &mut session,
            target: &target,
            user: &target.login,
            unlocking: &questions.unlocking,
            offered: Vec::new(),
            unsigned: false,
        };
        let file = home.path().join("rsa");
        let offered = attempt.file(&file);
        let offered = timeout(HANDSHAKE_TIMEOUT * 3, offered).await.unwrap();
        let late = matches!(offered, Err(AuthenticationError::TimedOut(_)));
        assert!(late && attempt.offered.is_empty(), "{offered:?}");
    }
}
