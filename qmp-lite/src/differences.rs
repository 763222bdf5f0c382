//! What is done otherwise than by QEMU's storage daemon on purpose, and why.
//!
//! Knows no code. The reference prints it, and whoever compares both daemons and excepts something has to find it here, so
//! that nothing differs unsaid. What is not supported is not here: it is refused, and the reference does not name it.

mod exports;
mod jobs;
mod nodes;

/// One thing that is done otherwise.
#[derive(Debug)]
pub struct Difference {
    /// The command, event, driver or object that it is about.
    pub subject: &'static str,
    /// What of it, or when.
    pub case: &'static str,
    /// What QEMU 10.0 does.
    pub qemu: &'static str,
    /// What this program does.
    pub ours: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// All of them, in the order of the reference.
pub fn differences() -> impl Iterator<Item = &'static Difference> {
    [nodes::DIFFERENCES, exports::DIFFERENCES, jobs::DIFFERENCES].into_iter().flatten()
}

/// The one that is called `SUBJECT: CASE`.
pub fn find(name: &str) -> Option<&'static Difference> {
    let (subject, case) = name.split_once(": ")?;
    differences().find(|difference| difference.subject == subject && difference.case == case)
}

#[cfg(test)]
mod tests {
    use super::{differences, find};

    #[test]
    fn each_is_about_something_that_the_reference_names() {
        let page = crate::reference::markdown();
        for difference in differences() {
            let subject = difference.subject;
            let named = [format!("### {subject}\n"), format!("* `\"{subject}\"`")];
            assert!(named.iter().any(|name| page.contains(name)), "{subject}");
        }
    }

    #[test]
    fn each_is_found_by_its_name_and_fits_into_a_row_of_a_table() {
        for difference in differences() {
            let name = format!("{}: {}", difference.subject, difference.case);
            assert!(find(&name).is_some_and(|found| std::ptr::eq(found, difference)), "'{name}' is there twice");
            for text in [difference.case, difference.qemu, difference.ours, difference.reason] {
                assert!(!text.is_empty() && !text.contains(['|', '\n']), "{name}: {text}");
            }
        }
    }
}
