//! What comes in any order and goes on in the order of its numbers.

/// A few things that wait for their turns: so few that a list of them is the fastest to look through. A tree would take two
/// kilobytes for the first of them, which is more than threads get from the allocator without waiting for each other.
pub(super) struct Turns<T> {
    next: u64,
    waiting: Vec<(u64, T)>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self {
            next: 0,
            waiting: Vec::new(),
        }
    }
}

impl<T> Turns<T> {
    /// Adds the thing with this number, which no other has: the first is 0.
    pub(super) fn insert(&mut self, number: u64, thing: T) {
        self.waiting.push((number, thing));
    }

    /// Takes the thing whose turn it is, if it is there; then it is the next one's.
    pub(super) fn take(&mut self) -> Option<T> {
        let at = self.waiting.iter().position(|(number, _)| *number == self.next)?;
        self.next += 1;
        Some(self.waiting.swap_remove(at).1)
    }

    /// Takes all that wait, in no order.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = T> + use<T> {
        std::mem::take(&mut self.waiting).into_iter().map(|(_, thing)| thing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_go_in_the_order_of_their_numbers() {
        let mut turns = Turns::default();
        let mut gone = Vec::new();
        for number in [2, 0, 1, 5, 4, 3, 6] {
            turns.insert(number, number);
            gone.push(std::iter::from_fn(|| turns.take()).collect::<Vec<_>>());
        }
        assert_eq!(
            gone,
            [vec![], vec![0], vec![1, 2], vec![], vec![], vec![3, 4, 5], vec![6]]
        );
        assert_eq!(turns.take(), None);
    }

    #[test]
    fn what_is_given_up_takes_no_turn() {
        let mut turns = Turns::default();
        turns.insert(2, "later");
        turns.insert(0, "first");
        assert_eq!(turns.take(), Some("first"));
        assert_eq!(turns.take_all().collect::<Vec<_>>(), ["later"]);
        assert_eq!(turns.take(), None);
        turns.insert(1, "the next");
        assert_eq!(turns.take(), Some("the next"));
        assert_eq!(turns.take(), None, "it is given up");
    }
}
