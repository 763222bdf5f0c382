//! A line as words, the way a shell takes it apart: blanks separate, quotes and backslashes do not.

/// The words of a line.
///
/// # Errors
/// A quote without its end.
pub fn split(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match (quote, char) {
            (None, char) if char.is_whitespace() => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            (Some(open), char) if char == open => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(chars.next()),
            (_, char) => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    if quote.is_some() { Err("a quote is not closed") } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_a_shell_would_make_of_them() {
        let check = |line: &str, expected: &[&str]| assert_eq!(split(line).as_deref(), Ok(&*owned(expected)), "{line}");
        check("", &[]);
        check("  query-version ", &["query-version"]);
        check("a b=1  c", &["a", "b=1", "c"]);
        check("a 'b c'd \"e f\"", &["a", "b cd", "e f"]);
        check(r#"a x:='{"b": 1}'"#, &["a", r#"x:={"b": 1}"#]);
        check(r#"a\ b "c\"d" '\'"#, &["a b", "c\"d", "\\"]);
        check("''", &[""]);
        assert!(split("a 'b").is_err());
    }

    fn owned(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }
}
