//! A table `[[places]]`: a folder or a bucket for nars.

use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::ConfigError;
use super::location::{Location, LocationConfig};

/// The name of the place in the state folder.
pub const STATE_PLACE: &str = "state";

/// A table `[[places]]`: a folder or a bucket for nars. That with the name `state` is the folder `nars` of the state
/// folder, which is always there: it can be given a capacity, and its turn.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PlaceConfig {
    /// What it is called, for ever: the database knows it by its name.
    pub name: String,
    /// Where it is.
    #[serde(flatten)]
    pub at: LocationConfig,
    /// How much may lie there; as much as there is, by default.
    pub capacity_gib: Option<Gib>,
    /// How much of a folder's disk stays free.
    pub reserve_gib: Option<Gib>,
}

/// An amount of storage, in the file a number of GiB, which may be a fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gib(
    /// In bytes.
    pub u64,
);

impl<'de> Deserialize<'de> for Gib {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Number {
            Whole(u64),
            Fraction(f64),
        }
        let said = "a number of GiB that is not negative, and less than a thousand million";
        let gib = match Number::deserialize(from) {
            Ok(Number::Whole(gib)) => gib as f64,
            Ok(Number::Fraction(gib)) => gib,
            Err(_) => return Err(serde::de::Error::custom(format!("expected {said}"))),
        };
        if !(0.0..1e9).contains(&gib) {
            return Err(serde::de::Error::custom(format!("expected {said}")));
        }
        // Below 2^60: nothing is cut off.
        Ok(Self((gib * f64::from(1 << 30)) as u64))
    }
}

/// Where a new nar goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// To the place that has most room.
    #[default]
    MostFree,
    /// To the first that has room, in the order of the configuration; to the state folder last, unless that says else.
    InOrder,
}

impl FromStr for Placement {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "most-free" => Ok(Self::MostFree),
            "in-order" => Ok(Self::InOrder),
            _ => Err("it is most-free or in-order".to_owned()),
        }
    }
}

impl PlaceConfig {
    /// Where it is; none for that in the state folder.
    ///
    /// # Errors
    /// What is wrong, and what to write.
    pub fn location(&self) -> Result<Option<Location>, &'static str> {
        if self.name != STATE_PLACE {
            return self.at.location().map(Some);
        }
        if self.at.given().next().is_some() {
            return Err("it is the place in the state folder, which has no other folder and no bucket");
        }
        if self.reserve_gib.is_some() {
            return Err("its reserve is the option disk-reserve-mib");
        }
        Ok(None)
    }
}

/// Whether a place can be called so.
#[must_use]
pub fn is_place_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=60).contains(&text.len()) && text.chars().all(fits) && text.chars().any(|c| c != '.')
}

