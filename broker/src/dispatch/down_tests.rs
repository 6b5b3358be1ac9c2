//! What a program that is held hears while no gateway of its zone answers, and when.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_capture::questions::{ANSWER, Answer, Answers, Question};
use adit_rules::{Connect, Engine, HostKeys, Method, OnDown, Policy};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::Dispatcher;
use crate::attribution::Attribution;
use crate::capture_session::CaptureSession;
use crate::chronicle::Chronicle;
use crate::flow_table::FlowTable;
use crate::held::{Asked, HeldTable};
use crate::listeners::Listeners;
use crate::names::Names;
use crate::rules_in_force::{InForce, RulesInForce};
use crate::user::User;
use crate::zone::{HOLD_PATIENCE, Zone};
use crate::zone_targets::ZoneTargets;

/// How long it is held here.
const PATIENCE: Duration = Duration::from_millis(300);

/// All is for a zone that has no gateway; there is no helper either.
fn dispatcher(on_down: OnDown) -> Dispatcher {
    let zone = adit_rules::Zone {
        name: "far".to_owned(),
        gateways: Vec::new(),
        reach: adit_rules::Reach::default(),
        identity: None,
        certificate: None,
        methods: vec![Method::PublicKey],
        known_hosts: Vec::new(),
        host_keys: HostKeys::Strict,
        engine: Engine::Auto,
        hands_over: false,
        on_down,
        connect: Connect::Honest,
    };
    let targets = ZoneTargets::of(&zone, &User::current().unwrap());
    let policy = Policy::for_networks(zone, vec!["198.51.100.0/24".parse().unwrap()]);
    let (questioning, _asked) = mpsc::channel(1);
    let listeners = Arc::new(Listeners::bind().unwrap());
    let nowhere = PathBuf::from("/dev/null/capture.sock");
    let session = CaptureSession::start(nowhere, listeners, questioning);
    let zone = Zone::start("far".to_owned(), targets, session.sockets.clone())
        .with_hold_patience(PATIENCE);
    let zones = [("far".to_owned(), Arc::new(zone))].into();
    Dispatcher {
        rules: RulesInForce::new(InForce::new(policy, zones)),
        sockets: session.sockets.clone(),
        attribution: Attribution::start(session.sources.clone()).unwrap(),
        names: Names::default(),
        flows: Arc::new(FlowTable::default()),
        chronicle: Arc::new(Chronicle::new(None, User::current().unwrap())),
    }
}

/// One that is held, until it is answered: with what, and after what time.
async fn answered(on_down: OnDown) -> (Answer, Duration) {
    let dispatcher = dispatcher(on_down);
    let (ours, mut helper) = UnixStream::pair().unwrap();
    let answers = Answers::new(ours.into_std().unwrap().into()).unwrap();
    let question = Question {
        id: 7,
        source: "192.0.2.1:40000".parse().unwrap(),
        destination: "198.51.100.7:443".parse().unwrap(),
        sequence: 1,
        routed: true,
    };
    let Asked::Anew(held) = HeldTable::default().ask(question, &answers) else {
        panic!("it is new");
    };
    let began = Instant::now();
    dispatcher.answer(held).await;
    let took = began.elapsed();
    let mut record = [0; ANSWER];
    helper.read_exact(&mut record).await.unwrap();
    let (id, answer) = Answer::decode(record).unwrap();
    assert_eq!(id, 7);
    (answer, took)
}

/// Its patience over, silence: from then on the program's own time-out counts.
#[tokio::test]
async fn hold_ends_in_silence() {
    let (answer, took) = answered(OnDown::Hold).await;
    assert_eq!(answer, Answer::Drop);
    let expected = PATIENCE..PATIENCE + Duration::from_secs(20);
    assert!(expected.contains(&took), "{took:?}");
}

/// What docs/operations.md promises.
#[test]
fn hold_is_for_a_minute() {
    assert_eq!(HOLD_PATIENCE, Duration::from_secs(60));
}

#[tokio::test]
async fn reject_is_an_unreachable_host() {
    assert_eq!(answered(OnDown::Reject).await.0, Answer::HostUnreachable);
}

#[tokio::test]
async fn pass_goes_direct() {
    assert_eq!(answered(OnDown::Pass).await.0, Answer::Direct);
}
