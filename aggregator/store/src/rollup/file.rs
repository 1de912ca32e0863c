//! A file of rollups: cells of one tier, written once, never changed, removed whole. It looks like a file
//! of blocks with other blocks in it. It is a rebuildable fact as long as the samples are there.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll_model::{Part, SeriesKey, Subject, UnixMillis};

use super::block::Cells;
use super::cell::{Cell, Tier};
use super::making::Lanes;
use crate::block::Place;
use crate::codec::{Malformed, Pack, pack_all, unpack_all};
use crate::error::{Hole, OpenError};
use crate::footer::{self, Described, Footer, Located, Told, read_footer};
use crate::frame::{self, Kind, Payload, io_error};
use crate::handles::{Handle, Lately};
use crate::sealed::check_header;

/// A stretch of time, its end not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) begin: UnixMillis,
    pub(crate) end: UnixMillis,
}

impl Span {
    pub(crate) fn millis(begin: i64, end: i64) -> Self {
        Self {
            begin: UnixMillis::from_millis(begin),
            end: UnixMillis::from_millis(end),
        }
    }

    /// Returns what both have.
    pub(crate) fn and(self, other: Self) -> Option<Self> {
        let begin = self.begin.max(other.begin);
        let end = self.end.min(other.end);
        (begin < end).then_some(Self { begin, end })
    }

    /// Returns what is left without others.
    pub(crate) fn without(self, others: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut left = vec![self];
        for other in others {
            let cut = |span: Self| {
                let before = Self {
                    end: span.end.min(other.begin),
                    ..span
                };
                let behind = Self {
                    begin: span.begin.max(other.end),
                    ..span
                };
                [before, behind]
                    .into_iter()
                    .filter(|span| span.begin < span.end)
            };
            left = left.into_iter().flat_map(cut).collect();
        }
        left
    }

    pub(crate) fn has(self, at: UnixMillis) -> bool {
        (self.begin..self.end).contains(&at)
    }
}

/// Damage in samples of which rollups were made: what they tell may not be all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    /// The damaged file, below the directory of the store.
    pub(crate) name: String,
    /// Where the damage begins.
    pub(crate) offset: u64,
    /// Which time it concerns.
    pub(crate) span: Span,
    /// Whom it concerns; absent where nobody knows.
    pub(crate) subject: Option<Subject>,
}

/// What the manifest says of a file of rollups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RollupEntry {
    /// Number in its name.
    pub(crate) id: u64,
    pub(crate) tier: Tier,
    /// Of which time it has all cells; several files may share it, with other subjects each.
    pub(crate) span: Span,
    /// Length of the file.
    pub(crate) bytes: u64,
    /// Where the footer's frame begins.
    pub(crate) footer: u64,
    /// What was damaged when it was made.
    pub(crate) lost: Vec<Lost>,
}

impl RollupEntry {
    /// Names its file below the directory of the store.
    pub(crate) fn path(&self, dir: &Path) -> PathBuf {
        let tier = dir.join("rollup").join(self.tier.name());
        tier.join(format!("{:016}.rollup", self.id))
    }
}

impl Pack for Span {
    fn pack(&self, out: &mut Vec<u8>) {
        self.begin.pack(out);
        self.end.pack(out);
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(Self {
            begin: Pack::unpack(input)?,
            end: Pack::unpack(input)?,
        })
    }
}

impl Pack for Tier {
    fn pack(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::FiveMinutes => 1,
            Self::Hour => 2,
        });
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        match u8::unpack(input)? {
            1 => Ok(Self::FiveMinutes),
            2 => Ok(Self::Hour),
            _ => Err(Malformed {
                what: "a tier is not known",
            }),
        }
    }
}

impl Pack for Lost {
    fn pack(&self, out: &mut Vec<u8>) {
        self.name.pack(out);
        self.offset.pack(out);
        self.span.pack(out);
        self.subject.pack(out);
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(Self {
            name: Pack::unpack(input)?,
            offset: Pack::unpack(input)?,
            span: Pack::unpack(input)?,
            subject: Pack::unpack(input)?,
        })
    }
}

