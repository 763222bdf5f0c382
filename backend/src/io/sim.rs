//! A simulated kernel: disks with a volatile cache, faults, delays and a clock that moves only when everybody sleeps.
