//! Objects that say who is let in.
//!
//! Knows QEMU's members and rules; what a name is, is up to whoever asks. Who is on no list is not let in.

use crate::schema::{qapi_enum, qapi_struct};

qapi_struct! {
    /// One who is let in.
    pub struct AuthZSimpleProperties "AuthZSimpleProperties" {
        /// The distinguished name of the client's certificate.
        "identity" identity: String,
    }
}

qapi_struct! {
    /// A list of who is let in and who is not.
    pub struct AuthZListProperties "AuthZListProperties" {
        /// What becomes of those that no rule is about; deny if absent.
        "policy" policy: Option<QAuthZListPolicy>,
        /// The rules; the first that is about somebody counts.
        "rules" rules: Option<Vec<QAuthZListRule>>,
    }
}

qapi_struct! {
    /// What becomes of some.
    pub struct QAuthZListRule "QAuthZListRule" {
        /// A distinguished name, or a pattern of such.
        "match" matches: String,
        /// What becomes of those who match.
        "policy" policy: QAuthZListPolicy,
        /// What `match` is; exact if absent.
        "format" format: Option<QAuthZListFormat>,
    }
}

qapi_enum! {
    /// What becomes of somebody.
    pub enum QAuthZListPolicy "QAuthZListPolicy" {
        /// He is not let in.
        Deny = "deny",
        /// He is let in.
        Allow = "allow",
    }
}

qapi_enum! {
    /// What a rule matches by.
    pub enum QAuthZListFormat "QAuthZListFormat" {
        /// The whole name.
        Exact = "exact",
        /// A pattern, in which `*` is any text and `?` any character.
        Glob = "glob",
    }
}

impl AuthZListProperties {
    /// Whether somebody is let in.
    pub(super) fn allows(&self, name: &str) -> bool {
        let rule = self.rules.iter().flatten().find(|rule| rule.is_about(name));
        let policy = rule.map(|rule| rule.policy).or(self.policy).unwrap_or(QAuthZListPolicy::Deny);
        policy == QAuthZListPolicy::Allow
    }
}

impl QAuthZListRule {
    fn is_about(&self, name: &str) -> bool {
        match self.format {
            Some(QAuthZListFormat::Glob) => glob(&self.matches, name),
            Some(QAuthZListFormat::Exact) | None => self.matches == name,
        }
    }
}

/// Whether a text matches a pattern; in steps of the product of their lengths at most.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut seen) = (0, 0);
    // The last star, and how much of the text it has.
    let mut star: Option<(usize, usize)> = None;
    while let Some(char) = text.get(seen) {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(wanted) if *wanted == '?' || wanted == char => (at, seen) = (at + 1, seen + 1),
            _ => {
                let Some((place, taken)) = star else { return false };
                star = Some((place, taken + 1));
                (at, seen) = (place + 1, taken + 1);
            }
        }
    }
    pattern.iter().skip(at).all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_those_of_the_shell_without_sets() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbb", false),
            ("*CN=?m*", "O=x,CN=vm,L=y", true),
            ("*CN=?m", "CN=vm,CN=wm", true),
            ("?", "ä", true),
            ("a**b*", "ab", true),
            ("*a*b*c*", "xxaxxcxxb", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn the_first_rule_counts_and_nobody_is_let_in_by_none() {
        let rule = |matches: &str, policy| {
            let format = Some(QAuthZListFormat::Glob);
            QAuthZListRule { matches: matches.to_owned(), policy, format }
        };
        let rules = vec![rule("CN=bad*", QAuthZListPolicy::Deny), rule("CN=*", QAuthZListPolicy::Allow)];
        let list = AuthZListProperties { policy: None, rules: Some(rules) };
        let who = ["CN=badger", "CN=vm", "O=vm"].map(|name| list.allows(name));
        assert_eq!(who, [false, true, false]);
        let open = AuthZListProperties { policy: Some(QAuthZListPolicy::Allow), ..list };
        assert!(open.allows("O=vm") && !open.allows("CN=bad"));
    }
}
