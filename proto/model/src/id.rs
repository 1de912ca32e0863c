//! Names of things that outlive a process. No id is a bare string or number.

use std::fmt;

use uuid::Uuid;

/// Why a text or byte string is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is not a UUID in its usual form.
    #[error("{text:?} is not a UUID; write it as 8-4-4-4-12 hexadecimal digits")]
    Text {
        /// What stood there, cut to 64 characters.
        text: String,
    },
    /// The byte string is not 16 bytes long.
    #[error("an id has 16 bytes, got {length}")]
    Length {
        /// How many bytes came.
        length: usize,
    },
    /// The id is all zero, which libvirt and Nova never give out.
    #[error("an id of all zeros names nothing")]
    Nil,
}

macro_rules! uuid_ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// The lowest of all, at which a range of them begins.
            pub const LOWEST: Self = Self(Uuid::from_u128(1));

            /// Wraps 16 bytes; refuses the all-zero id.
            pub fn from_bytes(bytes: [u8; 16]) -> Result<Self, IdError> {
                if bytes == [0; 16] {
                    return Err(IdError::Nil);
                }
                Ok(Self(Uuid::from_bytes(bytes)))
            }

            /// Reads the id from a byte string of unknown length.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, IdError> {
                let bytes = <[u8; 16]>::try_from(bytes)
                    .map_err(|_| IdError::Length { length: bytes.len() })?;
                Self::from_bytes(bytes)
            }

            /// Makes a random id.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }

            /// Returns the 16 bytes of the id.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let uuid = Uuid::parse_str(text.trim())
                    .map_err(|_| IdError::Text { text: text.chars().take(64).collect() })?;
                Self::from_bytes(uuid.into_bytes())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    )*};
}

uuid_ids! {
    /// Names a compute node: libvirt's host UUID, or the machine id where libvirt is absent.
    NodeId;
    /// Names a domain: the Nova instance UUID, which is libvirt's domain UUID.
    DomainId;
    /// Names a device that is polled: made from the name its configuration gives it.
    DeviceId;
    /// Names one boot of one node: the kernel's boot id.
    BootId;
    /// Names one run of one agent process; sequence numbers count within it.
    SessionId;
}

impl DeviceId {
    /// Where names of devices are unique; drawn once, and part of every id since.
    const NAMES: Uuid = Uuid::from_u128(0x6d0f_6f2c_5c1b_4c86_9c3e_5a1c_0d2b_7e41);

    /// Returns the id of the device of a name: the same on every node that polls it.
    pub fn named(name: &str) -> Self {
        Self(Uuid::new_v5(&Self::NAMES, name.as_bytes()))
    }
}

/// Names one QEMU process of a domain: counters start again at zero with every incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation {
    /// Boot of the node in which the process lives.
    pub boot: BootId,
    /// Start of the process after that boot, as the kernel tells it, rounded down.
    pub started_ms: u64,
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}ms", self.boot, self.started_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_and_its_bytes() {
        let id = DomainId::random();
        assert_eq!(id.to_string().parse::<DomainId>(), Ok(id));
        assert_eq!(DomainId::from_slice(id.as_bytes()), Ok(id));
    }

    #[test]
    fn a_device_is_the_same_wherever_its_name_is_the_same() {
        let id = DeviceId::named("switch-1");
        assert_eq!(id, DeviceId::named("switch-1"));
        assert_ne!(id, DeviceId::named("switch-2"));
        // It is in stores and on the wire.
        assert_eq!(id.to_string(), "a8e7cab3-9da2-5d9f-972d-6b4fa68731bf");
    }

    #[test]
    fn what_is_no_id_is_refused_with_its_reason() {
        assert_eq!(
            NodeId::from_slice(&[1; 15]),
            Err(IdError::Length { length: 15 })
        );
        assert_eq!(NodeId::from_bytes([0; 16]), Err(IdError::Nil));
        let error = "not-a-uuid".parse::<DomainId>().unwrap_err();
        assert!(error.to_string().contains("\"not-a-uuid\" is not a UUID"));
    }
}
