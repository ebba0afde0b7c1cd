//! A table that is another than the one that buckets were opened on.
//!
//! Buckets of one topic are looked up at different times. Between two of them the table may be
//! dropped, made again or restored; what is learned of one bucket then holds for all. Which answer
//! is the newer can't be told, and need not be: every bucket that differs looks the table up again,
//! until all have found the same.

use super::*;

impl Seats {
    /// Takes in what a lookup found, before the buckets that it was made for go on.
    pub(super) fn found(&mut self, topic: &Arc<str>, found: Found, now: Moment) {
        let now_is = match found {
            Found::Table(incarnation) => Some(incarnation),
            Found::NoTable => None,
            Found::Unknown => return,
        };
        let known = self.ledger.table(topic).map(|table| table.incarnation);
        if known.is_none_or(|known| known == now_is) {
            return;
        }
        let Some(table) = self.ledger.table_mut(topic) else {
            return;
        };
        table.incarnation = now_is;
        table.trouble = None;
        self.end_flight(topic);
        for at in self.at_work(topic) {
            self.surprised(&at, now);
        }
        self.retry(now);
    }

    /// Nobody waits for the flush under way any more: it ends at its next failure.
    pub(super) fn end_flight(&mut self, topic: &Arc<str>) {
        let Some(table) = self.ledger.table_mut(topic) else {
            return;
        };
        if table.flight.is_some() && !table.giving_way {
            table.giving_way = true;
            self.out.push(Command::GiveWay(topic.clone()));
        }
    }
}

impl Table {
    /// True where the flush under way is of the table that the name stands for now.
    pub(super) fn flight_is_current(&self) -> bool {
        let flight = self.flight.as_ref();
        flight.is_some_and(|flight| flight.of == self.incarnation)
    }
}
