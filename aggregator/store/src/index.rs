//! The index: which series are sealed, which domain is where, which nodes were heard of, where each
//! document lies. It holds only what the sealed files hold too.
//!
//! It lives in sled, whose flush is no fsync: a power cut may empty or break it. So a stamp tells for
//! which manifest and with which content it was left; where that does not match, where it cannot be
//! opened, or where it panics, it is made anew from the files. On a full disk it lives in memory.

mod key;
mod map;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use plimsoll_model::{DomainId, Metric, NodeId, Part, UnixMillis};

use crate::block::Place;
use crate::codec::{Malformed, Pack, pack_all, unpack_all};
use crate::files::Files;
use crate::footer::Footer;
use crate::kept::{Kept, Placed};
use key::{place_of, subject_key};
pub(crate) use map::Broken;
use map::{Map, Tree, guarded, open_sled};

const STAMP: &[u8] = b"!";

/// A column of a subject and its newest instant.
pub(crate) type Column = (Metric, Part, UnixMillis);

impl Pack for Column {
    fn pack(&self, out: &mut Vec<u8>) {
        self.0.pack(out);
        self.1.pack(out);
        self.2.pack(out);
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok((
            Pack::unpack(input)?,
            Pack::unpack(input)?,
            Pack::unpack(input)?,
        ))
    }
}

/// Where a document lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DocumentPlace {
    pub(crate) file: u64,
    pub(crate) at: (u64, u32),
}

/// The index.
#[derive(Debug)]
pub(crate) struct Index {
    map: Map,
    // Sum over the checksums of all entries but the stamp.
    sum: Mutex<u64>,
}

fn checksum(key: &[u8], value: &[u8]) -> u64 {
    let of_key = crc32c::crc32c(key);
    let of_value = crc32c::crc32c_append(of_key, value);
    u64::from(of_value).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(of_key)
}

/// Prefix of subjects with samples, and of those of which only rollups are left.
const PRESENT: u8 = b's';
const PAST: u8 = b'p';

fn columns_of(mut value: &[u8]) -> Result<Vec<Column>, Broken> {
    Ok(unpack_all(&mut value)?)
}

impl Index {
    /// Opens the index if it is the one that was left for this manifest.
    pub(crate) fn open(dir: &Path, generation: u64) -> Result<Self, Broken> {
        let db = guarded(|| Ok(open_sled(dir)?))?;
        let map = Map::Sled(Tree(Some(db)));
        let mut sum = 0_u64;
        let mut stamp = None;
        for (key, value) in map.scan(b"")? {
            if key == STAMP {
                stamp = Some(value);
            } else {
                sum = sum.wrapping_add(checksum(&key, &value));
            }
        }
        if stamp != Some(stamp_of(generation, sum)) {
            return Err(Broken);
        }
        let sum = Mutex::new(sum);
        Ok(Self { map, sum })
    }

    /// Makes the index anew: from the footers of blocks, and from what the files of events hold.
    pub(crate) fn rebuild<'a>(
        dir: &Path,
        generation: u64,
        files: &Files,
        recalled: impl Iterator<Item = (u64, &'a [Placed])> + Clone,
    ) -> Self {
        let fill = |index: &Self| {
            for sealed in &files.blocks {
                index.add_blocks(&sealed.footer)?;
            }
            // Of what is damaged, neither the index nor anybody else knows more.
            for opened in files.rollups.iter().filter_map(|file| file.read().ok()) {
                index.add_footer(PAST, &opened.footer)?;
            }
            for (file, placed) in recalled.clone() {
                index.add_kept(file, placed)?;
            }
            index.stamp(generation)
        };
        // What cannot be removed or made, as on a full disk, lives in memory until the next start.
        if std::fs::remove_dir_all(dir).is_ok() || !dir.exists() {
            let made = guarded(|| Ok(open_sled(dir)?)).and_then(|db| {
                let index = Self::with(Map::Sled(Tree(Some(db))));
                fill(&index).map(|()| index)
            });
            if let Ok(index) = made {
                return index;
            }
        }
        let index = Self::with(Map::Memory(Mutex::default()));
        // Memory refuses nothing and holds nothing that was not just made.
        fill(&index).ok();
        index
    }

    fn with(map: Map) -> Self {
        let sum = Mutex::new(0);
        Self { map, sum }
    }

    fn put(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), Broken> {
        let before = self.map.put(key, value)?;
        let mut sum = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = before {
            *sum = sum.wrapping_sub(checksum(key, &before));
        }
        if let Some(value) = value {
            *sum = sum.wrapping_add(checksum(key, value));
        }
        Ok(())
    }

