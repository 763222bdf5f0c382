//! Edits against a plain evaluator that does one after the other and takes all back on an error.