impl Pack for RollupEntry {
    fn pack(&self, out: &mut Vec<u8>) {
        self.id.pack(out);
        self.tier.pack(out);
        self.span.pack(out);
        self.bytes.pack(out);
        self.footer.pack(out);
        pack_all(&self.lost, out);
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(Self {
            id: Pack::unpack(input)?,
            tier: Pack::unpack(input)?,
            span: Pack::unpack(input)?,
            bytes: Pack::unpack(input)?,
            footer: Pack::unpack(input)?,
            lost: unpack_all(input)?,
        })
    }
}

/// A file that somebody read lately.
#[derive(Debug)]
pub(crate) struct Opened {
    file: File,
    pub(crate) footer: Footer,
    /// The footer was damaged and made anew, from what is left of the blocks.
    pub(crate) damage: Option<Hole>,
    /// Some of the blocks are missing from it.
    pub(crate) is_partial: bool,
}

/// A file of rollups, opened when it is read.
#[derive(Debug)]
pub(crate) struct Rolled {
    pub(crate) entry: RollupEntry,
    pub(crate) path: PathBuf,
    file: Handle<Opened>,
}

impl Rolled {
    /// Names a file; what is wrong with it at first sight is noted.
    pub(crate) fn open(
        (dir, opened): (&Path, &Arc<Lately<Opened>>),
        entry: &RollupEntry,
        holes: &mut Vec<Hole>,
    ) -> Result<Self, OpenError> {
        let rolled = Self::of((dir, opened), entry.clone());
        let path = &rolled.path;
        match File::open(path) {
            Ok(file) => {
                let header = check_header(&file, path, (Kind::Rollup, entry.id))?;
                let found = file.metadata().map_err(io_error("read", path))?.len();
                let what = "the file has another length than the manifest says";
                let length = (found != entry.bytes).then(|| rolled.hole(found, what));
                holes.extend(header.into_iter().chain(length));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                holes.push(rolled.hole(0, "the file is missing"));
            }
            Err(error) => return Err(io_error("open", path)(error)),
        }
        Ok(rolled)
    }

    pub(crate) fn of((dir, opened): (&Path, &Arc<Lately<Opened>>), entry: RollupEntry) -> Self {
        Self {
            path: entry.path(dir),
            file: Handle::new(entry.id, opened),
            entry,
        }
    }

    pub(crate) fn hole(&self, offset: u64, what: &'static str) -> Hole {
        let path = self.path.clone();
        Hole { path, offset, what }
    }

    /// Opens the file and reads its footer, or makes it anew from the blocks where it is damaged.
    pub(crate) fn read(&self) -> Result<Arc<Opened>, Hole> {
        self.file.get(|| self.open_now()).map_err(|error| {
            let what = if error.kind() == std::io::ErrorKind::NotFound {
                "the file is missing"
            } else {
                "the file cannot be opened"
            };
            self.hole(0, what)
        })
    }

    fn open_now(&self) -> std::io::Result<Opened> {
        let file = File::open(&self.path)?;
        let RollupEntry { id, bytes, .. } = self.entry;
        let at = (id, bytes, self.entry.footer);
        let hole = match read_footer(&file, &self.path, at) {
            Ok(footer) => {
                return Ok(Opened {
                    file,
                    footer,
                    damage: None,
                    is_partial: false,
                });
            }
            Err(hole) => hole,
        };
        let bytes = std::fs::read(&self.path)?;
        Ok(Opened {
            footer: footer::from_blocks(id, &bytes, told_by(self.entry.tier)),
            is_partial: !footer::is_whole_before(id, &bytes, self.entry.footer),
            damage: Some(hole),
            file,
        })
    }

    /// Keeps the file readable for those who hold it, although it is about to be removed.
    pub(crate) fn pin(&self) {
        self.file.pin(|| self.open_now());
    }

