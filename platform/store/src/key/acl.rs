//! The list of keys whose imports a machine accepts, `/etc/guix/acl`.

use super::{Error, PublicKey, parse_sexp};
use crate::sexp::Sexp;

/// The keys that are authorized to sign what is imported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acl(Vec<PublicKey>);

impl Acl {
    /// Reads `(acl (entry (public-key …) (tag (guix import))) …)`. Entries with another tag or with a key of
    /// another kind are left out: they authorize nothing here.
    ///
    /// # Errors
    /// When the text is no access list.
    pub fn parse(text: &str) -> Result<Self, Error> {
        const WHAT: &str = "an access list";
        let sexp = parse_sexp(text.as_bytes(), WHAT)?;
        let entries = sexp.after("acl").ok_or(Error::Shape { what: WHAT, missing: "(acl …)" })?;
        let import = [Sexp::tagged("guix", [Sexp::word("import")])];
        let imports = entries.iter().filter(|entry| entry.find("tag") == Some(&import));
        Ok(Self(
            imports
                .filter_map(|entry| {
                    let key = entry.find("public-key")?;
                    PublicKey::from_sexp(&Sexp::tagged("public-key", key.iter().cloned())).ok()
                })
                .collect(),
        ))
    }

    /// Whether what this key signs may be imported.
    pub fn authorizes(&self, key: &PublicKey) -> bool {
        self.0.contains(key)
    }

    /// The keys, in the order of the list.
    pub fn keys(&self) -> &[PublicKey] {
        &self.0
    }
}

impl FromIterator<PublicKey> for Acl {
    fn from_iter<T: IntoIterator<Item = PublicKey>>(keys: T) -> Self {
        Self(keys.into_iter().collect())
    }
}
