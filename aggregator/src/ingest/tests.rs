use super::session::WAITING_MAX;
use super::*;
use crate::scene::Scene;
use crate::writer::QUEUE_LENGTH;

/// An aggregator whose disk takes nothing until its writer is driven.
fn slow(scene: &Scene) -> (Ingest, impl Future<Output = ()>) {
    let known = &scene.known;
    let (store, met, clock) = (&known.store, &known.met, &known.clock);
    let (writer, work) = Writer::at_once(Arc::clone(store));
    let assumed = plimsoll_model::Bandwidth::from_mbit_per_second(1_000);
    let ingest = Ingest {
        store: Arc::clone(store),
        writer,
        roster: Arc::clone(&known.roster),
        witness: Arc::new(Witness::new(known.clone(), assumed)),
        clock: Arc::clone(clock),
        met: Arc::clone(met),
        ceiling: Arc::new(Ceiling::new(None)),
        age_max: Duration::MAX,
        credits: Credits::default(),
        nursery: Nursery::new(Arc::clone(store), Arc::clone(met), Arc::clone(clock)),
        greetings: Greetings::default(),
    };
    (ingest, work)
}

fn stream() -> (Session, mpsc::Receiver<Result<v1::IngestResponse, Status>>) {
    let (replies, answers) = mpsc::channel(REPLIES_MAX);
    let hello = v1::Hello {
        protocol_version: plimsoll_proto::PROTOCOL_VERSION,
        session_id: plimsoll_model::SessionId::random().as_bytes().to_vec(),
        ..v1::Hello::default()
    };
    let session = open(NodeId::random(), &hello, &replies).unwrap();
    (session, answers)
}

/// Hands the next gap of a stream to the writer.
async fn hand_over(ingest: &Ingest, session: &mut Session, sequence: u64) {
    let gap = SampleGap {
        node: session.node,
        session: session.session,
        first_sequence: sequence,
        last_sequence: sequence,
        reading_count: None,
        declared: ingest.clock.now(),
        reason: GapReason::SpoolFull,
    };
    let written = ingest.write(session, sequence, Record::Gap(gap)).await;
    written.unwrap();
}

#[tokio::test]
async fn records_of_a_stream_wait_up_to_a_number_and_then_it_is_not_read_on() {
    let scene = Scene::new();
    let (ingest, work) = slow(&scene);
    let (mut session, _answers) = stream();
    let met = || scene.known.met.count(Limit::WaitingOfStream);
    let most = u64::try_from(WAITING_MAX).unwrap();
    for sequence in 1..most {
        hand_over(&ingest, &mut session, sequence).await;
    }
    assert!(!session.is_full() && met() == 0, "one more may come");
    hand_over(&ingest, &mut session, most).await;
    assert!(session.is_full(), "the next one is not read");
    assert_eq!(met(), 1);
    let outcome = tokio::select! {
        outcome = first(&mut session.waiting) => outcome,
        () = work => unreachable!("the writer lives as long as the door"),
    };
    ingest.told(&mut session, outcome).await.unwrap();
    assert!(!session.is_full(), "it is read again");
}

#[tokio::test(start_paused = true)]
async fn records_of_all_wait_up_to_a_number_and_one_more_waits_for_a_place() {
    let scene = Scene::new();
    let (ingest, work) = slow(&scene);
    let met = || scene.known.met.count(Limit::WaitingOfAll);
    let mut streams = Vec::new();
    for at in 0..QUEUE_LENGTH {
        assert!(!ingest.writer.is_full(), "{at}");
        let (mut session, answers) = stream();
        hand_over(&ingest, &mut session, 1).await;
        streams.push((session, answers));
    }
    assert_eq!(met(), 0, "all have found a place");
    let (mut session, _answers) = stream();
    {
        let beyond = std::pin::pin!(hand_over(&ingest, &mut session, 1));
        let waits = tokio::time::timeout(Duration::from_secs(1), beyond).await;
        assert!(waits.is_err(), "it waits");
    }
    assert_eq!(met(), 1);
    tokio::select! {
        () = hand_over(&ingest, &mut session, 1) => {}
        () = work => unreachable!("the writer lives as long as the door"),
    }
}
