//! A table `[[places]]`: a folder or a bucket for nars.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::ConfigError;

/// The name of the place in the state folder.
pub const STATE_PLACE: &str = "state";

/// A table `[[places]]`: a folder or a bucket for nars. That with the name `state` is the folder `nars` of the state
/// folder, which is always there: it can be given a capacity, and its turn.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PlaceConfig {
    /// What it is called, for ever: the database knows it by its name.
    pub name: String,
    /// The folder.
    pub folder: Option<PathBuf>,
    /// The bucket, as `s3://BUCKET/PREFIX`; the prefix may be absent.
    pub bucket: Option<String>,
    /// Where the bucket's server is, such as `https://s3.example.org`; by default, Amazon's of that region.
    pub endpoint: Option<String>,
    /// The bucket's region; by default that of the environment.
    pub region: Option<String>,
    /// A file with the bucket's access key; by default that of the environment (`AWS_ACCESS_KEY_ID`).
    pub access_key_file: Option<PathBuf>,
    /// A file with the bucket's secret key; by default that of the environment (`AWS_SECRET_ACCESS_KEY`).
    pub secret_key_file: Option<PathBuf>,
    /// How much may lie there; as much as there is, by default.
    pub capacity_gib: Option<Gib>,
    /// How much of a folder's disk stays free.
    pub reserve_gib: Option<Gib>,
}

/// Where files can be put: what a place and a hook that pushes have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A folder.
    Folder(PathBuf),
    /// A bucket.
    Bucket(BucketConfig),
}

/// A bucket of an S3-compatible store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BucketConfig {
    /// Its name.
    pub bucket: String,
    /// What comes before the names of all files in it, without a slash at either end; may be empty.
    pub prefix: String,
    /// Its server.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// A file with the access key.
    pub access_key_file: Option<PathBuf>,
    /// A file with the secret key.
    pub secret_key_file: Option<PathBuf>,
}

impl BucketConfig {
    /// Its address, as it was given.
    #[must_use]
    pub fn address(&self) -> String {
        match self.prefix.as_str() {
            "" => format!("s3://{}", self.bucket),
            prefix => format!("s3://{}/{prefix}", self.bucket),
        }
    }
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

/// Reads what says where files can be put.
///
/// # Errors
/// What is wrong, and what to write.
pub fn location(
    folder: Option<&Path>,
    bucket: Option<&str>,
    parts: &BucketConfig,
) -> Result<Location, &'static str> {
    match (folder, bucket) {
        (Some(folder), None) => {
            let nothing_else = BucketConfig::default();
            if *parts != nothing_else {
                return Err("endpoint, region and keys belong to a bucket, and it has a folder");
            }
            if !folder.is_absolute() || folder.parent().is_none() {
                return Err("its folder must be named from the root on, such as /srv/nars");
            }
            Ok(Location::Folder(folder.to_owned()))
        }
        (None, Some(bucket)) => {
            let named = bucket.strip_prefix("s3://").unwrap_or_default();
            let (bucket, prefix) = named.split_once('/').unwrap_or((named, ""));
            let prefix = prefix.trim_end_matches('/');
            let fits = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
            if bucket.is_empty() || !bucket.chars().all(fits) {
                return Err("its bucket must be written as s3://BUCKET/PREFIX");
            }
            let strange =
                |part: &str| part.is_empty() || part == "." || part == ".." || !part.chars().all(fits);
            if !prefix.is_empty() && prefix.split('/').any(strange) {
                return Err(
                    "the prefix of its bucket may have letters, digits, dots, dashes and single slashes",
                );
            }
            if parts.endpoint.as_deref().is_some_and(|endpoint| !is_address(endpoint)) {
                return Err("its endpoint must be an address such as https://s3.example.org");
            }
            if parts.access_key_file.is_some() != parts.secret_key_file.is_some() {
                return Err("access-key-file and secret-key-file belong together");
            }
            if cfg!(not(feature = "s3")) {
                return Err("this drover was made without buckets (the cargo feature s3)");
            }
            Ok(Location::Bucket(BucketConfig {
                bucket: bucket.to_owned(),
                prefix: prefix.to_owned(),
                ..parts.clone()
            }))
        }
        _ => Err("it must have either a folder or a bucket"),
    }
}

fn is_address(text: &str) -> bool {
    let known = text.starts_with("http://") || text.starts_with("https://");
    known && text.parse::<axum::http::Uri>().is_ok_and(|address| address.host().is_some())
}

impl PlaceConfig {
    /// Where it is; none for that in the state folder.
    ///
    /// # Errors
    /// What is wrong, and what to write.
    pub fn location(&self) -> Result<Option<Location>, &'static str> {
        let parts = BucketConfig {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            access_key_file: self.access_key_file.clone(),
            secret_key_file: self.secret_key_file.clone(),
            ..BucketConfig::default()
        };
        if self.name != STATE_PLACE {
            return location(self.folder.as_deref(), self.bucket.as_deref(), &parts).map(Some);
        }
        if self.folder.is_some() || self.bucket.is_some() || parts != BucketConfig::default() {
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

/// Whether these can be places together.
pub(super) fn check(places: &[PlaceConfig]) -> Result<(), ConfigError> {
    let bad = |value: String, reason| ConfigError::Value { option: "places", value, reason };
    for (n, place) in places.iter().enumerate() {
        if !is_place_name(&place.name) {
            let reason = "each wants a name, of letters, digits, dots and dashes";
            return Err(bad(format!("“{}”", place.name), reason));
        }
        let named = format!("“{}”", place.name);
        let at = place.location().map_err(|reason| bad(named.clone(), reason))?;
        for other in &places[..n] {
            if other.name == place.name {
                return Err(bad(named, "there is another one of that name"));
            }
            if at.is_some() && other.location() == Ok(at.clone()) {
                return Err(bad(named, "another one is in the same folder or bucket"));
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
        check(&all.places).map_err(|error| error.to_string())?;
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
            ("name = 'x'\nfolder = '/srv'\nfolders = 1", "folders"),
            ("name = 'state'\nfolder = '/srv'", "state folder"),
            ("name = 'state'\nreserve-gib = 1", "disk-reserve-mib"),
            ("name = 'x'\nfolder = '/srv'\n[[places]]\nname = 'x'\nfolder = '/a'", "of that name"),
            ("name = 'x'\nfolder = '/srv'\n[[places]]\nname = 'y'\nfolder = '/srv'", "same folder"),
        ] {
            let error = read(&format!("[[places]]\n{place}\n")).unwrap_err();
            assert!(error.contains(said), "{place}: {error}");
        }
    }
}
