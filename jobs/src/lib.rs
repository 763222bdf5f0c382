//! Jobs and transactions: what runs beside the guests on their nodes. Knows nodes; knows no exports and no JSON.
#![forbid(unsafe_code)]
