//! Prometheus' remote write, version 0.1.0: samples as protobuf under snappy. Labels are encoded once,
//! so that making requests costs little beside taking them.

use hyper::body::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::shape::{COLUMNS, GUESTS, Guest, SERIES, Size, guest_id, node_id, peer_name};

fn label(name: &str, value: &str) -> Vec<u8> {
    let mut inner = Vec::new();
    for (tag, text) in [(1, name), (2, value)] {
        encode_key(tag, WireType::LengthDelimited, &mut inner);
        encode_varint(text.len() as u64, &mut inner);
        inner.extend(text.as_bytes());
    }
    let mut out = Vec::new();
    encode_key(1, WireType::LengthDelimited, &mut out);
    encode_varint(inner.len() as u64, &mut out);
    out.extend(inner);
    out
}

/// Makes requests out of what guests do.
#[derive(Debug)]
pub(super) struct Encoder {
    names: Vec<(Vec<u8>, Vec<u8>)>,
    plain: Vec<u8>,
    samples: usize,
}

/// Samples of one guest that go into one request: instants, and the values at each.
pub(super) type Moments = Vec<(i64, [i64; COLUMNS])>;

impl Encoder {
    pub(super) fn new() -> Self {
        let part = |part: &str| match part {
            "" => Vec::new(),
            part => label("part", part),
        };
        let names = SERIES.iter().map(|(metric, of)| {
            let name = label("__name__", &peer_name(*metric));
            (name, part(of))
        });
        Self {
            names: names.collect(),
            plain: Vec::new(),
            samples: 0,
        }
    }

    /// Adds samples of a guest; labels lie in the order of their names, as the protocol asks.
    pub(super) fn push(&mut self, guest: u32, moments: &Moments) {
        let domain = label("domain", &guest_id(guest).to_string());
        let node = label("node", &node_id(guest / GUESTS).to_string());
        let sample_bytes = |at_ms: i64| 10 + encoded_len_varint(at_ms.cast_unsigned());
        let all: usize = moments
            .iter()
            .map(|(at_ms, _)| 2 + sample_bytes(*at_ms))
            .sum();
        for (column, (name, part)) in self.names.iter().enumerate() {
            let labels = name.len() + domain.len() + node.len() + part.len();
            let out = &mut self.plain;
            encode_key(1, WireType::LengthDelimited, out);
            encode_varint((labels + all) as u64, out);
            for bytes in [name, &domain, &node, part] {
                out.extend(bytes);
            }
            for (at_ms, values) in moments {
                let value = values.get(column).copied().unwrap_or_default();
                encode_key(2, WireType::LengthDelimited, out);
                encode_varint(sample_bytes(*at_ms) as u64, out);
                encode_key(1, WireType::SixtyFourBit, out);
                out.extend((value as f64).to_le_bytes());
                encode_key(2, WireType::Varint, out);
                encode_varint(at_ms.cast_unsigned(), out);
            }
        }
        self.samples += COLUMNS * moments.len();
    }

    /// Counts the samples of the request so far.
    pub(super) fn samples(&self) -> usize {
        self.samples
    }

    /// Ends the request.
    pub(super) fn take(&mut self) -> anyhow::Result<(Bytes, usize)> {
        let packed = snap::raw::Encoder::new().compress_vec(&self.plain)?;
        self.plain.clear();
        Ok((packed.into(), std::mem::take(&mut self.samples)))
    }
}

/// Goes on by some rows; returns what a request holds of them.
pub(super) fn moments(guest: &mut Guest, size: &Size, rows: std::ops::Range<u32>) -> Moments {
    rows.map(|row| {
        let late_ms = guest.step();
        (size.row_ms(row) + late_ms, guest.values)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Label {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(string, tag = "2")]
        value: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Sample {
        #[prost(double, tag = "1")]
        value: f64,
        #[prost(int64, tag = "2")]
        timestamp: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct TimeSeries {
        #[prost(message, repeated, tag = "1")]
        labels: Vec<Label>,
        #[prost(message, repeated, tag = "2")]
        samples: Vec<Sample>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct WriteRequest {
        #[prost(message, repeated, tag = "1")]
        timeseries: Vec<TimeSeries>,
    }

    #[test]
    fn a_request_is_what_the_protocol_says_and_holds_the_samples() {
        let size = Size {
            nodes: 1,
            rows: 3,
            interval_ms: 10_000,
            begin_ms: 1_700_000_000_000,
        };
        let mut encoder = Encoder::new();
        let mut guest = Guest::new(3);
        encoder.push(3, &moments(&mut guest, &size, 0..3));
        let (packed, samples) = encoder.take().unwrap();
        assert_eq!(samples, 60);
        let plain = snap::raw::Decoder::new().decompress_vec(&packed).unwrap();
        let read = <WriteRequest as prost::Message>::decode(plain.as_slice()).unwrap();
        assert_eq!(read.timeseries.len(), COLUMNS);
        for (column, series) in read.timeseries.iter().enumerate() {
            let names: Vec<&str> = series.labels.iter().map(|one| one.name.as_str()).collect();
            assert!(names.is_sorted() && names[0] == "__name__", "{names:?}");
            let samples = series.samples.iter().map(|one| (one.timestamp, one.value));
            let truth = size.truth(3, column, 0..3).into_iter();
            let truth = truth.map(|(at_ms, value)| (at_ms, value as f64));
            assert_eq!(samples.collect::<Vec<_>>(), truth.collect::<Vec<_>>());
        }
    }
}
