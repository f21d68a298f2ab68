//! Every way in which Cilium can fail an ADD or a DEL: what is said of it, that it is said in time, and that no
//! endpoint and no address is left.

use proptest::prelude::*;

use super::stand_in::Fault;
use super::tests::{Bench, attachment, given, soon, text};
use super::*;

/// What becomes of an ADD when one call fails once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Becomes {
    Made,
    Later,
    Never,
}

use Becomes::{Later, Made as Succeeds, Never};

/// Every status of the API's description, and every way to give none.
const ADD: &[(&str, Fault, Becomes)] = &[
    ("GET /config", Fault::Status(429), Succeeds),
    ("GET /config", Fault::Status(500), Later),
    ("GET /config", Fault::Status(404), Never),
    ("GET /config", Fault::Lost, Succeeds),
    ("GET /config", Fault::Garbage, Later),
    ("GET /config", Fault::Huge, Succeeds),
    ("POST /ipam", Fault::Status(502), Succeeds),
    ("POST /ipam", Fault::Status(400), Never),
    ("POST /ipam", Fault::Status(500), Later),
    ("POST /ipam", Fault::Deaf, Later),
    ("POST /ipam", Fault::Lost, Later),
    ("POST /ipam", Fault::Garbage, Later),
    ("POST /ipam", Fault::Huge, Later),
    ("POST /ipam", Fault::Silent, Later),
    ("POST /ipam", Fault::Slow, Later),
    ("PUT /endpoint/{id}", Fault::Status(400), Never),
    ("PUT /endpoint/{id}", Fault::Status(409), Succeeds),
    ("PUT /endpoint/{id}", Fault::Status(429), Succeeds),
    ("PUT /endpoint/{id}", Fault::Status(500), Later),
    ("PUT /endpoint/{id}", Fault::Status(503), Succeeds),
    ("PUT /endpoint/{id}", Fault::Deaf, Succeeds),
    ("PUT /endpoint/{id}", Fault::Lost, Succeeds),
    ("PUT /endpoint/{id}", Fault::Garbage, Succeeds),
    ("PUT /endpoint/{id}", Fault::Huge, Succeeds),
    ("PUT /endpoint/{id}", Fault::Silent, Later),
    ("PUT /endpoint/{id}", Fault::Slow, Later),
];

#[tokio::test]
async fn each_failure_of_an_add_is_said_in_time_and_leaves_nothing() {
    const TIME: Duration = Duration::from_millis(1500);
    for (call, fault, becomes) in ADD {
        let case = format!("{fault:?} at {call}");
        let bench = Bench::new();
        bench.stand_in.books().once.insert(call, *fault);
        let begun = Instant::now();
        let added = bench.cilium.add(&attachment(), begun + TIME).await.map_err(text);
        assert!(begun.elapsed() < TIME + Duration::from_millis(100), "{case}: {:?}", begun.elapsed());
        let became = match &added {
            Ok(_) => Succeeds,
            Err(text) if text.starts_with("later: ") => Later,
            Err(_) => Never,
        };
        assert_eq!(became, *becomes, "{case}: {added:?}");
        bench.cilium.settle().await;
        if let Ok(made) = added {
            bench.cilium.check(&attachment(), &made, soon()).await.map_err(text).unwrap();
            bench.cilium.del(&attachment(), Some(&made), soon()).await.map_err(text).unwrap();
        }
        bench.stand_in.assert_empty(&case);
    }
}

/// The same for a DEL; none where it succeeds.
const DEL: &[(&str, Fault, Option<Becomes>)] = &[
    ("DELETE /endpoint/{id}", Fault::Status(206), None),
    ("DELETE /endpoint/{id}", Fault::Status(429), None),
    ("DELETE /endpoint/{id}", Fault::Status(404), None),
    ("DELETE /endpoint/{id}", Fault::Status(400), None),
    ("DELETE /endpoint/{id}", Fault::Status(500), Some(Later)),
    ("DELETE /endpoint/{id}", Fault::Deaf, None),
    ("DELETE /endpoint/{id}", Fault::Lost, None),
    ("DELETE /endpoint/{id}", Fault::Silent, Some(Later)),
];

#[tokio::test]
async fn each_failure_of_a_del_is_said_or_made_good() {
    for (call, fault, becomes) in DEL {
        let case = format!("{fault:?} at {call}");
        let bench = Bench::new();
        let made = bench.add(&attachment()).await.unwrap();
        bench.stand_in.books().once.insert(call, *fault);
        let deadline = Instant::now() + Duration::from_millis(700);
        let gone = bench.cilium.del(&attachment(), Some(&made), deadline).await.map_err(text);
        assert_eq!(gone.is_err(), becomes.is_some(), "{case}: {gone:?}");
        if gone.is_err() || *fault == Fault::Status(404) {
            // The caller's next try, or a Cilium that said what is not so.
            bench.cilium.del(&attachment(), Some(&made), soon()).await.map_err(text).unwrap();
        }
        bench.stand_in.assert_empty(&case);
    }
}

#[tokio::test]
async fn each_failure_to_undo_is_made_good_later() {
    for fault in [
        Fault::Status(400),
        Fault::Status(429),
        Fault::Status(500),
        Fault::Deaf,
        Fault::Lost,
        Fault::Garbage,
        Fault::Slow,
    ] {
        for (call, cause) in [
            ("DELETE /ipam/{ip}", Fault::Status(400)),
            ("DELETE /ipam/{ip}", Fault::Status(500)),
            ("DELETE /endpoint/{id}", Fault::Status(500)),
            ("DELETE /endpoint/{id}", Fault::Slow),
            ("GET /healthz", Fault::Status(500)),
            ("GET /endpoint", Fault::Slow),
        ] {
            let case = format!("{fault:?} at {call} after {cause:?}");
            let bench = Bench::new();
            bench.stand_in.books().once.insert("PUT /endpoint/{id}", cause);
            bench.stand_in.books().once.insert(call, fault);
            let deadline = Instant::now() + Duration::from_millis(400);
            let added = bench.cilium.add(&attachment(), deadline).await.map_err(text);
            assert!(added.is_err(), "{case}");
            bench.cilium.settle().await;
            bench.stand_in.assert_empty(&case);
        }
    }
}

