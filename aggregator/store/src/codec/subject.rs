//! Subjects: a tag, then what names the one that is meant. Tags are on disk: never reuse one.

use plimsoll_model::{NodeId, Subject};

use super::{Malformed, Pack, malformed};

impl Pack for Subject {
    fn pack(&self, out: &mut Vec<u8>) {
        match self {
            Self::Node(node) => {
                out.push(1);
                node.pack(out);
            }
            Self::Domain {
                domain,
                node,
                incarnation,
            } => {
                out.push(2);
                domain.pack(out);
                node.pack(out);
                incarnation.pack(out);
            }
            Self::Device {
                device,
                node,
                counting_since,
            } => {
                out.push(3);
                device.pack(out);
                node.pack(out);
                counting_since.pack(out);
            }
            Self::Port {
                device,
                port,
                node,
                counting_since,
            } => {
                out.push(4);
                device.pack(out);
                port.pack(out);
                node.pack(out);
                counting_since.pack(out);
            }
        }
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        match u8::unpack(input)? {
            1 => NodeId::unpack(input).map(Self::Node),
            2 => Ok(Self::Domain {
                domain: Pack::unpack(input)?,
                node: Pack::unpack(input)?,
                incarnation: Pack::unpack(input)?,
            }),
            3 => Ok(Self::Device {
                device: Pack::unpack(input)?,
                node: Pack::unpack(input)?,
                counting_since: Pack::unpack(input)?,
            }),
            4 => Ok(Self::Port {
                device: Pack::unpack(input)?,
                port: Pack::unpack(input)?,
                node: Pack::unpack(input)?,
                counting_since: Pack::unpack(input)?,
            }),
            _ => malformed("a subject is not known"),
        }
    }
}
