//! The list of keys whose imports a machine accepts, `/etc/guix/acl`.

use super::{Error, PublicKey, parse_sexp};
use crate::sexp::Sexp;

const WHAT: &str = "an access list";

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
        Self::from_sexp(&parse_sexp(text.as_bytes(), WHAT)?)
    }

    /// Reads what [`Acl::parse`] reads, or public keys one after another.
    ///
    /// # Errors
    /// When the text is neither; which of the keys is none is said.
    pub fn parse_keys(text: &str) -> Result<Self, Error> {
        let all = Sexp::parse_all(text.as_bytes())
            .map_err(|error| Error::Sexp { what: "a list of public keys", error })?;
        let key = |(index, sexp)| {
            PublicKey::from_sexp(sexp)
                .map_err(|error| Error::At { number: index + 1, error: Box::new(error) })
        };
        match all.as_slice() {
            [list] if list.after("acl").is_some() => Self::from_sexp(list),
            keys => keys.iter().enumerate().map(key).collect(),
        }
    }

    fn from_sexp(sexp: &Sexp) -> Result<Self, Error> {
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
