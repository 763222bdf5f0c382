//! Documents of the program's own, such as a file that it keeps, as JSON text.
//!
//! Knows no document; what one has and what is refused is said by its type.

use crate::error::QmpError;
use crate::wire::{self, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads a text that is one JSON value of this type.
///
/// # Errors
/// It is none; the text says where or why.
pub fn decode<T: DeserializeOwned>(text: &str) -> Result<T, QmpError> {
    from_value(wire::parse(text)?)
}

/// A value as this type.
///
/// # Errors
/// It is none.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, QmpError> {
    serde_json::from_value(value).map_err(|error| QmpError::generic(error.to_string()))
}

/// What the type says as a JSON value.
///
/// # Errors
/// It cannot be written as JSON, such as a map whose keys are no texts.
pub fn to_value(document: &impl Serialize) -> Result<Value, QmpError> {
    serde_json::to_value(document).map_err(|error| QmpError::generic(error.to_string()))
}

/// The text of a document, in lines.
///
/// # Errors
/// As [`to_value`].
pub fn encode(document: &impl Serialize) -> Result<String, QmpError> {
    // A string has no line ends as they are.
    Ok(wire::to_pretty_lines(&to_value(document)?).replace("\r\n", "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Letter {
        to: String,
        pages: Vec<u64>,
    }

    #[test]
    fn a_document_comes_back_as_it_was_written_and_is_ascii_on_the_way() {
        let letter = Letter { to: "Zo\u{eb}\n\"x\"".to_owned(), pages: vec![0, u64::MAX] };
        let text = encode(&letter).unwrap();
        assert!(text.is_ascii() && text.ends_with("}\n") && !text.contains('\r'), "{text}");
        assert_eq!(decode::<Letter>(&text).unwrap(), letter);
    }

    #[test]
    fn what_is_another_document_is_refused_with_the_member_that_is_wrong() {
        for (text, word) in [("{\"to\": 1, \"pages\": []}", "string"), ("{\"to\": \"a\"}", "pages"), ("{", "JSON")] {
            let error = decode::<Letter>(text).unwrap_err();
            assert!(error.desc.contains(word), "{text}: {}", error.desc);
        }
        let error = decode::<Letter>("{\"to\": \"a\", \"pages\": [], \"cc\": 1}").unwrap_err();
        assert!(error.desc.contains("cc"), "{}", error.desc);
    }
}
