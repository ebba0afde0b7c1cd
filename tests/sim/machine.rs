//! The machine of a simulation: its clock, its randomness, and what waiting is.
//!
//! A thread that called [`enter`] has no machine but this one. What the C library would answer it
//! about time comes from a counter, randomness comes from the seed, and where the thread would
//! sleep until the next timer the clock jumps there instead. So all code under test, and all crates
//! below it, run unchanged: the standard library's clocks, Tokio's timers, the keys of hash maps.
//! It works by defining those functions of the C library in this program, which the linker takes
//! before the system's; every other thread is passed on to the system.
//!
//! Does not own threads: there must be none beside the simulation's, which is why blocking work is
//! done in place ([`tidelake_core::threads::work_in_place`]).
//!
//! Invariant: time passes only where the thread waits.

use std::cell::Cell;

use libc::{c_int, c_uint, c_void, size_t, ssize_t};

use crate::dice::mix;

/// The wall clock's beginning, 2030-01-01, in seconds since the Unix epoch.
const EPOCH_SECONDS: u64 = 1_893_456_000;
/// What the machine's monotonic clock shows at its beginning.
const UPTIME_SECONDS: u64 = 1_000;
const NANOS: u64 = 1_000_000_000;

#[derive(Clone, Copy)]
struct Machine {
    nanos: u64,
    dice: u64,
}

thread_local! {
    // Without a destructor, so that it can be asked until the thread's very end.
    static MACHINE: Cell<Option<Machine>> = const { Cell::new(None) };
}

/// Gives the calling thread a machine of its own, to the thread's end.
pub(crate) fn enter(seed: u64) {
    tidelake_core::threads::work_in_place();
    let dice = mix(seed ^ 0x6d61_6368_696e_6500);
    MACHINE.set(Some(Machine { nanos: 0, dice }));
}

/// Milliseconds since the machine's beginning.
pub(crate) fn now_ms() -> u64 {
    MACHINE.get().map_or(0, |machine| machine.nanos / 1_000_000)
}

/// Lets time pass.
#[expect(clippy::disallowed_methods, reason = "the simulation's own clock")]
pub(crate) async fn pass(ms: u64) {
    tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
}

fn machine() -> Option<Machine> {
    MACHINE.try_with(Cell::get).ok().flatten()
}

/// # Safety
/// As the C library's: `out` can be written to.
#[expect(unsafe_code, reason = "the C library's function of this name")]
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, out: *mut libc::timespec) -> c_int {
    let began = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => Some(EPOCH_SECONDS),
        libc::CLOCK_MONOTONIC
        | libc::CLOCK_MONOTONIC_RAW
        | libc::CLOCK_MONOTONIC_COARSE
        | libc::CLOCK_BOOTTIME => Some(UPTIME_SECONDS),
        _ => None,
    };
    let (Some(machine), Some(began)) = (machine(), began) else {
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, out) } as c_int;
    };
    unsafe {
        (*out).tv_sec = (began + machine.nanos / NANOS) as libc::time_t;
        (*out).tv_nsec = (machine.nanos % NANOS) as libc::c_long;
    }
    0
}

/// # Safety
/// As the C library's: `buffer` has room for `length` bytes.
#[expect(unsafe_code, reason = "the C library's function of this name")]
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, length: size_t, flags: c_uint) -> ssize_t {
    let Some(mut machine) = machine() else {
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) } as ssize_t;
    };
    for place in 0..length {
        machine.dice = machine.dice.wrapping_add(1);
        unsafe { *buffer.cast::<u8>().add(place) = mix(machine.dice) as u8 };
    }
    MACHINE.set(Some(machine));
    length as ssize_t
}

/// # Safety
/// As the C library's: `events` has room for `most` events.
#[expect(unsafe_code, reason = "the C library's function of this name")]
#[unsafe(no_mangle)]
unsafe extern "C" fn epoll_wait(
    epoll: c_int,
    events: *mut libc::epoll_event,
    most: c_int,
    timeout_ms: c_int,
) -> c_int {
    let poll = |timeout_ms: c_int| unsafe {
        let none = std::ptr::null::<c_void>();
        let call = libc::SYS_epoll_pwait;
        libc::syscall(call, epoll, events, most, timeout_ms, none, 8_usize) as c_int
    };
    let Some(mut machine) = machine() else {
        return poll(timeout_ms);
    };
    let ready = poll(0);
    if ready != 0 {
        return ready;
    }
    let Ok(passed_ms) = u64::try_from(timeout_ms) else {
        // Nothing is under way, and no timer is set: this is the end of all things.
        let thread = std::thread::current();
        eprintln!("{}: everybody waits for ever", thread.name().unwrap_or("?"));
        std::process::abort();
    };
    machine.nanos += passed_ms * 1_000_000;
    MACHINE.set(Some(machine));
    0
}
