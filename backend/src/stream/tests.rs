//! A stream delivers what was written, in order, whatever pieces it comes in.
