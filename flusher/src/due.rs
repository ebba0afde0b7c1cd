//! What to flush now: a pure function of what each table holds.

use std::time::Duration;

/// How long a flush that was asked for waits for the markers of the table's other buckets, from
/// the first one on: they are written together, and come in by several polls. One commit then holds
/// what would be two, of which the second holds watermarks only.
pub const MARKERS_WAIT: Duration = Duration::from_millis(25);

/// Why a table is flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    Shutdown,
    Revoke,
    Request,
    Size,
    Pressure,
    Age,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Revoke => "revoke",
            Self::Request => "request",
            Self::Size => "size",
            Self::Pressure => "pressure",
            Self::Age => "age",
        }
    }

    pub const ALL: [Self; 6] = [
        Self::Shutdown,
        Self::Revoke,
        Self::Request,
        Self::Size,
        Self::Pressure,
        Self::Age,
    ];
}

/// What one table holds that no commit covers, and that is not being flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    pub bytes: usize,
    /// With what its flush will need beside them.
    pub weight: usize,
    /// Since the oldest message came in; `None` where nothing is held.
    pub age: Option<Duration>,
    /// Since the first flush marker came through.
    pub asked: Option<Duration>,
    /// No marker has come through some bucket that is read here.
    pub awaits_markers: bool,
    /// Buckets of it are being given up.
    pub leaving: bool,
    /// A flush of this table is under way: the next one waits for it.
    pub busy: bool,
}

impl Load {
    fn is_asked(&self) -> bool {
        self.asked
            .is_some_and(|since| !self.awaits_markers || since >= MARKERS_WAIT)
    }
}

/// When to flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub flush_bytes: usize,
    pub flush_age: Duration,
    /// Memory of the process over which the largest table goes first.
    pub pressure_bytes: usize,
    pub draining: bool,
}

/// The tables to flush now, with the reason. `held` is all memory of the process, flushes under way
/// included.
pub fn due(loads: &[Load], limits: &Limits, held: usize) -> Vec<(usize, Reason)> {
    let mut chosen: Vec<(usize, Reason)> = Vec::new();
    let mut rest: Vec<(usize, usize)> = Vec::new();
    for (index, load) in loads.iter().enumerate() {
        let Some(age) = load.age else { continue };
        if load.busy {
            continue;
        }
        let reason = if limits.draining {
            Some(Reason::Shutdown)
        } else if load.leaving {
            Some(Reason::Revoke)
        } else if load.is_asked() {
            Some(Reason::Request)
        } else if load.bytes >= limits.flush_bytes {
            Some(Reason::Size)
        } else if age >= limits.flush_age {
            Some(Reason::Age)
        } else {
            None
        };
        match reason {
            Some(reason) => chosen.push((index, reason)),
            None => rest.push((load.weight, index)),
        }
    }
    // What is chosen or under way will be freed; flush the largest of the rest until the remainder
    // is below the line.
    let mut staying: usize = rest.iter().map(|(weight, _)| weight).sum();
    if held >= limits.pressure_bytes {
        rest.sort_unstable_by(|a, b| b.cmp(a));
        for (weight, index) in rest {
            if staying < limits.pressure_bytes / 2 {
                break;
            }
            staying -= weight;
            chosen.push((index, Reason::Pressure));
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUIET: Load = Load {
        bytes: 10,
        weight: 10,
        age: Some(Duration::ZERO),
        asked: None,
        awaits_markers: false,
        leaving: false,
        busy: false,
    };

    fn limits() -> Limits {
        Limits {
            flush_bytes: 100,
            flush_age: Duration::from_secs(5),
            pressure_bytes: 200,
            draining: false,
        }
    }

    #[test]
    fn each_reason_shows() {
        let loads = [
            QUIET,
            Load {
                bytes: 100,
                ..QUIET
            },
            Load {
                age: Some(Duration::from_secs(5)),
                ..QUIET
            },
            Load {
                asked: Some(Duration::ZERO),
                ..QUIET
            },
            Load {
                leaving: true,
                ..QUIET
            },
            Load {
                bytes: 500,
                busy: true,
                ..QUIET
            },
            Load {
                age: None,
                bytes: 0,
                ..QUIET
            },
        ];
        let expected = vec![
            (1, Reason::Size),
            (2, Reason::Age),
            (3, Reason::Request),
            (4, Reason::Revoke),
        ];
        assert_eq!(due(&loads, &limits(), 150), expected);
        let draining = Limits {
            draining: true,
            ..limits()
        };
        let all: Vec<_> = (0..5).map(|index| (index, Reason::Shutdown)).collect();
        assert_eq!(due(&loads, &draining, 150), all);
    }

    #[test]
    fn a_flush_that_was_asked_for_waits_a_moment_for_the_other_markers() {
        let asked = |since, awaits_markers| Load {
            asked: Some(since),
            awaits_markers,
            ..QUIET
        };
        let almost = MARKERS_WAIT - Duration::from_millis(1);
        let loads = [
            asked(Duration::ZERO, true),
            asked(almost, true),
            asked(MARKERS_WAIT, true),
            asked(Duration::ZERO, false),
        ];
        let expected = vec![(2, Reason::Request), (3, Reason::Request)];
        assert_eq!(due(&loads, &limits(), 0), expected);
        // What is due anyhow does not wait.
        let loads = [Load {
            bytes: 100,
            ..asked(Duration::ZERO, true)
        }];
        assert_eq!(due(&loads, &limits(), 0), vec![(0, Reason::Size)]);
    }

    #[test]
    fn pressure_takes_the_largest_first_and_no_more_than_needed() {
        let loads: Vec<Load> = [60, 90, 80, 30]
            .map(|weight| Load { weight, ..QUIET })
            .into_iter()
            .collect();
        let chosen = due(&loads, &limits(), 260);
        assert_eq!(chosen, vec![(1, Reason::Pressure), (2, Reason::Pressure)]);
    }

    proptest! {
        #[test]
        fn under_pressure_what_stays_is_below_the_line(
            bytes in prop::collection::vec(0usize..99, 0..40),
        ) {
            let loads: Vec<Load> =
                bytes.iter().map(|&weight| Load { weight, ..QUIET }).collect();
            let held = bytes.iter().sum();
            let chosen = due(&loads, &limits(), held);
            let freed: usize = chosen.iter().map(|(index, _)| bytes[*index]).sum();
            if held >= 200 {
                prop_assert!(held - freed < 100);
            } else {
                prop_assert!(chosen.is_empty());
            }
        }
    }
}
