//! A future that is asked only when it was woken itself, and not whenever the task that holds it is.
//!
//! Why: a connection's task wakes for every request, its time limits and the drain change once in seconds, and to ask a timer
//! costs a clone of a waker and several atomic exchanges.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use parking_lot::Mutex;
use pin_project_lite::pin_project;

pin_project! {
    pub struct Seldom<F> {
        #[pin]
        inner: F,
        bell: Arc<Bell>,
        // `bell` as a waker.
        ring: Waker,
        // Of the task, as `bell` has it.
        task: Option<Waker>,
    }
}

/// Rung by what the inner future waits for.
struct Bell {
    rung: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        let task = self.task.lock().clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl<F> Seldom<F> {
    pub fn new(inner: F) -> Seldom<F> {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: Mutex::new(None) });
        Seldom { inner, ring: bell.clone().into(), bell, task: None }
    }
}

impl<F: Future> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // Before the bell is looked at: rung in between, it wakes this task.
        if this.task.as_ref().is_none_or(|task| !task.will_wake(cx.waker())) {
            *this.task = Some(cx.waker().clone());
            *this.bell.task.lock() = Some(cx.waker().clone());
        }
        let rung = &this.bell.rung;
        if !rung.load(Ordering::Acquire) || !rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        this.inner.poll(&mut Context::from_waker(this.ring))
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize};

    use super::*;

    #[tokio::test]
    async fn it_is_asked_when_it_was_woken_and_never_else() {
        let asked = AtomicUsize::new(0);
        let mut awaited = std::pin::pin!(tokio::sync::Notify::new());
        let notify = awaited.as_mut();
        let mut seldom = std::pin::pin!(Seldom::new(async {
            let mut notified = std::pin::pin!(notify.notified());
            poll_fn(|cx| {
                asked.fetch_add(1, Ordering::Relaxed);
                notified.as_mut().poll(cx)
            })
            .await;
        }));
        for _ in 0..10 {
            poll_fn(|cx| {
                assert!(seldom.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        notify.notify_one();
        seldom.await;
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn it_wakes_the_task_that_polled_it_last() {
        let bell = Arc::new(tokio::sync::Notify::new());
        let rung = bell.clone();
        let mut seldom = Box::pin(Seldom::new(async move { rung.notified().await }));
        tokio::select! {
            biased;
            () = &mut seldom => unreachable!("nothing has rung"),
            () = tokio::task::yield_now() => {}
        }
        // Another task now waits for it.
        let waiting = tokio::spawn(seldom);
        tokio::task::yield_now().await;
        bell.notify_one();
        waiting.await.unwrap();
    }
}
