//! Where files can be put: the options that a place and a hook that pushes have in common.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

/// The options that say where files are put: a folder, or a bucket. Part of the tables `[[places]]` and `[hooks.NAME]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct LocationConfig {
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
}

/// Where files are put.
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

impl LocationConfig {
    /// The names of the options that were given.
    pub fn given(&self) -> impl Iterator<Item = &'static str> + use<> {
        let all = [
            ("folder", self.folder.is_some()),
            ("bucket", self.bucket.is_some()),
            ("endpoint", self.endpoint.is_some()),
            ("region", self.region.is_some()),
            ("access-key-file", self.access_key_file.is_some()),
            ("secret-key-file", self.secret_key_file.is_some()),
        ];
        all.into_iter().filter_map(|(option, given)| given.then_some(option))
    }

    /// Where that is.
    ///
    /// # Errors
    /// What is wrong, and what to write.
    pub fn location(&self) -> Result<Location, &'static str> {
        match (&self.folder, &self.bucket) {
            (Some(folder), None) => {
                if self.given().count() > 1 {
                    return Err("endpoint, region and keys belong to a bucket, and it has a folder");
                }
                if !folder.is_absolute() || folder.parent().is_none() {
                    return Err("its folder must be named from the root on, such as /srv/nars");
                }
                Ok(Location::Folder(folder.clone()))
            }
            (None, Some(bucket)) => self.bucket(bucket).map(Location::Bucket),
            _ => Err("it must have either a folder or a bucket"),
        }
    }

    fn bucket(&self, address: &str) -> Result<BucketConfig, &'static str> {
        let named = address.strip_prefix("s3://").unwrap_or_default();
        let (bucket, prefix) = named.split_once('/').unwrap_or((named, ""));
        let prefix = prefix.trim_end_matches('/');
        let fits = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        if bucket.is_empty() || !bucket.chars().all(fits) {
            return Err("its bucket must be written as s3://BUCKET/PREFIX");
        }
        let strange = |part: &str| part.is_empty() || part == "." || part == ".." || !part.chars().all(fits);
        if !prefix.is_empty() && prefix.split('/').any(strange) {
            return Err("the prefix of its bucket may have letters, digits, dots, dashes and single slashes");
        }
        if self.endpoint.as_deref().is_some_and(|endpoint| !is_address(endpoint)) {
            return Err("its endpoint must be an address such as https://s3.example.org");
        }
        if self.access_key_file.is_some() != self.secret_key_file.is_some() {
            return Err("access-key-file and secret-key-file belong together");
        }
        if cfg!(not(feature = "s3")) {
            return Err("this drover was made without buckets (the cargo feature s3)");
        }
        Ok(BucketConfig {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            access_key_file: self.access_key_file.clone(),
            secret_key_file: self.secret_key_file.clone(),
        })
    }
}

fn is_address(text: &str) -> bool {
    let known = text.starts_with("http://") || text.starts_with("https://");
    known
        && !crate::web::has_user(text)
        && text.parse::<axum::http::Uri>().is_ok_and(|address| address.host().is_some())
}

impl Location {
    /// How it is shown: a folder's path, a bucket's address.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Folder(folder) => folder.display().to_string(),
            Self::Bucket(bucket) => bucket.address(),
        }
    }

    /// What tells it from others, as it is written.
    #[must_use]
    pub fn distinct(&self) -> String {
        match self {
            Self::Folder(_) => self.shown(),
            Self::Bucket(bucket) => format!("{} {}", bucket.address(), bucket.server().unwrap_or_default()),
        }
    }

    /// Whether this is where the other is, by whatever name.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.is_within(other) && other.is_within(self)
    }

    /// Whether one of the two is within the other, or the other itself: files of one could be taken for the other's.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.is_within(other) || other.is_within(self)
    }

    fn is_within(&self, outer: &Self) -> bool {
        match (self, outer) {
            (Self::Folder(inner), Self::Folder(outer)) => real(inner).starts_with(real(outer)),
            (Self::Bucket(inner), Self::Bucket(outer)) => {
                inner.server() == outer.server()
                    && inner.bucket == outer.bucket
                    && Path::new(&inner.prefix).starts_with(&outer.prefix)
            }
            _ => false,
        }
    }
}

/// A folder, from the root on and without symbolic links, as far as it is there; what is not there yet has none.
fn real(folder: &Path) -> PathBuf {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let there = folder.ancestors().find_map(|part| Some((part, part.canonicalize().ok()?)));
    let Some((part, mut real)) = there else { return folder };
    let mut names = folder.strip_prefix(part).unwrap_or(&folder).components();
    while let Some(name) = names.next() {
        if name == Component::ParentDir {
            // Back at something that may be there.
            real.pop();
            return self::real(&real.join(names.as_path()));
        }
        real.push(name);
    }
    real
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

    /// Its server, written in one way.
    fn server(&self) -> Option<String> {
        Some(self.endpoint.as_ref()?.trim_end_matches('/').to_ascii_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: impl Into<PathBuf>) -> Location {
        Location::Folder(path.into())
    }

    #[test]
    fn folders_are_compared_by_what_they_are_and_not_by_their_names() {
        let base = tempfile::tempdir().unwrap();
        let (there, link) = (base.path().join("there"), base.path().join("link"));
        std::fs::create_dir(&there).unwrap();
        std::os::unix::fs::symlink(&there, &link).unwrap();
        assert!(folder(&there).is_same(&folder(base.path().join("there/"))));
        assert!(folder(link.join("new")).is_same(&folder(there.join("new"))));
        assert!(folder(link.join("a/b")).overlaps(&folder(&there)));
        assert!(folder(&there).overlaps(&folder(link.join("a/b"))));
        assert!(!folder(link.join("a/b")).is_same(&folder(&there)));
        assert!(!folder(base.path().join("there-too")).overlaps(&folder(&there)));
        assert!(folder(base.path().join("none/../link/a")).is_same(&folder(there.join("a"))));
    }

    #[cfg(feature = "s3")]
    #[test]
    fn buckets_are_compared_by_their_server_and_whole_parts_of_their_prefix() {
        let bucket = |address: &str, endpoint: Option<&str>| {
            let (bucket, endpoint) = (Some(address.to_owned()), endpoint.map(str::to_owned));
            LocationConfig { bucket, endpoint, ..LocationConfig::default() }.location().unwrap()
        };
        let here = bucket("s3://nars/a", Some("http://here:9000"));
        assert!(here.is_same(&bucket("s3://nars/a/", Some("http://HERE:9000/"))));
        assert!(here.overlaps(&bucket("s3://nars", Some("http://here:9000"))));
        assert!(here.overlaps(&bucket("s3://nars/a/b", Some("http://here:9000"))));
        for (address, endpoint) in [
            ("s3://nars/ab", Some("http://here:9000")),
            ("s3://other/a", Some("http://here:9000")),
            ("s3://nars/a", Some("http://there:9000")),
            ("s3://nars/a", None),
        ] {
            assert!(!here.overlaps(&bucket(address, endpoint)), "{address} {endpoint:?}");
        }
        assert!(!here.overlaps(&folder("/nars/a")));
    }
}
