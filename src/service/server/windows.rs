//! How much a connection may send before it is read: a share of one pool of bytes, so that many connections cannot hold more
//! memory than a few.
//!
//! A window is a promise to buffer: what a client has sent into it must be kept until a call takes it. The byte budget of
//! the engine counts what calls have taken, not this. The first connections get windows that keep a fast link busy, each
//! next one less, down to what HTTP/2 begins with several times over.

use std::sync::Arc;

use parking_lot::Mutex;

/// Most that a connection gets: further calls of one connection do not get faster with more.
const CONNECTION_MAX: i64 = 16 << 20;
/// What every connection gets, also when the pool has nothing left.
const CONNECTION_MIN: i64 = 256 << 10;
/// A connection takes this part of what is left.
const PART: i64 = 3;
/// Most bytes of the pool, however large the budget.
const POOL_MAX: usize = 48 << 20;
/// Frames are this part of a stream's window, so that one can be filled while others are on their way.
const FRAMES_PER_WINDOW: u32 = 8;
/// What HTTP/2 begins with and the least it allows.
const FRAME_MIN: u32 = 16 << 10;
/// The length that clients are advised to send; longer frames only make calls of one connection wait for each other.
const FRAME_MAX: u32 = 256 << 10;

/// Bytes that all connections together may have on their way, beyond the least for each.
#[derive(Debug)]
pub struct Pool {
    /// Below zero when connections have what they get in any case from an empty pool.
    left: Mutex<i64>,
}

/// The limits of one connection, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Over all its streams.
    pub connection: u32,
    /// For each of its streams.
    pub stream: u32,
    /// Of a frame.
    pub frame: u32,
}

/// The share of one connection, given back on drop.
#[derive(Debug)]
pub struct Share {
    pool: Arc<Pool>,
    windows: Windows,
}

impl Pool {
    /// The pool beside a byte budget.
    pub fn beside(budget_bytes: usize) -> Arc<Self> {
        let bytes = (budget_bytes / 2).min(POOL_MAX);
        Arc::new(Self {
            left: Mutex::new(i64::try_from(bytes).unwrap_or(i64::MAX)),
        })
    }

    /// The share of one more connection.
    pub fn take(self: &Arc<Self>) -> Share {
        let mut left = self.left.lock();
        let windows = windows(*left);
        *left -= i64::from(windows.connection);
        Share {
            pool: self.clone(),
            windows,
        }
    }
}

impl Share {
    /// The limits that this share allows.
    pub fn windows(&self) -> Windows {
        self.windows
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *self.pool.left.lock() += i64::from(self.windows.connection);
    }
}

/// The limits of the next connection when the pool has so much left.
fn windows(left: i64) -> Windows {
    let bytes = (left / PART).clamp(CONNECTION_MIN, CONNECTION_MAX);
    let connection = u32::try_from(bytes).expect("it is clamped to less");
    // Half, so that one stalled stream cannot keep the others from sending.
    let stream = connection / 2;
    Windows {
        connection,
        stream,
        frame: (stream / FRAMES_PER_WINDOW).clamp(FRAME_MIN, FRAME_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(shares: &[Share]) -> usize {
        shares.iter().map(|share| share.windows().connection as usize).sum()
    }

    #[test]
    fn the_first_connection_gets_what_a_fast_link_needs() {
        let share = Pool::beside(512 << 20).take();
        let expected = Windows {
            connection: 16 << 20,
            stream: 8 << 20,
            frame: 256 << 10,
        };
        assert_eq!(share.windows(), expected);
    }

    #[test]
    fn later_connections_get_less_down_to_a_floor() {
        let pool = Pool::beside(512 << 20);
        let shares: Vec<_> = (0..256).map(|_| pool.take()).collect();
        assert!(shares.is_sorted_by_key(|share| std::cmp::Reverse(share.windows().connection)));
        let expected = Windows {
            connection: 256 << 10,
            stream: 128 << 10,
            frame: 16 << 10,
        };
        assert_eq!(shares[255].windows(), expected);
        assert!(total(&shares) <= POOL_MAX + 256 * CONNECTION_MIN as usize);
    }

    #[test]
    fn many_connections_hold_little_beside_a_small_budget() {
        let pool = Pool::beside(64 << 20);
        let shares: Vec<_> = (0..64).map(|_| pool.take()).collect();
        assert!(total(&shares) <= 48 << 20);
    }

    #[test]
    fn a_closed_connection_gives_its_share_back() {
        let pool = Pool::beside(64 << 20);
        let first = pool.take();
        let windows = first.windows();
        let others: Vec<_> = (0..100).map(|_| pool.take()).collect();
        assert_ne!(pool.take().windows(), windows);
        drop((first, others));
        assert_eq!(pool.take().windows(), windows);
    }
}
