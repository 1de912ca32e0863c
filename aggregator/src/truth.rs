//! How true predictions were: adds up what the witness kept. It predicts nothing.

use std::collections::BTreeMap;

use plimsoll_estimate::MODEL_NAME;
use plimsoll_model::UnixMillis;
use plimsoll_proto::parse::{self, ParseError};
use plimsoll_proto::v1;
use plimsoll_store::Store;
use prost::Message as _;

use crate::witness::DOCUMENT_MIGRATION;

/// Most pairs of nodes that are told, those with the most migrations first.
const PATHS_MAX: usize = 100;

/// Errors of one formula.
#[derive(Debug, Default)]
struct Errors {
    total: Vec<f64>,
    wire: Vec<f64>,
    downtime: Vec<f64>,
    judged: i64,
    right: i64,
    broken: i64,
}

/// Everything about one pair of nodes, or about all.
#[derive(Debug, Default)]
struct Path {
    migrations: i64,
    bounded: i64,
    inside: i64,
    formulas: BTreeMap<String, Errors>,
}

/// Answers how true the predictions of a span were.
///
/// # Errors
/// If the span is none.
pub fn answer(
    store: &Store,
    request: &v1::GetModelAccuracyRequest,
) -> Result<v1::GetModelAccuracyResponse, ParseError> {
    let instant = |field, at: &Option<prost_types::Timestamp>, usual| match at {
        None => Ok(UnixMillis::from_millis(usual)),
        at => parse::timestamp(field, at.as_ref()),
    };
    let from = instant("start_time", &request.start_time, i64::MIN)?;
    let until = instant("end_time", &request.end_time, i64::MAX)?;
    if until <= from {
        return Err(ParseError::new("end_time", "must lie after start_time"));
    }
    let mut all = Path::default();
    let mut paths: BTreeMap<(Vec<u8>, Vec<u8>), Path> = BTreeMap::new();
    for document in store.documents(DOCUMENT_MIGRATION) {
        if document.time < from || document.time >= until {
            continue;
        }
        let Ok(migration) = v1::Migration::decode(document.payload.as_slice()) else {
            tracing::error!("a migration record cannot be read");
            continue;
        };
        if migration.prediction.is_none() || migration.outcome.is_none() {
            continue;
        }
        all.add(&migration);
        if !migration.target_node_id.is_empty() {
            let ends = (
                migration.source_node_id.clone(),
                migration.target_node_id.clone(),
            );
            paths.entry(ends).or_default().add(&migration);
        }
    }
    let mut paths: Vec<_> = paths.into_iter().collect();
    paths.sort_by_key(|(_, path)| std::cmp::Reverse(path.migrations));
    paths.truncate(PATHS_MAX);
    let paths = paths.into_iter();
    Ok(v1::GetModelAccuracyResponse {
        overall: Some(all.told(Vec::new(), Vec::new())),
        paths: paths
            .map(|((source, target), path)| path.told(source, target))
            .collect(),
    })
}

impl Path {
    fn add(&mut self, migration: &v1::Migration) {
        self.migrations += 1;
        let error = migration.error.unwrap_or_default();
        if let Some(inside) = error.total_within_bounds {
            self.bounded += 1;
            self.inside += i64::from(inside);
        }
        let own = self.formulas.entry(MODEL_NAME.to_owned()).or_default();
        own.total.extend(error.total_error_ratio.map(f64::abs));
        own.wire.extend(error.wire_error_ratio.map(f64::abs));
        own.downtime.extend(error.downtime_error_ms.map(f64::abs));
        let completed = migration.outcome.unwrap_or_default().end() == v1::MigrationEnd::Completed;
        own.judge(
            error
                .verdict_right
                .map(|right| (right == completed, completed)),
        );
        // What the model's verdict could not be held against says nothing of the formulas either.
        let judged = error.verdict_right.is_some();
        let said = migration.prediction.as_ref().map(|said| &said.baselines);
        for baseline in said.into_iter().flatten() {
            let errors = self.formulas.entry(baseline.name.clone()).or_default();
            errors.judge(judged.then_some((baseline.converges, completed)));
            errors.add(baseline, migration.outcome.filter(|_| completed));
        }
    }

    fn told(self, source_node_id: Vec<u8>, target_node_id: Vec<u8>) -> v1::PathAccuracy {
        let mut formulas: Vec<_> = self
            .formulas
            .into_iter()
            .map(|(name, errors)| errors.told(name))
            .collect();
        formulas.sort_by_key(|formula| formula.name != MODEL_NAME);
        v1::PathAccuracy {
            source_node_id,
            target_node_id,
            migration_count: self.migrations,
            bounded_count: self.bounded,
            within_bounds_count: self.inside,
            formulas,
        }
    }
}

impl Errors {
    /// Takes whether it was said to end, and whether it did.
    fn judge(&mut self, said_and_was: Option<(bool, bool)>) {
        if let Some((said, was)) = said_and_was {
            self.judged += 1;
            self.right += i64::from(said == was);
            self.broken += i64::from(said && !was);
        }
    }

