//! Who holds how much of something that is bounded.
//!
//! A client may hold no more than what is free: alone it comes to half of all, with others beside
//! it to less, and whoever comes new finds something left. A client is an address and the name that
//! it gives itself: it keeps clients that err from each other, not those that lie.

use std::collections::HashMap;

/// Above this part of the whole a warning is due, and due again once less was held for a while.
const WARN_ABOVE: (usize, usize) = (8, 10);
const WARN_AGAIN_BELOW: (usize, usize) = (7, 10);

/// How much of something is held, for those who watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoordinatorUse {
    /// What it is: `groups`, `subscription_bytes`, `offset_bytes`.
    pub what: &'static str,
    pub used: usize,
    pub max: usize,
}

/// The holders of one bounded thing.
#[derive(Debug)]
pub(super) struct Shares {
    what: &'static str,
    max: usize,
    used: usize,
    held: HashMap<String, usize>,
    warned: bool,
}

/// Why a client gets no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It holds its share already.
    Share,
    /// There is nothing left, whoever asks.
    Full,
}

impl Shares {
    pub(super) fn new(what: &'static str, max: usize) -> Self {
        Self {
            what,
            max,
            used: 0,
            held: HashMap::new(),
            warned: false,
        }
    }

    /// True where a client may hold so much more.
    pub(super) fn check(&self, client: &str, more: usize) -> Result<(), Refused> {
        if more == 0 {
            return Ok(());
        }
        let free = self.max.saturating_sub(self.used);
        let held = self.held.get(client).copied().unwrap_or(0);
        let refused = if more > free {
            Refused::Full
        } else if held > free {
            Refused::Share
        } else {
            return Ok(());
        };
        tracing::warn!(
            what = self.what,
            client,
            held,
            used = self.used,
            max = self.max,
            "client gets no more of the group coordinator"
        );
        Err(refused)
    }

    /// A client holds so much now, instead of so much before.
    pub(super) fn change(&mut self, client: &str, before: usize, now: usize) {
        if before == now {
            return;
        }
        let held = match self.held.get_mut(client) {
            Some(held) => held,
            None => self.held.entry(client.to_owned()).or_default(),
        };
        *held = (*held + now).saturating_sub(before);
        if *held == 0 {
            self.held.remove(client);
        }
        self.used = (self.used + now).saturating_sub(before);
        self.watch();
    }

    pub(super) fn in_use(&self) -> CoordinatorUse {
        CoordinatorUse {
            what: self.what,
            used: self.used,
            max: self.max,
        }
    }

    fn watch(&mut self) {
        let above = |(part, of): (usize, usize)| self.used > self.max / of * part;
        if self.warned {
            self.warned = above(WARN_AGAIN_BELOW);
        } else if above(WARN_ABOVE) {
            self.warned = true;
            let most = self.held.iter().max_by_key(|(_, held)| **held);
            let (client, held) = most.map_or(("", 0), |(client, held)| (client.as_str(), *held));
            tracing::warn!(
                what = self.what,
                used = self.used,
                max = self.max,
                client,
                held,
                "the group coordinator is nearly full; the client named holds most of it"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes one after the other until there are no more.
    fn fill(shares: &mut Shares, client: &str) -> usize {
        let mut taken = 0;
        while shares.check(client, 1).is_ok() {
            shares.change(client, 0, 1);
            taken += 1;
        }
        taken
    }

    #[test]
    fn whoever_comes_new_finds_something_left() {
        let mut shares = Shares::new("things", 1_000);
        let mut before = 1_000;
        for n in 0..8 {
            let taken = fill(&mut shares, &format!("client {n}"));
            assert!(taken > 0 && taken < before, "{n}: {taken} after {before}");
            before = taken;
        }
        assert_eq!(shares.check("client 0", 1), Err(Refused::Share));
        assert_eq!(shares.check("another", 100), Err(Refused::Full));
        assert_eq!(
            shares.check("another", 0),
            Ok(()),
            "nothing more is always right"
        );
    }

    #[test]
    fn what_is_given_back_is_free_again() {
        let mut shares = Shares::new("things", 100);
        let taken = fill(&mut shares, "one");
        assert_eq!(
            taken, 51,
            "half, and the one that makes it more than what is free"
        );
        shares.change("one", taken, 0);
        assert_eq!(shares.in_use().used, 0);
        assert!(shares.held.is_empty());
        assert_eq!(fill(&mut shares, "two"), taken);
    }

    #[test]
    fn a_warning_is_given_once_until_it_is_better() {
        let mut shares = Shares::new("things", 100);
        shares.change("one", 0, 80);
        assert!(!shares.warned);
        shares.change("two", 0, 1);
        assert!(shares.warned);
        shares.change("two", 1, 0);
        shares.change("one", 80, 71);
        assert!(shares.warned);
        shares.change("one", 71, 70);
        assert!(!shares.warned);
    }
}
