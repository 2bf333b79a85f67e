//! Threads that load models, look after the repository or run shadows make way for those that serve.

/// How far, as `nice` counts, a thread steps back whose work somebody waits for.
#[cfg(target_os = "linux")]
const WAITED_FOR: i32 = 10;
/// And one whose work nobody waits for: the furthest.
#[cfg(target_os = "linux")]
const UNHURRIED: i32 = 19;
/// The slice that both ask for: the longest that the kernel grants. Why: a thread that wakes and asks for less takes their
/// processor at once; beside one that asks for as much, or less, it may have to wait for the next tick, some milliseconds.
#[cfg(target_os = "linux")]
const LONG_NS: u64 = 100_000_000;

/// Lowers the scheduling priority of the calling thread, for good. Threads that it starts inherit it, so whoever opens
/// a session with threads of its own must not have called this.
pub fn step_back() {
    #[cfg(target_os = "linux")]
    told(!set(WAITED_FOR, LONG_NS));
}

/// Lowers it as far as goes without leaving a thread nothing at all: beside threads that never rest it gets a sixtieth. For
/// good, as above.
pub fn step_aside() {
    #[cfg(target_os = "linux")]
    told(!set(UNHURRIED, LONG_NS));
}

/// As Linux's uapi/linux/sched/types.h has it, in its first version.
#[cfg(target_os = "linux")]
#[repr(C)]
#[derive(Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// `sched_setattr` of the calling thread, among those that share the processors by weight. The slice is heeded from Linux 6.12 on.
#[cfg(target_os = "linux")]
fn set(nice: i32, slice_ns: u64) -> bool {
    let size = size_of::<Attributes>() as u32;
    let (policy, runtime) = (libc::SCHED_OTHER as u32, slice_ns);
    let attributes = Attributes { size, policy, nice, runtime, ..Attributes::default() };
    // SAFETY: 0 is the calling thread; the attributes outlive the call; a failure leaves the thread as it is.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) == 0 }
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
        // SAFETY: both calls take and give plain numbers.
        let nice =
            || unsafe { libc::getpriority(libc::PRIO_PROCESS, libc::gettid() as libc::id_t) };
        let slice = || {
            let mut attributes = Attributes::default();
            let size = size_of::<Attributes>();
            // SAFETY: 0 is the calling thread; the kernel writes no more than the size that it is given.
            let read =
                unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
            assert_eq!(read, 0);
            attributes.runtime
        };
        let before = nice();
        for (step, expected) in [(step_back as fn(), WAITED_FOR), (step_aside, UNHURRIED)] {
            let inside = std::thread::spawn(move || {
                step();
                (nice(), slice())
            });
            let (nice, slice) = inside.join().unwrap();
            assert_eq!(nice, expected.max(before));
            // 0: before Linux 6.12, which has no slices to ask for.
            assert!([LONG_NS, 0].contains(&slice), "{slice}");
        }
        assert_eq!(nice(), before);
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
