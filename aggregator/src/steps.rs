//! Steps of long spans on the wire: what was asked for, what was told, and how far it can be believed.

use std::time::Duration;

use plimsoll_model::{SeriesKey, UnixMillis};
use plimsoll_proto::parse::ParseError;
use plimsoll_proto::{render, v1};
use plimsoll_store::{Function, GAP, Hole, Steps, StepsError, Store, Used};
use tonic::{Code, Status};

use crate::page::{refused, status};

/// Damaged places that one answer names.
const PLACES_MAX: usize = 100;

/// What is to be told of a series.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Told {
    /// Its samples, or the rates between them.
    Samples {
        /// Whether it is the rates.
        rate: bool,
    },
    /// Steps of one length.
    Steps(Steps),
}

impl Told {
    /// Tells whether it can be told where only rollups are left.
    pub(crate) fn past(&self) -> bool {
        matches!(self, Self::Steps(_))
    }
}

/// Reads what a request asks for.
pub(crate) fn asked(
    request: &v1::QueryRangeRequest,
    (from, to): (UnixMillis, UnixMillis),
) -> Result<Told, ParseError> {
    use v1::RangeFunction as Asked;
    let function = v1::RangeFunction::try_from(request.function)
        .map_err(|_| ParseError::new("function", "is not known"))?;
    let Some(step) = &request.step else {
        return match function {
            Asked::Unspecified => Ok(Told::Samples { rate: false }),
            Asked::Rate => Ok(Told::Samples { rate: true }),
            _ => Err(ParseError::new(
                "step",
                "is missing; this function needs one",
            )),
        };
    };
    let function = match function {
        Asked::Unspecified => {
            let problem = "is missing; a step needs one, such as RANGE_FUNCTION_MEAN";
            return Err(ParseError::new("function", problem));
        }
        Asked::Rate => Function::Rate,
        Asked::Min => Function::Min,
        Asked::Max => Function::Max,
        Asked::Mean => Function::Mean,
        Asked::MeanOverTime => Function::MeanOverTime,
        Asked::Sum => Function::Sum,
        Asked::Count => Function::Count,
        Asked::Last => Function::Last,
        Asked::Increase => Function::Increase,
        Asked::P95 => Function::P95,
        Asked::Quantile if (0.0..=1.0).contains(&request.quantile) => {
            Function::Quantile(request.quantile)
        }
        Asked::Quantile => return Err(ParseError::new("quantile", "must lie in 0 to 1")),
        Asked::Trend => Function::Trend,
    };
    Ok(Told::Steps(Steps {
        from,
        to,
        step: length(step)?,
        function,
        gap: GAP,
    }))
}

fn length(step: &prost_types::Duration) -> Result<Duration, ParseError> {
    let wrong = || ParseError::new("step", "must lie above zero");
    let seconds = u64::try_from(step.seconds).map_err(|_| wrong())?;
    let nanos = u32::try_from(step.nanos).map_err(|_| wrong())?;
    if nanos >= 1_000_000_000 {
        return Err(ParseError::new("step", "nanos must lie in 0 to 999999999"));
    }
    Ok(Duration::new(seconds, nanos))
}

/// Answers for one series; says also how much was read for it.
pub(crate) fn series(
    store: &Store,
    key: &SeriesKey,
    asked: &Steps,
) -> Result<(v1::RangeSeries, usize), Status> {
    let answer = store.steps(key, asked).map_err(|error| match error {
        StepsError::SamplesOnly { .. } => {
            status(Code::OutOfRange, "SAMPLES_FORGOTTEN", error.to_string())
        }
        StepsError::TooMany { .. } | StepsError::NoLength => {
            refused(&ParseError::new("step", error.to_string()))
        }
    })?;
    let steps = answer.steps.iter().map(|step| v1::StepValue {
        end_time: Some(render::timestamp(step.end)),
        value: step.value,
    });
    let resolution = |used: &Used| v1::UsedResolution {
        start_time: Some(render::timestamp(used.from)),
        end_time: Some(render::timestamp(used.to)),
        resolution: used.tier.map(|tier| render::duration(tier.length())),
    };
    let series = v1::RangeSeries {
        series: Some(render::series(key)),
        steps: steps.collect(),
        step: Some(render::duration(answer.step)),
        resolutions: answer.used.iter().map(resolution).collect(),
        samples_start_time: store.samples_from().map(render::timestamp),
        ..partial(&answer.holes)
    };
    Ok((series, answer.read))
}