    fn block(&self, opened: &Opened, block: &Located) -> Result<Payload, Hole> {
        let at = (block.offset, block.length);
        frame::read_at(&opened.file, &self.path, self.entry.id, at)
    }

    /// Reads the cells of one series that begin in a span; damage is noted.
    pub(crate) fn cells(&self, key: &SeriesKey, span: Span, holes: &mut Vec<Hole>) -> Vec<Cell> {
        let mut cells = Vec::new();
        let opened = match self.read() {
            Ok(opened) => opened,
            Err(hole) => {
                holes.push(hole);
                return cells;
            }
        };
        holes.extend(opened.damage.clone());
        let wanted = (key.metric, key.part.clone());
        let place: Place = key.subject.into();
        for block in opened.footer.blocks.get(&place).into_iter().flatten() {
            let apart = block.last < span.begin || block.first >= span.end;
            if apart || !opened.footer.columns_of(block).contains(&wanted) {
                continue;
            }
            let lanes = self.block(&opened, block).and_then(|bytes| {
                let same = |metric, part: &Part| metric == key.metric && *part == key.part;
                let lanes = Cells::parse(&bytes).and_then(|cells| cells.lanes(same));
                lanes.map_err(|error| self.hole(block.offset, error.what))
            });
            match lanes {
                Ok(lanes) => cells.extend(lanes.into_iter().flat_map(|lane| lane.cells)),
                Err(hole) => holes.push(hole),
            }
        }
        let begin = |cell: &Cell| UnixMillis::from_millis(self.entry.tier.begin(cell.number));
        cells.retain(|cell| span.has(begin(cell)));
        cells
    }

    /// Reads all cells of a subject into series; damage is noted.
    pub(crate) fn lanes(&self, place: Place, into: &mut Lanes, holes: &mut Vec<(Located, Hole)>) {
        let Ok(opened) = self.read() else { return };
        for block in opened.footer.blocks.get(&place).into_iter().flatten() {
            let lanes = self.block(&opened, block).and_then(|bytes| {
                let lanes = Cells::parse(&bytes).and_then(|cells| cells.lanes(|_, _| true));
                lanes.map_err(|error| self.hole(block.offset, error.what))
            });
            match lanes {
                Ok(lanes) => lanes.into_iter().for_each(|lane| into.add(lane)),
                Err(hole) => holes.push((block.clone(), hole)),
            }
        }
    }
}

/// Verifies every byte of a file of rollups.
pub(crate) fn check(path: &Path, entry: &RollupEntry, bytes: &[u8]) -> Result<u64, Vec<Hole>> {
    let file = Described {
        path,
        kind: Kind::Rollup,
        id: entry.id,
        length: entry.bytes,
        footer: entry.footer,
        bytes,
    };
    let read = |payload: &[u8]| {
        let lanes = Cells::parse(payload).and_then(|cells| cells.lanes(|_, _| true));
        lanes.map(drop)
    };
    footer::check(&file, read, told_by(entry.tier))
}

/// Verifies that the footer at an offset tells of the blocks that the file holds, whichever tier it is of.
pub(crate) fn tells_all(id: u64, bytes: &[u8], offset: u64) -> Result<(), &'static str> {
    let of = |tier: Tier| footer::tells_all((id, bytes, offset), told_by(tier));
    let [first, second] = Tier::ALL;
    of(first).or_else(|_| of(second))
}

/// What a block of cells of a tier tells of itself; absent where it tells nothing.
fn told_by(tier: Tier) -> impl Fn(&[u8]) -> Option<Told> {
    move |payload| {
        let cells = Cells::parse(payload).ok()?;
        let numbers = cells.numbers().unwrap_or_default();
        let at = |number: &i64| UnixMillis::from_millis(tier.begin(*number));
        Some(Told {
            place: cells.place,
            columns: cells.columns(),
            first: at(numbers.first()?),
            last: at(numbers.last()?),
            rows: numbers.len(),
        })
    }
}
