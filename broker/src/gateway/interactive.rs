//! Logging in by what only the user knows: a password (RFC 4252, section 8), or answers to what the gateway asks (RFC 4256).

use adit_rules::{Gateway, Method};
use russh::client::{AuthResult, KeyboardInteractiveAuthResponse};
use tokio::time::timeout;

use super::authentication::{Attempt, AuthenticationError, Outcome, has, late, nothing_said};
use super::connection::HANDSHAKE_TIMEOUT;
use super::unlocking::{About, Form, MOST_PROMPTS, Prompt, as_line};

/// Rounds of keyboard-interactive in one step.
const MOST_ROUNDS: usize = 16;
/// Wrong passwords that are asked for again (ssh_config(5), NumberOfPasswordPrompts).
const MOST_PASSWORDS: usize = 3;

impl Attempt<'_> {
    pub(super) async fn keyboard_interactive(&mut self) -> Outcome<AuthResult> {
        self.need_someone(About::KeyboardInteractive)?;
        let started = self
            .session
            .authenticate_keyboard_interactive_start(self.user, None);
        let mut said = timeout(HANDSHAKE_TIMEOUT, started).await.map_err(late)??;
        for _ in 0..MOST_ROUNDS {
            let (name, instructions, prompts) = match said {
                KeyboardInteractiveAuthResponse::Success => return Ok(AuthResult::Success),
                KeyboardInteractiveAuthResponse::Failure {
                    remaining_methods,
                    partial_success,
                } => {
                    return Ok(AuthResult::Failure {
                        remaining_methods,
                        partial_success,
                    });
                }
                KeyboardInteractiveAuthResponse::InfoRequest {
                    name,
                    instructions,
                    prompts,
                } => (name, instructions, prompts),
            };
            let asker = self.asker();
            let prompts: Vec<_> = prompts
                .into_iter()
                .map(|it| Prompt {
                    text: format!("{asker} {}", as_line(&it.prompt).trim_start()),
                    echo: it.echo,
                })
                .collect();
            if prompts.len() > MOST_PROMPTS {
                break;
            }
            let shown: Vec<_> = [&name, &instructions]
                .into_iter()
                .flat_map(|words| words.lines())
                .map(as_line)
                .filter(|line| !line.trim().is_empty())
                .map(|line| format!("{asker} {}", line.trim()))
                .collect();
            let gateway = self.target.gateway.to_string();
            let form = Form::new(
                About::KeyboardInteractive,
                &gateway,
                &shown.join("\n"),
                prompts,
            );
            let answers = self
                .unlocking
                .ask(&form)
                .await
                .map_err(|_| self.locked(form))?;
            let answers = answers.iter().map(|it| it.reveal().to_owned()).collect();
            let answered = self
                .session
                .authenticate_keyboard_interactive_respond(answers);
            said = timeout(HANDSHAKE_TIMEOUT, answered).await.map_err(late)??;
        }
        Err(russh::Error::Inconsistent.into())
    }

    pub(super) async fn password(&mut self) -> Outcome<AuthResult> {
        self.need_someone(About::Password)?;
        let gateway = self.target.gateway.to_string();
        let mut answer = nothing_said();
        for round in 0..MOST_PASSWORDS {
            let again = if round == 0 { "" } else { "That was not it. " };
            let text = format!("{again}Password of {} at {gateway}: ", self.user);
            let form = Form::secret(About::Password, &gateway, text);
            let said = self.unlocking.ask(&form).await;
            let mut said = said.map_err(|_| self.locked(form))?.into_iter();
            let Some(password) = said.next() else { break };
            let offered = self
                .session
                .authenticate_password(self.user, password.reveal());
            answer = timeout(HANDSHAKE_TIMEOUT, offered).await.map_err(late)??;
            let AuthResult::Failure {
                remaining_methods,
                partial_success: false,
            } = &answer
            else {
                break;
            };
            if !has(remaining_methods, Method::Password) {
                break;
            }
        }
        Ok(answer)
    }

    /// Who wants to know, before each line of its own words, as ssh has it before a prompt: they may be those in which another gateway asks, or the broker itself.
    fn asker(&self) -> String {
        let asker = Gateway {
            user: Some(self.user.to_owned()),
            ..self.target.gateway.clone()
        };
        format!("({asker})")
    }

    /// Nobody is bothered, neither user nor gateway, with what could not be answered.
    fn need_someone(&self, about: About) -> Outcome<()> {
        if self.unlocking.can_ask() {
            return Ok(());
        }
        let gateway = self.target.gateway.to_string();
        Err(self.locked(Form::new(about, &gateway, "", Vec::new())))
    }

    fn locked(&self, form: Form) -> AuthenticationError {
        let method = match form.about {
            About::Passphrase => "a passphrase",
            About::Password => "a password",
            About::KeyboardInteractive => "answers to what it asks",
        };
        self.unlocking.lock(form);
        AuthenticationError::Locked {
            what: format!("the gateway wants {method} of {}", self.user),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use adit_rules::HostKeys;
    use russh::server::{Auth, Response};
    use tokio::sync::mpsc;

    use super::*;
    use crate::gateway::Questions;
    use crate::gateway::connection::{Target, client_config};
    use crate::gateway::host_key::HostKeyCheck;
    use crate::gateway::known_hosts::KnownHost;
    use crate::gateway::new_host_key;
    use crate::gateway::plain_target::plain_target;
    use crate::gateway::secret::Secret;

    /// Words of the broker's own, on a line of their own.
    const FALSE: &str = "\n\u{2028}\u{202e}\0Passphrase for the key /home/alice/.ssh/id_ed25519: ";
    /// What is shown of them.
    const SHOWN: &str = "Passphrase for the key /home/alice/.ssh/id_ed25519: ";

    /// A server that asks as if it were another, and lets in whoever answers.
    struct Liar;

    impl russh::server::Handler for Liar {
        type Error = russh::Error;

        async fn auth_keyboard_interactive<'a>(
            &'a mut self,
            _user: &str,
            _submethods: &str,
            response: Option<Response<'a>>,
        ) -> Result<Auth, Self::Error> {
            Ok(match response {
                Some(_) => Auth::Accept,
                None => Auth::Partial {
                    name: "".into(),
                    instructions: format!("Hello\n{FALSE}").into(),
                    prompts: vec![(FALSE.into(), false), ("".into(), true)].into(),
                },
            })
        }
    }

    fn target() -> Target {
        Target {
            methods: vec![Method::KeyboardInteractive],
            ..plain_target("gw.example:443")
        }
    }

    #[test]
    fn a_session_lasts_as_long_as_a_user_may_take_to_log_in() {
        let known = KnownHost::read(&[], "gw.example", 22).unwrap();
        let lasts = client_config(&known).inactivity_timeout;
        for patience in [
            crate::gateway::unlocking::PATIENCE,
            crate::gateway::askpass::PATIENCE,
            crate::gateway::agent::PATIENCE,
        ] {
            assert!(lasts.is_none_or(|lasts| lasts > patience), "{patience:?}");
        }
    }

    #[tokio::test]
    async fn whoever_asks_is_named_before_its_words() {
        let directory = tempfile::tempdir().unwrap();
        let files = vec![directory.path().join("known_hosts")];
        let file = directory.path().join("host");
        let mut keygen = std::process::Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]);
        assert!(keygen.arg(&file).status().unwrap().success());
        let key = russh::keys::load_secret_key(file, None).unwrap();
        new_host_key::note(&files, "gw.example", key.public_key()).unwrap();
        let (near, far) = tokio::io::duplex(1 << 16);
        let config = Arc::new(russh::server::Config {
            keys: vec![key],
            ..Default::default()
        });
        tokio::spawn(async move { russh::server::run_stream(config, far, Liar).await?.await });
        let (target, questions) = (target(), Questions::default());
        let known = KnownHost::read(&files, "gw.example", 22).unwrap();
        let config = Arc::new(client_config(&known));
        let check = HostKeyCheck {
            gateway: "gw.example".parse().unwrap(),
            files,
            known,
            unknown_is: HostKeys::Strict,
            questions: questions.clone(),
            announced: None,
            refusals: mpsc::channel(1).0,
        };
        let connected = russh::client::connect_stream(config, near, check).await;
        let mut attempt = Attempt {
            session: &mut connected.unwrap(),
            target: &target,
            user: &target.login,
            unlocking: &questions.unlocking,
            offered: Vec::new(),
            unsigned: false,
        };
        questions.unlocking.attend();
        let answering = async {
            let form = questions.unlocking.form().await;
            let texts: Vec<_> = form.prompts.iter().map(|it| it.text.as_str()).collect();
            let asker = "(alice@gw.example:443)";
            assert_eq!(texts, [format!("{asker} {SHOWN}"), format!("{asker} ")]);
            let instructions = format!("{asker} Hello\n{asker} {}", SHOWN.trim_end());
            assert_eq!(form.instructions, instructions);
            let answers = ["", ""].map(|it| Secret::from(it.to_owned()));
            questions.unlocking.answer(form.id, answers.into()).unwrap();
        };
        let (outcome, ()) = tokio::join!(attempt.keyboard_interactive(), answering);
        assert!(outcome.unwrap().success());
    }
}
