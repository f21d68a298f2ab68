//! The end of a call: whatever it waits for, it waits until then at most.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// A moment by which something has to be done.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    start: Instant,
    end: Instant,
}

impl Deadline {
    /// So long after `start`.
    pub fn after(start: Instant, time: Duration) -> Self {
        Self { start, end: start + time }
    }

    /// An earlier end, which leaves the rest of the time to what comes after: so many hundredths of the
    /// time from the start.
    #[must_use]
    pub fn part(self, hundredths: u32) -> Self {
        let whole = self.end - self.start;
        Self { start: self.start, end: self.start + whole * hundredths / 100 }
    }

    /// The end, or so long from now where that is sooner.
    #[must_use]
    pub fn at_most(self, time: Duration) -> Self {
        Self { start: self.start, end: self.end.min(Instant::now() + time) }
    }

    /// How much time there is left; zero once it is over.
    pub fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// How much time there is in all.
    pub fn whole(self) -> Duration {
        self.end - self.start
    }

    /// Whether it is over.
    pub fn is_over(self) -> bool {
        self.left().is_zero()
    }

    /// Asks `look` again and again, with growing pauses, until it has something or time is over; it is
    /// asked at least once.
    pub fn wait_for<T>(self, mut look: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
        const LONGEST: Duration = Duration::from_millis(20);
        let mut pause = Duration::from_micros(500);
        loop {
            if let Some(found) = look()? {
                return Ok(Some(found));
            }
            if self.is_over() {
                return Ok(None);
            }
            thread::sleep(pause.min(self.left()));
            pause = (pause * 2).min(LONGEST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_before_the_whole() {
        let whole = Deadline::after(Instant::now(), Duration::from_secs(10));
        let part = whole.part(80);
        assert_eq!(part.whole(), Duration::from_secs(8));
        assert!(part.left() < whole.left());
        assert!(whole.at_most(Duration::ZERO).is_over());
        assert!(part.at_most(Duration::from_secs(20)).left() <= Duration::from_secs(8));
    }

    #[test]
    fn waiting_ends_with_the_deadline_and_asks_at_least_once() {
        let mut asked = 0;
        let over = Deadline::after(Instant::now(), Duration::ZERO);
        let found = over.wait_for(|| {
            asked += 1;
            Ok(None::<()>)
        });
        assert_eq!((found.unwrap(), asked), (None, 1));
    }

    #[test]
    fn waiting_ends_with_the_first_that_is_found() {
        let mut left = 3;
        let found = Deadline::after(Instant::now(), Duration::from_mins(1)).wait_for(|| {
            left -= 1;
            Ok((left == 0).then_some("here"))
        });
        assert_eq!(found.unwrap(), Some("here"));
    }
}
