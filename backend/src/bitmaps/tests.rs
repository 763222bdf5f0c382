//! Edits against a plain evaluator that does one after the other and takes all back on an error; `disk` is what has
//! bitmaps here.

mod disk;
mod errors;
mod gaps;
mod merges;
mod naive;
mod past;
mod random;
