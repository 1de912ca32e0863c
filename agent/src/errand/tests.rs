use std::path::PathBuf;
use std::sync::Arc;

use plimsoll_libvirt::TypedValue;
use plimsoll_model::SystemClock;
use tokio::net::UnixListener;

use super::*;
use crate::fake_libvirt::{self, Asked, Daemon, Say, domain, encoded, job, stats};
use crate::measure::Sampling;

#[test]
fn a_line_is_a_uuid_and_a_window_and_nothing_else() {
    let errand = Errand {
        uuid: [9; 16],
        window: Duration::from_millis(500),
    };
    assert_eq!(Errand::parse(&errand.render()), Some(errand));
    let uuid = uuid::Uuid::from_bytes([9; 16]);
    for other in [
        String::new(),
        "\n".to_owned(),
        format!("{uuid} 500"),
        format!("{uuid} -5\n"),
        format!("{uuid} 500 dirty-ring\n"),
        format!("{uuid} +500\n"),
        "web 500\n".to_owned(),
        format!("{uuid} 99999999999999999999999\n"),
    ] {
        assert_eq!(Errand::parse(&other), None, "{other:?}");
    }
}

#[test]
fn an_answer_keeps_to_one_line_whatever_it_quotes() {
    let refusal = Err("a\nmeasured 1 1\n".to_owned());
    assert_eq!(render(&refusal), "refused ameasured 1 1\n");
    let measured = Measured::sampled(DirtyRate::from_bytes_per_second(7), 512);
    assert_eq!(parse(&render(&Ok(measured))), Some(Ok(measured)));
    assert_eq!(parse("measured 7\n"), None);
}

/// A helper before a libvirt that measures, and the socket of the helper.
async fn house(dir: &tempfile::TempDir, budget_s: u64) -> (PathBuf, Daemon) {
    let libvirt = dir.path().join("libvirt");
    let listener = UnixListener::bind(&libvirt).unwrap();
    let mut looks = 0;
    let (daemon, talk) = fake_libvirt::daemon(move |asked, _| match asked {
        Asked::Domain => Say::This(encoded(&domain())),
        Asked::Jobs => job(0, &[]),
        Asked::StartDirtyRate => Say::This(Vec::new()),
        Asked::Stats => {
            looks += 1;
            stats(&[
                ("dirtyrate.calc_status", TypedValue::Int(2)),
                ("dirtyrate.calc_period", TypedValue::Int(1)),
                ("dirtyrate.calc_start_time", TypedValue::Long(looks)),
                ("dirtyrate.megabytes_per_second", TypedValue::Long(3)),
            ])
        }
        _ => Say::No("nobody should ask this"),
    });
    let serving = daemon.clone();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        fake_libvirt::serve(stream, serving, talk).await;
    });
    let socket = dir.path().join("helper");
    let door = Door {
        libvirt,
        sampling: Sampling::Libvirt,
        deadline: Duration::from_secs(5),
        clock: Arc::new(SystemClock::new()),
    };
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(serve(
        listener,
        door,
        Budget::new(Duration::from_secs(budget_s)),
    ));
    (socket, daemon)
}

#[tokio::test]
async fn the_helper_measures_one_domain_and_not_more_than_its_budget() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, daemon) = house(&dir, 1).await;
    let second = Duration::from_secs(1);
    let (one, beside) = tokio::join!(ask(&socket, [9; 16], second), ask(&socket, [8; 16], second));
    // Whoever comes second finds it busy; which of them that is nobody says.
    let (measured, refused) = match (one, beside) {
        (Ok(measured), Err(refused)) | (Err(refused), Ok(measured)) => (measured, refused),
        other => panic!("one of them is measured: {other:?}"),
    };
    assert_eq!(measured.rate, DirtyRate::from_mib_per_second(3));
    assert!(
        refused.to_string().contains("another measurement"),
        "{refused}"
    );
    assert_eq!(daemon.count(Asked::StartDirtyRate), 1);

    let (again, other) = (
        ask(&socket, [9; 16], second).await,
        ask(&socket, [8; 16], second).await,
    );
    let spent = [again, other].into_iter().filter_map(Result::err);
    let spent: Vec<String> = spent.map(|error| error.to_string()).collect();
    assert_eq!(spent.len(), 1, "{spent:?}");
    assert!(spent[0].contains("measured enough"), "{spent:?}");
    assert_eq!(daemon.count(Asked::Monitor), 0);
}

#[tokio::test]
async fn whoever_writes_something_else_reaches_nothing_of_libvirt() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, daemon) = house(&dir, 10).await;
    for words in ["destroy web\n", "{\"execute\":\"quit\"}\n", "\0\0\0\n"] {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        stream.write_all(words.as_bytes()).await.unwrap();
        let answer = line(&mut stream).await.unwrap();
        assert!(answer.starts_with("refused write a UUID"), "{answer}");
    }
    for kind in [Asked::Domain, Asked::Monitor, Asked::StartDirtyRate] {
        assert_eq!(daemon.count(kind), 0, "{kind:?}");
    }
}

#[tokio::test]
async fn a_helper_that_is_not_there_is_told_by_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nobody");
    let error = ask(&socket, [9; 16], Duration::from_secs(1))
        .await
        .unwrap_err();
    assert!(
        error.is_denied() && error.to_string().contains("nobody"),
        "{error}"
    );
}
