//! Probes over a relay of the test that holds them up and swallows some.

use plimsoll_model::SystemClock;

use super::*;

const HELD_UP: Duration = Duration::from_millis(3);

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

/// Starts what answers the peers at these addresses; returns where.
async fn answering(peers: Vec<IpAddr>) -> SocketAddr {
    let socket = UdpSocket::bind(local()).await.unwrap();
    let address = socket.local_addr().unwrap();
    let clock = clock();
    tokio::spawn(async move { Echo { peers, clock }.serve(&socket).await });
    address
}

/// Starts a relay that holds each probe up and swallows each fourth; returns where.
async fn relay(to: SocketAddr) -> SocketAddr {
    let (near, far) = (
        UdpSocket::bind(local()).await.unwrap(),
        UdpSocket::bind(local()).await.unwrap(),
    );
    let address = near.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut bytes, mut count) = ([0; 64], 0_u32);
        loop {
            let (length, asker) = near.recv_from(&mut bytes).await.unwrap();
            count += 1;
            if count.is_multiple_of(4) {
                continue;
            }
            let nothing = std::future::pending::<()>();
            drop(tokio::time::timeout(HELD_UP, nothing).await);
            far.send_to(&bytes[..length], to).await.unwrap();
            let (length, _) = far.recv_from(&mut bytes).await.unwrap();
            near.send_to(&bytes[..length], asker).await.unwrap();
        }
    });
    address
}

/// The values of one round to an address.
async fn told(address: SocketAddr, probes: u32) -> HashMap<Metric, u64> {
    let (looks, mut inbox) = mpsc::channel(4);
    let peer = NodeId::random();
    let paths = Paths {
        node: NodeId::random(),
        probing: Probing {
            listen: Some(local()),
            peers: vec![Peer {
                node: peer,
                address,
            }],
            every: Duration::from_secs(1),
            probes,
        },
        link: None,
        clock: clock(),
        looks,
    };
    let running = tokio::spawn(paths.run());
    let look = inbox.recv().await.unwrap();
    running.abort();
    let sweep = look.sweeps.into_iter().next().unwrap();
    let values = sweep.values.into_iter();
    values
        .map(|(metric, part, value)| {
            assert_eq!(part.as_str(), peer.to_string());
            (metric, value)
        })
        .collect()
}

#[tokio::test]
async fn a_way_that_takes_three_milliseconds_and_loses_a_quarter_is_told_so() {
    let answering = answering(vec![local().ip()]).await;
    let told = told(relay(answering).await, 20).await;
    assert_eq!(told.get(&Metric::HostNetPathLoss), Some(&250_000));
    let least = u64::try_from(HELD_UP.as_nanos()).unwrap();
    let (p50, p99) = (
        told[&Metric::HostNetPathRttP50],
        told[&Metric::HostNetPathRttP99],
    );
    assert!((least..1_000_000_000).contains(&p50), "{p50}");
    assert!(p99 >= p50, "{p50} {p99}");
}

#[tokio::test]
async fn a_peer_that_never_answers_has_lost_all_and_no_round_trip() {
    let silent = UdpSocket::bind(local()).await.unwrap();
    let told = told(silent.local_addr().unwrap(), 2).await;
    assert_eq!(told, HashMap::from([(Metric::HostNetPathLoss, 1_000_000)]));
}

#[tokio::test]
async fn strangers_and_other_words_are_not_answered_and_peers_are() {
    let stranger_only = answering(vec![IpAddr::from([192, 0, 2, 1])]).await;
    let lost = told(stranger_only, 2).await;
    assert_eq!(lost.get(&Metric::HostNetPathLoss), Some(&1_000_000));

    let address = answering(vec![local().ip()]).await;
    let socket = UdpSocket::bind(local()).await.unwrap();
    let (answer, long) = (probe(ANSWER, 1, 1), [probe(ASK, 1, 2), vec![0]].concat());
    for words in [b"hello".as_slice(), &answer, &long, &probe(ASK, 7, 3)] {
        socket.send_to(words, address).await.unwrap();
    }
    let mut bytes = [0; 64];
    let (length, _) = socket.recv_from(&mut bytes).await.unwrap();
    // They are taken in order, so what was not answered before the last never will be.
    assert_eq!(read(ANSWER, &bytes[..length]), Some((7, 3)));
    assert_eq!(length, PROBE_BYTES);
}

#[test]
fn what_a_link_sends_is_taken_from_what_it_carries() {
    let directory = tempfile::tempdir().unwrap();
    let link = Link {
        bandwidth: Bandwidth::from_bytes_per_second(1_000),
        sent: directory.path().join("tx_bytes"),
    };
    let mut traffic = Traffic::default();
    let clock = SystemClock::new();
    assert_eq!(traffic.left(&link, &clock), None, "no such card");
    std::fs::write(&link.sent, "500\n").unwrap();
    assert_eq!(traffic.left(&link, &clock), None, "the first look");
    std::fs::write(&link.sent, "500\n").unwrap();
    assert_eq!(traffic.left(&link, &clock), Some(link.bandwidth));
    std::fs::write(&link.sent, "999999999\n").unwrap();
    let full = traffic.left(&link, &clock).unwrap();
    assert_eq!(full.bytes_per_second(), 0);
    std::fs::write(&link.sent, "3\n").unwrap();
    assert_eq!(traffic.left(&link, &clock), None, "it began anew");
}
