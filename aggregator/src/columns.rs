//! Readings of many series in one answer: columns of numbers, by subject. It knows no service.

use plimsoll_model::{Metric, UnixMillis};
use plimsoll_proto::columns::{SubjectColumns, ValueColumn, pack_ends};
use plimsoll_proto::parse::{self, Excess, ParseError};
use plimsoll_proto::{render, v1};
use plimsoll_store::{SeriesFilter, Store};

use crate::page;
use crate::query::filter;

/// Usual and largest number of subjects in one answer.
const SUBJECTS: (usize, usize) = (100, 1_000);
/// Readings from which on an answer takes no further subject.
const READINGS_ENOUGH: usize = 250_000;
/// Readings of one subject in one answer; with the most bytes each may take, it still fits a message.
const READINGS_MAX: usize = 400_000;

/// What is asked.
#[derive(Debug)]
pub(crate) struct Question {
    filter: SeriesFilter,
    prefix: Option<String>,
    from: UnixMillis,
    to: UnixMillis,
    size: usize,
    begin: usize,
}

impl Question {
    /// Reads a request; `now` is the end of a span that has none.
    pub(crate) fn read(
        request: v1::QueryColumnsRequest,
        now: UnixMillis,
    ) -> Result<Self, ParseError> {
        let selector = request.selector.unwrap_or_default();
        let (filter, prefix) = filter(&selector)?;
        let to = match &request.end_time {
            None => now,
            at => parse::timestamp("end_time", at.as_ref())?,
        };
        Ok(Self {
            filter,
            prefix: prefix.map(str::to_owned),
            from: parse::timestamp("start_time", request.start_time.as_ref())?,
            to,
            size: page::size(request.page_size, SUBJECTS)?,
            begin: page::begin(&request.page_token)?,
        })
    }

    /// Asks the store.
    pub(crate) fn answer(&self, store: &Store) -> Result<v1::QueryColumnsResponse, ParseError> {
        let named = |metric: Metric| match &self.prefix {
            Some(prefix) => metric.name().starts_with(prefix.as_str()),
            None => self.filter.metric.is_none_or(|wanted| wanted == metric),
        };
        let (device, port) = (self.filter.device, self.filter.port);
        let mut subjects = store.subjects(self.filter.node, self.filter.domain);
        subjects.retain(|subject| {
            (device.is_none() || subject.device() == device)
                && (port.is_none() || subject.port() == port)
        });
        let mut answer = v1::QueryColumnsResponse::default();
        let (mut readings, mut end) = (0, self.begin);
        for subject in subjects.iter().skip(self.begin).take(self.size) {
            if readings >= READINGS_ENOUGH {
                break;
            }
            let is_wanted = |metric, part: &_| {
                named(metric) && self.filter.part.as_ref().is_none_or(|one| one == part)
            };
            let span = self.from..=self.to;
            let Some(tables) = store.tables_up_to(*subject, is_wanted, span, READINGS_MAX) else {
                let problem = format!(
                    "the span holds more readings of one subject than fit an answer, {READINGS_MAX}; ask \
                     for less"
                );
                let refusal = ParseError::new("start_time", problem);
                return Err(refusal.exceeding(Excess::Answer));
            };
            let counts = tables.iter().map(plimsoll_store::Table::reading_count);
            readings += counts.sum::<usize>();
            end += 1;
            answer.subjects.extend(tables.iter().map(columns));
        }
        if end < subjects.len() {
            answer.next_page_token = end.to_string();
        }
        Ok(answer)
    }
}

