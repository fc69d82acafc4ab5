//! Tests of what is known of the control plane: since when a stream is away, and snapshots that come, stay and are
//! withdrawn.

use super::*;

#[test]
fn the_first_stream_that_is_away_says_since_when() {
    let metrics = crate::metrics::Metrics::default();
    let name = "mesh_control_disconnected_since_seconds";
    let away = Away::new(metrics.gauge(name, &[]));
    let since = || -> f64 {
        let text = metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(name).map(str::trim));
        line.and_then(|number| number.parse().ok()).unwrap_or(f64::NAN)
    };
    assert_eq!(since(), 0.0);
    let first = away.one();
    let begun = since();
    assert!(begun > 1e9, "{begun}");
    let second = away.one();
    drop(first);
    assert_eq!(since(), begun, "one is still away");
    drop(second);
    assert_eq!(since(), 0.0);
}

#[test]
fn what_nobody_has_is_dropped_and_the_rest_stays() {
    let mut table = Weaks::<usize, u32>::default();
    let kept: Vec<_> = (0..100).map(|_| Arc::new(Snapshot::default())).collect();
    for (key, snapshot) in kept.iter().enumerate() {
        table.insert(key, Arc::downgrade(snapshot));
    }
    for key in 100..10_000 {
        table.insert(key, Arc::downgrade(&Arc::default()));
        assert!(table.snapshots.len() <= 2 * (kept.len() + 1), "{}", table.snapshots.len());
    }
    assert!((0..100).all(|key| table.snapshots.get(&key).and_then(Weak::upgrade).is_some()));
}

#[tokio::test(start_paused = true)]
async fn what_is_absent_is_told_at_once_and_may_come_yet() {
    let snapshot = Snapshot::default();
    assert_eq!(snapshot.wait(Duration::from_secs(1)).await, Err(Phase::Pending));
    snapshot.absent();
    let begun = tokio::time::Instant::now();
    assert_eq!(snapshot.wait(Duration::from_secs(1)).await, Err(Phase::Absent));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert!(!snapshot.is_not_found(), "it is still asked for");
    snapshot.publish(1);
    assert_eq!(snapshot.wait(Duration::from_secs(1)).await.as_deref(), Ok(&1));
    snapshot.withdraw();
    assert_eq!(snapshot.get(), None);
    assert_eq!(snapshot.wait(Duration::from_secs(1)).await, Err(Phase::Absent));
}

#[tokio::test(start_paused = true)]
async fn the_newest_value_is_taken_when_none_will_do_in_time() {
    let snapshot = Snapshot::default();
    snapshot.publish(1);
    let wait = |at_least| snapshot.wait_until(Duration::from_secs(1), move |value| *value >= at_least);
    assert_eq!(wait(1).await.as_deref(), Some(&1));
    let later = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        snapshot.publish(2);
    };
    assert_eq!(tokio::join!(wait(2), later).0.as_deref(), Some(&2));
    assert_eq!(wait(3).await.as_deref(), Some(&2));
}
