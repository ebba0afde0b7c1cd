//! Waiting on conditions, never on time.

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Long enough for anything on a busy machine; only a failing test waits so long.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

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
    let begun = Instant::now();
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if let Some(found) = probe().await {
            return Ok(found);
        }
        if begun.elapsed() > timeout {
            bail!("waited {} s in vain: {what}", timeout.as_secs());
        }
    }
}

/// A loopback port that nobody listens on now. For programs that can't pick one themselves.
///
/// # Errors
/// When the machine has none left.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?.port())
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
}
