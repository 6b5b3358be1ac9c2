//! What is typed on the terminal and not seen, from before it is asked for: who answers at once, as a program does, is not shown either.

use std::fs::File;
use std::io;

use nix::sys::signal::{SigSet, Signal};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// The line that is typed after `prompt`.
///
/// # Errors
/// Where there is no terminal, or it is gone.
pub(crate) fn asked(prompt: &str) -> io::Result<String> {
    // Of Ctrl-C it is told by a signal, which must not end us before the terminal is as it was.
    let _last = NotInterrupted::begin()?;
    let _hidden = Hidden::begin()?;
    rpassword::prompt_password(prompt)
}

/// The terminal shows nothing as long as this lives.
struct Hidden {
    terminal: File,
    before: Termios,
}

impl Hidden {
    fn begin() -> io::Result<Self> {
        let terminal = File::options().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&terminal)?;
        let mut hidden = before.clone();
        // As is read then: Ctrl-C is a character, whenever it is typed.
        hidden.local_modes -=
            LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG;
        tcsetattr(&terminal, OptionalActions::Now, &hidden)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that is gone shows nothing.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// SIGINT waits as long as this lives.
struct NotInterrupted(SigSet);

impl NotInterrupted {
    fn begin() -> nix::Result<Self> {
        let interrupt = SigSet::from(Signal::SIGINT);
        interrupt.thread_block()?;
        Ok(Self(interrupt))
    }
}

impl Drop for NotInterrupted {
    fn drop(&mut self) {
        // It can only fail for a set that is none.
        let _ = self.0.thread_unblock();
    }
}
