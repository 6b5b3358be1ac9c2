//! Judges what a user answers when asked for a password or a one-time code.
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::login::{LoginFiles, NotAuthorized};
use crate::methods::Method;
use crate::one_time_code::{self, Codes, Secret};
use crate::password;
use crate::secret_lines::{Mark, SecretLines};
use crate::throttle::seldom;
use crate::trusted_file::Untrusted;

/// Answers that are judged at a time: a hash takes a core and up to 256 MiB.
const AT_ONCE: usize = 2;

/// What was shown by an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answered {
    pub(crate) method: Method,
    /// Of what it was compared with.
    pub(crate) mark: Mark,
}

/// What is remembered from answer to answer.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    pub(crate) places: Arc<Semaphore>,
    codes: Arc<Codes>,
}

impl Answers {
    pub(crate) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(AT_ONCE)),
            codes: Arc::default(),
        }
    }

    /// Takes the processor for a while. Which of `asked` is it that `user` shows by `answer`?
    pub(crate) fn judge(
        &self,
        files: &LoginFiles,
        user: &str,
        asked: &[Method],
        answer: &Zeroizing<String>,
    ) -> Result<Answered, NotAuthorized> {
        let mut why = NotAuthorized::Answer;
        for method in asked {
            let judged = match method {
                Method::Totp => self.code(files, user, answer),
                Method::Password => password(files, user, answer),
                Method::PublicKey => continue,
            };
            match judged {
                Ok(mark) => {
                    let method = *method;
                    return Ok(Answered { method, mark });
                }
                // Says more than that the answer is wrong, which it may be by the other method only.
                Err(NotAuthorized::Answer) => {}
                Err(other) => why = other,
            }
        }
        Err(why)
    }

    fn code(&self, files: &LoginFiles, user: &str, answer: &str) -> Result<Mark, NotAuthorized> {
        let lines = read(files.totp.as_ref())?;
        let (Some(code), Some(line)) = (one_time_code::read(answer), lines.of(user)) else {
            return Err(NotAuthorized::Answer);
        };
        let secret: Secret = line.parse().map_err(|why| {
            seldom!(warn, user, %why, "one-time codes not accepted");
            NotAuthorized::Answer
        })?;
        let seconds = u64::try_from(Timestamp::now().as_second()).unwrap_or(0);
        self.codes.accept(user, &secret, code, seconds)?;
        Ok(Mark::of(line))
    }
}

fn password(files: &LoginFiles, user: &str, answer: &str) -> Result<Mark, NotAuthorized> {
    let lines = read(files.passwords.as_ref());
    // Without the file as well, so that the time tells nothing.
    let mark = password::check(lines.as_ref().ok(), user, answer);
    lines?;
    mark.ok_or(NotAuthorized::Answer)
}

/// Is what it was compared with still the user's?
pub(crate) fn stands(files: &LoginFiles, user: &str, answered: &Answered) -> bool {
    let file = match answered.method {
        Method::Totp => &files.totp,
        Method::Password => &files.passwords,
        Method::PublicKey => return false,
    };
    read(file.as_ref()).is_ok_and(|lines| lines.of(user).map(Mark::of) == Some(answered.mark))
}

fn read(file: Option<&PathBuf>) -> Result<SecretLines, NotAuthorized> {
    let file = file.ok_or(NotAuthorized::Answer)?;
    SecretLines::read(file).map_err(|why: Untrusted| {
        seldom!(error, %why, "nobody gets in by what this file should have");
        NotAuthorized::Secrets(why)
    })
}
