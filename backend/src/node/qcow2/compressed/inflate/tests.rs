//! What inflates, and what does not.
