//! Locks by name: calls for one pod, or for one VF, come one after the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// Locks that are made when they are wanted, and go with the last who holds or awaits them.
#[derive(Default)]
pub struct Locks {
    turns: Mutex<HashMap<String, Weak<Turn<()>>>>,
}

/// A lock, held until it is dropped.
pub type Held = OwnedMutexGuard<()>;

impl Locks {
    /// Waits for the lock of this name.
    pub async fn lock(&self, name: &str) -> Held {
        self.turn(name).lock_owned().await
    }

    /// Waits for the locks of these names. They are taken in the order of their names, so that two calls
    /// never wait for each other; whoever holds a lock already asks for ones behind it only.
    pub async fn lock_all(&self, mut names: Vec<String>) -> Vec<Held> {
        names.sort();
        names.dedup();
        let mut held = Vec::new();
        for name in &names {
            held.push(self.lock(name).await);
        }
        held
    }

    fn turn(&self, name: &str) -> Arc<Turn<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(name).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Turn::new(()));
        turns.insert(name.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_name_is_held_once_and_others_are_free() {
        let locks = Locks::default();
        let held = locks.lock("a").await;
        let _other = locks.lock("b").await;
        assert!(tokio::time::timeout(Duration::from_millis(20), locks.lock("a")).await.is_err());
        drop(held);
        let _held = locks.lock_all(vec!["a".into(), "c".into(), "a".into()]).await;
        assert!(tokio::time::timeout(Duration::from_millis(20), locks.lock("c")).await.is_err());
    }

    #[tokio::test]
    async fn locks_that_nobody_holds_are_forgotten() {
        let locks = Locks::default();
        for number in 0..100 {
            drop(locks.lock(&number.to_string()).await);
        }
        assert_eq!(locks.turns.lock().unwrap().len(), 1);
    }
}
