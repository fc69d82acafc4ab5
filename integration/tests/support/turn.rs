//! Whose turn it is: two cores are shared by everything that tests start.
//!
//! A test that measures (a share, a latency, memory, what comes within a time) runs alone; one that only waits for
//! answers runs beside others of its kind. Which are which is the table here, by the names that the test runner gives to
//! threads; what it does not name runs alone. It decides who waits, and never whether a test passes.

use std::thread;

use tokio::sync::{Semaphore, SemaphorePermit};

/// Tests beside one another: most of the time each waits for a process to start or for an answer.
const BESIDE: u32 = 4;
/// Files, or single tests, that measure nothing and wait for nothing within less than the usual time of a test.
const PATIENT: [&str; 8] = [
    "access_log::",
    "connection_routes::",
    "filters::",
    "http::",
    "http_endings::",
    "http_upgrades::",
    "sessions::",
    "specification::",
];

/// First come, first served: a test that is to be alone is not overtaken by those that share.
static PLACES: Semaphore = Semaphore::const_new(BESIDE as usize);

/// Waits for this test's turn, which lasts as long as what is returned.
pub async fn turn() -> SemaphorePermit<'static> {
    let current = thread::current();
    let name = current.name().unwrap_or_default();
    let places = if PATIENT.iter().any(|patient| name.starts_with(patient)) { 1 } else { BESIDE };
    PLACES.acquire_many(places).await.expect("it is never closed")
}
