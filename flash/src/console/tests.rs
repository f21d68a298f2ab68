use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use regex::Regex;

use super::clean::Cleaner;
use super::link::Link;
use super::*;
use crate::watch::Silent;

/// A stand-in for a card that says these parts, one after the other.
struct Says(Vec<Vec<u8>>);

impl Link for Says {
    fn read(&mut self, buffer: &mut [u8], within: Duration) -> io::Result<Option<usize>> {
        if self.0.is_empty() {
            std::thread::sleep(within);
            return Ok(None);
        }
        let part = self.0.remove(0);
        let count = part.len().min(buffer.len());
        buffer[..count].copy_from_slice(&part[..count]);
        if count < part.len() {
            self.0.insert(0, part[count..].to_vec());
        }
        Ok(Some(count))
    }

    fn write(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

fn console(parts: &[&[u8]]) -> Console<'static> {
    let parts = parts.iter().map(|part| part.to_vec()).collect();
    Console::new(Box::new(Says(parts)), &Silent, Arc::new(AtomicBool::new(false)))
}

fn short() -> Patience {
    Patience::of(Duration::from_millis(120))
}

#[test]
fn what_is_waited_for_is_found_however_it_comes() {
    let mut console = console(&[b"Hit any k", b"ey to st", b"op\r\n=> ", b""]);
    let [hit, prompt] = ["Hit any key", "(?m:^)=> \\z"].map(|text| Regex::new(text).unwrap());
    let found = console.wait(&[&prompt, &hit], short()).unwrap();
    assert_eq!((found.which, found.before.as_str(), found.matched.as_str()), (1, "", "Hit any key"));
    // The rest comes with the next wait.
    let found = console.wait(&[&prompt], short()).unwrap();
    assert_eq!(found.before, " to stop\n");
}

#[test]
fn each_wait_ends() {
    let never = Regex::new("never").unwrap();
    assert!(matches!(console(&[]).wait(&[&never], short()), Err(Broken::Silent(_))));
    let Err(Broken::Late { said, .. }) = console(&[b"one\r\ntwo\r\n"]).wait(&[&never], short()) else {
        panic!("it did not end as late")
    };
    assert_eq!(said, "one\ntwo");
    let noise = vec![0xf8; 300];
    assert!(matches!(console(&[&noise]).wait(&[&never], short()), Err(Broken::Noise { .. })));
    let mut stopped = console(&[]);
    stopped.stop.store(true, Ordering::Relaxed);
    assert!(matches!(stopped.wait(&[&never], short()), Err(Broken::Stopped)));
}

#[test]
fn of_a_card_that_does_not_stop_talking_the_end_is_kept() {
    let many = [b'x'; 4096];
    let parts: Vec<&[u8]> = (0..200).map(|_| many.as_slice()).chain([b"\n=> ".as_slice()]).collect();
    let mut console = console(&parts);
    let prompt = Regex::new("(?m:^)=> \\z").unwrap();
    let found = console.wait(&[&prompt], Patience::of(Duration::from_secs(5))).unwrap();
    assert!(found.before.len() <= KEPT && !found.before.is_empty());
}

#[test]
fn a_transfer_that_goes_on_is_a_sign_of_life() {
    #[derive(Default)]
    struct Counts(Mutex<Vec<(u64, u64)>>);
    impl Watch for Counts {
        fn step(&self, _: &str) {}
        fn notice(&self, _: &str) {}
        fn console(&self, _: &str) {}
        fn progress(&self, done: u64, total: u64) {
            self.0.lock().unwrap().push((done, total));
        }
    }
    let counts = Counts::default();
    let mut console = Console::new(Box::new(Says(Vec::new())), &counts, Arc::new(AtomicBool::new(false)));
    let sent = Arc::new(AtomicU64::new(7));
    console.follow(Some(Transfer {
        sent: Arc::clone(&sent),
        start: 7,
        last: 7,
        length: 10,
        size: 100,
        done: 1000,
        total: 2000,
    }));
    let sender = std::thread::spawn(move || {
        for _ in 0..6 {
            std::thread::sleep(Duration::from_millis(60));
            sent.fetch_add(1, Ordering::Relaxed);
        }
    });
    let started = std::time::Instant::now();
    let never = Regex::new("never").unwrap();
    let patience = Patience { silent: Duration::from_millis(200), total: Duration::from_secs(5) };
    assert!(console.wait(&[&never], patience).is_err());
    sender.join().unwrap();
    // All six bytes came before it was given up.
    assert!(started.elapsed() >= Duration::from_millis(360));
    assert_eq!(counts.0.lock().unwrap().last(), Some(&(1060, 2000)));
}

#[test]
fn escape_sequences_and_controls_are_taken_out() {
    let text = Cleaner::default().clean(b"\x1b[2J\x1b[1;32mU-Boot\x1b[0m\x08\x08 1 \r\nend\x00\xff\x1bM.");
    assert_eq!(text, "U-Boot 1 \nend?.");
}

proptest! {
    #[test]
    fn text_is_the_same_in_whatever_parts_it_comes(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0_usize..300) {
        let cut = cut.min(bytes.len());
        let mut parted = Cleaner::default();
        let text = parted.clean(&bytes[..cut]) + &parted.clean(&bytes[cut..]);
        prop_assert_eq!(&text, &Cleaner::default().clean(&bytes));
        prop_assert!(text.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()));
    }

    #[test]
    fn letters_are_never_lost(text in "[ -~\\n]{0,200}") {
        prop_assert_eq!(Cleaner::default().clean(text.as_bytes()), text);
    }

    #[test]
    fn any_bytes_end_in_a_match_or_an_error(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8)) {
        let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
        let mut console = console(&parts);
        let prompt = Regex::new("(?m:^)=> \\z").unwrap();
        let patience = Patience::of(Duration::from_millis(1));
        let _ = console.wait(&[&prompt], patience);
    }
}
