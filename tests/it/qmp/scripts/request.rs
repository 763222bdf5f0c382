//! Requests as scripts write them: JSON without quotes around words, and sizes with a suffix. Knows no command.

/// What belongs to a bare word.
fn in_word(c: char) -> bool {
    c.is_alphanumeric() || "-_./#".contains(c)
}

/// A number or size in bytes: `512`, `0xaa`, `64K`, `1M`.
pub fn size(word: &str) -> Option<u64> {
    let (digits, shift) = match word.strip_suffix(['K', 'M', 'G']) {
        Some(digits) if word.ends_with('K') => (digits, 10),
        Some(digits) if word.ends_with('M') => (digits, 20),
        Some(digits) => (digits, 30),
        None => (word, 0),
    };
    let number = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    Some(number.ok()? << shift)
}

fn value(word: &str) -> String {
    let literal = ["true", "false", "null"].contains(&word) || word.parse::<f64>().is_ok();
    match (literal, size(word)) {
        (true, _) => word.to_owned(),
        (_, Some(size)) => size.to_string(),
        _ => format!("'{word}'"),
    }
}

/// The JSON that `text` stands for; what is in single quotes stays as it is.
pub fn json(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '\'' => rest[1..].find('\'').map_or(rest.len(), |end| end + 2),
            _ if in_word(first) => rest.find(|c| !in_word(c)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at(len);
        out.push_str(&if in_word(first) { value(token) } else { token.to_owned() });
        rest = after;
    }
    out
}

#[test]
fn bare_words_become_strings_and_sizes_numbers() {
    assert_eq!(json("{a-b: c.d, e: [64K, -1, true], f: '1 x'}"), "{'a-b': 'c.d', 'e': [65536, -1, true], 'f': '1 x'}");
    assert_eq!(json("{job-id: 1bad}"), "{'job-id': '1bad'}");
}
