//! Threads that load models, or run shadows, step back behind those that serve.

/// How far: as `nice` counts, where 19 is the furthest.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// Lowers the scheduling priority of the calling thread, for good. Threads that it starts inherit it, so whoever opens
/// a session with threads of its own must not have called this.
pub fn step_back() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: both calls take and give plain numbers; a failure leaves the priority as it is.
        let failed = unsafe {
            let thread = libc::gettid();
            libc::setpriority(libc::PRIO_PROCESS, thread as libc::id_t, NICE) != 0
        };
        told(failed);
    }
}

/// Leaves the processors to everybody else, for good: the calling thread gets what they leave, and is pushed aside at once
/// when one of them wakes.
pub fn idle() {
    #[cfg(target_os = "linux")]
    {
        let none = libc::sched_param { sched_priority: 0 };
        // SAFETY: 0 is the calling thread; the parameter outlives the call; a failure leaves the policy as it is.
        told(unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const none) != 0 });
    }
}

#[cfg(target_os = "linux")]
fn told(failed: bool) {
    if failed {
        tracing::debug!("the priority of a thread could not be lowered");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_the_calling_thread_steps_back() {
        // SAFETY: as above.
        let mine =
            || unsafe { libc::getpriority(libc::PRIO_PROCESS, libc::gettid() as libc::id_t) };
        let before = mine();
        let inside = std::thread::spawn(move || {
            step_back();
            mine()
        });
        assert_eq!(inside.join().unwrap(), NICE.max(before));
        assert_eq!(mine(), before);
        // SAFETY: as above.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        let inside = std::thread::spawn(move || {
            idle();
            policy()
        });
        assert_eq!(inside.join().unwrap(), libc::SCHED_IDLE);
        assert_ne!(policy(), libc::SCHED_IDLE);
    }
}
