//! Whom to wake once the core's lock is free.

use std::task::Waker;

/// More than this many at once are rare, and cost an allocation.
const FEW: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct Woken {
    few: [Option<Waker>; FEW],
    count: usize,
    rest: Vec<Waker>,
}

impl Woken {
    pub(crate) fn wake(self) {
        if self.count > 0 {
            let few = self.few.into_iter().flatten();
            few.chain(self.rest).for_each(Waker::wake);
        }
    }
}

impl Extend<Waker> for Woken {
    fn extend<I: IntoIterator<Item = Waker>>(&mut self, wakers: I) {
        for waker in wakers {
            match self.few.get_mut(self.count) {
                Some(slot) => *slot = Some(waker),
                None => self.rest.push(waker),
            }
            self.count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn all_are_woken() {
        for wakers in 0..10 {
            let count = Arc::new(Count(AtomicUsize::new(0)));
            let mut woken = Woken::default();
            for _ in 0..wakers {
                woken.extend(Some(Waker::from(Arc::clone(&count))));
            }
            woken.wake();
            assert_eq!(count.0.load(Ordering::Relaxed), wakers);
        }
    }
}
