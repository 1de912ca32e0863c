//! What a footer says: where the blocks of each subject lie in their file, whatever is in them. Where it is
//! damaged, it is made anew from the blocks. It knows of no handles and writes no files.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use plimsoll_model::{Columns, Subject, UnixMillis};

use crate::block::{Block, Place, pack_columns, unpack_columns};
use crate::codec::{self, Malformed, Pack};
use crate::error::Hole;
use crate::frame::{self, Item, Items, Kind};

/// First byte of a footer, after a block's.
pub(crate) const TAG: u8 = 2;

/// Where a block lies and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) columns: u32,
    pub(crate) length: u32,
    pub(crate) offset: u64,
    pub(crate) first: UnixMillis,
    pub(crate) last: UnixMillis,
}

/// What a footer says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Footer {
    /// Which sets of columns there are.
    pub(crate) columns: Vec<Columns>,
    /// The blocks of each subject, in the order in which they lie.
    pub(crate) blocks: BTreeMap<Place, Vec<Located>>,
    /// Samples in all blocks.
    pub(crate) samples: u64,
}

impl Footer {
    /// Returns what the columns of a block are.
    pub(crate) fn columns_of(&self, block: &Located) -> &Columns {
        static NONE: std::sync::LazyLock<Columns> = std::sync::LazyLock::new(|| Columns::from([]));
        self.columns.get(block.columns as usize).unwrap_or(&NONE)
    }

    pub(crate) fn number_of(&mut self, columns: &Columns) -> u32 {
        // The newest sets are the likeliest.
        let known = self.columns.iter().rposition(|known| known == columns);
        let place = known.unwrap_or_else(|| {
            self.columns.push(columns.clone());
            self.columns.len() - 1
        });
        u32::try_from(place).unwrap_or(u32::MAX)
    }

    pub(crate) fn pack(&self) -> Vec<u8> {
        let mut out = vec![TAG];
        self.samples.pack(&mut out);
        (self.columns.len() as u64).pack(&mut out);
        for columns in &self.columns {
            pack_columns(columns, &mut out);
        }
        (self.blocks.len() as u64).pack(&mut out);
        for (place, blocks) in &self.blocks {
            Subject::from(*place).pack(&mut out);
            (blocks.len() as u64).pack(&mut out);
            for block in blocks {
                block.columns.pack(&mut out);
                block.length.pack(&mut out);
                block.offset.pack(&mut out);
                block.first.pack(&mut out);
                block.last.pack(&mut out);
            }
        }
        out
    }

    pub(crate) fn unpack(mut input: &[u8]) -> Result<Self, Malformed> {
        let malformed = |what| Err(Malformed { what });
        if u8::unpack(&mut input)? != TAG {
            return malformed("it is no footer");
        }
        let mut footer = Self {
            samples: u64::unpack(&mut input)?,
            ..Self::default()
        };
        for _ in 0..u64::unpack(&mut input)? {
            footer.columns.push(unpack_columns(&mut input)?);
        }
        for _ in 0..u64::unpack(&mut input)? {
            let place = Subject::unpack(&mut input)?.into();
            let count = u64::unpack(&mut input)?;
            let block = |input: &mut &[u8]| {
                Ok(Located {
                    columns: Pack::unpack(input)?,
                    length: Pack::unpack(input)?,
                    offset: Pack::unpack(input)?,
                    first: Pack::unpack(input)?,
                    last: Pack::unpack(input)?,
                })
            };
            let blocks = (0..count)
                .map(|_| block(&mut input))
                .collect::<Result<Vec<_>, _>>()?;
            let known = |block: &Located| (block.columns as usize) < footer.columns.len();
            if !blocks.iter().all(known) {
                return malformed("a block has columns that are not known");
            }
            footer.blocks.insert(place, blocks);
        }
        if input.is_empty() {
            Ok(footer)
        } else {
            malformed("bytes are left over")
        }
    }
}

/// Reads the footer of a file with this number, this length and this place of the footer.
pub(crate) fn read_footer(
    file: &File,
    path: &Path,
    (id, bytes, footer): (u64, u64, u64),
) -> Result<Footer, Hole> {
    let length = bytes.saturating_sub(footer);
    let length = length.saturating_sub(frame::HEAD_BYTES as u64);
    let at = (footer, u32::try_from(length).unwrap_or(u32::MAX));
    let payload = frame::read_at(file, path, id, at)?;
    Footer::unpack(&payload).map_err(|error| Hole {
        path: path.to_owned(),
        offset: footer,
        what: error.what,
    })
}

