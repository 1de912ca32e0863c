//! A column of whole numbers in few bits. Steps between neighbours are divided by what they have in
//! common (clock ticks, page sizes), then kept as they are, as steps of steps, or as distances from the
//! first value, whichever is shortest; each run of 64 has its own base and width of bits.
//!
//! Any 64-bit numbers come back as they were. Decoding believes nothing.

use crate::codec::{Malformed, Pack};

/// Numbers that share a base and a width.
const RUN: usize = 64;
const CONSTANT: u8 = 0;
const STEPS: u8 = 1;
const STEPS_OF_STEPS: u8 = 2;
const DISTANCES: u8 = 3;

const CUT: Malformed = Malformed {
    what: "a column ends too early",
};
const WRONG: Malformed = Malformed {
    what: "a column holds what no column holds",
};

fn zigzag(value: i64) -> u64 {
    (value << 1).cast_unsigned() ^ (value >> 63).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Division without remainder: one multiplication instead of a division, which takes ten times as long.
#[derive(Debug, Clone, Copy)]
struct Exact {
    /// Of the odd part of the divisor, modulo 2^64.
    inverse: u64,
    /// How often two is in the divisor.
    shift: u32,
    /// The largest quotient.
    most: u64,
}

impl Exact {
    /// Prepares for a divisor, which must not be 0.
    fn by(divisor: u64) -> Self {
        let shift = divisor.trailing_zeros();
        let odd = divisor.checked_shr(shift).unwrap_or(1);
        // Right in the lowest five bits; each turn doubles how many are.
        let mut inverse = odd.wrapping_mul(3) ^ 2;
        for _ in 0..4 {
            inverse = inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse)));
        }
        Self {
            inverse,
            shift,
            most: u64::MAX.checked_div(divisor).unwrap_or(0),
        }
    }

    fn divides(self, number: u64) -> bool {
        number.wrapping_mul(self.inverse).rotate_right(self.shift) <= self.most
    }

    /// Divides what the divisor divides.
    fn quotient(self, number: i64) -> i64 {
        let odd = (number >> self.shift).cast_unsigned();
        odd.wrapping_mul(self.inverse).cast_signed()
    }
}

/// Returns what all steps have in common; 0 where there is no step but 0.
fn divisor_of(steps: &[i64]) -> u64 {
    let mut divisor = 0;
    let mut exact = Exact::by(1);
    for step in steps.iter().filter(|step| **step != 0) {
        let step = step.unsigned_abs();
        if divisor == 0 || !exact.divides(step) {
            divisor = common_divisor(step, divisor);
            if divisor == 1 {
                break;
            }
            exact = Exact::by(divisor);
        }
    }
    divisor
}

/// The lowest and the highest of some numbers.
#[derive(Debug, Clone, Copy)]
struct Extent {
    low: i64,
    high: i64,
}

impl Extent {
    const NONE: Self = Self {
        low: i64::MAX,
        high: i64::MIN,
    };

    fn of(run: &[i64]) -> Self {
        run.iter().fold(Self::NONE, |all, number| all.with(*number))
    }

    fn with(self, number: i64) -> Self {
        Self {
            low: self.low.min(number),
            high: self.high.max(number),
        }
    }

    /// Bits of each number, counted from the lowest.
    fn width(self) -> u32 {
        64 - self
            .high
            .wrapping_sub(self.low)
            .cast_unsigned()
            .leading_zeros()
    }

    /// Bytes that so many numbers take.
    fn cost(self, count: usize) -> usize {
        let base_bytes = (70 - (zigzag(self.low) | 1).leading_zeros()) / 7;
        1 + base_bytes as usize + (count * self.width() as usize).div_ceil(8)
    }
}

/// Makes the numbers of a form out of steps, one after another.
#[derive(Debug, Default)]
struct Forms {
    before: i64,
    distance: i64,
}

impl Forms {
    fn second(&mut self, step: i64) -> i64 {
        step.wrapping_sub(std::mem::replace(&mut self.before, step))
    }

    fn distance(&mut self, step: i64) -> i64 {
        self.distance = self.distance.wrapping_add(step);
        self.distance
    }
}

