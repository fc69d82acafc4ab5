//! Where the routes at a port are more than one policy may have, found without a walk over all of them for each port.
//!
//! Up to four groups of routes lead to a port (`route_links`), and many ports share their largest one: what attaches to all
//! ports of a Service. The sums of a group are made once; for each port only the members of its smaller groups are
//! gone through.

use crate::{
    attach::Displaced,
    route_links::{Age, Weight},
};

/// The members of a group, the oldest first, each with what it and those before it add up to. It ends behind the first that
/// is too much.
#[derive(Debug)]
pub(crate) struct Sums(Vec<(Age, Weight, Weight)>);

impl Sums {
    pub(crate) fn of<'s>(members: impl Iterator<Item = (&'s Age, Weight)>) -> Self {
        let mut all = Vec::new();
        let mut sum = Weight::default();
        for (age, weight) in members {
            sum = sum.plus(weight);
            all.push((age.clone(), weight, sum));
            if sum.is_over() {
                break;
            }
        }
        Self(all)
    }

    /// What the first so many add up to.
    fn first(&self, count: usize) -> Weight {
        count.checked_sub(1).and_then(|last| self.0.get(last)).map_or(Weight::default(), |(.., sum)| *sum)
    }

    fn place_of(&self, age: &Age) -> Result<usize, usize> {
        self.0.binary_search_by(|(there, ..)| there.cmp(age))
    }

    /// The first of the members before a place with which it is too much, beside what others add up to.
    fn first_over(&self, end: usize, others: Weight) -> Option<(Age, Displaced)> {
        let at = self.0[..end].partition_point(|(.., sum)| !sum.plus(others).is_over());
        let (age, ..) = self.0[..end].get(at)?;
        Some((age.clone(), Displaced::behind(self.first(at).plus(others))))
    }
}

/// The first route of the groups that is not in force, each route counted once, and why.
pub(crate) fn first_out<'s>(groups: impl Iterator<Item = &'s Sums>) -> Option<(Age, Displaced)> {
    let mut groups: Vec<&Sums> = groups.filter(|group| !group.0.is_empty()).collect();
    groups.sort_by_key(|group| group.0.len());
    let largest = groups.pop()?;
    // One route may name the port in several ways.
    let others = groups.into_iter().flat_map(|group| &group.0);
    let mut others: Vec<_> = others.filter(|(age, ..)| largest.place_of(age).is_err()).collect();
    others.sort_by(|a, b| a.0.cmp(&b.0));
    others.dedup_by(|a, b| a.0 == b.0);
    let mut sum = Weight::default();
    for (age, weight, _) in others {
        let (Ok(before) | Err(before)) = largest.place_of(age);
        if let Some(found) = largest.first_over(before, sum) {
            return Some(found);
        }
        let so_far = largest.first(before).plus(sum);
        if so_far.plus(*weight).is_over() {
            return Some((age.clone(), Displaced::behind(so_far)));
        }
        sum = sum.plus(*weight);
    }
    largest.first_over(largest.0.len(), sum)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{attach::take_in_force, route_links::MAX_ROUTES};
    use mesh_policy::bounds::MAX_POLICY_BYTES;
    use std::collections::BTreeMap;

    fn age(number: usize) -> Age {
        Age { created: number as i64, name: number.to_string().into() }
    }

    #[test]
    fn sums_of_groups_end_where_a_walk_over_all_their_members_does() {
        // A few hundred worlds of four groups with members in common, by a generator that needs no crate.
        let mut state = 7_u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let mut over = 0;
        for round in 0..300 {
            let bytes = if round % 2 == 0 { 100 } else { MAX_POLICY_BYTES / (2 + next(300)) };
            let mut groups: [BTreeMap<Age, Weight>; 4] = Default::default();
            for number in 0..next(2 * MAX_ROUTES) {
                let weight = Weight { routes: 1, bytes: bytes + number % 7, pattern_bytes: 0 };
                let group = next(groups.len());
                groups[if next(3) > 0 { 0 } else { group }].insert(age(number), weight);
                if next(4) == 0 {
                    groups[next(4)].insert(age(number), weight);
                }
            }
            let sums = groups.each_ref().map(|group| Sums::of(group.iter().map(|(age, weight)| (age, *weight))));
            let mut all: BTreeMap<&Age, Weight> = BTreeMap::new();
            groups.iter().for_each(|group| all.extend(group.iter().map(|(age, weight)| (age, *weight))));
            let walked = take_in_force(&mut all.into_iter(), |_| {});
            over += usize::from(walked.is_some());
            assert_eq!(first_out(sums.iter()), walked, "round {round}");
        }
        assert!((50..250).contains(&over), "{over}");
    }
}
