//! The process's memory for rows, and when reading pauses.

/// Decides between reading and pausing, with room between the two so that it does not flap.
#[derive(Debug)]
pub struct Budget {
    bytes_max: usize,
    paused: bool,
}

/// What to tell the consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Pause,
    Resume,
}

impl Budget {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            paused: false,
        }
    }

    /// From here on the largest table is flushed first.
    pub fn pressure_bytes(&self) -> usize {
        self.bytes_max / 2
    }

    /// Notes what is held now.
    pub fn note(&mut self, held: usize) -> Option<Change> {
        if !self.paused && held >= self.bytes_max {
            self.paused = true;
            Some(Change::Pause)
        } else if self.paused && held <= self.bytes_max / 4 * 3 {
            self.paused = false;
            Some(Change::Resume)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_pauses_at_the_full_budget_and_resumes_well_below() {
        let mut budget = Budget::new(100);
        assert_eq!(budget.note(99), None);
        assert_eq!(budget.note(100), Some(Change::Pause));
        assert_eq!(budget.note(90), None);
        assert_eq!(budget.note(75), Some(Change::Resume));
        assert_eq!(budget.note(90), None);
    }
}