/// Returns the form that takes the fewest bytes.
fn shortest(steps: &[i64]) -> u8 {
    let mut forms = Forms::default();
    let mut costs = [0; 3];
    for run in steps.chunks(RUN) {
        let mut extents = [Extent::NONE; 3];
        for step in run {
            let [plain, second, distance] = extents;
            extents = [
                plain.with(*step),
                second.with(forms.second(*step)),
                distance.with(forms.distance(*step)),
            ];
        }
        for (cost, extent) in costs.iter_mut().zip(extents) {
            *cost += extent.cost(run.len());
        }
    }
    let [plain, second, distance] = costs;
    if plain <= second.min(distance) {
        STEPS
    } else if second <= distance {
        STEPS_OF_STEPS
    } else {
        DISTANCES
    }
}

/// Appends a column; it must hold one value at least.
pub(crate) fn encode(values: &[u64], out: &mut Vec<u8>) {
    let first = values.first().copied().unwrap_or_default();
    let after = values.get(1..).unwrap_or_default();
    let mut steps: Vec<i64> = values
        .iter()
        .zip(after)
        .map(|(before, after)| after.wrapping_sub(*before).cast_signed())
        .collect();
    let divisor = divisor_of(&steps);
    if divisor == 0 {
        out.push(CONSTANT);
        first.pack(out);
        return;
    }
    // What does not fit is a step from one end of the numbers to the other, and stays as it is.
    let divisor = if divisor > i64::MAX.cast_unsigned() {
        1
    } else {
        divisor
    };
    if divisor > 1 {
        let exact = Exact::by(divisor);
        for step in &mut steps {
            *step = exact.quotient(*step);
        }
    }
    let form = shortest(&steps);
    let mut forms = Forms::default();
    match form {
        STEPS_OF_STEPS => steps
            .iter_mut()
            .for_each(|step| *step = forms.second(*step)),
        DISTANCES => steps
            .iter_mut()
            .for_each(|step| *step = forms.distance(*step)),
        _ => {}
    }
    out.push(form);
    first.pack(out);
    divisor.pack(out);
    steps.chunks(RUN).for_each(|run| pack_run(run, out));
}

fn pack_run(run: &[i64], out: &mut Vec<u8>) {
    let extent = Extent::of(run);
    let (base, width) = (extent.low, extent.width());
    out.push(u8::try_from(width).unwrap_or(64));
    zigzag(base).pack(out);
    if width == 0 {
        return;
    }
    let begin = out.len();
    let length = (run.len() * width as usize).div_ceil(8);
    // Written by whole words; what the last one has too much goes again.
    out.resize(begin + length + 8, 0);
    let (words, _) = out.get_mut(begin..).unwrap_or_default().as_chunks_mut();
    let mut words = words.iter_mut();
    let mut put = |word: u64| {
        if let Some(place) = words.next() {
            *place = word.to_le_bytes();
        }
    };
    let (mut bits, mut count) = (0_u64, 0);
    for number in run {
        let number = number.wrapping_sub(base).cast_unsigned();
        bits |= number << count;
        count += width;
        if count >= 64 {
            put(bits);
            count -= 64;
            bits = number.checked_shr(width - count).unwrap_or(0);
        }
    }
    put(bits);
    out.truncate(begin + length);
}

/// Decodes a column of `rows` values, at least one; bytes left over make it malformed.
pub(crate) fn decode(mut input: &[u8], rows: usize) -> Result<Vec<u64>, Malformed> {
    let form = u8::unpack(&mut input)?;
    let first = u64::unpack(&mut input)?;
    if form == CONSTANT {
        return input.is_empty().then(|| vec![first; rows]).ok_or(WRONG);
    }
    if !matches!(form, STEPS | STEPS_OF_STEPS | DISTANCES) || rows == 0 {
        return Err(WRONG);
    }
    let divisor = u64::unpack(&mut input)?;
    let mut values = Vec::with_capacity(rows);
    values.push(first);
    let (mut value, mut step) = (first, 0_u64);
    let mut room = Room::default();
    while values.len() < rows {
        let count = RUN.min(rows - values.len());
        let numbers = room.unpack(&mut input, count)?.iter();
        match form {
            STEPS => values.extend(numbers.map(|number| {
                value = value.wrapping_add(number.wrapping_mul(divisor));
                value
            })),
            STEPS_OF_STEPS => values.extend(numbers.map(|number| {
                step = step.wrapping_add(*number);
                value = value.wrapping_add(step.wrapping_mul(divisor));
                value
            })),
            _ => values
                .extend(numbers.map(|number| first.wrapping_add(number.wrapping_mul(divisor)))),
        }
    }
    if input.is_empty() {
        Ok(values)
    } else {
        Err(WRONG)
    }
}

