//! Both warnings, as a receiver of SNMPv3 takes them.

#![expect(
    clippy::unwrap_used,
    reason = "a story ends where its parts are not what they must be"
)]

use std::sync::Arc;
use std::time::Duration;

use async_snmp::notification::{NotificationAcceptance, NotificationReceiver};
use async_snmp::{AuthProtocol, PrivProtocol, SecurityLevel, Value};
use plimsoll_aggregator::traps::{Sender, Traps, Warning};
use plimsoll_model::{DomainId, NodeId, SystemClock};
use plimsoll_proto::snmp_engine;

fn secret(dir: &std::path::Path, name: &str, mode: u32) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = dir.join(name);
    std::fs::write(&path, "canary-password\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[tokio::test]
async fn both_warnings_come_over_authenticated_and_encrypted() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SystemClock::new());
    let told = Traps {
        to: vec!["127.0.0.1:162".parse().unwrap()],
        user: "teller".to_owned(),
        authentication_password_file: secret(dir.path(), "one", 0o600),
        privacy_password_file: secret(dir.path(), "two", 0o600),
        every: Duration::from_secs(60),
    };
    let auth = told.auth().unwrap();
    // A receiver learns of the sender's engine by the messages; its own is another.
    let receiver = NotificationReceiver::builder()
        .bind("127.0.0.1:0")
        .authoritative_engine(snmp_engine::open(&dir.path().join("receiver")).unwrap())
        .usm_user("teller", |user| {
            let word = "canary-password";
            user.auth_priv(AuthProtocol::Sha256, word, PrivProtocol::Aes128, word)
        })
        .unwrap()
        .acceptance_policy(|told| match told.security_level {
            Some(SecurityLevel::AuthPriv) => NotificationAcceptance::Accept,
            _ => NotificationAcceptance::Reject,
        })
        .build()
        .await
        .unwrap();
    let to = vec![receiver.local_addr()];
    let sender = Sender::new(auth, to, &dir.path().join("sender"), clock).unwrap();
    assert!(!format!("{sender:?}").contains("canary"));
    let on = ("compute-1".to_owned(), NodeId::random());
    let guest = ("web-1".to_owned(), DomainId::random());
    let why = "it writes faster than the link carries".to_owned();
    let converge = Warning::WillNotConverge {
        on: on.clone(),
        guest,
        why,
    };
    let room = Warning::HeadroomLost {
        on,
        why: "-1 MiB of memory".to_owned(),
    };
    for (warning, number, bindings) in [(converge, 1, 5), (room, 2, 3)] {
        sender.send(&warning).await;
        let received = tokio::time::timeout(Duration::from_secs(20), receiver.recv());
        let told = received.await.unwrap().unwrap().notification;
        let oid = format!("1.3.6.1.4.1.8072.9999.9999.7077.0.{number}");
        assert_eq!(told.trap_oid().unwrap().to_string(), oid);
        let texts: Vec<&Value> = told.varbinds().iter().map(|one| &one.value).collect();
        assert_eq!(texts.len(), bindings);
        assert_eq!(texts[0].as_str(), Some("compute-1"));
    }
}

#[test]
fn a_password_that_others_can_read_is_refused_by_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let told = Traps {
        to: vec!["127.0.0.1:162".parse().unwrap()],
        user: "teller".to_owned(),
        authentication_password_file: secret(dir.path(), "one", 0o600),
        privacy_password_file: secret(dir.path(), "two", 0o644),
        every: Duration::from_secs(60),
    };
    let error = told.auth().unwrap_err().to_string();
    assert!(
        error.starts_with("traps.privacy_password_file: "),
        "{error}"
    );
    assert!(
        error.contains("chmod 600") && !error.contains("canary"),
        "{error}"
    );
}
