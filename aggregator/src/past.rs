//! Lists migrations that were seen, the newest first. It judges none of them.

use plimsoll_model::{DomainId, NodeId, UnixMillis};
use plimsoll_proto::parse::{self, ParseError};
use plimsoll_proto::v1;
use plimsoll_store::Document;
use prost::Message as _;

use crate::guard::view::View;
use crate::known::Known;
use crate::page;
use crate::witness::DOCUMENT_MIGRATION;

/// Usual and largest page.
const MIGRATIONS: (usize, usize) = (100, 1_000);

/// What a caller wants to see, checked.
#[derive(Debug)]
pub struct Wanted {
    domain: Option<DomainId>,
    node: Option<NodeId>,
    from: UnixMillis,
    until: UnixMillis,
    size: usize,
    // Time and key of the last one of the page before.
    after: Option<(UnixMillis, Vec<u8>)>,
}

impl Wanted {
    /// Reads a request.
    pub fn read(request: &v1::ListMigrationsRequest) -> Result<Self, ParseError> {
        let instant = |field, at: &Option<prost_types::Timestamp>, usual| match at {
            None => Ok(UnixMillis::from_millis(usual)),
            at => parse::timestamp(field, at.as_ref()),
        };
        let from = instant("start_time", &request.start_time, i64::MIN)?;
        let until = instant("end_time", &request.end_time, i64::MAX)?;
        if until <= from {
            return Err(ParseError::new("end_time", "must lie after start_time"));
        }
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(token_read(token).ok_or_else(|| {
                ParseError::new(
                    "page_token",
                    "is none that an answer gave; leave it empty to begin",
                )
            })?),
        };
        Ok(Self {
            domain: parse::domain_id_opt("domain_id", &request.domain_id)?,
            node: parse::node_id_opt("node_id", &request.node_id)?,
            from,
            until,
            size: page::size(request.page_size, MIGRATIONS)?,
            after,
        })
    }

    fn matches(&self, migration: &v1::Migration) -> bool {
        let of_node = |node: NodeId| {
            migration.source_node_id == node.as_bytes()
                || migration.target_node_id == node.as_bytes()
        };
        self.domain
            .is_none_or(|domain| migration.domain_id == domain.as_bytes())
            && self.node.is_none_or(of_node)
    }
}

/// Returns a page and the token of the next one. A migration that begins meanwhile moves no page.
pub(crate) fn page(
    known: &Known,
    wanted: &Wanted,
    view: &View,
) -> Result<(Vec<v1::Migration>, String), ParseError> {
    let sees = |migration: &v1::Migration| {
        let domain = DomainId::from_slice(&migration.domain_id);
        view.is_all() || domain.is_ok_and(|domain| view.sees_domain(known, domain))
    };
    let mut all = known.store.documents(DOCUMENT_MIGRATION);
    all.retain(|one| wanted.from <= one.time && one.time < wanted.until);
    all.sort_by(|a, b| (b.time, &b.key).cmp(&(a.time, &a.key)));
    let mut migrations = Vec::new();
    let mut last = None;
    for document in &all {
        if let Some((time, key)) = &wanted.after
            && (document.time, &document.key) >= (*time, key)
        {
            continue;
        }
        let Ok(migration) = v1::Migration::decode(document.payload.as_slice()) else {
            tracing::error!("a migration record cannot be read");
            continue;
        };
        if !wanted.matches(&migration) || !sees(&migration) {
            continue;
        }
        if migrations.len() == wanted.size {
            return Ok((migrations, last.map(token).unwrap_or_default()));
        }
        migrations.push(migration);
        last = Some(document);
    }
    Ok((migrations, String::new()))
}

fn token(last: &Document) -> String {
    let key: Vec<String> = last.key.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}", last.time.millis(), key.concat())
}

