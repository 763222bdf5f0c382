//! Tests of the change journal on a medium.
