//! What a footer says: where the blocks of each subject lie in their file. Where it is damaged, it is made
//! anew from the blocks. It knows of no handles and writes no files.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use plimsoll_model::{Columns, Subject, UnixMillis};

use crate::block::{Block, Place, pack_columns, unpack_columns};
use crate::codec::{Malformed, Pack};
use crate::error::Hole;
use crate::frame::{self, Item, Items};

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

/// Makes the footer anew from what the blocks say of themselves.
pub(crate) fn footer_from_blocks(id: u64, bytes: &[u8]) -> Footer {
    let mut footer = Footer::default();
    for item in Items::new(bytes, id) {
        let Item::Frame {
            offset, payload, ..
        } = item
        else {
            continue;
        };
        let Ok(block) = Block::parse(payload) else {
            continue;
        };
        let Ok(windows) = block.windows() else {
            continue;
        };
        if let (Some(first), Some(last)) = (windows.first(), windows.last()) {
            let located = Located {
                columns: footer.number_of(&block.columns),
                length: u32::try_from(payload.len()).unwrap_or(u32::MAX),
                offset: offset as u64,
                first: first.end,
                last: last.end,
            };
            footer.blocks.entry(block.place).or_default().push(located);
            footer.samples += (windows.len() * block.columns.len()) as u64;
        }
    }
    footer
}

/// Verifies that the footer at an offset tells of the blocks that the file holds.
pub(crate) fn tells_all(id: u64, bytes: &[u8], offset: u64) -> Result<(), &'static str> {
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    let (_, payload) = frame::frame(bytes.get(from..).unwrap_or_default(), id)?;
    let told = Footer::unpack(payload).map_err(|error| error.what)?;
    if told.blocks == footer_from_blocks(id, bytes).blocks {
        Ok(())
    } else {
        Err("the footer does not tell of the same blocks as the file holds")
    }
}
