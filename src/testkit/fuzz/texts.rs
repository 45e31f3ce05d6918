//! What people write: places, sizes, cursors, key files.

use std::fmt::Display;
use std::str::FromStr;

use super::golden::{KEK, KEYRING, SECRETS};
use super::input::Input;
use crate::backend::Location;
use crate::codec::RepositoryId;
use crate::config::Size;
use crate::engine::{Depth, Reason, ScrubCursor};
use crate::format::Kek;
use crate::format::keyring::{open_keyring, open_keyring_directory};
use crate::keys::kek_in;

/// A text that is taken is printed as one that means the same; and what is refused is refused in one line.
pub fn texts(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    reads_back::<Location>(text);
    reads_back::<ScrubCursor>(text);
    one_spelling::<ScrubCursor>(text);
    one_spelling::<Depth>(text);
    if let Some(reason) = Reason::from_word(text) {
        assert_eq!(reason.as_str(), text);
    }
    size(text);
}

/// What is printed of it means the same.
pub(super) fn reads_back<T>(text: &str)
where
    T: FromStr + Display + PartialEq,
    T::Err: Display,
{
    match text.parse::<T>() {
        Ok(value) => {
            let printed = value.to_string();
            let again = printed.parse::<T>();
            assert!(
                again.is_ok_and(|again| again == value),
                "{text:?} is printed as {printed:?}"
            );
        }
        Err(error) => {
            let line = error.to_string();
            assert!(!line.is_empty(), "{text:?} is refused without a word");
        }
    }
}

/// Nothing else means the same.
fn one_spelling<T: FromStr + Display>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string(), text);
    }
}

/// A size is printed rounded: to at most one part in two thousand, and the same again.
fn size(text: &str) {
    let Ok(size) = text.parse::<Size>() else {
        return;
    };
    let printed = size.to_string();
    assert!(
        printed.len() <= "1023.9 KiB".len(),
        "{size:?} is printed as {printed:?}"
    );
    let (number, _) = printed.split_once(' ').expect("a unit follows");
    assert!(number.parse::<f64>().is_ok_and(|number| number < 1024.0), "{printed:?}");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let written: u64 = text[..digits].parse().expect("a size begins with its number");
    assert!(size.0 >= written);
}

/// A key file has one of two forms, and only the key that a keyring was made with opens it.
pub fn key_files(data: &[u8]) {
    let mut input = Input::new(data);
    let secret = *KEK.secret.expose();
    let contents = match input.u8() % 4 {
        0 => input.edited(&secret),
        1 => input.edited(hex::encode(secret).as_bytes()),
        2 => input.edited(format!("{}\n", hex::encode(secret)).as_bytes()),
        _ => input.rest().to_vec(),
    };
    let digits = contents.strip_suffix(b"\n").unwrap_or(&contents);
    let expected = match contents.len() {
        32 => Some(contents.clone()),
        _ if digits.len() == 64 => hex::decode(digits).ok(),
        _ => None,
    };
    let Ok(kek) = kek_in(&contents) else {
        assert_eq!(expected, None);
        return;
    };
    assert_eq!(Some(kek.secret.to_vec()), expected);
    let is_golden = *kek.secret == secret;
    let kek = Kek::from(kek);
    assert_eq!(open_keyring(KEYRING, &kek).is_ok(), is_golden);
    let opened = open_keyring_directory(KEYRING, &kek);
    assert_eq!(opened.is_ok(), is_golden);
    if let Ok(opened) = opened {
        let id: RepositoryId = opened.repository();
        assert_eq!(id, SECRETS.repository());
    }
}
