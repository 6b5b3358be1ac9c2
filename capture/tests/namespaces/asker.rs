//! What a puppet does with a queue: hears questions, answers them, and tries what it may not.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use adit_capture::frame::Frames;
use adit_capture::netfilter::{ACK, ERROR, Header, Message, REQUEST, attribute, message};
use adit_capture::questions::{Answer, Question};
use adit_capture::wire::{MAX_OTHER, Reply, Request, VERSION};
use adit_capture::{Client, Queue};
use nix::sys::socket::{MsgFlags, NetlinkAddr, sendto};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::lab::SOCKET;

const QUESTION: Duration = Duration::from_secs(3);

/// Of one session.
#[derive(Default)]
pub(crate) struct Asker {
    queue: Option<Queue>,
    /// A session by hand, and what came with its queue.
    raw: Option<(Frames, OwnedFd, OwnedFd)>,
}

impl Asker {
    /// `None`: not one of its orders.
    pub(crate) fn obey(
        &mut self,
        runtime: &Runtime,
        client: Option<&Client>,
        (order, rest): (&str, &str),
    ) -> Option<String> {
        Some(match order {
            "queue" => match runtime.block_on(client.unwrap().queue()) {
                Ok(queue) => {
                    let by = queue.by;
                    self.queue = Some(queue);
                    format!("ok {by:?}")
                }
                Err(error) => crate::puppet::said(Err(error)),
            },
            "question" => self.question(runtime),
            "questions" => self.questions(runtime, rest.parse().unwrap()),
            "no_question" => {
                let queue = self.queue.as_mut().unwrap();
                let next =
                    async { timeout(Duration::from_millis(300), queue.questions.next()).await };
                match runtime.block_on(next) {
                    Err(_late) => "ok".into(),
                    Ok(question) => format!("{question:?}"),
                }
            }
            "answer" => {
                let (id, word) = rest.split_once(' ').unwrap();
                let queue = self.queue.as_ref().unwrap();
                queue.answers.give(id.parse().unwrap(), answer(word));
                "ok".into()
            }
            "always" => {
                self.always(runtime, answer(rest));
                "ok".into()
            }
            "drop_queue" => {
                self.queue = None;
                self.raw = None;
                "ok".into()
            }
            "raw_queue" => runtime.block_on(self.raw_queue()),
            "raw_answer" => {
                let (_, _, answers) = self.raw.as_ref().unwrap();
                let bytes: Vec<u8> = rest.split(' ').map(|byte| byte.parse().unwrap()).collect();
                send(answers, &bytes, SendFlags::NOSIGNAL).unwrap();
                "ok".into()
            }
            "raw_last_word" => runtime.block_on(self.raw_last_word()),
            "try_power" => self.try_power(rest),
            _ => return None,
        })
    }

    fn question(&mut self, runtime: &Runtime) -> String {
        match runtime.block_on(self.next()) {
            None => "none".into(),
            Some(Question {
                id,
                source,
                destination,
                sequence: _,
                routed,
            }) => format!("ok {id} {source} {destination} {routed}"),
        }
    }

    /// That many; the numbers of the first and the last.
    fn questions(&mut self, runtime: &Runtime, count: usize) -> String {
        let mut ids = Vec::new();
        while ids.len() < count {
            match runtime.block_on(self.next()) {
                Some(question) => ids.push(question.id),
                None => return format!("only {}", ids.len()),
            }
        }
        format!("ok {} {}", ids[0], ids[count - 1])
    }

    async fn next(&mut self) -> Option<Question> {
        let queue = self.queue.as_mut().unwrap();
        loop {
            match timeout(QUESTION, queue.questions.next()).await {
                Err(_late) => return None,
                Ok(Ok(Ok(question))) => return Some(question),
                // What the kernel says of an answer to nobody.
                Ok(Ok(Err(_other))) => {}
                Ok(Err(error)) => panic!("{error}"),
            }
        }
    }