    /// Writes down for which manifest this is the index.
    pub(crate) fn stamp(&self, generation: u64) -> Result<(), Broken> {
        let sum = *self.sum.lock().unwrap_or_else(PoisonError::into_inner);
        self.map.put(STAMP, Some(&stamp_of(generation, sum)))?;
        match &self.map {
            Map::Sled(tree) => guarded(|| Ok(tree.db()?.flush().map(|_| ())?)),
            Map::Memory(_) => Ok(()),
        }
    }

    /// Adds the series of a file of blocks.
    pub(crate) fn add_blocks(&self, footer: &Footer) -> Result<(), Broken> {
        self.add_footer(PRESENT, footer)
    }

    fn add_footer(&self, prefix: u8, footer: &Footer) -> Result<(), Broken> {
        for (place, blocks) in &footer.blocks {
            let key = subject_key(prefix, *place);
            let known = self.map.get(&key)?;
            let known = known.map_or_else(|| Ok(Vec::new()), |value| columns_of(&value))?;
            let mut columns: BTreeMap<(Metric, Part), UnixMillis> = known
                .into_iter()
                .map(|(metric, part, last)| ((metric, part), last))
                .collect();
            for block in blocks {
                for column in footer.columns_of(block).iter() {
                    match columns.get_mut(column) {
                        Some(last) => *last = block.last.max(*last),
                        None => {
                            columns.insert(column.clone(), block.last);
                        }
                    }
                }
            }
            self.put_columns(
                *place,
                &key,
                columns
                    .into_iter()
                    .map(|((m, p), last)| (m, p, last))
                    .collect(),
            )?;
        }
        Ok(())
    }

    fn put_columns(&self, place: Place, key: &[u8], columns: Vec<Column>) -> Result<(), Broken> {
        let domain_key = place.domain.map(|(domain, _)| {
            let mut domain_key = vec![b'd'];
            domain_key.extend(domain.as_bytes());
            domain_key.extend(key);
            domain_key
        });
        let mut value = Vec::new();
        pack_all(&columns, &mut value);
        let stays = !columns.is_empty();
        self.put(key, stays.then_some(value.as_slice()))?;
        if let Some(domain_key) = domain_key {
            self.put(&domain_key, stays.then_some(&[]))?;
        }
        Ok(())
    }

