//! What restricts callers: that there is none of it is never concluded from what cannot be read.

use super::*;

const POLICIES: &str = "authorizationpolicies";

fn closed() -> Value {
    json!({"spec": {"targetRefs": [{"kind": "Pod", "selector": {}}], "action": "ALLOW", "enforcementLevel": "Network"}})
}

fn with_pod() -> Server {
    let server = with_gateway();
    let pod =
        json!({"spec": {"containers": [{"name": "mesh-proxy"}]}, "status": {"podIP": "10.0.0.1", "phase": "Running"}});
    server.put("pods", "shop", "web-0", pod);
    server
}

/// How many policies are about the pod.
fn policies(cluster: &Published) -> usize {
    cluster.snapshot.compile_workload("shop/web-0", &[]).map_or(0, |policy| policy.authorization.len())
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_who_may_call_before_all_of_it_was_read() {
    for (spoil, reason) in [(true, "Denied"), (false, "NotServed")] {
        let server = with_pod();
        server.put(POLICIES, "shop", "closed", closed());
        server.with(|state| {
            if spoil {
                state.denied = [POLICIES.to_owned()].into();
            } else {
                state.served.retain(|(.., plural)| *plural != POLICIES);
            }
        });
        let mut fixture = Fixture::start(&server);
        // Everything else is served.
        fixture.synced().await;
        fixture.until(|w| reasons(w).contains(reason)).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!fixture.published.borrow().knows_restrictions, "{reason}");
        server.with(|state| {
            state.denied.clear();
            state.served = GATEWAY.to_vec();
        });
        let seen = fixture.until(|w| w.knows_restrictions && w.problems.is_empty()).await;
        assert!(
            seen.iter().all(|w| !w.knows_restrictions || policies(w) == 1),
            "it is in force before anybody is told"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_read_stays_when_it_may_not_be_read_any_more() {
    let server = with_pod();
    server.put(POLICIES, "shop", "closed", closed());
    let mut fixture = Fixture::start(&server);
    fixture.until(|w| w.knows_restrictions).await;
    server.with(|state| {
        state.denied = [POLICIES.to_owned()].into();
        state.compacted = state.version;
        state.breaks += 1;
    });
    fixture.until(|w| reasons(w).contains("Denied")).await;
    assert_eq!(policies(&fixture.published.borrow()), 1);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_definition_opens_nothing_and_the_end_of_a_policy_does() {
    let server = with_pod();
    ["closed", "also"].iter().for_each(|name| server.put(POLICIES, "shop", name, closed()));
    let mut fixture = Fixture::start(&server);
    fixture.until(|w| w.knows_restrictions && policies(w) == 2).await;
    server.remove(POLICIES, "shop", "also");
    fixture.until(|w| policies(w) == 1).await;

    // Its objects are deleted first, each as if for itself, and then it is served no longer.
    server.with(|state| state.is_terminating = true);
    server.remove(POLICIES, "shop", "closed");
    fixture.until(|w| reasons(w).contains("NotServed")).await;
    server.with(|state| {
        state.served.retain(|(.., plural)| *plural != POLICIES);
        state.breaks += 1;
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(policies(&fixture.published.borrow()), 1, "it stays in force");

    // It is defined anew, without any policy.
    server.with(|state| {
        state.is_terminating = false;
        state.served = GATEWAY.to_vec();
    });
    fixture.until(|w| policies(w) == 0 && w.problems.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_came_back_is_not_gone() {
    let server = with_pod();
    server.put(POLICIES, "shop", "closed", closed());
    let mut fixture = Fixture::start(&server);
    fixture.until(|w| w.knows_restrictions).await;
    server.remove(POLICIES, "shop", "closed");
    server.put(POLICIES, "shop", "closed", closed());
    server.service("later", 80);
    let seen = fixture.until(|w| knows(w, "later:80")).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(seen.iter().all(|w| !w.knows_restrictions || policies(w) == 1));
    assert_eq!(policies(&fixture.published.borrow()), 1);
}
