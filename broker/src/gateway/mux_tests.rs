//! Against a master that is played here, in the words of PROTOCOL.mux and RFC 4254.

use super::*;
use proptest::prelude::*;

struct Master {
    socket: UnixStream,
}

impl Master {
    /// Lets someone in.
    async fn with_channels() -> (Master, Channels) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut master = Master { socket: theirs };
        let played = async {
            assert_eq!(master.hear().await, [0, 0, 0, 1, 0, 0, 0, 4]);
            assert_eq!(master.hear().await, [0x10, 0, 0, 15, 0, 0, 0, 0]);
            master.say(&[0, 0, 0, 1, 0, 0, 0, 4]).await;
            master.say(&[0x80, 0, 0, 15, 0, 0, 0, 0]).await;
        };
        let (channels, ()) = tokio::join!(Channels::enter(ours, None), played);
        (master, channels.unwrap())
    }

    async fn hear(&mut self) -> Vec<u8> {
        let length = self.socket.read_u32().await.unwrap();
        let mut message = vec![0; length as usize];
        self.socket.read_exact(&mut message).await.unwrap();
        message
    }

    async fn say(&mut self, message: &[u8]) {
        let length = u32::try_from(message.len()).unwrap();
        self.socket.write_u32(length).await.unwrap();
        self.socket.write_all(message).await.unwrap();
    }

    /// A channel to port 80 of `web`, which may have so many bytes sent to it.
    async fn opened(&mut self, channels: &Channels, leave: u32) -> (Reader, Writer) {
        let played = async {
            let asked = self.hear().await;
            assert_eq!(&asked[..2], [0, 90], "{asked:?}");
            assert_eq!(&asked[2..18], b"\0\0\0\x0cdirect-tcpip");
            // Ours, the window of 2 MiB, packets of 32 KiB, the host.
            assert_eq!(asked[22..30], [0, 0x20, 0, 0, 0, 0, 0x80, 0]);
            assert_eq!(&asked[30..41], b"\0\0\0\x03web\0\0\0\x50");
            let id = [asked[18], asked[19], asked[20], asked[21]];
            let confirmed = [&[0, 91][..], &id, &words(&[7, leave, 32 << 10])].concat();
            self.say(&confirmed).await;
        };
        let (opened, ()) = tokio::join!(channels.open("web", 80), played);
        opened.unwrap()
    }
}

#[tokio::test]
async fn no_more_is_sent_than_there_is_leave_for() {
    let (mut master, channels) = Master::with_channels().await;
    let (_read, mut write) = master.opened(&channels, 5).await;
    let writing = tokio::spawn(async move {
        write
            .write_chunk(Bytes::from_static(b"eight by"))
            .await
            .unwrap();
        write.finish().await.unwrap();
        write
    });
    assert_eq!(master.hear().await, b"\0\x5e\0\0\0\x07\0\0\0\x05eight");
    // Two more, then the rest.
    master.say(&[&[0, 93][..], &words(&[0, 2])].concat()).await;
    assert_eq!(master.hear().await, b"\0\x5e\0\0\0\x07\0\0\0\x02 b");
    master.say(&[&[0, 93][..], &words(&[0, 9])].concat()).await;
    assert_eq!(master.hear().await, b"\0\x5e\0\0\0\x07\0\0\0\x01y");
    assert_eq!(master.hear().await, b"\0\x60\0\0\0\x07");
    let write = writing.await.unwrap();
    drop((write, _read));
    assert_eq!(master.hear().await, b"\0\x61\0\0\0\x07");
}

#[tokio::test]
async fn an_end_is_an_end_and_a_close_without_one_is_a_loss() {
    let (mut master, channels) = Master::with_channels().await;
    for ends in [true, false] {
        let (mut read, _write) = master.opened(&channels, 5).await;
        let id = channels.shared.state().next - 1;
        let id = words(&[id]);
        let data = [&[0, 94][..], &id, &words(&[2]), b"hi"].concat();
        master.say(&data).await;
        assert_eq!(read.read_chunk().await.unwrap().unwrap(), &b"hi"[..]);
        if ends {
            master.say(&[&[0, 96][..], &id].concat()).await;
            assert!(read.read_chunk().await.unwrap().is_none());
        }
        master.say(&[&[0, 97][..], &id].concat()).await;
        // RFC 4254, section 5.3: it is said back at once.
        assert_eq!(master.hear().await, b"\0\x61\0\0\0\x07");
        let then = read.read_chunk().await.map_err(|error| error.kind());
        let expected = if ends {
            Ok(None)
        } else {
            Err(io::ErrorKind::ConnectionReset)
        };
        assert_eq!(then, expected);
    }
    assert!(
        channels.shared.state().channels.is_empty(),
        "all are forgotten"
    );
}

#[tokio::test]
async fn what_was_read_is_given_leave_for_again() {
    let (mut master, channels) = Master::with_channels().await;
    let (mut read, _write) = master.opened(&channels, 5).await;
    let piece = vec![b'x'; 32 << 10];
    let data = [&[0, 94][..], &words(&[0, 32 << 10]), &piece].concat();
    for _ in 0..32 {
        master.say(&data).await;
        assert_eq!(read.read_chunk().await.unwrap().unwrap(), piece);
    }
    // Half of the window: a megabyte.
    assert_eq!(master.hear().await, b"\0\x5d\0\0\0\x07\0\x10\0\0");
}