/// What a block tells of itself.
pub(crate) struct Told {
    pub(crate) place: Place,
    pub(crate) columns: Columns,
    /// The first instant of its rows.
    pub(crate) first: UnixMillis,
    /// The last one.
    pub(crate) last: UnixMillis,
    pub(crate) rows: usize,
}

/// What a block of samples tells of itself; absent where it tells nothing.
pub(crate) fn told_by_samples(payload: &[u8]) -> Option<Told> {
    let block = Block::parse(payload).ok()?;
    let windows = block.windows().ok()?;
    Some(Told {
        place: block.place,
        first: windows.first()?.end,
        last: windows.last()?.end,
        rows: windows.len(),
        columns: block.columns,
    })
}

/// Makes the footer of a file anew from what each of its blocks tells.
pub(crate) fn from_blocks(id: u64, bytes: &[u8], told: impl Fn(&[u8]) -> Option<Told>) -> Footer {
    let mut footer = Footer::default();
    for item in Items::new(bytes, id) {
        let Item::Frame {
            offset, payload, ..
        } = item
        else {
            continue;
        };
        if let Some(block) = told(payload) {
            let located = Located {
                columns: footer.number_of(&block.columns),
                length: u32::try_from(payload.len()).unwrap_or(u32::MAX),
                offset: offset as u64,
                first: block.first,
                last: block.last,
            };
            footer.blocks.entry(block.place).or_default().push(located);
            footer.samples += (block.rows * block.columns.len()) as u64;
        }
    }
    footer
}

/// Whether nothing is damaged before the footer of a file, so that one made anew misses no block.
pub(crate) fn is_whole_before(id: u64, bytes: &[u8], footer: u64) -> bool {
    let blocks = usize::try_from(footer).unwrap_or(usize::MAX);
    let is_hole = |item: Item<'_>| matches!(item, Item::Hole { .. });
    let blocks = bytes.get(..blocks);
    blocks.is_some_and(|blocks| !Items::new(blocks, id).any(is_hole))
}

/// Verifies that the footer at an offset tells of the blocks that the file holds, as each tells of itself.
pub(crate) fn tells_all(
    (id, bytes, offset): (u64, &[u8], u64),
    told: impl Fn(&[u8]) -> Option<Told>,
) -> Result<(), &'static str> {
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    let (_, payload) = frame::frame(bytes.get(from..).unwrap_or_default(), id)?;
    let footer = Footer::unpack(payload).map_err(|error| error.what)?;
    if footer == from_blocks(id, bytes, told) {
        Ok(())
    } else {
        Err("the footer does not tell of the same blocks as the file holds")
    }
}

/// A file of blocks as the manifest describes it, and its bytes.
pub(crate) struct Described<'a> {
    pub(crate) path: &'a Path,
    pub(crate) kind: Kind,
    pub(crate) id: u64,
    /// How long it should be.
    pub(crate) length: u64,
    /// Where its footer should begin.
    pub(crate) footer: u64,
    pub(crate) bytes: &'a [u8],
}

/// Verifies every byte of a file; each block must be read to its end, and what it tells is held against the
/// footer. Returns how many frames there are.
pub(crate) fn check(
    file: &Described<'_>,
    read: impl Fn(&[u8]) -> Result<(), Malformed>,
    told: impl Fn(&[u8]) -> Option<Told>,
) -> Result<u64, Vec<Hole>> {
    let (id, bytes) = (file.id, file.bytes);
    let mut damage: Vec<(u64, &'static str)> = Vec::new();
    if let Err(error) = frame::check_header(file.path, file.kind, id, bytes) {
        damage.push((0, codec::what_of(&error)));
    }
    if bytes.len() as u64 != file.length {
        let what = "the file has another length than the manifest says";
        damage.push((bytes.len() as u64, what));
    }
    let mut frames = 0;
    for item in Items::new(bytes, id) {
        match item {
            Item::Hole { offset, what } => damage.push((offset as u64, what)),
            Item::Frame {
                offset, payload, ..
            } => {
                frames += 1;
                let offset = offset as u64;
                if offset != file.footer
                    && let Err(error) = read(payload)
                {
                    damage.push((offset, error.what));
                }
            }
        }
    }
    if let Err(what) = tells_all((id, bytes, file.footer), told)
        && damage.iter().all(|(offset, _)| *offset != file.footer)
    {
        damage.push((file.footer, what));
    }
    let hole = |(offset, what)| Hole {
        path: file.path.to_owned(),
        offset,
        what,
    };
    if damage.is_empty() {
        Ok(frames)
    } else {
        Err(damage.into_iter().map(hole).collect())
    }
}
