//! What a client has shown on its way through a chain of methods.
use crate::answers::Answered;
use crate::login::Login;
use crate::methods::Method;

/// A step of the way.
#[derive(Debug)]
pub(crate) enum Shown {
    /// By a key or certificate.
    Key(Box<Login>),
    /// By an answer.
    Answer(Answered),
}

/// The way so far, of one user.
#[derive(Debug)]
pub(crate) struct Progress {
    user: String,
    /// How many changes of who may log in there had been before the first step.
    pub(crate) changes: u64,
    pub(crate) key: Option<Box<Login>>,
    pub(crate) answers: Vec<Answered>,
    pub(crate) methods: Vec<Method>,
}

impl Progress {
    pub(crate) fn of(user: &str, changes: u64) -> Self {
        Self {
            user: user.to_owned(),
            changes,
            key: None,
            answers: Vec::new(),
            methods: Vec::new(),
        }
    }

    /// RFC 4252 section 5: with another name nothing counts that was shown before.
    pub(crate) fn is_of(&self, user: &str) -> bool {
        self.user == user
    }

    pub(crate) fn add(&mut self, shown: Shown) {
        match shown {
            Shown::Key(login) => {
                self.methods.push(Method::PublicKey);
                self.key = Some(login);
            }
            Shown::Answer(answered) => {
                self.methods.push(answered.method);
                self.answers.push(answered);
            }
        }
    }
}
