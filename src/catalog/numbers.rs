//! Small numbers that stand for repositories in the keys of their rows.
//!
//! With the 16 bytes of an id in front of each key a row of a chunk had one of 33 bytes. The database keeps keys of up to 20
//! where it compares them, and longer ones elsewhere in memory. A number takes one byte of a key or three.

use super::error::Error;
use super::tables::{Batch, Table, Tables};
use crate::codec::RepositoryId;

/// The row that has the next number, shorter than any repository's id.
const NEXT_KEY: &[u8] = b"next";
/// Numbers that take one byte.
const SHORT: u32 = 192;
/// Numbers that there are: one is given to each repository of a catalog, and to none again.
const NUMBERS: u32 = SHORT + (64 << 16);

/// What every key of a repository's rows starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefix {
    bytes: [u8; Self::LEN_MAX],
    len: u8,
}

impl Prefix {
    pub(super) const LEN_MAX: usize = 3;

    /// The prefix of the repository with this number. None is the beginning of another.
    fn of(number: u32) -> Option<Self> {
        let (bytes, len) = match number {
            ..SHORT => ([number as u8, 0, 0], 1),
            SHORT..NUMBERS => {
                let [_, high, middle, low] = (number - SHORT).to_be_bytes();
                ([SHORT as u8 + high, middle, low], 3)
            }
            _ => return None,
        };
        Some(Self { bytes, len })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// What the keys of this repository's rows start with, if it was given a number.
pub(super) fn find(tables: &dyn Tables, id: RepositoryId) -> Result<Option<Prefix>, Error> {
    let Some(number) = read(tables, &id.0)? else {
        return Ok(None);
    };
    let prefix = Prefix::of(number).ok_or_else(|| damaged("a repository's number is none"))?;
    Ok(Some(prefix))
}

/// As [`find`], after giving it a number if it has none. To be called by one at a time.
pub(super) fn find_or_give(tables: &dyn Tables, id: RepositoryId) -> Result<Prefix, Error> {
    if let Some(prefix) = find(tables, id)? {
        return Ok(prefix);
    }
    let next = match read(tables, NEXT_KEY)? {
        Some(next) => next,
        None if tables.scan(Table::Numbers, &[], None, 1)?.is_empty() => 0,
        None => return Err(damaged("the next number is lost")),
    };
    let prefix = Prefix::of(next).ok_or_else(|| Error::Damaged {
        problem: "it has no numbers left for repositories".to_owned(),
    })?;
    let mut batch = Batch::new();
    batch.put(Table::Numbers, id.0.to_vec(), next.to_le_bytes().to_vec());
    batch.put(Table::Numbers, NEXT_KEY.to_vec(), (next + 1).to_le_bytes().to_vec());
    tables.commit(batch)?;
    Ok(prefix)
}

fn read(tables: &dyn Tables, key: &[u8]) -> Result<Option<u32>, Error> {
    let Some(row) = tables.get(Table::Numbers, key)? else {
        return Ok(None);
    };
    let row = <[u8; 4]>::try_from(row.as_slice()).map_err(|_| damaged("a repository's number is none"))?;
    Ok(Some(u32::from_le_bytes(row)))
}

fn damaged(problem: &'static str) -> Error {
    Error::Row {
        table: Table::Numbers,
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::MemoryTables;

    #[test]
    fn no_prefix_begins_another() {
        let numbers = [0, 1, 191, 192, 193, 447, 448, 65_727, 65_728, NUMBERS - 1];
        let prefixes = numbers.map(|number| Prefix::of(number).unwrap());
        for (at, prefix) in prefixes.iter().enumerate() {
            for other in prefixes.iter().skip(at + 1) {
                assert!(!other.as_bytes().starts_with(prefix.as_bytes()), "{prefix:?} {other:?}");
                assert!(prefix.as_bytes() < other.as_bytes(), "{prefix:?} {other:?}");
            }
        }
        assert_eq!(
            prefixes.map(|prefix| prefix.as_bytes().len()),
            [1, 1, 1, 3, 3, 3, 3, 3, 3, 3]
        );
        assert_eq!(Prefix::of(NUMBERS), None);
        assert_eq!(Prefix::of(u32::MAX), None);
    }

    #[test]
    fn each_repository_has_a_number_of_its_own_for_good() {
        let tables = MemoryTables::default();
        let ids = [1, 2, 3].map(|of| RepositoryId([of; 16]));
        assert_eq!(find(&tables, ids[0]).unwrap(), None);
        let given = ids.map(|id| find_or_give(&tables, id).unwrap());
        assert_eq!(given, [0, 1, 2].map(|number| Prefix::of(number).unwrap()));
        assert_eq!(ids.map(|id| find_or_give(&tables, id).unwrap()), given);
        assert_eq!(ids.map(|id| find(&tables, id).unwrap()), given.map(Some));
    }

    #[test]
    fn numbers_come_to_an_end_and_rows_that_have_none_are_told() {
        let (tables, id) = (MemoryTables::default(), RepositoryId([1; 16]));
        let put = |key: &[u8], row: &[u8]| {
            let mut batch = Batch::new();
            batch.put(Table::Numbers, key.to_vec(), row.to_vec());
            tables.commit(batch).unwrap();
        };
        put(NEXT_KEY, &NUMBERS.to_le_bytes());
        let error = find_or_give(&tables, id).unwrap_err();
        assert!(error.to_string().contains("no numbers left"), "{error}");
        put(NEXT_KEY, &(NUMBERS - 1).to_le_bytes());
        assert_eq!(find_or_give(&tables, id).unwrap(), Prefix::of(NUMBERS - 1).unwrap());
        for row in [&b""[..], b"four5", &NUMBERS.to_le_bytes()] {
            put(&id.0, row);
            let found = find_or_give(&tables, id);
            assert!(is_damage(found), "{row:?}");
        }
        let mut batch = Batch::new();
        batch.delete(Table::Numbers, NEXT_KEY.to_vec());
        tables.commit(batch).unwrap();
        let given = find_or_give(&tables, RepositoryId([2; 16]));
        assert!(is_damage(given), "it could be one that was given");
    }

    fn is_damage(found: Result<Prefix, Error>) -> bool {
        matches!(
            found,
            Err(Error::Row {
                table: Table::Numbers,
                ..
            })
        )
    }
}
