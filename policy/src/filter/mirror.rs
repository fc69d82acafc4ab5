//! Mirrors (Gateway API, `HTTPRequestMirrorFilter`).

use crate::model::BackendTarget;

/// Sends a copy of some requests to another backend; what that answers is thrown away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where the copies go. One that cannot be served gets none, and changes nothing for the request itself.
    pub target: BackendTarget,
    /// Of `denominator` requests this many are copied. At most `denominator`.
    pub numerator: u32,
    /// At least 1. `percent` is a fraction of 100.
    pub denominator: u32,
}

impl Mirror {
    /// Whether a request is copied, given 64 uniform random bits.
    pub fn picks(&self, random: u64) -> bool {
        let scaled = (u128::from(random) * u128::from(self.denominator)) >> 64;
        scaled < u128::from(self.numerator)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn mirror(numerator: u32, denominator: u32) -> Mirror {
        Mirror { target: BackendTarget::Invalid { reason: "test".into() }, numerator, denominator }
    }

    #[test]
    fn none_and_all() {
        for random in [0, 1, u64::MAX / 2, u64::MAX] {
            assert!(!mirror(0, 100).picks(random) && mirror(100, 100).picks(random) && mirror(1, 1).picks(random));
        }
    }

    proptest! {
        /// Over evenly spread chance the share is the fraction.
        #[test]
        fn the_share_is_the_fraction(denominator in 1u32..1000, part in 0.0f64..=1.0) {
            let numerator = (f64::from(denominator) * part) as u32;
            let mirror = mirror(numerator, denominator);
            let copied = (0..10_000u64).filter(|i| mirror.picks(i * (u64::MAX / 10_000))).count() as f64;
            let expected = f64::from(numerator) / f64::from(denominator) * 10_000.0;
            prop_assert!((copied - expected).abs() <= 2.0, "{copied} of 10000 for {numerator}/{denominator}");
        }
    }
}