/// Whether these can be places together, and beside the state folder.
pub(super) fn check(places: &[PlaceConfig], state: &Path) -> Result<(), ConfigError> {
    let bad = |value: String, reason| ConfigError::Value { option: "places", value, reason };
    for (n, place) in places.iter().enumerate() {
        if !is_place_name(&place.name) {
            let reason = "each wants a name, of letters, digits, dots and dashes";
            return Err(bad(format!("“{}”", place.name), reason));
        }
        let named = format!("“{}”", place.name);
        let at = place.location().map_err(|reason| bad(named.clone(), reason))?;
        if at.as_ref().is_some_and(|at| at.overlaps(&Location::Folder(state.to_owned()))) {
            let reason = "its folder is within the state folder, or around it; the place there has the name state, and no \
                          folder";
            return Err(bad(named, reason));
        }
        for other in &places[..n] {
            if other.name == place.name {
                return Err(bad(named, "there is another one of that name"));
            }
            if let (Some(at), Ok(Some(other))) = (&at, other.location()) {
                if at.overlaps(&other) {
                    return Err(bad(
                        named,
                        "another one is in the same folder or bucket, or within it, or around it",
                    ));
                }
            }
        }
        if matches!(at, Some(Location::Bucket(_))) && place.reserve_gib.is_some() {
            return Err(bad(named, "a bucket has no disk and no reserve; give it a capacity"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<PlaceConfig>, String> {
        #[derive(Deserialize)]
        struct All {
            places: Vec<PlaceConfig>,
        }
        let all: All = toml::from_str(text).map_err(|error| error.to_string())?;
        check(&all.places, Path::new("/var/lib/drover")).map_err(|error| error.to_string())?;
        Ok(all.places)
    }

    #[test]
    fn folders_and_the_state_are_places_with_capacities() {
        let places = read(
            "[[places]]\nname = 'large'\nfolder = '/srv/nars'\ncapacity-gib = 4000\nreserve-gib = 0.5\n\
             [[places]]\nname = 'state'\ncapacity-gib = 10\n",
        )
        .unwrap();
        assert_eq!(places[0].capacity_gib, Some(Gib(4000 << 30)));
        assert_eq!(places[0].reserve_gib, Some(Gib(1 << 29)));
        assert_eq!(places[0].location(), Ok(Some(Location::Folder("/srv/nars".into()))));
        assert_eq!(places[1].location(), Ok(None));
    }

    #[cfg(feature = "s3")]
    #[test]
    fn a_bucket_has_a_name_a_prefix_and_a_server() {
        let places =
            read("[[places]]\nname='b'\nbucket='s3://nars/a/b/'\nendpoint='http://127.0.0.1:9000'").unwrap();
        let Ok(Some(Location::Bucket(bucket))) = places[0].location() else { panic!("{places:?}") };
        assert_eq!((bucket.bucket.as_str(), bucket.prefix.as_str()), ("nars", "a/b"));
        assert_eq!(bucket.address(), "s3://nars/a/b");
    }

    #[test]
    fn what_is_no_place_is_refused_with_its_name() {
        for (place, said) in [
            ("name = 'x'", "either a folder or a bucket"),
            ("folder = '/srv'", "wants a name"),
            ("name = 'a b'\nfolder = '/srv'", "wants a name"),
            ("name = 'x'\nfolder = 'nars'", "from the root"),
            ("name = 'x'\nfolder = '/'", "from the root"),
            ("name = 'x'\nfolder = '/srv'\nregion = 'eu'", "belong to a bucket"),
            ("name = 'x'\nbucket = 'https://nars'", "s3://BUCKET"),
            ("name = 'x'\nbucket = 's3://'", "s3://BUCKET"),
            ("name = 'x'\nbucket = 's3://a/../b'", "prefix"),
            ("name = 'x'\nbucket = 's3://a'\nendpoint = 'ftp://x'", "endpoint"),
            ("name = 'x'\nbucket = 's3://a'\naccess-key-file = '/k'", "belong together"),
            ("name = 'x'\nfolder = '/srv'\ncapacity-gib = -1", "GiB"),
            ("name = 'x'\nfolder = '/srv'\ncapacity-gib = nan", "GiB"),
            ("name = 'x'\nfolder = '/srv'\ncapacity-gib = 'much'", "GiB"),
            ("name = 'x'\nfolder = '/srv'\nfolders = 1", "unknown field `folders`"),
            ("name = 'state'\nfolder = '/srv'", "state folder"),
            ("name = 'state'\nreserve-gib = 1", "disk-reserve-mib"),
            ("name = 'x'\nfolder = '/srv'\n[[places]]\nname = 'x'\nfolder = '/a'", "of that name"),
            ("name = 'x'\nfolder = '/srv'\n[[places]]\nname = 'y'\nfolder = '/srv'", "same folder"),
            (
                "name = 'x'\nfolder = '/srv/a'\n[[places]]\nname = 'y'\nfolder = '/srv/b/../a/c'",
                "same folder",
            ),
            ("name = 'x'\nfolder = '/srv/a/b'\n[[places]]\nname = 'y'\nfolder = '/srv/a'", "same folder"),
            ("name = 'x'\nfolder = '/var/lib/drover/nars'", "has the name state"),
            ("name = 'x'\nfolder = '/var/lib/drover'", "has the name state"),
            ("name = 'x'\nfolder = '/srv/none/../../var/lib/drover/nars'", "has the name state"),
            ("name = 'x'\nfolder = '/var/lib'", "has the name state"),
        ] {
            let error = read(&format!("[[places]]\n{place}\n")).unwrap_err();
            assert!(error.contains(said), "{place}: {error}");
        }
    }
}