    /// Adds the nodes and documents of a file of events.
    pub(crate) fn add_kept(&self, file: u64, placed: &[Placed]) -> Result<(), Broken> {
        for (offset, length, kept) in placed {
            match kept {
                Kept::Node(node, last) => {
                    let key = [b"n".as_slice(), node.as_bytes()].concat();
                    let before = self.map.get(&key)?;
                    let mut value = Vec::new();
                    last.pack(&mut value);
                    let newer = |before: Vec<u8>| {
                        UnixMillis::unpack(&mut before.as_slice())
                            .is_ok_and(|before| before < *last)
                    };
                    if before.is_none_or(newer) {
                        self.put(&key, Some(&value))?;
                    }
                }
                Kept::Document(document) => {
                    let key = [b"m".as_slice(), &[document.kind], &document.key].concat();
                    let mut value = Vec::new();
                    file.pack(&mut value);
                    offset.pack(&mut value);
                    length.pack(&mut value);
                    self.put(&key, Some(&value))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Forgets the documents whose file is gone.
    pub(crate) fn forget_documents(&self, is_gone: impl Fn(u64) -> bool) -> Result<(), Broken> {
        for (key, value) in self.map.scan(b"m")? {
            if is_gone(u64::unpack(&mut value.as_slice())?) {
                self.put(&key, None)?;
            }
        }
        Ok(())
    }

    /// Sets columns apart whose newest instant lies before the horizon of samples, and forgets those
    /// that lie before the oldest rollups too.
    pub(crate) fn forget_before(
        &self,
        horizon: UnixMillis,
        oldest: UnixMillis,
    ) -> Result<(), Broken> {
        let is_left = |(_, _, last): &Column| *last >= oldest;
        for (key, value) in self.map.scan(&[PRESENT])? {
            let (past, columns): (Vec<Column>, Vec<Column>) = columns_of(&value)?
                .into_iter()
                .partition(|(_, _, last)| *last < horizon);
            if past.is_empty() {
                continue;
            }
            let place = place_of(&key)?;
            self.put_columns(place, &key, columns)?;
            let key = subject_key(PAST, place);
            let known = self.map.get(&key)?;
            let mut all = known.map_or_else(|| Ok(Vec::new()), |value| columns_of(&value))?;
            let is_past = |(metric, part, _): &Column| {
                let mut past = past.iter();
                past.any(|(of, named, _)| of == metric && named == part)
            };
            all.retain(|column| !is_past(column));
            all.extend(past.iter().filter(|column| is_left(column)).cloned());
            self.put_columns(place, &key, all)?;
        }
        for (key, value) in self.map.scan(&[PAST])? {
            let mut columns = columns_of(&value)?;
            let count = columns.len();
            columns.retain(is_left);
            if columns.len() < count {
                self.put_columns(place_of(&key)?, &key, columns)?;
            }
        }
        Ok(())
    }

    /// Lists subjects with their columns: of a node, of a domain, or all; past ones where asked for.
    pub(crate) fn subjects(
        &self,
        (node, domain): (Option<NodeId>, Option<DomainId>),
        past: bool,
    ) -> Result<Vec<(Place, Vec<Column>)>, Broken> {
        let mut found = Vec::new();
        if let (None, Some(domain)) = (node, domain) {
            let prefix = [b"d".as_slice(), domain.as_bytes()].concat();
            for (key, _) in self.map.scan(&prefix)? {
                let key = key.get(prefix.len()..).ok_or(Broken)?;
                if past || key.first() != Some(&PAST) {
                    let value = self.map.get(key)?.ok_or(Broken)?;
                    found.push((place_of(key)?, columns_of(&value)?));
                }
            }
            return Ok(found);
        }
        for kind in [PRESENT, PAST].into_iter().take(1 + usize::from(past)) {
            let mut prefix = vec![kind];
            if let Some(node) = node {
                prefix.extend(node.as_bytes());
                prefix.extend(domain.iter().flat_map(|domain| domain.as_bytes()));
            }
            for (key, value) in self.map.scan(&prefix)? {
                found.push((place_of(&key)?, columns_of(&value)?));
            }
        }
        Ok(found)
    }

    /// Lists the subjects alone that have samples.
    pub(crate) fn places(
        &self,
        node: Option<NodeId>,
        domain: Option<DomainId>,
    ) -> Result<Vec<Place>, Broken> {
        let mut prefix = vec![if node.is_none() && domain.is_some() {
            b'd'
        } else {
            PRESENT
        }];
        prefix.extend(node.iter().flat_map(|node| node.as_bytes()));
        prefix.extend(domain.iter().flat_map(|domain| domain.as_bytes()));
        // The key of a subject stands behind its domain.
        let begin = if prefix.first() == Some(&PRESENT) {
            0
        } else {
            prefix.len()
        };
        let mut found = Vec::new();
        for (key, _) in self.map.scan(&prefix)? {
            let key = key.get(begin..).ok_or(Broken)?;
            if key.first() == Some(&PRESENT) {
                found.push(place_of(key)?);
            }
        }
        Ok(found)
    }

    /// Lists the columns of one subject.
    pub(crate) fn columns(&self, place: Place) -> Result<Vec<Column>, Broken> {
        let value = self.map.get(&subject_key(PRESENT, place))?;
        value.map_or_else(|| Ok(Vec::new()), |value| columns_of(&value))
    }

    /// Lists nodes and when they were last heard of.
    pub(crate) fn nodes(&self) -> Result<BTreeMap<NodeId, UnixMillis>, Broken> {
        let mut nodes = BTreeMap::new();
        for (key, value) in self.map.scan(b"n")? {
            let node = NodeId::unpack(&mut key.get(1..).unwrap_or_default())?;
            nodes.insert(node, UnixMillis::unpack(&mut value.as_slice())?);
        }
        Ok(nodes)
    }

    /// Returns when a node was last heard of.
    pub(crate) fn node(&self, node: NodeId) -> Result<Option<UnixMillis>, Broken> {
        let mut key = b"n".to_vec();
        node.pack(&mut key);
        let value = self.map.get(&key)?;
        let last = value.map(|value| UnixMillis::unpack(&mut value.as_slice()));
        Ok(last.transpose()?)
    }

    /// Lists the keys of documents of a kind and where they lie.
    pub(crate) fn documents(&self, kind: u8) -> Result<Vec<(Vec<u8>, DocumentPlace)>, Broken> {
        let mut found = Vec::new();
        for (key, value) in self.map.scan(&[b'm', kind])? {
            let mut value = value.as_slice();
            let place = DocumentPlace {
                file: Pack::unpack(&mut value)?,
                at: Pack::unpack(&mut value)?,
            };
            found.push((key.get(2..).unwrap_or_default().to_vec(), place));
        }
        Ok(found)
    }

    /// Tells whether the index lives in sled, not in memory.
    pub(crate) fn is_on_disk(&self) -> bool {
        matches!(self.map, Map::Sled(_))
    }
}

fn stamp_of(generation: u64, sum: u64) -> Vec<u8> {
    let mut stamp = generation.to_le_bytes().to_vec();
    stamp.extend(sum.to_le_bytes());
    stamp.extend(crc32c::crc32c(&stamp).to_le_bytes());
    stamp
}
