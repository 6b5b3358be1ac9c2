//! Conversations over one TCP connection, written as steps: what each end does, and what it saw.
//!
//! A script is the same text whether the connection is direct or goes through Adit, and so must be what
//! both ends report. Timings are reported beside it, never in it.

use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// One thing that an end of a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `number`: the dialling end tells its number, the other learns it. Content depends on it afterwards.
    Number,
    /// `send N`: that many bytes of this end's content.
    Send(u64),
    /// `send-random N`: up to that many, chosen by the connection's number.
    SendRandom(u64),
    /// `dribble N`: that many writes of one to three bytes each.
    Dribble(u64),
    /// `flood`: sends until the connection fails.
    Flood,
    /// `expect N`: receives that many bytes and checks each.
    Expect(u64),
    /// `expect-random N`: the counterpart of `send-random`.
    ExpectRandom(u64),
    /// `expect-dribble N`: the counterpart of `dribble`.
    ExpectDribble(u64),
    /// `slowly N`: like `expect`, 32 KiB at a time with a rest of 5 ms in between.
    Slowly(u64),
    /// `end`: the other end has nothing more to say.
    End,
    /// `finish`: this end has nothing more to say (FIN).
    Finish,
    /// `reset`: gives up at once (RST).
    Reset,
    /// `pause MS`: does nothing, and reads nothing.
    Pause(u64),
    /// `meet N`: waits until N connections of this process are as far.
    Meet(u64),
    /// `echo`: sends back what comes until the other end finishes.
    Echo,
    /// `ping N`: sends a byte and awaits one, that many times; the times are reported.
    Ping(u64),
    /// `both N`: sends and receives that many bytes at the same time.
    Both(u64),
    /// `saturate MS`: sends for that long and finishes, and receives until the other end has finished; the
    /// longest standstill is reported.
    Saturate(u64),
}

/// What an end does, step by step. The connection is closed after the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script(pub Vec<Step>);

impl FromStr for Script {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Script> {
        let steps = text
            .split(';')
            .map(str::trim)
            .filter(|step| !step.is_empty());
        steps.map(parse_step).collect::<Result<_>>().map(Script)
    }
}

fn parse_step(text: &str) -> Result<Step> {
    let (name, number) = text.split_once(' ').unwrap_or((text, ""));
    let step = match name {
        "number" => return Ok(Step::Number),
        "flood" => return Ok(Step::Flood),
        "end" => return Ok(Step::End),
        "finish" => return Ok(Step::Finish),
        "reset" => return Ok(Step::Reset),
        "echo" => return Ok(Step::Echo),
        "send" => Step::Send,
        "send-random" => Step::SendRandom,
        "dribble" => Step::Dribble,
        "expect" => Step::Expect,
        "expect-random" => Step::ExpectRandom,
        "expect-dribble" => Step::ExpectDribble,
        "slowly" => Step::Slowly,
        "pause" => Step::Pause,
        "meet" => Step::Meet,
        "ping" => Step::Ping,
        "both" => Step::Both,
        "saturate" => Step::Saturate,
        _ => bail!("no step is called `{name}`"),
    };
    Ok(step(
        parse_number(number).with_context(|| format!("in step `{text}`"))?,
    ))
}

/// `12`, `4K`, `64M`.
fn parse_number(text: &str) -> Result<u64> {
    let (digits, unit) = match text.strip_suffix('M') {
        Some(digits) => (digits, 1 << 20),
        None => text
            .strip_suffix('K')
            .map_or((text, 1), |digits| (digits, 1 << 10)),
    };
    let number: u64 = digits
        .parse()
        .with_context(|| format!("`{text}` is no number"))?;
    number.checked_mul(unit).context("too large")
}

/// What one end of one connection saw.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sight {
    /// What came of each step, in words without a number that depends on chance.
    pub steps: Vec<String>,
    /// Address of the other end, without its port.
    pub peer: String,
    /// How long things took.
    pub timing: Timing,
}

/// How long things took, for scripts that ask.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// From `connect()` to its answer, in microseconds.
    pub connect_us: u64,
    /// Round trips of `ping`, in microseconds, sorted.
    pub round_trips_us: Vec<u64>,
    /// The longest time during `saturate` in which nothing could be read, in milliseconds.
    pub longest_standstill_ms: u64,
    /// Bytes received during `saturate`.
    pub received: u64,
}

impl Timing {
    /// The round trip that this part (0 to 100) of all did not exceed, in microseconds.
    #[must_use]
    pub fn round_trip(&self, percent: usize) -> u64 {
        let all = &self.round_trips_us;
        let at = (all.len().saturating_sub(1)) * percent / 100;
        all.get(at).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::{Script, Step};

    #[test]
    fn scripts_are_read_as_written() {
        let script: Script = "send 64M; finish;expect 3K; end".parse().expect("a script");
        let steps = [
            Step::Send(64 << 20),
            Step::Finish,
            Step::Expect(3072),
            Step::End,
        ];
        assert_eq!(script.0, steps);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, said) in [
            ("sned 1", "no step is called `sned`"),
            ("send", "in step `send`"),
            ("send 1X", "in step `send 1X`"),
            ("send 99999999999999999M", "in step"),
        ] {
            let error = text.parse::<Script>().expect_err(text);
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}
