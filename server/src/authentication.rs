//! The way of a client through a chain of methods: what comes next, what it shows, and that it is told
//! of each step (RFC 4252 section 5.1, partial success).
use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use russh::keys::Certificate;
use russh::keys::ssh_key::public::KeyData;
use russh::server::{Auth, Response};
use tokio::time::{Instant, sleep, sleep_until};
use zeroize::{Zeroize, Zeroizing};

use crate::audit::RefusedLogin;
use crate::client::{Client, ConversationError};
use crate::credential::{CertificateId, Credential, fingerprint};
use crate::gateway::Gateway;
use crate::login::{Login, NotAuthorized};
use crate::login_attempt::{LoginAttempt, Unheard, Unsigned};
use crate::login_progress::{Progress, Shown};
use crate::methods::{self, Method};
use crate::metrics::Metrics;
use crate::password::MAX_PASSWORD;
use crate::throttle::shown;

/// How long an answer to a wrong password, code or signature takes; a key that is merely offered is
/// answered sooner (see [`crate::listener`]), because agents offer several.
const REJECTION: Duration = Duration::from_secs(1);

/// What a client shows, for the audit.
pub(crate) struct Tried {
    /// As in `how` of a login.
    pub(crate) method: String,
    pub(crate) credential: Credential,
}

impl Tried {
    pub(crate) fn key(key: &KeyData) -> Self {
        Self::fingerprint(fingerprint(key))
    }

    fn fingerprint(fingerprint: String) -> Self {
        Self {
            method: Method::PublicKey.name().to_owned(),
            credential: Credential::Key { fingerprint },
        }
    }

    /// Anybody can have written it.
    pub(crate) fn certificate(certificate: &Certificate) -> Self {
        let mut id = CertificateId::of(certificate);
        id.id = shown(&id.id).to_owned();
        Self {
            method: "certificate".to_owned(),
            credential: Credential::Certificate(id),
        }
    }
}

impl Client {
    /// What this user can show next. Another user's way is forgotten.
    fn next(&mut self, user: &str) -> Vec<Method> {
        self.progress.take_if(|progress| !progress.is_of(user));
        let so_far = self.progress.as_ref();
        let shown = so_far.map_or(&[][..], |progress| &progress.methods);
        self.logins.methods().next(shown)
    }

    pub(crate) fn comes_next(&mut self, user: &str, method: Method) -> bool {
        self.next(user).contains(&method)
    }

    /// Refused, and what would be listened to.
    pub(crate) fn rejection(&mut self, user: &str) -> Auth {
        Auth::Reject {
            proceed_with_methods: Some(methods::kinds(&self.next(user))),
            partial_success: false,
        }
    }

    /// For a method that nobody is asked for now.
    pub(crate) async fn reject_method(&mut self, user: &str, method: &str) -> Auth {
        let tried = Tried {
            method: method.to_owned(),
            credential: self.shown_before(user),
        };
        self.refuse_login(user, &tried, &NotAuthorized::NotNext);
        self.reject_slowly(user).await
    }

    async fn reject_slowly(&mut self, user: &str) -> Auth {
        sleep(REJECTION).await;
        self.rejection(user)
    }

    /// Somebody asks for something else than to have a signature looked at.
    pub(crate) fn turn(&self, user: &str) {
        self.attempt.named(user);
        let unsigned = self.attempt.take_unsigned();
        self.refuse_unsigned(unsigned);
    }

    /// A signature by this key is awaited from now on.
    pub(crate) fn await_signature(&self, user: &str, key: &KeyData) {
        self.attempt.named(user);
        let other = self.attempt.awaits(Unsigned {
            user: user.to_owned(),
            fingerprint: fingerprint(key),
        });
        self.refuse_unsigned(other);
    }

    fn refuse_unsigned(&self, unsigned: Option<Unsigned>) {
        if let Some(Unsigned { user, fingerprint }) = unsigned {
            let tried = Tried::fingerprint(fingerprint);
            self.refuse_login(&user, &tried, &NotAuthorized::Unsigned);
        }
    }

    pub(crate) fn refuse_login(&self, user: &str, tried: &Tried, why: &NotAuthorized) {
        Metrics::count(&self.gateway.metrics().logins_refused);
        self.attempt.refused();
        self.audit_refused(user, tried, &why.to_string());
    }

    pub(crate) fn audit_refused(&self, user: &str, tried: &Tried, why: &str) {
        self.attempt.shown();
        audit_refused(self.peer, user, tried, why);
    }

    /// The key or certificate of a step that this user has behind it.
    fn shown_before(&self, user: &str) -> Credential {
        let so_far = self.progress.as_ref();
        let key = so_far
            .filter(|progress| progress.is_of(user))
            .and_then(|progress| progress.key.as_ref());
        key.map_or(Credential::Answers, |login| login.credential.clone())
    }

    /// What becomes of a key that was signed with.
    pub(crate) async fn answer(
        &mut self,
        user: &str,
        tried: &Tried,
        login: Result<Login, NotAuthorized>,
        changes: u64,
    ) -> Auth {
        let judged = match login {
            Ok(login) => {
                let shown = Shown::Key(Box::new(login));
                self.go_on(user, shown, changes).await
            }
            Err(why) => Err(why),
        };
        match judged {
            Ok(auth) => auth,
            Err(why) => {
                self.refuse_login(user, tried, &why);
                self.reject_slowly(user).await
            }
        }
    }

