//! Guix's store formats: base32, store paths, derivations, nars, narinfos, s-expressions, signatures.
//!
//! Bytes in, values out: nothing here knows a network, and files appear only where a nar meets a tree
//! ([`nar::pack`] and [`nar::unpack`]). Every parser takes bytes from strangers: it is strict, bounded, and
//! never panics.

pub mod base32;
pub mod check;
pub mod compression;
pub mod derivation;
pub mod export;
pub mod framing;
pub mod hash;
pub mod key;
pub mod nar;
pub mod narinfo;
pub mod path;
pub mod references;
#[cfg(feature = "serde")]
mod serde;
pub mod sexp;
pub mod source;

pub use compression::Compression;
pub use derivation::Derivation;
pub use hash::{Sha256, Sha256Hash};
pub use path::StorePath;

/// The folder of the store. Guix's is fixed: another one changes every hash.
pub const STORE_DIR: &str = "/gnu/store";
