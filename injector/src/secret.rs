//! The secret of a pod's probes: who knows it is kubelet, or may read the pod.
//!
//! The core of injection draws no random numbers: whoever calls it says where secrets come from ([`Secrets`]).

use std::fmt;

use rustls::crypto::aws_lc_rs;

use crate::refusal::Refusal;

/// 128 random bits, as 32 hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Where a secret comes from when a pod needs one: [`Secret::random`], but in tests.
pub type Secrets<'a> = &'a dyn Fn() -> Result<Secret, Refusal>;

impl Secret {
    /// The secret of these bits.
    pub fn new(bits: [u8; 16]) -> Self {
        Self(format!("{:032x}", u128::from_be_bytes(bits)))
    }

    /// A new one. It fails only where there is no randomness.
    pub fn random() -> Result<Self, Refusal> {
        let mut bits = [0; 16];
        aws_lc_rs::default_provider().secure_random.fill(&mut bits).map_err(|_| Refusal::NoRandomness)?;
        Ok(Self::new(bits))
    }

    /// One that was written as text before.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == 32 && text.bytes().all(is_hex)).then(|| Self(text.to_owned()))
    }

    /// As text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A log must not have it.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn secrets_differ_and_are_read_as_they_were_written() {
        let secret = Secret::random().unwrap();
        assert_ne!(secret, Secret::random().unwrap());
        assert_eq!(Secret::read(secret.as_str()), Some(secret.clone()));
        assert!(!format!("{secret:?}").contains(secret.as_str()));
        for wrong in ["", "0", &"g".repeat(32), &"A".repeat(32), &"0".repeat(33)] {
            assert_eq!(Secret::read(wrong), None);
        }
    }
}