/// Renders what is damaged, and nothing else.
pub(crate) fn partial(holes: &[Hole]) -> v1::RangeSeries {
    let place = |hole: &Hole| v1::DamagedPlace {
        file: hole.path.display().to_string(),
        offset_bytes: render::int(hole.offset),
        problem: hole.what.to_owned(),
    };
    v1::RangeSeries {
        partial: !holes.is_empty(),
        damaged_places: holes.iter().take(PLACES_MAX).map(place).collect(),
        ..v1::RangeSeries::default()
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_model::{Metric, NodeId, Subject};
    use plimsoll_proto::v1::query_service_server::QueryService as _;
    use plimsoll_store::StoreOptions;
    use tonic::Request;

    use super::*;
    use crate::query::Query;
    use crate::scene::Scene;

    /// A node that tells its free memory each minute for a day and a half.
    fn lived() -> (Scene, NodeId, UnixMillis) {
        let scene = Scene::new();
        let node = NodeId::random();
        let begin = scene.now();
        for minute in 0..36 * 60 {
            let sweep = scene.sweep(Subject::Node(node), &[(Metric::HostMemFree, minute)]);
            scene.tell(node, vec![sweep], Vec::new(), &[]);
            scene.pass(60);
        }
        scene.known.store.seal().unwrap();
        scene.known.store.maintain(scene.now()).unwrap();
        (scene, node, begin)
    }

    fn request(node: NodeId, begin: UnixMillis, step: Option<u64>) -> v1::QueryRangeRequest {
        v1::QueryRangeRequest {
            selector: Some(v1::SeriesSelector {
                node_id: node.as_bytes().to_vec(),
                metric: "host.mem.free".to_owned(),
                ..v1::SeriesSelector::default()
            }),
            start_time: Some(render::timestamp(begin)),
            function: step.map_or(0, |_| v1::RangeFunction::Max.into()),
            step: step.map(|seconds| render::duration(Duration::from_secs(seconds))),
            ..v1::QueryRangeRequest::default()
        }
    }

    async fn answer(
        scene: &Scene,
        request: v1::QueryRangeRequest,
    ) -> Result<v1::RangeSeries, Status> {
        let query = Query {
            known: scene.known.clone(),
        };
        let mut request = Request::new(request);
        request.extensions_mut().insert(crate::guard::Caller::Local);
        let answer = query.query_range(request).await?;
        let [series] = answer.into_inner().series.try_into().unwrap();
        Ok(series)
    }

    #[tokio::test]
    async fn steps_say_how_long_they_are_and_what_they_were_read_from() {
        let (scene, node, begin) = lived();
        let told = answer(&scene, request(node, begin, Some(3_600)))
            .await
            .unwrap();
        assert!((36..=37).contains(&told.steps.len()) && told.samples.is_empty());
        assert_eq!((told.partial, told.samples_start_time), (false, None));
        assert_eq!(told.step.unwrap().seconds, 3_600);
        let lengths = told.resolutions.iter().map(|used| used.resolution);
        let seconds: Vec<_> = lengths.map(|length| length.map(|l| l.seconds)).collect();
        assert!(seconds.contains(&Some(3_600)), "{seconds:?}");
        assert!(seconds.last() == Some(&None), "{seconds:?}");
        let last = told.steps.last().unwrap().value;
        assert!((last - f64::from(36 * 60 - 1)).abs() < 0.5, "{last}");
    }

    #[tokio::test]
    async fn damage_in_the_span_makes_an_answer_partial_and_is_named() {
        let (scene, node, begin) = lived();
        let samples = |told: &v1::RangeSeries| told.samples.len();
        let whole = answer(&scene, request(node, begin, None)).await.unwrap();
        assert_eq!((samples(&whole), whole.partial), (36 * 60, false));
        let mut blocks = Vec::new();
        for partition in std::fs::read_dir(scene.path().join("blocks")).unwrap() {
            let files = std::fs::read_dir(partition.unwrap().path()).unwrap();
            blocks.extend(files.map(|file| file.unwrap().path()));
        }
        blocks.sort();
        let damaged = blocks.pop().unwrap();
        let mut bytes = std::fs::read(&damaged).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&damaged, &bytes).unwrap();
        for step in [None, Some(60), Some(300)] {
            let told = answer(&scene, request(node, begin, step)).await.unwrap();
            assert!(told.partial, "{step:?}");
            let [place] = told.damaged_places.as_slice() else {
                panic!("{:?}", told.damaged_places);
            };
            assert_eq!(place.file, damaged.display().to_string());
            assert_eq!(place.problem, "a frame does not match its checksum");
        }
        let told = answer(&scene, request(node, begin, None)).await.unwrap();
        assert!(samples(&told) < samples(&whole));
        // A span beside it is whole.
        let mut before = request(node, begin, None);
        before.end_time = Some(render::timestamp(begin.plus(Duration::from_secs(3_600))));
        assert!(!answer(&scene, before).await.unwrap().partial);
    }

    #[tokio::test]
    async fn what_rollups_do_not_tell_is_refused_by_name_where_samples_are_forgotten() {
        let (scene, node, begin) = lived();
        let mut median = request(node, begin, Some(3_600));
        median.function = v1::RangeFunction::Quantile.into();
        median.quantile = 1.5;
        let error = answer(&scene, median.clone()).await.unwrap_err();
        assert!(error.message().starts_with("quantile"), "{error}");
        median.quantile = 0.5;
        assert!(answer(&scene, median.clone()).await.is_ok());
        let options = StoreOptions {
            retention: Some(Duration::from_secs(6 * 3_600)),
            ..StoreOptions::default()
        };
        let scene = scene.restarted_with(options);
        scene.known.store.maintain(scene.now()).unwrap();
        let error = answer(&scene, median).await.unwrap_err();
        assert_eq!(error.code(), Code::OutOfRange);
        assert!(
            error.message().contains("quantile is told by samples only"),
            "{error}"
        );
        let told = answer(&scene, request(node, begin, Some(60)))
            .await
            .unwrap();
        assert_eq!(told.step.unwrap().seconds, 300);
        assert!(told.samples_start_time.is_some());
        let mut none = request(node, begin, None);
        none.function = v1::RangeFunction::Min.into();
        let error = answer(&scene, none).await.unwrap_err();
        assert!(error.message().starts_with("step"), "{error}");
    }
}