fn token_read(token: &str) -> Option<(UnixMillis, Vec<u8>)> {
    let (time, hex) = token.split_once('-')?;
    let mut key = Vec::new();
    for at in (0..hex.len()).step_by(2) {
        key.push(u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()?);
    }
    Some((UnixMillis::from_millis(time.parse().ok()?), key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::Scene;

    fn keep(scene: &Scene, source: NodeId, target: NodeId) -> DomainId {
        let domain = DomainId::random();
        let mut key = domain.as_bytes().to_vec();
        key.extend(scene.now().millis().to_be_bytes());
        let migration = v1::Migration {
            domain_id: domain.as_bytes().to_vec(),
            source_node_id: source.as_bytes().to_vec(),
            target_node_id: target.as_bytes().to_vec(),
            start_time: Some(plimsoll_proto::render::timestamp(scene.now())),
            ..v1::Migration::default()
        };
        let document = Document {
            kind: DOCUMENT_MIGRATION,
            key,
            time: scene.now(),
            payload: migration.encode_to_vec(),
        };
        scene.known.store.put_document(document).unwrap();
        domain
    }

    fn ask(scene: &Scene, request: &v1::ListMigrationsRequest) -> (Vec<Vec<u8>>, String) {
        let wanted = Wanted::read(request).unwrap();
        let (found, token) = page(&scene.known, &wanted, &View::All).unwrap();
        (found.into_iter().map(|one| one.domain_id).collect(), token)
    }

    #[test]
    fn pages_go_back_in_time_and_a_new_migration_moves_none_of_them() {
        let scene = Scene::new();
        let (a, b) = (NodeId::random(), NodeId::random());
        let mut kept = Vec::new();
        for n in 0..5 {
            scene.pass(i64::from(n % 2));
            kept.push(keep(&scene, a, b).as_bytes().to_vec());
        }
        let mut seen = Vec::new();
        let mut request = v1::ListMigrationsRequest {
            page_size: 2,
            ..Default::default()
        };
        loop {
            let (page, token) = ask(&scene, &request);
            seen.extend(page);
            if token.is_empty() {
                break;
            }
            scene.pass(1);
            keep(&scene, a, b);
            request.page_token = token;
        }
        seen.sort();
        kept.sort();
        assert_eq!(seen, kept);
    }

    #[test]
    fn only_what_is_asked_for_is_listed() {
        let scene = Scene::new();
        let (a, b, c) = (NodeId::random(), NodeId::random(), NodeId::random());
        let first = keep(&scene, a, b).as_bytes().to_vec();
        scene.pass(60);
        let middle = scene.now();
        let second = keep(&scene, b, c).as_bytes().to_vec();
        let none = v1::ListMigrationsRequest::default();
        let by = |node: NodeId| v1::ListMigrationsRequest {
            node_id: node.as_bytes().to_vec(),
            ..none.clone()
        };
        assert_eq!(ask(&scene, &by(a)).0, vec![first.clone()]);
        assert_eq!(ask(&scene, &by(b)).0, vec![second.clone(), first.clone()]);
        let at = Some(plimsoll_proto::render::timestamp(middle));
        let since = v1::ListMigrationsRequest {
            start_time: at,
            ..none.clone()
        };
        assert_eq!(ask(&scene, &since).0, vec![second]);
        let until = v1::ListMigrationsRequest {
            end_time: at,
            domain_id: first.clone(),
            ..none
        };
        assert_eq!(ask(&scene, &until).0, vec![first]);
    }

    #[test]
    fn a_made_up_token_and_a_span_that_ends_before_it_begins_are_refused() {
        let refused = |request| Wanted::read(&request).unwrap_err().field;
        let token = v1::ListMigrationsRequest {
            page_token: "x".to_owned(),
            ..Default::default()
        };
        assert_eq!(refused(token), "page_token");
        let at = Some(prost_types::Timestamp::default());
        let span = v1::ListMigrationsRequest {
            start_time: at,
            end_time: at,
            ..Default::default()
        };
        assert_eq!(refused(span), "end_time");
    }
}