    fn always(&mut self, runtime: &Runtime, answer: Answer) {
        let Queue {
            mut questions,
            answers,
            ..
        } = self.queue.take().unwrap();
        runtime.spawn(async move {
            while let Ok(question) = questions.next().await {
                if let Ok(question) = question {
                    answers.give(question.id, answer);
                }
            }
        });
    }

    async fn raw_queue(&mut self) -> String {
        let stream = StdUnixStream::connect(SOCKET).unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut frames = Frames::new(tokio::net::UnixStream::from_std(stream).unwrap());
        let mut last = None;
        for request in [Request::Hello { version: VERSION }, Request::Queue] {
            frames.write(&request.encode().unwrap(), &[]).await.unwrap();
            last = frames.read(MAX_OTHER).await.unwrap();
        }
        let frame = last.unwrap();
        match <[OwnedFd; 2]>::try_from(frame.descriptors) {
            Ok([questions, answers]) => {
                self.raw = Some((frames, questions, answers));
                "ok".into()
            }
            Err(_none) => format!("{:?}", Reply::decode(&frame.body)),
        }
    }

    async fn raw_last_word(&mut self) -> String {
        let (frames, _, _) = self.raw.as_mut().unwrap();
        match timeout(QUESTION, frames.read(MAX_OTHER)).await {
            Ok(Ok(Some(frame))) => format!("{:?}", Reply::decode(&frame.body).unwrap()),
            other => format!("{other:?}"),
        }
    }

    /// Every kind of message that a queue takes, on the copy of the socket: what the kernel says to each. `how`: `to` names the
    /// kernel as the receiver, `plain` does not, as a program that only writes to its standard output.
    fn try_power(&mut self, how: &str) -> String {
        let (_, questions, _) = self.raw.as_ref().unwrap();
        // linux/netfilter/nfnetlink_queue.h; the last lists nftables' tables (nf_tables.h).
        let verdict = attribute(2, &[1_u32.to_be_bytes(), 1_u32.to_be_bytes()].concat());
        let tries = [
            (3 << 8 | 1, verdict.clone()),
            (3 << 8 | 3, verdict),
            (3 << 8 | 2, attribute(1, &[2, 0, 0, 0])),
            (3 << 8 | 2, attribute(3, &1_000_000_u32.to_be_bytes())),
            (10 << 8 | 1, Vec::new()),
        ];
        let mut said = Vec::new();
        for (number, (kind, attributes)) in tries.into_iter().enumerate() {
            let header = Header {
                kind,
                flags: REQUEST | ACK,
                sequence: 1000 + u32::try_from(number).unwrap(),
                family: 0,
                resource: 0xad00,
            };
            let bytes = message(header, &attributes);
            let sent = match how {
                "to" => {
                    let kernel = NetlinkAddr::new(0, 0);
                    sendto(questions.as_raw_fd(), &bytes, &kernel, MsgFlags::empty())
                }
                _ => Ok(send(questions, &bytes, SendFlags::empty()).unwrap()),
            };
            if let Err(error) = sent {
                said.push(format!("{error:?}"));
                continue;
            }
            let mut buffer = [0; 4096];
            let heard = recv(questions, &mut buffer[..], RecvFlags::DONTWAIT);
            let (length, _) = heard.unwrap();
            let answer = Message::decode(&buffer[..length]).unwrap();
            assert_eq!((answer.kind, answer.sequence), (ERROR, header.sequence));
            said.push(answer.error().unwrap().to_string());
        }
        said.join(" ")
    }
}

fn answer(word: &str) -> Answer {
    match word {
        "redirect" => Answer::Redirect,
        "direct" => Answer::Direct,
        "refuse" => Answer::Refuse,
        "host" => Answer::HostUnreachable,
        "network" => Answer::NetworkUnreachable,
        "drop" => Answer::Drop,
        other => panic!("no answer {other}"),
    }
}
