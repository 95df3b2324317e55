//! What differs between Linux and the Hurd: sockets with deadlines, process trees, load, disks, signals.
