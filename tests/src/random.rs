//! A small generator of random numbers: it must give the same everywhere for the same seed, not secrets.

/// The generator.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `limit`, the small ones more often: squared.
    pub fn skewed(&mut self, limit: usize) -> usize {
        let fraction = (self.number() >> 11) as f64 / (1u64 << 53) as f64;
        (fraction * fraction * limit as f64) as usize
    }

    /// Takes so many of these, or all if there are fewer, in no order.
    pub fn choose<T>(&mut self, mut from: Vec<T>, count: usize) -> Vec<T> {
        let mut chosen = Vec::new();
        while chosen.len() < count && !from.is_empty() {
            let place = (self.number() % from.len() as u64) as usize;
            chosen.push(from.swap_remove(place));
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_has_nothing_twice_and_is_the_same_for_the_same_seed() {
        let all: Vec<u32> = (0..100).collect();
        let chosen = Random::new(7).choose(all.clone(), 40);
        assert_eq!(chosen, Random::new(7).choose(all.clone(), 40));
        assert_ne!(chosen, Random::new(9).choose(all.clone(), 40));
        let mut sorted = chosen;
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 40);
        assert_eq!(Random::new(7).choose(all, 1000).len(), 100);
    }
}