#[tokio::test]
async fn many_small_pieces_are_few_in_memory_and_stay_in_order() {
    let (mut master, channels) = Master::with_channels().await;
    let (mut read, _write) = master.opened(&channels, 5).await;
    let mut sent = Vec::new();
    for round in 0..3_u8 {
        for piece in (0..9000).map(|number| (number % 251) as u8) {
            sent.push(piece);
            master
                .say(&[&[0, 94][..], &words(&[0, 1]), &[piece]].concat())
                .await;
        }
        let large = vec![round; 10_000];
        sent.extend(&large);
        master
            .say(&[&[0, 94][..], &words(&[0, 10_000]), &large].concat())
            .await;
    }
    master.say(&[&[0, 96][..], &words(&[0])].concat()).await;
    // Its end has been heard: all of it is there.
    while !channels.shared.state().channels[&0].has_ended {
        tokio::task::yield_now().await;
    }
    assert!(channels.shared.state().channels[&0].arrived.len() <= 12);
    let mut read_so_far = Vec::new();
    while let Some(chunk) = read.read_chunk().await.unwrap() {
        read_so_far.extend_from_slice(&chunk);
    }
    assert!(read_so_far == sent);
}

#[tokio::test]
async fn who_gave_up_is_closed_once_it_is_answered_and_not_before() {
    let (mut master, channels) = Master::with_channels().await;
    tokio::select! {
        biased;
        _ = channels.open("web", 80) => panic!("nobody answered"),
        asked = master.hear() => assert_eq!(asked[1], 90),
    }
    master
        .say(&[&[0, 91][..], &words(&[0, 7, 5, 5])].concat())
        .await;
    assert_eq!(master.hear().await, b"\0\x61\0\0\0\x07");
    master.say(&[&[0, 97][..], &words(&[0])].concat()).await;
    // One after another: what is asked next is heard after what was said before.
    drop(master.opened(&channels, 5).await);
    assert!(!channels.shared.state().channels.contains_key(&0));
}

#[tokio::test]
async fn a_refusal_is_told_in_the_servers_words() {
    let (mut master, channels) = Master::with_channels().await;
    let refused =
        |reason: u32| [&[0, 92][..], &words(&[0, reason, 3]), b"why", &words(&[0])].concat();
    for (number, reason) in [(0, 1), (1, 2)] {
        let mut answer = refused(reason);
        answer[2..6].copy_from_slice(&words(&[number]));
        let played = async {
            master.hear().await;
            master.say(&answer).await;
        };
        let (opened, ()) = tokio::join!(channels.open("web", 80), played);
        let Err(why) = opened else {
            panic!("it is open")
        };
        assert_eq!((why.is_prohibited, &*why.words), (reason == 1, "why"));
    }
    assert_eq!(channels.refused(), 2);
}

#[tokio::test]
async fn a_master_that_sends_more_than_it_may_is_left() {
    let (mut master, channels) = Master::with_channels().await;
    let (mut read, _write) = master.opened(&channels, 5).await;
    let data = [&[0, 94][..], &words(&[0, 64 << 10]), &vec![0; 64 << 10]].concat();
    for _ in 0..33 {
        // It may have been left by the last one.
        let _ = master
            .socket
            .write_u32(u32::try_from(data.len()).unwrap())
            .await;
        let _ = master.socket.write_all(&data).await;
    }
    channels.clone().ended().await;
    let mut arrived = 0;
    let end = loop {
        match read.read_chunk().await {
            Ok(Some(chunk)) => arrived += chunk.len(),
            end => break end,
        }
    };
    assert_eq!(
        (arrived, end.unwrap_err().kind()),
        (2 << 20, io::ErrorKind::ConnectionReset)
    );
    assert!(channels.open("web", 80).await.is_err());
}

#[tokio::test]
async fn who_is_no_master_is_not_entered() {
    for said in [
        &b"SSH-2.0-x\r\n........"[..],
        &[0, 0, 0, 4, 0, 0, 0, 9],
        &[0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 3],
    ] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(said).await.unwrap();
        let entered = Channels::enter(ours, None).await;
        assert!(matches!(
            entered.err(),
            Some(MuxError::Nonsense | MuxError::NotShared)
        ));
    }
}

proptest! {
    /// Whatever a master says, to a channel that is open or one that is not.
    #[test]
    fn any_message_is_heard(messages in prop::collection::vec((80_u8..104, prop::collection::vec(any::<u8>(), 0..40), 0_u32..3), 0..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let shared = Arc::new(Shared { state: Mutex::default(), sending: Notify::new(), room: Notify::new() });
            let (answer, _answered) = oneshot::channel();
            let _held = shared.begin("web", 80, answer);
            for (kind, rest, id) in messages {
                let message = [&[0, kind][..], &words(&[id]), &rest].concat();
                let _ = shared.hear(message.into());
                let _ = shared.hear(rest.into());
                let waits = shared.state().channels.values().map(|it| it.arrived.iter().map(Bytes::len).sum::<usize>() + it.arrived_last.len()).sum::<usize>();
                assert!(waits <= WINDOW as usize);
            }
        });
    }
}
