//! What is asked of the service, and what it refuses.

use plimsoll_model::{DomainFacts, Metric};

use super::*;
use crate::scene::{Scene, subject};

fn forecast(scene: &Scene) -> Forecast {
    let assumed = Bandwidth::from_mbit_per_second(1_000);
    Forecast {
        known: scene.known.clone(),
        witness: Arc::new(Witness::new(scene.known.clone(), assumed)),
        assumed,
    }
}

fn guest(scene: &Scene) -> DomainFacts {
    let node = scene.node("a", |_| {});
    let guest = scene.guest("web", node);
    let memory = scene.sweep(subject(&guest), &[(Metric::VmMemMax, 4 << 30)]);
    scene.tell(node, vec![memory], Vec::new(), &[]);
    scene.sees(&guest, 1);
    guest
}

fn asked(guest: &DomainFacts) -> v1::CompareModesRequest {
    v1::CompareModesRequest {
        question: Some(v1::EstimateMigrationRequest {
            domain_id: guest.domain.as_bytes().to_vec(),
            ..v1::EstimateMigrationRequest::default()
        }),
        downtime_max_ms: None,
    }
}

#[test]
fn every_mode_is_answered_with_its_own_surroundings() {
    let scene = Scene::new();
    let guest = guest(&scene);
    let answer = forecast(&scene).compare(&asked(&guest)).unwrap();
    let said = |one: &v1::EstimateMigrationResponse| one.estimate.unwrap().mode();
    let modes: Vec<_> = answer.answers.iter().map(said).collect();
    assert_eq!(
        modes,
        [
            v1::MigrationMode::Precopy,
            v1::MigrationMode::PrecopyAutoConverge,
            v1::MigrationMode::Postcopy,
            v1::MigrationMode::StopCopy
        ]
    );
    assert!(answer.answers.iter().all(|one| one.envelope.is_some()));
    // Nobody measured how it writes.
    assert_eq!(answer.recommended_mode(), v1::MigrationMode::Unspecified);
    assert!(answer.reasons[0].contains("dirty rate"), "{answer:?}");
}

#[test]
fn a_comparison_that_is_no_comparison_names_its_field() {
    let scene = Scene::new();
    let guest = guest(&scene);
    let forecast = forecast(&scene);
    let spoilt = |spoil: fn(&mut v1::CompareModesRequest)| {
        let mut request = asked(&guest);
        spoil(&mut request);
        let refusal = forecast.compare(&request).unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
        refusal.message().to_owned()
    };
    let mode = spoilt(|request| {
        let question = request.question.as_mut().unwrap();
        question.set_mode(v1::MigrationMode::Postcopy);
    });
    assert!(mode.contains("question.mode"), "{mode}");
    let nothing = spoilt(|request| request.question = None);
    assert!(nothing.contains("question"), "{nothing}");
    let downtime = spoilt(|request| request.downtime_max_ms = Some(0));
    assert!(downtime.contains("downtime_max_ms"), "{downtime}");
}
