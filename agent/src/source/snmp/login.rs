//! What devices are asked with.

use plimsoll_proto::secret::Secret;

/// How messages are authenticated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Authentication {
    /// HMAC-SHA-1, for devices that know nothing better.
    Sha1,
    /// HMAC-SHA-224.
    Sha224,
    /// HMAC-SHA-256.
    #[default]
    Sha256,
    /// HMAC-SHA-384.
    Sha384,
    /// HMAC-SHA-512.
    Sha512,
}

/// How messages are encrypted. There is no DES: its salt must survive restarts, and it is broken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Privacy {
    /// AES with 128 bits.
    #[default]
    Aes128,
    /// AES with 256 bits, the key made as Blumenthal draws it.
    Aes256,
}

/// What a device is asked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// SNMPv2c: the community goes over the wire in clear.
    Community(Secret),
    /// SNMPv3 with authentication and encryption.
    User {
        /// Name of the user.
        name: String,
        /// How messages are authenticated.
        authentication: Authentication,
        /// With which password.
        authentication_password: Secret,
        /// How messages are encrypted.
        privacy: Privacy,
        /// With which password.
        privacy_password: Secret,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_shown_a_secret_by_accident() {
        let login = Login::User {
            name: "plimsoll".to_owned(),
            authentication: Authentication::default(),
            authentication_password: Secret::of("canary-one"),
            privacy: Privacy::default(),
            privacy_password: Secret::of("canary-two"),
        };
        let community = Login::Community(Secret::of("canary-three"));
        let shown = format!("{login:?} {community:?}");
        assert!(!shown.contains("canary"), "{shown}");
    }
}
