//! Answers that are rendered once for each view and shared by all clients that ask, also by those that do not read them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use crate::model::EvidenceStatus;
use crate::verdict::View;

/// The ages of readings in an answer are of the time at which it was rendered, so only clients that ask at the same time
/// share one.
const USED_FOR: Duration = Duration::from_millis(20);
/// The same while too much is in memory: a client that asks every second and reads nothing holds fewer of them.
const USED_FOR_CROWDED: Duration = Duration::from_secs(5);
/// Once so many bytes of answers are in memory, because clients do not read them, nothing but metrics is rendered.
const CROWDED: usize = 8 << 20;

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
pub struct Answers {
    newest: Mutex<[Option<Rendered>; Answer::Findings as usize + 1]>,
    /// The bytes of all answers in memory: these, and older ones that are still being sent.
    alive: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Rendered {
    view: Weak<View>,
    saved: Weak<EvidenceStatus>,
    at: Instant,
    body: Bytes,
    /// The worst level of the host, for the header of `/check`.
    level: &'static str,
}

/// Clients that do not read their answers hold too many of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Crowded;

impl IntoResponse for Crowded {
    fn into_response(self) -> Response {
        let text =
            "Other clients do not read their answers, which fill the memory for them: try again.\n";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        (status, [(header::RETRY_AFTER, "1")], text).into_response()
    }
}

impl Answers {
    /// The body and the level. `render` runs only where nobody has asked for this view yet.
    ///
    /// # Errors
    /// Where there is no room for one more. Metrics always get through: what fails is to be seen there.
    pub fn of(
        &self,
        answer: Answer,
        view: &Arc<View>,
        saved: &Arc<EvidenceStatus>,
        render: impl FnOnce() -> (Vec<u8>, &'static str),
    ) -> Result<(Bytes, &'static str), Crowded> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let crowded = self.is_crowded();
        let used_for = if crowded { USED_FOR_CROWDED } else { USED_FOR };
        // What nobody asks for any more goes with the next request for anything.
        for kept in newest.iter_mut() {
            kept.take_if(|rendered| rendered.at.elapsed() >= used_for);
        }
        let Some(newest) = newest.get_mut(answer as usize) else {
            return Err(Crowded);
        };
        newest.take_if(|rendered| !crowded && !rendered.is_of(view, saved));
        if let Some(rendered) = newest {
            return Ok((rendered.body.clone(), rendered.level));
        }
        let is_metrics = matches!(answer, Answer::Metrics | Answer::PackedMetrics);
        if self.is_crowded() && !is_metrics {
            return Err(Crowded);
        }
        let (body, level) = render();
        let body = Bytes::from_owner(Counted::new(body, &self.alive));
        *newest = Some(Rendered {
            // These keep no reading alive, but the address: no later view has the same one.
            view: Arc::downgrade(view),
            saved: Arc::downgrade(saved),
            at: Instant::now(),
            body: body.clone(),
            level,
        });
        Ok((body, level))
    }

    fn is_crowded(&self) -> bool {
        self.alive.load(Ordering::Relaxed) >= CROWDED
    }
}

impl Rendered {
    fn is_of(&self, view: &Arc<View>, saved: &Arc<EvidenceStatus>) -> bool {
        std::ptr::eq(self.view.as_ptr(), Arc::as_ptr(view))
            && std::ptr::eq(self.saved.as_ptr(), Arc::as_ptr(saved))
    }
}

/// A body whose bytes are counted until the last client has it.
struct Counted {
    body: Box<[u8]>,
    alive: Arc<AtomicUsize>,
}

impl Counted {
    fn new(body: Vec<u8>, alive: &Arc<AtomicUsize>) -> Counted {
        alive.fetch_add(body.len(), Ordering::Relaxed);
        Counted {
            body: body.into_boxed_slice(),
            alive: Arc::clone(alive),
        }
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(self.body.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn of(answers: &Answers, answer: Answer, view: &Arc<View>, body: Vec<u8>) -> Option<Bytes> {
        let saved = Arc::<EvidenceStatus>::default();
        let answer = answers.of(answer, view, &saved, || (body, "ok"));
        answer.ok().map(|(body, _)| body)
    }

    #[test]
    fn an_answer_is_rendered_once_for_each_view_and_shared() {
        let answers = Answers::default();
        let (view, saved) = (Arc::<View>::default(), Arc::<EvidenceStatus>::default());
        let render = |text: &'static str| move || (text.as_bytes().to_vec(), "ok");
        let of = |answer, view, saved, text| answers.of(answer, view, saved, render(text)).unwrap();
        let (first, _) = of(Answer::Page, &view, &saved, "first");
        let (again, _) = of(Answer::Page, &view, &saved, "again");
        assert_eq!(first.as_ptr(), again.as_ptr());
        let (other, _) = of(Answer::Check, &view, &saved, "other");
        assert_eq!(&other[..], b"other");
        let later = Arc::<View>::default();
        let (next, _) = of(Answer::Page, &later, &saved, "next");
        assert_eq!(&next[..], b"next");
        assert_eq!(&first[..], b"first");
        let bundle = Arc::<EvidenceStatus>::default();
        let (next, _) = of(Answer::Page, &later, &bundle, "bundle");
        assert_eq!(&next[..], b"bundle");
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_clients_hold_leave_room_for_metrics_alone() {
        let answers = Answers::default();
        let long = || vec![b'x'; CROWDED / 4];
        let mut held = Vec::new();
        for _ in 0..100 {
            held.extend(of(&answers, Answer::Brokers, &Arc::default(), long()));
            advance(USED_FOR).await;
        }
        assert_eq!(answers.alive.load(Ordering::Relaxed), CROWDED);
        let view = Arc::<View>::default();
        assert_eq!(of(&answers, Answer::Page, &view, long()), None);
        let metrics = of(&answers, Answer::Metrics, &view, b"first".to_vec());
        assert_eq!(metrics.as_deref(), Some(&b"first"[..]));
        let refused = answers.of(Answer::Check, &view, &Arc::default(), || (long(), "ok"));
        let refused = refused.unwrap_err().into_response();
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()["retry-after"]),
            (503, &header::HeaderValue::from_static("1"))
        );
        // Those of a later view take the place of the first ones, but not each time.
        let again = of(
            &answers,
            Answer::Metrics,
            &Arc::default(),
            b"again".to_vec(),
        );
        assert_eq!(again.as_deref(), Some(&b"first"[..]));
        advance(USED_FOR_CROWDED).await;
        let again = of(
            &answers,
            Answer::Metrics,
            &Arc::default(),
            b"again".to_vec(),
        );
        assert_eq!(again.as_deref(), Some(&b"again"[..]));
        held.clear();
        assert!(of(&answers, Answer::Page, &view, long()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_asks_for_any_more_is_dropped() {
        let answers = Answers::default();
        drop(of(&answers, Answer::Brokers, &Arc::default(), vec![0; 100]));
        assert_eq!(answers.alive.load(Ordering::Relaxed), 100);
        advance(USED_FOR).await;
        drop(of(&answers, Answer::Metrics, &Arc::default(), vec![0; 10]));
        assert_eq!(answers.alive.load(Ordering::Relaxed), 10);
    }
}
