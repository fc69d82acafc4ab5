//! Chance for balancing, weights and jitter: a small generator a thread owns, without a lock or a system call.
//!
//! Not for secrets: keys and nonces come from aws-lc.

use std::{
    cell::Cell,
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
#[derive(Debug)]
pub(crate) struct Random(Cell<u64>);

impl Default for Random {
    /// Seeded by the standard library's per-process random keys.
    fn default() -> Self {
        Self::seeded(RandomState::new().build_hasher().finish())
    }
}

impl Random {
    /// A generator with a known sequence, for tests.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    /// The next 64 uniform bits.
    pub(crate) fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A uniform index below `n`; 0 when `n` is 0. (Lemire's multiply-shift: bias below 2^-32 for any real `n`.)
    pub(crate) fn below(&self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// A time between half of `around` and one and a half of it, so that many proxies do not act at once.
    pub(crate) fn jitter(&self, around: Duration) -> Duration {
        around / 2 + around.mul_f64((self.next() >> 11) as f64 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_covers_its_range_evenly() {
        let random = Random::seeded(7);
        let mut seen = [0u32; 3];
        (0..30_000).for_each(|_| seen[random.below(3)] += 1);
        assert!(seen.iter().all(|&n| (9_500..10_500).contains(&n)), "{seen:?}");
        assert_eq!(random.below(0), 0);
    }

    #[test]
    fn jitter_stays_around() {
        let random = Random::seeded(1);
        for _ in 0..1_000 {
            let time = random.jitter(Duration::from_secs(1));
            assert!(time >= Duration::from_millis(500) && time <= Duration::from_millis(1_500));
        }
    }
}
