//! What a narinfo says, judged: who signed it, whether it can be true, and where the nar is.

use drover_store::key::Acl;
use drover_store::narinfo::NarInfo;
use drover_store::{Compression, StorePath};

use super::source::SourceError;

/// The most bytes of a narinfo that is believed: one with thousands of references has a quarter of it.
pub(super) const NARINFO_LIMIT: usize = 1 << 20;

/// Whom and what to believe.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    /// The keys that may have signed.
    pub(super) keys: Acl,
    /// Whether it need not be signed by one of them.
    pub(super) unsigned: bool,
    /// Whether it is signed anew here.
    pub(super) sign: bool,
    /// The largest nar that is taken, in bytes.
    pub(super) nar_limit: u64,
}

/// A narinfo that may be believed.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub(super) info: NarInfo,
    /// Whether a key that is trusted signed it.
    pub(super) signed: bool,
    /// What is offered and understood here, what is liked best first.
    pub(super) forms: Vec<Form>,
}

/// A form in which a nar is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) compression: Compression,
    /// Where, as the narinfo says it.
    pub(super) url: String,
    /// The bytes of the file, if they were said.
    pub(super) size: Option<u64>,
}

impl Said {
    /// Reads and judges the narinfo of an item.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn read(text: &[u8], of: &Wanted, terms: &Terms) -> Result<Self, SourceError> {
        let refused = |why: String| Err(SourceError::Refused(why));
        if text.len() > NARINFO_LIMIT {
            return refused(format!("its narinfo has more than {NARINFO_LIMIT} bytes"));
        }
        let mut info = NarInfo::parse(text).map_err(|error| SourceError::Refused(error.to_string()))?;
        if !of.is(&info.store_path) {
            return refused(format!("its narinfo speaks of {}", info.store_path));
        }
        if info.store_path.is_derivation() {
            return refused("it is a derivation, which is submitted and not imported".to_owned());
        }
        let signed = match info.verify(&terms.keys) {
            Ok(()) => true,
            Err(_) if terms.unsigned => false,
            Err(error) => return refused(error.to_string()),
        };
        if info.nar_size > terms.nar_limit {
            return refused(format!(
                "its nar has {} bytes, and max-nar-mib allows {}",
                info.nar_size, terms.nar_limit
            ));
        }
        info.references.sort_unstable();
        info.references.dedup();
        let forms = forms(&info);
        if forms.is_empty() {
            return refused("its narinfo names no nar in a compression that is known here".to_owned());
        }
        if !terms.sign && signed {
            covers_no_address(&info)?;
        }
        Ok(Self { info, signed, forms })
    }

    /// What it refers to besides itself.
    pub(super) fn others(&self) -> impl Iterator<Item = &StorePath> {
        self.info.references.iter().filter(|path| **path != self.info.store_path)
    }
}

/// What a narinfo is to be about.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// This item.
    Item(StorePath),
    /// Any.
    Any,
}

impl Wanted {
    fn is(&self, path: &StorePath) -> bool {
        match self {
            Self::Item(wanted) => wanted == path,
            Self::Any => true,
        }
    }
}

fn forms(info: &NarInfo) -> Vec<Form> {
    let known = info.urls.iter().filter_map(|url| {
        let compression = url.compression.parse().ok()?;
        Some(Form { compression, url: url.url.clone(), size: url.file_size })
    });
    let mut forms: Vec<Form> = known.collect();
    forms.sort_by_key(|form| std::cmp::Reverse(form.compression));
    forms.dedup_by_key(|form| form.compression);
    forms
}

