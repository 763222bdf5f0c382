//! The client against servers that keep to the protocol, that do not, and that are not there.
