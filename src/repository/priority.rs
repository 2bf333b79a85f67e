//! Threads that load models, or run shadows, step back behind those that serve.

/// How far: as `nice` counts, where 19 is the furthest.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// Behind everything else.
pub const LAST: i32 = 19;

/// Lowers the scheduling priority of the calling thread, for good. Threads that it starts inherit it, so whoever opens
/// a session with threads of its own must not have called this.
pub fn step_back() {
    #[cfg(target_os = "linux")]
    step_back_to(NICE);
}

/// As `step_back`, so far.
pub fn step_back_to(nice: i32) {
    #[cfg(not(target_os = "linux"))]
    let _ = nice;
    #[cfg(target_os = "linux")]
    {
        // SAFETY: both calls take and give plain numbers; a failure leaves the priority as it is.
        let failed = unsafe {
            let thread = libc::gettid();
            libc::setpriority(libc::PRIO_PROCESS, thread as libc::id_t, nice) != 0
        };
        if failed {
            tracing::debug!("the priority of a thread could not be lowered");
        }
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
    }
}
