//! Answers that are rendered once for each view and shared by all clients that ask, also by those that do not read them.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::body::Bytes;

use crate::model::EvidenceStatus;
use crate::verdict::View;

/// The ages of readings in an answer are of the time at which it was rendered, so it is not used for longer than this.
const USED_FOR: Duration = Duration::from_secs(1);

/// An answer that many may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Metrics,
    PackedMetrics,
    Page,
    Check,
    ColouredCheck,
    Brokers,
    Findings,
}

/// The newest one of each.
#[derive(Debug, Default)]
pub struct Answers([Mutex<Option<Rendered>>; Answer::Findings as usize + 1]);

#[derive(Debug)]
struct Rendered {
    view: Weak<View>,
    saved: Weak<EvidenceStatus>,
    at: Instant,
    body: Bytes,
    /// The worst level of the host, for the header of `/check`.
    level: &'static str,
}

impl Answers {
    /// The body and the level. `render` runs only where nobody has asked for this view yet.
    pub fn of(
        &self,
        answer: Answer,
        view: &Arc<View>,
        saved: &Arc<EvidenceStatus>,
        render: impl FnOnce() -> (Vec<u8>, &'static str),
    ) -> (Bytes, &'static str) {
        let Some(newest) = self.0.get(answer as usize) else {
            return (Bytes::new(), "");
        };
        // After a panic while rendering, the one before it is there.
        let mut newest = newest.lock().unwrap_or_else(PoisonError::into_inner);
        let current = newest.as_ref().filter(|rendered| {
            std::ptr::eq(rendered.view.as_ptr(), Arc::as_ptr(view))
                && std::ptr::eq(rendered.saved.as_ptr(), Arc::as_ptr(saved))
                && rendered.at.elapsed() < USED_FOR
        });
        if let Some(rendered) = current {
            return (rendered.body.clone(), rendered.level);
        }
        let (body, level) = render();
        let body = Bytes::from(body.into_boxed_slice());
        *newest = Some(Rendered {
            // These keep no reading alive, but the address: no later view has the same one.
            view: Arc::downgrade(view),
            saved: Arc::downgrade(saved),
            at: Instant::now(),
            body: body.clone(),
            level,
        });
        (body, level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_rendered_once_for_each_view_and_shared() {
        let answers = Answers::default();
        let (view, saved) = (Arc::<View>::default(), Arc::<EvidenceStatus>::default());
        let render = |text: &'static str| move || (text.as_bytes().to_vec(), "ok");
        let (first, _) = answers.of(Answer::Page, &view, &saved, render("first"));
        let (again, _) = answers.of(Answer::Page, &view, &saved, render("again"));
        assert_eq!(first.as_ptr(), again.as_ptr());
        let (other, _) = answers.of(Answer::Check, &view, &saved, render("other"));
        assert_eq!(&other[..], b"other");
        let later = Arc::<View>::default();
        let (next, _) = answers.of(Answer::Page, &later, &saved, render("next"));
        assert_eq!(&next[..], b"next");
        assert_eq!(&first[..], b"first");
        let bundle = Arc::<EvidenceStatus>::default();
        let (next, _) = answers.of(Answer::Page, &later, &bundle, render("bundle"));
        assert_eq!(&next[..], b"bundle");
    }
}