#[tokio::test]
async fn an_add_takes_over_what_is_still_being_taken_away() {
    let bench = Bench::new();
    bench.stand_in.books().once.insert("PUT /endpoint/{id}", Fault::Slow);
    bench.stand_in.books().always.insert("DELETE /endpoint/{id}", Fault::Status(500));
    let deadline = Instant::now() + Duration::from_millis(300);
    assert!(bench.cilium.add(&attachment(), deadline).await.is_err());
    let refusal = bench.add(&attachment()).await.unwrap_err();
    assert!(refusal.starts_with("later: taking away an earlier try: asking Cilium: DELETE"), "{refusal}");
    bench.stand_in.books().always.clear();
    let made = bench.add(&attachment()).await.unwrap();
    bench.cilium.settle().await;
    bench.cilium.check(&attachment(), &made, soon()).await.map_err(text).unwrap();
    bench.cilium.del(&attachment(), Some(&made), soon()).await.map_err(text).unwrap();
    bench.stand_in.assert_empty("DEL");
}

/// The kubelet gives a pod whose sandbox failed another one, at once.
#[tokio::test]
async fn what_an_earlier_sandbox_left_takes_nothing_from_the_next() {
    let bench = Bench::new();
    bench.stand_in.books().once.insert("POST /ipam", Fault::Lost);
    bench.stand_in.books().always.insert("GET /healthz", Fault::Status(500));
    let deadline = Instant::now() + Duration::from_millis(100);
    assert!(bench.cilium.add(&attachment(), deadline).await.is_err());
    bench.stand_in.books().always.clear();
    bench.stand_in.books().always.insert("PUT /endpoint/{id}", Fault::Status(429));
    let next = Attachment { container: "c02".into(), ..attachment() };
    let adding = bench.cilium.add(&next, soon());
    let waiting = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        bench.stand_in.books().always.clear();
    };
    let (added, ()) = tokio::join!(adding, waiting);
    let made = added.map_err(text).unwrap();
    bench.cilium.settle().await;
    let addresses: Vec<_> = bench.stand_in.books().addresses.keys().copied().collect();
    assert_eq!(addresses, made.ends.iter().map(|end| end.address).collect::<Vec<_>>());
    bench.cilium.del(&next, Some(&made), soon()).await.map_err(text).unwrap();
    bench.stand_in.assert_empty("DEL");
}

#[tokio::test]
async fn a_dropped_add_is_undone() {
    for fault in [Fault::Slow, Fault::Silent] {
        for call in ["POST /ipam", "PUT /endpoint/{id}"] {
            let bench = Bench::new();
            bench.stand_in.books().once.insert(call, fault);
            let dropped = tokio::time::timeout(Duration::from_millis(200), bench.add(&attachment())).await;
            assert!(dropped.is_err());
            bench.cilium.settle().await;
            bench.stand_in.assert_empty(&format!("{fault:?} at {call}"));
        }
    }
}

fn fault() -> impl Strategy<Value = Option<Fault>> {
    // A 404 for what is there would be a lie, and none of these is.
    let statuses = prop::sample::select(vec![400_u16, 409, 422, 429, 500, 502, 503]);
    prop_oneof![
        5 => Just(None),
        6 => statuses.prop_map(|status| Some(Fault::Status(status))),
        2 => Just(Some(Fault::Deaf)),
        4 => Just(Some(Fault::Lost)),
        2 => Just(Some(Fault::Garbage)),
        1 => Just(Some(Fault::Silent)),
        2 => Just(Some(Fault::Slow)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_goes_wrong_nothing_is_left(
        script in prop::collection::vec(fault(), 0..14),
        later in prop::collection::vec(fault(), 0..8),
        by_host: bool,
        drop_after in prop::option::weighted(0.3, 1_u64..60),
    ) {
        const TIME: Duration = Duration::from_millis(250);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::new();
            let attachment = if by_host { given() } else { attachment() };
            bench.stand_in.books().script = script.into();
            let begun = Instant::now();
            let adding = bench.cilium.add(&attachment, begun + TIME);
            let patience = drop_after.map_or(Duration::from_mins(1), Duration::from_millis);
            let added = tokio::time::timeout(patience, adding).await;
            let took = begun.elapsed();
            prop_assert!(took < TIME + Duration::from_millis(150), "{:?}", took);
            let made = added.ok().and_then(Result::ok);
            if made.is_none() {
                bench.cilium.settle().await;
                bench.stand_in.assert_empty("a failed ADD");
            }
            bench.stand_in.books().script.extend(later);
            // The caller tries until it hears of a success.
            let end = soon();
            loop {
                let deadline = Instant::now() + TIME;
                let gone = bench.cilium.del(&attachment, made.as_ref(), deadline).await;
                prop_assert!(Instant::now() < end, "{:?}", gone);
                if gone.is_ok() && bench.stand_in.books().script.is_empty() {
                    break;
                }
            }
            bench.cilium.settle().await;
            bench.stand_in.assert_empty("ADD and DEL");
            Ok(())
        })?;
    }
}
