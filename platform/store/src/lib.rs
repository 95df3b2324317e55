//! Guix's store formats: base32, store paths, derivations, nars, narinfos, s-expressions, signatures.
