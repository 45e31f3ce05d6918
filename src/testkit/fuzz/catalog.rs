//! Rows of the catalog, behind their seal.

use super::input::Input;
use crate::catalog::{Table, rewritten};

/// A row that is read is written as the same bytes.
pub fn catalog_rows(data: &[u8]) {
    let mut input = Input::new(data);
    let table = *input.choice(&Table::ALL);
    let bytes = input.rest();
    if let Ok(written) = rewritten(table, bytes) {
        assert!(written == bytes, "a row of {} has two spellings", table.name());
    }
}
