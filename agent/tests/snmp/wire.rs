//! Just enough of SNMPv2c to play a device: questions read, answers written.

use std::collections::BTreeMap;

/// Names and what stands under them.
pub(crate) type Table = BTreeMap<Vec<u32>, Value>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Integer(i64),
    Counter64(u64),
    Gauge(u32),
    Ticks(u32),
    Text(String),
    EndOfView,
    NoInstance,
}

pub(crate) const GET: u8 = 0xa0;
const GET_BULK: u8 = 0xa5;
const RESPONSE: u8 = 0xa2;

/// A question that came in.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) community: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) id: i64,
    pub(crate) repetitions: i64,
    pub(crate) names: Vec<Vec<u32>>,
}

fn take<'a>(input: &mut &'a [u8]) -> (u8, &'a [u8]) {
    let (tag, first) = (input[0], usize::from(input[1]));
    let (head, length) = if first < 0x80 {
        (2, first)
    } else {
        let count = first & 0x7f;
        let bytes = input[2..2 + count].iter();
        (
            2 + count,
            bytes.fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
        )
    };
    let body = &input[head..head + length];
    *input = &input[head + length..];
    (tag, body)
}

fn integer(bytes: &[u8]) -> i64 {
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let start = if negative { -1 } else { 0 };
    bytes
        .iter()
        .fold(start, |sum, byte| sum << 8 | i64::from(*byte))
}

fn name(bytes: &[u8]) -> Vec<u32> {
    let mut arcs = vec![u32::from(bytes[0]) / 40, u32::from(bytes[0]) % 40];
    let mut arc = 0;
    for byte in &bytes[1..] {
        arc = arc << 7 | u32::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            arcs.push(arc);
            arc = 0;
        }
    }
    arcs
}

impl Question {
    pub(crate) fn read(mut input: &[u8]) -> Self {
        let (_, mut message) = take(&mut input);
        take(&mut message);
        let (_, community) = take(&mut message);
        let (kind, mut body) = take(&mut message);
        let (_, id) = take(&mut body);
        take(&mut body);
        let (_, repetitions) = take(&mut body);
        let (_, mut list) = take(&mut body);
        let mut names = Vec::new();
        while !list.is_empty() {
            let (_, mut binding) = take(&mut list);
            names.push(name(take(&mut binding).1));
        }
        Self {
            community: community.to_vec(),
            kind,
            id: integer(id),
            repetitions: integer(repetitions),
            names,
        }
    }

    /// What an honest device says.
    pub(crate) fn bindings(&self, table: &Table) -> Vec<(Vec<u32>, Value)> {
        if self.kind != GET_BULK {
            let found = |name: &Vec<u32>| table.get(name).cloned().unwrap_or(Value::NoInstance);
            return self
                .names
                .iter()
                .map(|name| (name.clone(), found(name)))
                .collect();
        }
        let mut at = self.names.clone();
        let mut all = Vec::new();
        for _ in 0..self.repetitions {
            for name in &mut at {
                let next = table.range(name.clone()..).find(|(next, _)| *next != name);
                match next {
                    Some((next, value)) => {
                        all.push((next.clone(), value.clone()));
                        name.clone_from(next);
                    }
                    None => all.push((name.clone(), Value::EndOfView)),
                }
            }
        }
        all
    }

    /// The answer under a number, which need not be the question's.
    pub(crate) fn answer(&self, id: i64, bindings: &[(Vec<u32>, Value)]) -> Vec<u8> {
        let list: Vec<u8> = bindings
            .iter()
            .flat_map(|(name, value)| put(0x30, [rendered(name), value.put()].concat()))
            .collect();
        let body = [
            number(0x02, id),
            number(0x02, 0),
            number(0x02, 0),
            put(0x30, list),
        ]
        .concat();
        let message = [
            number(0x02, 1),
            put(0x04, self.community.clone()),
            put(RESPONSE, body),
        ];
        put(0x30, message.concat())
    }
}

fn put(tag: u8, body: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [vec![tag, 0x82], length.to_vec(), body].concat()
}

fn number(tag: u8, value: i64) -> Vec<u8> {
    let mut bytes = value.to_be_bytes().to_vec();
    let redundant = |bytes: &[u8]| {
        bytes.len() > 1
            && (bytes[0] == 0 && bytes[1] < 0x80 || bytes[0] == 0xff && bytes[1] >= 0x80)
    };
    while redundant(&bytes) {
        bytes.remove(0);
    }
    put(tag, bytes)
}

fn rendered(name: &[u32]) -> Vec<u8> {
    let mut body = vec![u8::try_from(name[0] * 40 + name[1]).unwrap()];
    for arc in &name[2..] {
        let groups = (0..5).rev().map(|group| arc >> (7 * group) & 0x7f);
        let groups: Vec<u32> = groups.skip_while(|group| *group == 0).collect();
        let last = groups.len().saturating_sub(1);
        for (place, group) in groups.iter().enumerate() {
            let more = if place < last { 0x80 } else { 0 };
            body.push(u8::try_from(*group).unwrap() | more);
        }
        if groups.is_empty() {
            body.push(0);
        }
    }
    put(0x06, body)
}

impl Value {
    fn put(&self) -> Vec<u8> {
        match self {
            Self::Integer(value) => number(0x02, *value),
            Self::Counter64(value) => {
                let value = i64::try_from(*value).unwrap();
                number(0x46, value)
            }
            Self::Gauge(value) => number(0x42, i64::from(*value)),
            Self::Ticks(value) => number(0x43, i64::from(*value)),
            Self::Text(text) => put(0x04, text.clone().into_bytes()),
            Self::EndOfView => put(0x82, Vec::new()),
            Self::NoInstance => put(0x81, Vec::new()),
        }
    }
}
