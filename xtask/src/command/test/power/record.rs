//! When what was written: how long the logs of a card's drives were, moment by moment.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};

/// How long the logs were: of U-Boot's variables, and of the disk.
pub type Moment = [u64; 2];

/// Looks at the logs until it is dropped or finished.
pub struct Recorder {
    moments: Arc<Mutex<Vec<Moment>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    pub fn start(logs: [PathBuf; 2]) -> Self {
        let moments = Arc::new(Mutex::new(Vec::new()));
        let ends = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (moments, ends) = (Arc::clone(&moments), Arc::clone(&ends));
            move || {
                let look =
                    || logs.each_ref().map(|log| fs::metadata(log).map_or(0, |metadata| metadata.len()));
                let mut last = [0, 0];
                while !ends.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                    let now = look();
                    // One that is still so a moment later was so at one time.
                    if now != last && now == look() {
                        moments.lock().unwrap_or_else(PoisonError::into_inner).push(now);
                        last = now;
                    }
                }
            }
        });
        Self { moments, ends, thread: Some(thread) }
    }

    /// How many moments there were.
    pub fn count(&self) -> usize {
        self.moments.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Ends it; all moments, in order.
    pub fn finish(mut self) -> Result<Vec<Moment>> {
        self.end()?;
        Ok(std::mem::take(&mut *self.moments.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn end(&mut self) -> Result<()> {
        self.ends.store(true, Ordering::Relaxed);
        let joined = self.thread.take().map_or(Ok(()), JoinHandle::join);
        joined.map_err(|_| anyhow!("the recorder of the logs panicked"))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
