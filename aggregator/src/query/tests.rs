use plimsoll_model::Subject;

use super::*;
use crate::scene::Scene;

#[tokio::test]
async fn an_answer_has_so_many_samples_of_one_series() {
    let scene = Scene::new();
    let node = scene.node("a", |_| {});
    let begin = scene.now();
    for value in 0..=11_000 {
        let values = [(Metric::HostMemFree, value)];
        let sweep = scene.sweep(Subject::Node(node), &values);
        scene.tell(node, vec![sweep], Vec::new(), &[]);
        scene.pass(1);
    }
    let query = Query {
        known: scene.known.clone(),
    };
    let count = |samples: usize| {
        let seconds = u64::try_from(samples - 1).unwrap();
        let request = v1::QueryRangeRequest {
            selector: Some(v1::SeriesSelector {
                metric: "host.mem.free".to_owned(),
                ..v1::SeriesSelector::default()
            }),
            start_time: Some(render::timestamp(begin)),
            end_time: Some(render::timestamp(
                begin.plus(std::time::Duration::from_secs(seconds)),
            )),
            ..v1::QueryRangeRequest::default()
        };
        let answer = query.range(request, &View::All);
        answer.map(|answer| {
            answer
                .series
                .iter()
                .map(|one| one.samples.len())
                .sum::<usize>()
        })
    };
    assert_eq!(count(SAMPLES_MAX - 1).unwrap(), SAMPLES_MAX - 1);
    assert_eq!(count(SAMPLES_MAX).unwrap(), SAMPLES_MAX);
    assert_eq!(scene.known.met.count(Limit::AnswerSamples), 0);
    let refused = count(SAMPLES_MAX + 1).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(scene.known.met.count(Limit::AnswerSamples), 1);
}

#[test]
fn so_many_samples_are_read_for_one_question() {
    let scene = Scene::new();
    let query = Query {
        known: scene.known.clone(),
    };
    for (last, is_read) in [(9, true), (10, true), (11, false)] {
        let mut budget = Budget(SCANNED_MAX);
        budget.spend(SCANNED_MAX - 10).unwrap();
        let spent = budget.spend(last).map_err(|error| query.refuse(&error));
        assert_eq!(spent.is_ok(), is_read, "{last}");
        assert_eq!(
            spent.is_ok(),
            scene.known.met.count(Limit::ScannedSamples) == 0
        );
    }
}

#[test]
fn what_was_read_for_steps_counts_too() {
    let scene = Scene::new();
    let node = scene.node("a", |_| {});
    let begin = scene.now();
    for value in 0..50 {
        let sweep = scene.sweep(Subject::Node(node), &[(Metric::HostMemFree, value)]);
        scene.tell(node, vec![sweep], Vec::new(), &[]);
        scene.pass(10);
    }
    let key = SeriesKey {
        subject: Subject::Node(node),
        metric: Metric::HostMemFree,
        part: Part::whole(),
    };
    let request = v1::QueryRangeRequest {
        step: Some(render::duration(std::time::Duration::from_secs(60))),
        function: v1::RangeFunction::Max.into(),
        ..v1::QueryRangeRequest::default()
    };
    let Ok(Told::Steps(asked)) = steps::asked(&request, (begin, scene.now())) else {
        panic!("it asks for steps");
    };
    let (series, read) = steps::series(&scene.known.store, &key, &asked).unwrap();
    assert!(!series.steps.is_empty());
    assert!(read >= 49, "{read}");
}
