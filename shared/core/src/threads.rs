//! The priority of threads, as the system's scheduler knows it; and whether there are any.

use std::cell::Cell;
use std::io;

thread_local! {
    static IN_PLACE: Cell<bool> = const { Cell::new(false) };
}

/// From here on, what this thread's tasks would hand to a thread that may block is done by the
/// thread itself, so that a simulation has nothing beside it. Not taken back: such a thread is of
/// the simulation to its end.
pub fn work_in_place() {
    IN_PLACE.set(true);
}

/// Whether this thread does its blocking work itself.
pub fn works_in_place() -> bool {
    IN_PLACE.get()
}

/// A thread of this process, as the system calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadId(i32);

impl ThreadId {
    /// The calling thread.
    pub fn own() -> Self {
        #[cfg(target_os = "linux")]
        {
            #[expect(unsafe_code, reason = "a system call without arguments")]
            let id = unsafe { libc::gettid() };
            Self(id)
        }
        #[cfg(not(target_os = "linux"))]
        Self(0)
    }

    /// The number by which `/proc/self/task` has it.
    pub fn number(self) -> i32 {
        self.0
    }

    /// Gives the thread the priority that `nice` stands for, from 0 (what a program begins with) to
    /// 19 (the lowest), unless it is lower already. Taking it back needs a privilege.
    ///
    /// # Errors
    /// The system's; the thread then runs on as before. Elsewhere than on Linux nothing is done.
    pub fn sink_to(self, nice: i32) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            let who = libc::id_t::try_from(self.0).map_err(io::Error::other)?;
            // On Linux the priority is a thread's (setpriority(2)).
            #[expect(unsafe_code, reason = "system calls that take numbers only")]
            let failed = unsafe {
                // A process that was begun below that stays there.
                let now = libc::getpriority(libc::PRIO_PROCESS, who);
                libc::setpriority(libc::PRIO_PROCESS, who, now.max(nice)) != 0
            };
            if failed {
                return Err(io::Error::last_os_error());
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = nice;
        Ok(())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn only_the_thread_itself_sinks() {
        let nice = |id: ThreadId| {
            let stat = std::fs::read_to_string(format!("/proc/self/task/{}/stat", id.number()));
            let stat = stat.unwrap();
            // Field 19; the second one, in brackets, may have blanks.
            let rest = stat.rsplit_once(')').unwrap().1.to_owned();
            rest.split_whitespace()
                .nth(16)
                .unwrap()
                .parse::<i32>()
                .unwrap()
        };
        let before = nice(ThreadId::own());
        let sunk = std::thread::spawn(move || {
            ThreadId::own().sink_to(before + 3).unwrap();
            nice(ThreadId::own())
        });
        assert_eq!(sunk.join().unwrap(), (before + 3).min(19));
        assert_eq!(nice(ThreadId::own()), before);
    }
}