    fn add(&mut self, said: &v1::Baseline, was: Option<v1::MigrationEnded>) {
        let Some(was) = was else { return };
        let ratio = |said: Option<f64>, was: Option<i64>| {
            let (said, was) = (said?, was.filter(|was| *was > 0)? as f64);
            Some((said - was).abs() / was)
        };
        self.total.extend(ratio(said.total_ms, was.total_ms));
        self.wire
            .extend(ratio(said.wire_bytes, was.memory_processed_bytes));
        let downtime = said.downtime_ms.zip(was.downtime_ms);
        self.downtime
            .extend(downtime.map(|(said, was)| (said - was as f64).abs()));
    }

    fn told(self, name: String) -> v1::FormulaAccuracy {
        v1::FormulaAccuracy {
            name,
            total_error_ratio: spread(self.total),
            wire_error_ratio: spread(self.wire),
            downtime_error_ms: spread(self.downtime),
            verdict_count: self.judged,
            verdict_right_count: self.right,
            broken_promise_count: self.broken,
        }
    }
}

/// The middle and the nine-tenths point: the smallest error that so many do not exceed.
fn spread(mut errors: Vec<f64>) -> Option<v1::ErrorSpread> {
    errors.sort_by(f64::total_cmp);
    let at = |tenths: usize| {
        let rank = (errors.len() * tenths).div_ceil(10);
        errors.get(rank.checked_sub(1)?).copied()
    };
    Some(v1::ErrorSpread {
        p50: at(5)?,
        p90: at(9)?,
        count: i64::try_from(errors.len()).unwrap_or(i64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use plimsoll_model::NodeId;
    use plimsoll_store::Document;

    use super::*;
    use crate::scene::Scene;

    fn keep(scene: &Scene, ends: (NodeId, NodeId), error: f64, end: v1::MigrationEnd) {
        let completed = end == v1::MigrationEnd::Completed;
        let baseline = v1::Baseline {
            name: "seed-formula".to_owned(),
            converges: true,
            total_ms: Some(15_000.0),
            ..v1::Baseline::default()
        };
        let migration = v1::Migration {
            source_node_id: ends.0.as_bytes().to_vec(),
            target_node_id: ends.1.as_bytes().to_vec(),
            prediction: Some(v1::EstimateMigrationResponse {
                baselines: vec![baseline],
                ..v1::EstimateMigrationResponse::default()
            }),
            outcome: Some(v1::MigrationEnded {
                end: end.into(),
                total_ms: Some(10_000),
                ..v1::MigrationEnded::default()
            }),
            error: Some(v1::MigrationError {
                total_error_ratio: completed.then_some(error),
                total_within_bounds: completed.then_some(error.abs() < 0.1),
                verdict_right: Some(true),
                ..v1::MigrationError::default()
            }),
            ..v1::Migration::default()
        };
        scene.pass(60);
        let document = Document {
            kind: DOCUMENT_MIGRATION,
            key: scene.now().millis().to_be_bytes().to_vec(),
            time: scene.now(),
            payload: migration.encode_to_vec(),
        };
        scene.known.store.put_document(document).unwrap();
    }

    #[test]
    fn errors_are_added_up_for_each_formula_and_each_pair_of_nodes() {
        let scene = Scene::new();
        let (a, b, c) = (NodeId::random(), NodeId::random(), NodeId::random());
        for error in [-0.02, 0.04, 0.20] {
            keep(&scene, (a, b), error, v1::MigrationEnd::Completed);
        }
        keep(&scene, (a, c), 0.0, v1::MigrationEnd::Aborted);
        let request = v1::GetModelAccuracyRequest::default();
        let told = answer(&scene.known.store, &request).unwrap();
        let overall = told.overall.unwrap();
        assert_eq!(overall.migration_count, 4);
        assert_eq!((overall.within_bounds_count, overall.bounded_count), (2, 3));
        let [own, seed] = overall.formulas.as_slice() else {
            panic!("{overall:#?}")
        };
        assert_eq!(own.name, MODEL_NAME);
        let total = own.total_error_ratio.unwrap();
        assert_eq!((total.p50, total.p90, total.count), (0.04, 0.20, 3));
        assert_eq!((own.verdict_right_count, own.broken_promise_count), (4, 0));
        assert!((seed.total_error_ratio.unwrap().p50 - 0.5).abs() < 1e-9);
        assert_eq!(
            (seed.verdict_right_count, seed.broken_promise_count),
            (3, 1)
        );
        assert_eq!(seed.downtime_error_ms, None, "it told none");
        let counts: Vec<_> = told.paths.iter().map(|path| path.migration_count).collect();
        assert_eq!(counts, [3, 1]);
        assert_eq!(told.paths[0].target_node_id, b.as_bytes());
    }

    #[test]
    fn a_span_without_migrations_has_no_errors_and_a_wrong_one_is_refused() {
        let scene = Scene::new();
        let told = answer(&scene.known.store, &v1::GetModelAccuracyRequest::default()).unwrap();
        let overall = told.overall.unwrap();
        assert!(overall.migration_count == 0 && overall.formulas.is_empty());
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let request = v1::GetModelAccuracyRequest {
            start_time: at(2),
            end_time: at(1),
        };
        let error = answer(&scene.known.store, &request).unwrap_err();
        assert!(error.to_string().contains("end_time"), "{error}");
    }
}
