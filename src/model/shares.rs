//! What all brokers share in equal parts. Brokers of other users than the first leave a part to that one's: their processes
//! may hang, or send much, on purpose.

use tokio::sync::{Semaphore, SemaphorePermit};

/// So many parts for all, and how many of them at most for brokers that another user's come before.
#[derive(Debug)]
pub struct Shares {
    all: Budget,
    of_others: Budget,
}

#[derive(Debug)]
struct Budget {
    size: usize,
    left: Semaphore,
}

/// Some parts, given back when dropped.
#[derive(Debug)]
pub struct Share {
    shares: &'static Shares,
    of_others: bool,
    held_of_others: Option<SemaphorePermit<'static>>,
    held: Option<SemaphorePermit<'static>>,
}

impl Shares {
    pub const fn new(all: usize, of_others: usize) -> Shares {
        Shares {
            all: Budget::new(all),
            of_others: Budget::new(of_others),
        }
    }

    /// A share that holds nothing yet.
    pub const fn none(&'static self, of_others: bool) -> Share {
        Share {
            shares: self,
            of_others,
            held_of_others: None,
            held: None,
        }
    }

    /// Waits for one part.
    pub async fn one(&'static self, of_others: bool) -> Share {
        let mut share = self.none(of_others);
        share.grow_to(1).await;
        share
    }

    /// How many parts nobody holds.
    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.all.left.available_permits()
    }

    /// Takes all parts for ever.
    #[cfg(test)]
    pub(super) fn use_up(&self) {
        self.all.left.forget_permits(self.all.size);
    }
}

impl Share {
    /// How many parts it holds.
    pub fn held(&self) -> usize {
        count(self.held.as_ref())
    }

    /// Says whether it is for a broker that another user's come before. Where that has changed, what it holds is given back.
    pub fn set_of_others(&mut self, of_others: bool) {
        if self.of_others != of_others {
            *self = self.shares.none(of_others);
        }
    }

    /// Takes out what this holds.
    pub fn take(&mut self) -> Share {
        std::mem::replace(self, self.shares.none(self.of_others))
    }

    /// Holds exactly so many parts, without waiting. Returns whether there are so many; if not, it holds what it held.
    pub fn try_hold(&mut self, parts: usize) -> bool {
        let Shares { all, of_others } = self.shares;
        let held_before = count(self.held_of_others.as_ref());
        if self.of_others && !of_others.try_hold(&mut self.held_of_others, parts) {
            return false;
        }
        let has = all.try_hold(&mut self.held, parts);
        if !has && self.of_others {
            // What was just taken is given back.
            of_others.try_hold(&mut self.held_of_others, held_before);
        }
        has
    }

    /// Waits until this holds so many parts; at once where it does. What it holds stays when this is dropped earlier. More
    /// than there are is as much as there are.
    pub async fn grow_to(&mut self, parts: usize) {
        if self.of_others {
            let budget = &self.shares.of_others;
            budget.grow(&mut self.held_of_others, parts).await;
        }
        self.shares.all.grow(&mut self.held, parts).await;
    }
}

fn count(held: Option<&SemaphorePermit<'static>>) -> usize {
    held.map_or(0, SemaphorePermit::num_permits)
}

fn add(held: &mut Option<SemaphorePermit<'static>>, more: SemaphorePermit<'static>) {
    match held {
        Some(held) => held.merge(more),
        none => *none = Some(more),
    }
}

impl Budget {
    const fn new(size: usize) -> Budget {
        Budget {
            size,
            left: Semaphore::const_new(size),
        }
    }

    async fn grow(&'static self, held: &mut Option<SemaphorePermit<'static>>, parts: usize) {
        let missing = parts.min(self.size).saturating_sub(count(held.as_ref()));
        let Ok(missing) = u32::try_from(missing) else {
            return;
        };
        if missing == 0 {
            return;
        }
        // The semaphore is never closed.
        if let Ok(more) = self.left.acquire_many(missing).await {
            add(held, more);
        }
    }

    fn try_hold(&'static self, held: &mut Option<SemaphorePermit<'static>>, parts: usize) -> bool {
        let before = count(held.as_ref());
        if parts <= before {
            let too_many = before - parts;
            drop(held.as_mut().and_then(|held| held.split(too_many)));
            return true;
        }
        let missing = u32::try_from(parts - before).ok();
        let more = missing.and_then(|missing| self.left.try_acquire_many(missing).ok());
        let Some(more) = more else {
            return false;
        };
        add(held, more);
        true
    }
}
