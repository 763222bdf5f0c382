//! The cache: by model under loom, step by step without it.

use super::*;