fn columns(table: &plimsoll_store::Table) -> SubjectColumns {
    let widths = &table.widths_ms;
    let all_alike = widths.iter().all(|width| Some(width) == widths.first());
    let told = if all_alike { 1 } else { widths.len() };
    let widths_ms = widths.iter().take(told).copied().map(i64::from).collect();
    let column = |(series, values): (_, &Vec<u64>)| {
        ValueColumn::of(series, values.iter().map(|value| render::int(*value)))
    };
    let (domain_id, incarnation) = render::domain_of(&table.subject);
    let (first_end_time_ms, end_time_step_deltas_ms) =
        pack_ends(table.ends.iter().map(|end| end.millis()));
    SubjectColumns {
        node_id: table.subject.node().as_bytes().to_vec(),
        domain_id,
        incarnation,
        device_id: render::device_of(&table.subject),
        port_index: table.subject.port().map(render::int32),
        counting_since_time: render::counting_since(&table.subject).map(render::timestamp),
        first_end_time_ms,
        end_time_step_deltas_ms,
        widths_ms,
        columns: table
            .columns
            .iter()
            .zip(&table.values)
            .map(column)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_model::{NodeId, Subject};
    use plimsoll_proto::columns::{unpack, unpack_ends};

    use super::*;
    use crate::scene::Scene;

    fn lived(scene: &Scene) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = (0..3).map(|_| NodeId::random()).collect();
        nodes.sort();
        for round in 0..4 {
            for node in &nodes {
                let values = [
                    (Metric::HostMemFree, 100 - round),
                    (Metric::HostLoad1, round),
                ];
                let sweep = scene.sweep(Subject::Node(*node), &values);
                scene.tell(*node, vec![sweep], Vec::new(), &[]);
            }
            scene.pass(10);
        }
        nodes
    }

    fn ask(scene: &Scene, request: v1::QueryColumnsRequest) -> v1::QueryColumnsResponse {
        let request = v1::QueryColumnsRequest {
            start_time: Some(prost_types::Timestamp::default()),
            ..request
        };
        let question = Question::read(request, scene.now()).unwrap();
        question.answer(&scene.known.store).unwrap()
    }

    #[tokio::test]
    async fn a_page_of_columns_has_so_many_readings_of_one_subject() {
        use plimsoll_model::{Part, Sweep, Window};
        use plimsoll_proto::v1::query_service_server::QueryService as _;

        let scene = Scene::new();
        let (node, begin) = (NodeId::random(), scene.now());
        let parts = (0..4_000).map(|at| Part::named(&format!("d{at}")).unwrap());
        let values: Vec<_> = parts.map(|part| (Metric::HostDiskRdOps, part, 1)).collect();
        let one = [(Metric::HostMemFree, Part::whole(), 1)];
        let tell = |values: &[(Metric, Part, u64)]| {
            let sweep = Sweep {
                subject: Subject::Node(node),
                window: Window::between(scene.now(), scene.now()),
                values: values.to_vec(),
            };
            scene.tell(node, vec![sweep], Vec::new(), &[]);
            scene.pass(1);
        };
        let rounds = READINGS_MAX / values.len();
        (1..rounds).for_each(|_| tell(&values));
        let query = crate::query::Query {
            known: scene.known.clone(),
        };
        let met = &scene.known.met;
        let limit = crate::guard::limits::Limit::AnswerSamples;
        let is_answered = async || {
            let mut request = tonic::Request::new(v1::QueryColumnsRequest {
                start_time: Some(render::timestamp(begin)),
                ..v1::QueryColumnsRequest::default()
            });
            let local = crate::guard::Caller::Local;
            request.extensions_mut().insert(local);
            query.query_columns(request).await.is_ok()
        };
        tell(&values[1..]);
        assert!(is_answered().await, "one reading less");
        tell(&one);
        assert!(is_answered().await && met.count(limit) == 0, "the last one");
        tell(&one);
        assert!(!is_answered().await, "one too many");
        assert_eq!(met.count(limit), 1);
    }

    #[test]
    fn pages_hold_each_subject_once_with_its_values_as_steps() {
        let scene = Scene::new();
        let nodes = lived(&scene);
        let mut request = v1::QueryColumnsRequest {
            page_size: 2,
            ..v1::QueryColumnsRequest::default()
        };
        let mut seen = Vec::new();
        loop {
            let page = ask(&scene, request.clone());
            assert!(page.subjects.len() <= 2);
            seen.extend(page.subjects);
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        let ids: Vec<&[u8]> = seen.iter().map(|one| one.node_id.as_slice()).collect();
        let all: Vec<&[u8]> = nodes
            .iter()
            .map(|node| node.as_bytes().as_slice())
            .collect();
        assert_eq!(ids, all);
        for subject in &seen {
            assert_eq!(subject.widths_ms, [1], "all took as long");
            let first = subject.first_end_time_ms;
            let ends = unpack_ends(first, &subject.end_time_step_deltas_ms).unwrap();
            let begin = ends[0];
            assert_eq!(ends, [0, 1, 2, 3].map(|round| begin + round * 10_000));
            let columns: Vec<_> = subject
                .columns
                .iter()
                .map(|one| (one.metric.as_str(), unpack(&one.value_deltas).unwrap()))
                .collect();
            let (load, free) = (vec![0, 1, 2, 3], vec![100, 99, 98, 97]);
            assert!(columns.contains(&("host.load1", load)), "{columns:?}");
            assert!(columns.contains(&("host.mem.free", free)), "{columns:?}");
        }
    }

    #[test]
    fn a_selector_chooses_columns_and_a_span_chooses_rows() {
        let scene = Scene::new();
        let nodes = lived(&scene);
        let selector = v1::SeriesSelector {
            node_id: nodes[1].as_bytes().to_vec(),
            metric: "host.mem.*".to_owned(),
            ..v1::SeriesSelector::default()
        };
        let answer = ask(
            &scene,
            v1::QueryColumnsRequest {
                selector: Some(selector),
                end_time: Some(render::timestamp(
                    scene.now().minus(std::time::Duration::from_secs(30)),
                )),
                ..v1::QueryColumnsRequest::default()
            },
        );
        let [subject] = answer.subjects.as_slice() else {
            panic!("{answer:?}")
        };
        assert_eq!(subject.node_id, nodes[1].as_bytes());
        assert_eq!(subject.columns.len(), 1);
        let values = unpack(&subject.columns[0].value_deltas).unwrap();
        assert_eq!(values, [100, 99]);
    }

    #[test]
    fn a_request_without_a_beginning_or_with_a_made_up_page_is_refused_by_its_field() {
        let now = UnixMillis::from_millis(0);
        let refused = |request| Question::read(request, now).unwrap_err().field;
        assert_eq!(refused(v1::QueryColumnsRequest::default()), "start_time");
        let request = v1::QueryColumnsRequest {
            start_time: Some(prost_types::Timestamp::default()),
            page_token: "x".to_owned(),
            ..v1::QueryColumnsRequest::default()
        };
        assert_eq!(refused(request), "page_token");
    }
}
