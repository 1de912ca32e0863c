//! Facts that came to tell more after their bytes were released. It knows no fields: `packed!(grown: ...)`
//! lists them.

use plimsoll_model::{DomainFacts, Fact, UnixMillis};

use super::{Malformed, Pack, malformed};

/// What can tell more than its bytes of old hold.
pub(super) trait Grown {
    /// Whether it does.
    fn has_grown(&self) -> bool;
    /// Appends what is more.
    fn pack_growth(&self, out: &mut Vec<u8>);
    /// Takes what is more off the front.
    fn unpack_growth(&mut self, input: &mut &[u8]) -> Result<(), Malformed>;
}

pub(super) fn is_told<T: Default + PartialEq>(value: &T) -> bool {
    *value != T::default()
}

impl Pack for Fact {
    // A fact that tells no more than of old has its bytes of old.
    fn pack(&self, out: &mut Vec<u8>) {
        match self {
            Self::Node { seen, facts } => pack_fact([1, 3], *seen, facts, out),
            Self::Domain { seen, facts } => match &facts.project {
                None => pack_fact([2, 4], *seen, facts, out),
                project => {
                    out.push(6);
                    seen.pack(out);
                    facts.pack(out);
                    facts.pack_growth(out);
                    project.pack(out);
                }
            },
            Self::Device { seen, facts } => {
                out.push(5);
                seen.pack(out);
                facts.pack(out);
            }
        }
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        let code = u8::unpack(input)?;
        let seen = Pack::unpack(input)?;
        match code {
            1 | 3 => unpack_fact(code == 3, input).map(|facts| Self::Node { seen, facts }),
            2 | 4 => unpack_fact(code == 4, input).map(|facts| Self::Domain { seen, facts }),
            6 => {
                let mut facts: DomainFacts = unpack_fact(true, input)?;
                facts.project = Pack::unpack(input)?;
                Ok(Self::Domain { seen, facts })
            }
            5 => Pack::unpack(input).map(|facts| Self::Device { seen, facts }),
            _ => malformed("a Fact is not known"),
        }
    }
}

fn pack_fact<T: Pack + Grown>(codes: [u8; 2], seen: UnixMillis, facts: &T, out: &mut Vec<u8>) {
    let [as_of_old, grown] = codes;
    out.push(if facts.has_grown() { grown } else { as_of_old });
    seen.pack(out);
    facts.pack(out);
    if facts.has_grown() {
        facts.pack_growth(out);
    }
}

fn unpack_fact<T: Pack + Grown>(has_grown: bool, input: &mut &[u8]) -> Result<T, Malformed> {
    let mut facts = T::unpack(input)?;
    if has_grown {
        facts.unpack_growth(input)?;
    }
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use plimsoll_model::{
        BootId, DomainId, HardwareFacts, Incarnation, InterfaceFacts, NodeFacts, NodeId,
    };

    use super::*;

    fn bytes(fact: &Fact) -> Vec<u8> {
        let mut bytes = Vec::new();
        fact.pack(&mut bytes);
        bytes
    }

    #[test]
    fn a_fact_that_grew_has_a_code_of_its_own_and_one_that_did_not_the_bytes_of_old() {
        let fact = |facts: NodeFacts| Fact::Node {
            seen: UnixMillis::from_millis(1),
            facts,
        };
        let card = InterfaceFacts {
            name: "eth0".to_owned(),
            ..InterfaceFacts::default()
        };
        let plain = fact(NodeFacts {
            interfaces: vec![card.clone(), card.clone()],
            ..NodeFacts::default()
        });
        // 8 of the instant, 15 fields of one byte, and two cards of 4 + 5 bytes.
        assert_eq!(
            (bytes(&plain)[0], bytes(&plain).len()),
            (1, 1 + 8 + 15 + 16)
        );
        let grown = fact(NodeFacts {
            interfaces: vec![
                card.clone(),
                InterfaceFacts {
                    master: Some("br0".to_owned()),
                    ..card
                },
            ],
            ..NodeFacts::default()
        });
        assert_eq!(bytes(&grown)[0], 3);
        let guest = |project: Option<&str>| Fact::Domain {
            seen: UnixMillis::from_millis(1),
            facts: DomainFacts {
                domain: DomainId::random(),
                node: NodeId::random(),
                incarnation: Incarnation {
                    boot: BootId::random(),
                    started_ms: 5,
                },
                name: "web".to_owned(),
                accelerator: None,
                machine: None,
                cpu_model: None,
                vcpu_count: None,
                memory_max: None,
                huge_pages: None,
                disks: Vec::new(),
                network_cards: Vec::new(),
                host_device_count: 0,
                hardware: HardwareFacts::default(),
                project: project.map(str::to_owned),
            },
        };
        let (free, owned) = (guest(None), guest(Some("a1")));
        assert_eq!((bytes(&free)[0], bytes(&owned)[0]), (2, 6));
        for fact in [plain, grown, free, owned] {
            assert_eq!(Fact::unpack(&mut bytes(&fact).as_slice()), Ok(fact));
        }
    }
}