    /// RFC 4256 section 3.2. Everybody is asked the same, known or not.
    pub(crate) async fn ask(&mut self, user: &str) -> Result<Auth, ConversationError> {
        self.count_offer()?;
        self.turn(user);
        let mut asked = self.next(user);
        asked.retain(|method| *method != Method::PublicKey);
        let Some(prompt) = prompt(&asked) else {
            return Ok(self.reject_method(user, "keyboard-interactive").await);
        };
        self.asked = Some((user.to_owned(), asked));
        Ok(Auth::Partial {
            name: Cow::Borrowed(""),
            instructions: Cow::Borrowed(""),
            prompts: Cow::Owned(vec![(Cow::Borrowed(prompt), false)]),
        })
    }

    /// RFC 4256 section 3.4. A wrong answer takes the same time whoever gave it.
    pub(crate) async fn take_answer(
        &mut self,
        user: &str,
        response: Response<'_>,
    ) -> Result<Auth, ConversationError> {
        let at_least = Instant::now() + REJECTION;
        let changes = self.gateway.changes();
        let answer = only_answer(response);
        let asked = self.asked.take().filter(|(whom, _)| whom == user);
        let asked = asked.map(|(_, asked)| asked).unwrap_or_default();
        let tried = Tried {
            method: names(&asked),
            credential: self.shown_before(user),
        };
        let Some(answer) = answer else {
            // russh keeps room for as many as there could be while we take our time: none is taken.
            self.refuse_login(user, &tried, &NotAuthorized::Answer);
            return Err(ConversationError::NotOneAnswer);
        };
        let judged = match text(answer) {
            Some(text) => {
                let judging = self.logins.answer(user, asked, text);
                self.awaited(judging).await?
            }
            None => Err(NotAuthorized::Answer),
        };
        let judged = match judged {
            Ok(answered) => self.go_on(user, Shown::Answer(answered), changes).await,
            Err(why) => Err(why),
        };
        match judged {
            Ok(auth) => Ok(auth),
            Err(why) => {
                self.refuse_login(user, &tried, &why);
                sleep_until(at_least).await;
                Ok(self.rejection(user))
            }
        }
    }

    /// One step further: in, or what remains.
    async fn go_on(
        &mut self,
        user: &str,
        shown: Shown,
        changes: u64,
    ) -> Result<Auth, NotAuthorized> {
        let so_far = self.progress.take().filter(|progress| progress.is_of(user));
        let mut progress = so_far.unwrap_or_else(|| Progress::of(user, changes));
        progress.add(shown);
        let next = self.logins.methods().next(&progress.methods);
        if !next.is_empty() {
            self.attempt.shown();
            self.progress = Some(progress);
            return Ok(Auth::Reject {
                proceed_with_methods: Some(methods::kinds(&next)),
                partial_success: true,
            });
        }
        let changes = progress.changes;
        let from = self.peer.ip();
        let login = self.logins.complete(user, progress, from).await?;
        self.login = Some((login, changes));
        Ok(Auth::Accept)
    }
}

fn audit_refused(from: SocketAddr, user: &str, tried: &Tried, why: &str) {
    let refused = RefusedLogin {
        from,
        user,
        method: &tried.method,
        credential: &tried.credential,
    };
    refused.because(why);
}

/// At the end of a connection: what came to nothing without our having been asked. To name a user and
/// show nothing owes no more than to come and go: honest clients without a key do it.
pub(crate) fn tell_unheard(gateway: &Gateway, attempt: &LoginAttempt, from: SocketAddr) {
    let (user, tried, why) = match attempt.unheard() {
        None => return,
        Some(Unheard::Unsigned(Unsigned { user, fingerprint })) => {
            attempt.refused();
            (
                user,
                Tried::fingerprint(fingerprint),
                NotAuthorized::Unsigned,
            )
        }
        Some(Unheard::Nothing(user)) => {
            let tried = Tried {
                method: "-".to_owned(),
                credential: Credential::Answers,
            };
            (user, tried, NotAuthorized::Nothing)
        }
    };
    Metrics::count(&gateway.metrics().logins_refused);
    audit_refused(from, &user, &tried, &why.to_string());
}

/// What a user is asked; where there is a choice, either answer will do.
fn prompt(asked: &[Method]) -> Option<&'static str> {
    let (code, password) = (
        asked.contains(&Method::Totp),
        asked.contains(&Method::Password),
    );
    match (code, password) {
        (true, true) => Some("Verification code or password: "),
        (true, false) => Some("Verification code: "),
        (false, true) => Some("Password: "),
        (false, false) => None,
    }
}

fn names(methods: &[Method]) -> String {
    let names: Vec<_> = methods.iter().map(|method| method.name()).collect();
    names.join(" or ")
}

/// There was one question, so there is one answer, and no long one.
fn only_answer(response: Response<'_>) -> Option<Answer> {
    let mut answers: Vec<_> = response.take(2).map(Answer).collect();
    let only = answers.pop().filter(|_| answers.is_empty());
    only.filter(|answer| answer.0.len() <= MAX_PASSWORD)
}

fn text(answer: Answer) -> Option<Zeroizing<String>> {
    let text = std::str::from_utf8(&answer.0).ok()?;
    Some(Zeroizing::new(text.to_owned()))
}

/// What russh keeps of it is wiped when it is dropped.
struct Answer(Bytes);

impl Drop for Answer {
    fn drop(&mut self) {
        if let Ok(mut bytes) = std::mem::take(&mut self.0).try_into_mut() {
            bytes.as_mut().zeroize();
        }
    }
}
