//! Waiting on conditions, never on time; and ports that stay one's own.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Long enough for anything on a busy machine; only a failing test waits so long.
pub const WAIT_MAX: Duration = Duration::from_secs(120);

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Asks `probe` again and again until it gives something.
///
/// # Errors
/// When it has not after `timeout`; the message says `what` was waited for.
pub async fn wait_until<T>(
    what: &str,
    timeout: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> Result<T> {
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let begun = looks.tick().await;
    loop {
        if let Some(found) = probe().await {
            return Ok(found);
        }
        if looks.tick().await - begun > timeout {
            bail!("waited {} s in vain: {what}", timeout.as_secs());
        }
    }
}

/// Below the ports that systems hand out by themselves (from 32768 on Linux, from 49152 elsewhere):
/// a program that is down for a moment finds its port free again.
const PORTS: Range<u16> = 12_000..32_000;

/// A port's lock is kept until the test program ends.
static TAKEN: Mutex<BTreeMap<u16, File>> = Mutex::new(BTreeMap::new());

/// A loopback port that nobody listens on, and that is given out to no other test until this
/// program ends. For programs that can't pick one themselves, or must come back on the same.
///
/// # Errors
/// When there is none left.
pub fn free_port() -> Result<u16> {
    let folder = std::env::temp_dir().join("tidelake-test-ports");
    fs::create_dir_all(&folder).context("no folder for the locks of ports")?;
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    // Programs that run side by side look in different places first.
    let ports = u32::from(PORTS.end - PORTS.start);
    let first = std::process::id().wrapping_mul(61) % ports;
    for step in 0..ports {
        let port = PORTS.start + u16::try_from((first + step) % ports)?;
        if taken.contains_key(&port) {
            continue;
        }
        let path = folder.join(port.to_string());
        let lock = OpenOptions::new().append(true).create(true).open(path);
        let lock = lock.context("no lock of a port")?;
        if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            taken.insert(port, lock);
            return Ok(port);
        }
    }
    bail!("no free port from {} to {}", PORTS.start, PORTS.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_that_comes_true_ends_the_wait() {
        let mut looks = 0;
        let found = wait_until("three looks", WAIT_MAX, async || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_wait_in_vain_says_for_what() {
        let never = wait_until("a miracle", Duration::from_millis(1), async || None::<()>);
        assert!(never.await.unwrap_err().to_string().contains("a miracle"));
    }

    #[test]
    fn a_port_is_given_out_once() {
        let ports: std::collections::BTreeSet<_> = (0..20).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 20);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }
}