/// A signature may cover addresses, too: these could not be replaced by those that things have here.
fn covers_no_address(info: &NarInfo) -> Result<(), SourceError> {
    let covered = info
        .signature
        .as_ref()
        .is_some_and(|signed| signed.text.lines().any(|line| line.starts_with("URL:")));
    if covered {
        let why =
            "its signature covers the addresses of its nar, which has others here; --sign signs it anew";
        return Err(SourceError::Refused(why.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use drover_store::Sha256Hash;
    use drover_store::key::SecretKey;
    use drover_store::narinfo::Url;
    use drover_store::path;

    use super::*;

    fn item(name: &str) -> StorePath {
        path::text(name, b"", &[]).unwrap()
    }

    fn info(urls: &[(&str, &str)]) -> NarInfo {
        let urls = urls.iter().map(|(compression, url)| Url {
            url: (*url).to_owned(),
            compression: (*compression).to_owned(),
            file_size: Some(7),
        });
        NarInfo {
            store_path: item("hello"),
            urls: urls.collect(),
            nar_hash: Sha256Hash::of(b"nar"),
            nar_size: 120,
            references: vec![item("z"), item("a"), item("z")],
            deriver: None,
            system: None,
            signature: None,
        }
    }

    fn terms(keys: &[&SecretKey]) -> Terms {
        let keys = keys.iter().map(|key| *key.public()).collect();
        Terms { keys, unsigned: false, sign: false, nar_limit: 1000 }
    }

    fn why(text: &str, terms: &Terms) -> String {
        match Said::read(text.as_bytes(), &Wanted::Item(item("hello")), terms) {
            Err(SourceError::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_form_that_agents_take_as_it_is_comes_first_and_unknown_ones_are_left_out() {
        let key = SecretKey::generate().unwrap();
        let mut signed = info(&[("lzip", "nar/lzip/x"), ("bzip2", "nar/b"), ("zstd", "nar/zstd/x")]);
        signed.sign("farm", &key);
        let said =
            Said::read(signed.print().as_bytes(), &Wanted::Item(item("hello")), &terms(&[&key])).unwrap();
        let found: Vec<_> = said.forms.iter().map(|form| form.compression).collect();
        assert_eq!(found, [Compression::Zstd, Compression::Lzip]);
        assert_eq!(said.info.references.len(), 2);
        let none = info(&[("bzip2", "nar/b")]);
        let anything = Terms { unsigned: true, ..terms(&[]) };
        assert!(why(&none.print(), &anything).contains("no nar"));
    }

    #[test]
    fn a_wrong_signature_and_none_are_refused_unless_that_was_allowed() {
        let (key, other) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        let unsigned = info(&[("zstd", "nar/zstd/x")]);
        assert!(why(&unsigned.print(), &terms(&[&key])).contains("not signed"));
        let mut signed = unsigned.clone();
        signed.sign("farm", &other);
        why(&signed.print(), &terms(&[&key]));
        let changed = signed.print().replace("NarSize: 120", "NarSize: 121");
        why(&changed, &terms(&[&other]));
        let allowed = Terms { unsigned: true, ..terms(&[&key]) };
        let said = Said::read(signed.print().as_bytes(), &Wanted::Any, &allowed).unwrap();
        assert!(!said.signed);
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        let key = SecretKey::generate().unwrap();
        let allowed = Terms { unsigned: true, ..terms(&[&key]) };
        let text = info(&[("zstd", "nar/zstd/x")]).print();
        assert!(why(&text.replace("NarSize: 120", "NarSize: 1001"), &allowed).contains("max-nar-mib"));
        let odd = text.replace(item("z").base_name(), "../../etc/passwd");
        assert!(why(&odd, &allowed).contains("References"));
        let other = text.replace(item("hello").as_str(), item("other").as_str());
        assert!(why(&other, &allowed).contains("speaks of"));
    }

    #[test]
    fn an_address_that_is_signed_needs_a_new_signature() {
        let key = SecretKey::generate().unwrap();
        let mut signed = info(&[]);
        let sign = |signed: &mut NarInfo, url: &str| {
            let text = format!("URL: {url}\nCompression: lzip\n{}", info(&[]).signed_part());
            let signature = key.sign(&Sha256Hash::of(text.as_bytes()));
            signed.signature = Some(drover_store::narinfo::Signed { text, host: "h".into(), signature });
        };
        sign(&mut signed, "nar/lzip/elsewhere");
        assert!(why(&signed.print(), &terms(&[&key])).contains("--sign"));
        let anew = Terms { sign: true, ..terms(&[&key]) };
        Said::read(signed.print().as_bytes(), &Wanted::Any, &anew).unwrap();
    }
}
