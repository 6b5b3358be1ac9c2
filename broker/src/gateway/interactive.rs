//! Logging in by what only the user knows: a password (RFC 4252, section 8), or answers to what the gateway asks (RFC 4256).

use adit_rules::Method;
use russh::client::{AuthResult, KeyboardInteractiveAuthResponse};
use tokio::time::timeout;

use super::authentication::{Attempt, AuthenticationError, Outcome, has, late, nothing_said};
use super::connection::HANDSHAKE_TIMEOUT;
use super::unlocking::{About, Form, MOST_PROMPTS, Prompt};

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
            let prompts: Vec<_> = prompts
                .into_iter()
                .map(|it| Prompt {
                    text: it.prompt,
                    echo: it.echo,
                })
                .collect();
            if prompts.len() > MOST_PROMPTS {
                break;
            }
            let shown = format!("{name}\n{instructions}");
            let gateway = self.target.gateway.to_string();
            let form = Form::new(About::KeyboardInteractive, &gateway, shown.trim(), prompts);
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