/// Where one run is unpacked.
struct Room {
    /// With room behind the last number, so that each is read with one load.
    packed: [u8; RUN * 8 + 16],
    numbers: [u64; RUN],
}

impl Default for Room {
    fn default() -> Self {
        Self {
            packed: [0; RUN * 8 + 16],
            numbers: [0; RUN],
        }
    }
}

impl Room {
    /// Takes a run of `count` numbers off the front.
    fn unpack(&mut self, input: &mut &[u8], count: usize) -> Result<&[u64], Malformed> {
        let width = usize::from(u8::unpack(input)?);
        if width > 64 {
            return Err(WRONG);
        }
        let base = unzigzag(u64::unpack(input)?).cast_unsigned();
        let length = (count * width).div_ceil(8);
        let (packed, rest) = input.split_at_checked(length).ok_or(CUT)?;
        *input = rest;
        let numbers = self.numbers.get_mut(..count).ok_or(CUT)?;
        self.packed
            .get_mut(..length)
            .ok_or(CUT)?
            .copy_from_slice(packed);
        let mask = u64::MAX.checked_shr(64 - u32::from(u8::try_from(width).unwrap_or(64)));
        let mask = mask.unwrap_or(0);
        // Eight bytes hold a number of up to 57 bits, wherever in a byte it begins.
        if width <= 57 {
            for (place, number) in numbers.iter_mut().enumerate() {
                let bit = place * width;
                let load = self.packed.get(bit / 8..).and_then(<[u8]>::first_chunk);
                let bits = u64::from_le_bytes(*load.ok_or(CUT)?) >> (bit % 8);
                *number = base.wrapping_add(bits & mask);
            }
        } else {
            for (place, number) in numbers.iter_mut().enumerate() {
                let bit = place * width;
                let load = self.packed.get(bit / 8..).and_then(<[u8]>::first_chunk);
                let bits = u128::from_le_bytes(*load.ok_or(CUT)?) >> (bit % 8);
                let number_bits = u64::try_from(bits & u128::from(mask)).unwrap_or(u64::MAX);
                *number = base.wrapping_add(number_bits);
            }
        }
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round(values: &[u64]) -> usize {
        let mut bytes = Vec::new();
        encode(values, &mut bytes);
        assert_eq!(decode(&bytes, values.len()).unwrap(), values);
        bytes.len()
    }

    proptest! {
        #[test]
        fn any_numbers_come_back(values in proptest::collection::vec(any::<u64>(), 1..300)) {
            round(&values);
        }

        #[test]
        fn a_walk_comes_back(
            first: u64, factor in 1_u64..5_000_000_000, steps in proptest::collection::vec(-9_i64..90, 0..300),
        ) {
            let mut value = first;
            let walk: Vec<u64> = std::iter::once(first).chain(steps.iter().map(|step| {
                value = value.wrapping_add(step.cast_unsigned().wrapping_mul(factor));
                value
            })).collect();
            round(&walk);
        }

        #[test]
        fn any_bytes_are_a_column_or_malformed(bytes: Vec<u8>, rows in 0_usize..500) {
            if let Ok(values) = decode(&bytes, rows) {
                prop_assert_eq!(values.len(), rows);
            }
        }
    }

    #[test]
    fn the_ends_of_the_range_come_back() {
        round(&[0, u64::MAX, 0, 1 << 63, 1]);
        round(&[u64::MAX; 70]);
        round(&[7]);
    }

    #[test]
    fn a_counter_of_ticks_takes_less_than_a_byte_a_value() {
        let values: Vec<u64> = (0..720_u64)
            .map(|i| (i * 900 + i % 7) * 10_000_000)
            .collect();
        assert!(round(&values) < 720);
    }
}
