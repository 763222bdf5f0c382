//! Images whose entries have a second word: for each of the 32 parts of a cluster whether it is the guest's own data,
//! reads as zeroes, or shows what is below. A write takes along no more than the parts that it touches.
//!
//! Both words are looked at and changed together ([`super::l2::Tables::set`]). What is written back may be a table
//! between the two: so a part is said to be there only while its cluster is. What is not written back is lost with the
//! process: it is not noted for the next one. Source: the qcow2 specification, "Extended L2 Entries".

mod write;
mod zero;
