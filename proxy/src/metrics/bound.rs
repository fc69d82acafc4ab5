//! A few bound series by what they are of, so that nothing is looked up in the registry for each request.

use std::{cell::RefCell, rc::Rc};

use smallvec::SmallVec;

use super::Series;

/// At most `MOST` series, by a key. The one bound first makes room, and is bound anew when it comes back.
pub(crate) struct BoundSeries<K, const MOST: usize>(RefCell<Bound<K>>);

/// In the order in which they were bound.
type Bound<K> = SmallVec<[(K, Rc<Series>); 2]>;

impl<K, const MOST: usize> Default for BoundSeries<K, MOST> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<K, const MOST: usize> BoundSeries<K, MOST> {
    /// The series whose key is meant, else what `bind` binds.
    pub(crate) fn get(&self, is_meant: impl Fn(&K) -> bool, bind: impl FnOnce() -> (K, Series)) -> Rc<Series> {
        let mut known = self.0.borrow_mut();
        if let Some((_, series)) = known.iter().find(|(key, _)| is_meant(key)) {
            return series.clone();
        }
        if known.len() >= MOST {
            known.remove(0);
        }
        let (key, series) = bind();
        let series = Rc::new(series);
        known.push((key, series.clone()));
        series
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::tests::worker;

    #[tokio::test]
    async fn a_few_stay_bound() {
        let (worker, known) = (worker(&[]), BoundSeries::<usize, 3>::default());
        let get = |n| known.get(|key| *key == n, || (n, worker.inbound.bind_inbound(None, 80)));
        let (first, second) = (get(0), get(1));
        (2..=3).for_each(|n| drop(get(n)));
        assert_eq!(known.len(), 3);
        assert!(Rc::ptr_eq(&second, &get(1)) && !Rc::ptr_eq(&first, &get(0)), "the one bound first made room");
    }
}
