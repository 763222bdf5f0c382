//! Rust text without what only looks like code: comments and literals are blanked, lines stay where they are.
//!
//! Good enough to count braces and find words; it does not parse.

/// The text with comments, strings and characters replaced by spaces.
pub fn code(text: &str) -> String {
    let mut rest = text;
    let mut code = String::with_capacity(text.len());
    while let Some(first) = rest.chars().next() {
        let len = blank_len(rest, code.chars().last());
        if len == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..len].chars().map(|char| if char == '\n' { '\n' } else { ' ' }));
            rest = &rest[len..];
        }
    }
    code
}

/// Bytes of the comment or literal that `rest` starts with; 0 if it starts with neither.
fn blank_len(rest: &str, before: Option<char>) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    if before.is_some_and(is_word) {
        return if rest.starts_with('"') { quoted(rest, '"') } else { 0 };
    }
    let body = rest.strip_prefix(['b', 'c']).unwrap_or(rest);
    let prefix = rest.len() - body.len();
    match body.chars().next() {
        Some('"') => prefix + quoted(body, '"'),
        Some('\'') => character(body).map_or(0, |len| prefix + len),
        Some('r') => raw(body).map_or(0, |len| prefix + len),
        _ => 0,
    }
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let here = &rest[at..];
        let step = match () {
            () if here.starts_with("/*") => (1, 2),
            () if here.starts_with("*/") => (-1, 2),
            () => (0, here.chars().next().map_or(1, char::len_utf8)),
        };
        depth += step.0;
        at += step.1;
        if depth == 0 {
            break;
        }
    }
    at
}

/// From a quote to the next one that is not escaped.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, char) in rest.char_indices().skip(1) {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if char == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A character literal, not a lifetime: `'x'` or an escape.
fn character(rest: &str) -> Option<usize> {
    let mut chars = rest.chars().skip(1);
    match (chars.next()?, chars.next()) {
        ('\\', _) => Some(quoted(rest, '\'')),
        (_, Some('\'')) => Some(quoted(rest, '\'')),
        _ => None,
    }
}

/// `r"…"`, `r#"…"#`.
fn raw(rest: &str) -> Option<usize> {
    let fence: String = rest[1..].chars().take_while(|char| *char == '#').collect();
    let open = 1 + fence.len();
    if !rest[open..].starts_with('"') {
        return None;
    }
    let end = rest[open + 1..].find(&format!("\"{fence}"))?;
    Some(open + 1 + end + 1 + fence.len())
}

/// Whether this character can be part of a name.
pub fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// Where `word` stands as a whole word.
pub fn find_words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = code[..*at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// The name that `text` starts with, after white space.
pub fn leading_name(text: &str) -> &str {
    let text = text.trim_start();
    &text[..text.find(|char| !is_word(char)).unwrap_or(text.len())]
}

/// The number of the line that holds this byte, from 1.
pub fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

#[test]
fn comments_and_literals_are_blanked_and_code_is_not() {
    let cases = [
        ("a // fn b", "a        "),
        ("a /* x /* y */ z */ b", "a                   b"),
        (r#"f("fn \" {", 1)"#, "f(         , 1)"),
        (r###"f(r#"a " b"#)"###, "f(          )"),
        ("let c = '{'; &'a str", "let c =    ; &'a str"),
        (r"'\'' + '\n'", "     +     "),
        ("b'x' c\"y\" br\"z\"", "               "),
        ("for r in rings {}", "for r in rings {}"),
        ("a\n/*\n*/b", "a\n  \n  b"),
    ];
    for (text, wanted) in cases {
        assert_eq!(code(text), wanted, "{text}");
    }
}

#[test]
fn words_are_found_whole() {
    assert_eq!(find_words("unsafe_code unsafe { xunsafe }", "unsafe").collect::<Vec<_>>(), [12]);
    assert_eq!(leading_name("  name: x"), "name");
    assert_eq!(line_of("a\nb\nc", 2), 2);
}
