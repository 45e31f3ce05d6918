//! Where secret bytes live: in pages that are never swapped out, wiped when they are given back.

use std::fmt;

use parking_lot::Mutex;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

const LEN: usize = 32;
const PAGE_LEN: usize = 4096;

/// 32 secret bytes: in locked memory, wiped when dropped, compared in constant time, never printed.
pub struct Secret(Option<Slot>);

type Slot = &'static mut [u8; LEN];

/// Slots that hold nothing now. Their pages are kept for ever: there are as many as secrets at the busiest moment needed.
static FREE: Mutex<Pool> = Mutex::new(Pool {
    slots: Vec::new(),
    locked: true,
});

struct Pool {
    slots: Vec<Slot>,
    locked: bool,
}

#[repr(align(4096))]
struct Page([[u8; LEN]; PAGE_LEN / LEN]);

impl Secret {
    /// Takes the bytes over. The caller's copy, if it keeps one, is the caller's to wipe.
    pub fn from_bytes(mut bytes: [u8; LEN]) -> Self {
        let secret = Self::fill(|slot| slot.copy_from_slice(&bytes));
        bytes.zeroize();
        secret
    }

    /// A secret that is written where it stays.
    pub(super) fn fill(write: impl FnOnce(&mut [u8])) -> Self {
        let slot = FREE.lock().take();
        write(slot);
        Self(Some(slot))
    }

    /// The bytes, for a cipher or a wrapping.
    pub fn expose(&self) -> &[u8; LEN] {
        self.0.as_deref().expect("a secret has its slot until it is dropped")
    }

    /// Whether the operating system has kept all secrets so far from being swapped out. It may allow only so much.
    pub fn memory_is_locked() -> bool {
        FREE.lock().locked
    }
}

impl Pool {
    fn take(&mut self) -> Slot {
        loop {
            match self.slots.pop() {
                Some(slot) => return slot,
                None => self.grow(),
            }
        }
    }

    fn grow(&mut self) {
        let page: &'static mut Page = Box::leak(Box::new(Page([[0; LEN]; PAGE_LEN / LEN])));
        match region::lock(page, PAGE_LEN) {
            // Until the process ends.
            Ok(guard) => std::mem::forget(guard),
            Err(_) => self.locked = false,
        }
        self.slots.extend(page.0.iter_mut());
    }
}

impl Clone for Secret {
    fn clone(&self) -> Self {
        Self::fill(|slot| slot.copy_from_slice(self.expose()))
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            slot.zeroize();
            FREE.lock().slots.push(slot);
        }
    }
}

impl ZeroizeOnDrop for Secret {}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose().ct_eq(other.expose()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_apart_and_compare_by_content() {
        let secrets: Vec<_> = (0..200).map(|n| Secret::from_bytes([n; LEN])).collect();
        for (n, secret) in (0..200).zip(&secrets) {
            assert_eq!(secret.expose(), &[n; LEN]);
            assert!(*secret == secret.clone());
        }
        assert!(secrets[0] != secrets[1]);
    }

    #[test]
    fn a_slot_is_given_back_wiped() {
        let mut pool = Pool {
            slots: Vec::new(),
            locked: true,
        };
        let slot = pool.take();
        assert_eq!(slot, &[0; LEN]);
        assert_eq!(pool.slots.len(), PAGE_LEN / LEN - 1);
        drop(Secret::from_bytes([9; LEN]));
        assert!(
            FREE.lock().slots.iter().all(|slot| **slot == [0; LEN]),
            "free slots hold nothing"
        );
    }

    #[test]
    fn what_holds_secrets_is_locked() {
        let _secret = Secret::from_bytes([1; LEN]);
        assert!(
            Secret::memory_is_locked(),
            "a page of locked memory is within every usual limit"
        );
    }
}
