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

/// Quotient and remainder; most steps fit 32 bits, whose division takes a third of the time.
fn divided(step: u64, divisor: u64) -> (u64, u64) {
    match (u32::try_from(step), u32::try_from(divisor)) {
        (Ok(step), Ok(divisor)) => (u64::from(step / divisor), u64::from(step % divisor)),
        _ => (step / divisor, step % divisor),
    }
}

fn base_and_width(run: &[i64]) -> (i64, u32) {
    let (mut low, mut high) = (i64::MAX, i64::MIN);
    for value in run {
        low = low.min(*value);
        high = high.max(*value);
    }
    let span = high.wrapping_sub(low).cast_unsigned();
    (low, 64 - span.leading_zeros())
}

fn cost(numbers: &[i64]) -> usize {
    let of = |run: &[i64]| {
        let (base, width) = base_and_width(run);
        let base_bytes = (70 - (zigzag(base) | 1).leading_zeros()) / 7;
        1 + base_bytes as usize + (run.len() * width as usize).div_ceil(8)
    };
    numbers.chunks(RUN).map(of).sum()
}

/// Appends a column; it must hold one value at least.
pub(crate) fn encode(values: &[u64], out: &mut Vec<u8>) {
    let first = values.first().copied().unwrap_or_default();
    let mut steps: Vec<i64> = values
        .iter()
        .zip(values.iter().skip(1))
        .map(|(before, after)| after.wrapping_sub(*before).cast_signed())
        .collect();
    let mut divisor = 0;
    for step in steps.iter().filter(|step| **step != 0) {
        if divisor == 1 {
            break;
        }
        let step = step.unsigned_abs();
        if divisor == 0 || divided(step, divisor).1 != 0 {
            divisor = common_divisor(step, divisor);
        }
    }
    if divisor == 0 {
        out.push(CONSTANT);
        first.pack(out);
        return;
    }
    let common = i64::try_from(divisor).unwrap_or(1);
    if common > 1 {
        for step in steps.iter_mut().filter(|step| **step != 0) {
            let quotient = divided(step.unsigned_abs(), divisor).0.cast_signed();
            *step = if *step < 0 { -quotient } else { quotient };
        }
    }
    let mut distance = 0_i64;
    let distances: Vec<i64> = steps
        .iter()
        .map(|step| {
            distance = distance.wrapping_add(*step);
            distance
        })
        .collect();
    let mut before = 0;
    let seconds: Vec<i64> = steps
        .iter()
        .map(|step| step.wrapping_sub(std::mem::replace(&mut before, *step)))
        .collect();
    let forms = [
        (STEPS, steps),
        (STEPS_OF_STEPS, seconds),
        (DISTANCES, distances),
    ];
    let shortest = forms.iter().min_by_key(|(_, numbers)| cost(numbers));
    if let Some((form, numbers)) = shortest {
        out.push(*form);
        first.pack(out);
        common.cast_unsigned().pack(out);
        numbers.chunks(RUN).for_each(|run| pack_run(run, out));
    }
}

fn pack_run(run: &[i64], out: &mut Vec<u8>) {
    let (base, width) = base_and_width(run);
    out.push(u8::try_from(width).unwrap_or(64));
    zigzag(base).pack(out);
    if width == 0 {
        return;
    }
    let (mut bits, mut count) = (0_u128, 0_u32);
    for value in run {
        bits |= u128::from(value.wrapping_sub(base).cast_unsigned()) << count;
        count += width;
        while count >= 8 {
            out.push(bits.to_le_bytes()[0]);
            bits >>= 8;
            count -= 8;
        }
    }
    if count > 0 {
        out.push(bits.to_le_bytes()[0]);
    }
}

/// Decodes a column of `rows` values, at least one; bytes left over make it malformed.
pub(crate) fn decode(mut input: &[u8], rows: usize) -> Result<Vec<u64>, Malformed> {
    let form = u8::unpack(&mut input)?;
    let first = u64::unpack(&mut input)?;
    if form == CONSTANT {
        return input.is_empty().then(|| vec![first; rows]).ok_or(WRONG);
    }
    let divisor = u64::unpack(&mut input)?;
    let mut numbers = Vec::with_capacity(rows);
    numbers.push(0);
    while numbers.len() < rows {
        let count = RUN.min(rows - numbers.len());
        unpack_run(&mut input, count, &mut numbers)?;
    }
    if !input.is_empty() || rows == 0 {
        return Err(WRONG);
    }
    let (mut value, mut step) = (first, 0_u64);
    let restore = |number: u64| {
        match form {
            STEPS => value = value.wrapping_add(number.wrapping_mul(divisor)),
            STEPS_OF_STEPS => {
                step = step.wrapping_add(number);
                value = value.wrapping_add(step.wrapping_mul(divisor));
            }
            _ => value = first.wrapping_add(number.wrapping_mul(divisor)),
        }
        value
    };
    if matches!(form, STEPS | STEPS_OF_STEPS | DISTANCES) {
        Ok(numbers.into_iter().map(restore).collect())
    } else {
        Err(WRONG)
    }
}

fn unpack_run(input: &mut &[u8], count: usize, out: &mut Vec<u64>) -> Result<(), Malformed> {
    let width = usize::from(u8::unpack(input)?);
    if width > 64 {
        return Err(WRONG);
    }
    let base = unzigzag(u64::unpack(input)?).cast_unsigned();
    let length = (count * width).div_ceil(8);
    let (packed, rest) = input.split_at_checked(length).ok_or(CUT)?;
    *input = rest;
    // Room behind the last number, so that each is read with one load of 16 bytes.
    let mut room = [0_u8; RUN * 8 + 16];
    room.get_mut(..length).ok_or(CUT)?.copy_from_slice(packed);
    let mask = u64::MAX.checked_shr(64 - u32::from(u8::try_from(width).unwrap_or(64)));
    let mask = mask.unwrap_or(0);
    for place in 0..count {
        let bit = place * width;
        let load: &[u8; 16] = room
            .get(bit / 8..)
            .and_then(<[u8]>::first_chunk)
            .ok_or(CUT)?;
        let bits = (u128::from_le_bytes(*load) >> (bit % 8)) & u128::from(mask);
        let number = u64::try_from(bits).unwrap_or(u64::MAX);
        out.push(base.wrapping_add(number));
    }
    Ok(())
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
