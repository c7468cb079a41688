//! A stream of numbers from a seed, for choices that shall differ between nodes but not depend on a clock.

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). Not for secrets.
#[derive(Clone, Debug)]
pub struct Seed(u64);

impl Seed {
    /// A stream. The same seed gives the same numbers.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    #[must_use]
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not 0. The bias is below 2^-64 for limits up to 2^64.
    #[must_use]
    pub const fn below(&mut self, limit: u128) -> u128 {
        ((self.next_u64() as u128) << 64 | self.next_u64() as u128) % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_the_published_one() {
        let mut seed = Seed::new(1_234_567);
        assert_eq!(seed.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(seed.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn numbers_stay_below_the_limit_and_reach_all() {
        let mut seed = Seed::new(1);
        let mut seen = [false; 7];
        for _ in 0..200 {
            seen[usize::try_from(seed.below(7)).unwrap()] = true;
        }
        assert_eq!(seen, [true; 7]);
        assert_eq!(seed.below(1), 0);
    }
}
