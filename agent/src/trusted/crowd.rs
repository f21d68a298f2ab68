//! A bounded number of places, of which the newest takes the oldest's where all are taken.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

/// The places, by their holders: the oldest first.
#[derive(Debug)]
pub struct Crowd {
    most: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    last: u64,
    places: VecDeque<(u64, oneshot::Sender<Infallible>)>,
}

/// A place, held until it is dropped or taken away.
#[derive(Debug)]
pub struct Place {
    number: u64,
    crowd: Arc<Crowd>,
    lost: oneshot::Receiver<Infallible>,
}

impl Crowd {
    /// So many places, all free.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: Mutex::default() })
    }

    /// Takes a place.
    pub fn enter(self: &Arc<Self>) -> Place {
        let (hold, lost) = oneshot::channel();
        let number = self.change(|held| {
            held.last += 1;
            held.places.push_back((held.last, hold));
            while held.places.len() > self.most {
                held.places.pop_front();
            }
            held.last
        });
        Place { number, crowd: Arc::clone(self), lost }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Held) -> T) -> T {
        // Nothing in here panics, and what is there holds good at any time.
        change(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Place {
    /// Waits until the place is taken away.
    pub async fn is_lost(&mut self) {
        // Nothing is ever sent: the other end goes with the place.
        let _ = (&mut self.lost).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.change(|held| held.places.retain(|(number, _)| *number != self.number));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn has_lost(place: &mut Place) -> bool {
        timeout(Duration::from_millis(20), place.is_lost()).await.is_ok()
    }

    #[tokio::test]
    async fn the_newest_pushes_out_the_oldest() {
        let crowd = Crowd::new(2);
        let (mut one, mut two) = (crowd.enter(), crowd.enter());
        assert!(!has_lost(&mut one).await && !has_lost(&mut two).await);
        let three = crowd.enter();
        assert!(has_lost(&mut one).await && !has_lost(&mut two).await);
        drop(three);
        let mut four = crowd.enter();
        assert!(!has_lost(&mut two).await && !has_lost(&mut four).await, "a place that was left is free");
        drop((one, two));
        let _five = crowd.enter();
        assert!(!has_lost(&mut four).await, "one that has lost its place frees none at its end");
    }
}
