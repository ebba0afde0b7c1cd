//! Bounded waiting between attempts: the one place of the workspace's storage code that sleeps.

use std::time::Duration;

/// How often, and how patiently, a call is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Repetitions after the first attempt; 0 turns retries off.
    pub retries_max: u32,
    /// The first wait; each further one is twice as long.
    pub wait_first: Duration,
    /// No wait is longer.
    pub wait_max: Duration,
}

impl RetryPolicy {
    /// No repetition at all.
    pub const NONE: Self = Self {
        retries_max: 0,
        wait_first: Duration::ZERO,
        wait_max: Duration::ZERO,
    };

    /// As many repetitions as usual, with hardly any wait: for tests and simulations.
    pub const QUICK: Self = Self {
        retries_max: 5,
        wait_first: Duration::from_micros(50),
        wait_max: Duration::from_millis(1),
    };
}

impl Default for RetryPolicy {
    /// Five repetitions within some two seconds.
    fn default() -> Self {
        Self {
            retries_max: 5,
            wait_first: Duration::from_millis(50),
            wait_max: Duration::from_secs(1),
        }
    }
}

/// The waits of one call: exponential, with jitter drawn from a salt, so that callers with different
/// salts spread out and a simulation with fixed salts repeats itself.
#[derive(Debug, Clone)]
pub struct Backoff {
    policy: RetryPolicy,
    retries: u32,
    salt: u64,
}

impl Backoff {
    pub fn new(policy: RetryPolicy, salt: u64) -> Self {
        Self {
            policy,
            retries: 0,
            salt,
        }
    }

    /// Repetitions granted so far.
    pub fn retries(&self) -> u32 {
        self.retries
    }

    /// Waits before the next repetition; false, at once, when none is left.
    pub async fn wait(&mut self) -> bool {
        match self.next_wait() {
            None => false,
            Some(wait) => {
                #[expect(clippy::disallowed_methods, reason = "this is the retry seam")]
                tokio::time::sleep(wait).await;
                true
            }
        }
    }

    /// Half of the exponential wait is fixed, half is jitter.
    fn next_wait(&mut self) -> Option<Duration> {
        if self.retries >= self.policy.retries_max {
            return None;
        }
        let doubled = self
            .policy
            .wait_first
            .saturating_mul(1 << self.retries.min(16));
        self.retries += 1;
        let whole = doubled.min(self.policy.wait_max);
        let share = mix(self.salt.wrapping_add(u64::from(self.retries))) >> 48;
        Some(whole / 2 + whole.mul_f64(share as f64 / 65536.0) / 2)
    }
}

/// The finaliser of SplitMix64: spreads neighbouring numbers over all bits.
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A salt from a name.
pub(crate) fn salt_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_are_bounded_and_end() {
        let policy = RetryPolicy {
            retries_max: 6,
            wait_first: Duration::from_millis(100),
            wait_max: Duration::from_millis(500),
        };
        let mut backoff = Backoff::new(policy, 7);
        let waits: Vec<_> = std::iter::from_fn(|| backoff.next_wait()).collect();
        assert_eq!(waits.len(), 6);
        for (i, wait) in waits.iter().enumerate() {
            let whole = Duration::from_millis((100 << i).min(500));
            assert!(*wait >= whole / 2 && *wait <= whole, "wait {i} is {wait:?}");
        }
    }

    #[test]
    fn different_salts_wait_differently() {
        let first = |salt| Backoff::new(RetryPolicy::default(), salt).next_wait();
        assert_ne!(first(1), first(2));
        assert_eq!(first(1), first(1));
    }
}
