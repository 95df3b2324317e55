//! What says which place a folder or a bucket is: a disk that is not mounted has no such file, and what is another place's
//! has that one's.

use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::target::{StoreError, Target};

/// The name of the file.
pub(crate) const MARK: &str = "drover-place";
/// The most bytes of one that are read.
const MOST: u64 = 200;
/// For how long a bucket that did not say whose it is is not asked again.
const REST: Duration = Duration::from_secs(15);

/// What the mark of a place must be.
#[derive(Debug)]
pub(crate) struct Mark {
    text: String,
    /// Whether a bucket without a mark gets this one: nothing of this place lies there.
    is_new: bool,
    bucket: Mutex<Asked>,
}

/// What a bucket said.
#[derive(Debug)]
enum Asked {
    NotYet,
    /// It is this place.
    Ours,
    /// Nothing that helps.
    Failed(Instant, String),
}

/// One looks and writes at a time: two places may be one bucket, by addresses that differ.
static WRITING: Mutex<()> = Mutex::new(());

impl Mark {
    pub(crate) fn new(text: String, is_new: bool) -> Self {
        Self { text, is_new, bucket: Mutex::new(Asked::NotYet) }
    }

    /// Whether this is the place that it should be. A folder is looked at each time, for disks come and go; a bucket until
    /// it has said it once. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Foreign`] when it is not; otherwise, when that cannot be found out.
    pub(crate) fn check(&self, target: &Target) -> Result<(), StoreError> {
        if target.folder().is_some() {
            return self.compare(target, false);
        }
        let mut asked = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        match &*asked {
            Asked::Ours => return Ok(()),
            Asked::Failed(at, reason) if at.elapsed() < REST => {
                let what = format!("find out which place {} is", target.address());
                return Err(StoreError::Bucket { what, reason: reason.clone() });
            }
            Asked::NotYet | Asked::Failed(..) => {}
        }
        let found = self.compare(target, self.is_new);
        *asked = match &found {
            Ok(()) => Asked::Ours,
            Err(StoreError::Foreign { .. }) => Asked::NotYet,
            Err(error) => Asked::Failed(Instant::now(), error.to_string()),
        };
        found
    }

    /// As [`Mark::check`], asking a bucket anew.
    pub(super) fn is_there(&self, target: &Target) -> Result<(), StoreError> {
        self.compare(target, false)
    }

    fn compare(&self, target: &Target, write: bool) -> Result<(), StoreError> {
        let _alone = write.then(|| WRITING.lock().unwrap_or_else(PoisonError::into_inner));
        let mut found = read(target)?;
        if found.is_none() && write {
            let text = format!("{}\n", self.text);
            target.put(&mut text.as_bytes(), text.len() as u64, MARK)?;
            // Another coordinator may have done the same.
            found = read(target)?;
        }
        let foreign = |reason| Err(StoreError::Foreign { place: target.address(), reason });
        match found {
            Some(found) if found == self.text => Ok(()),
            Some(found) => foreign(format!(
                "it is the place “{}”, as the file {MARK} in it says; each place wants a folder or a bucket of its own",
                found.chars().take(80).collect::<String>()
            )),
            None => {
                foreign(format!("it has no file {MARK} in it; is its disk mounted, and is it the right one?"))
            }
        }
    }
}

/// The text of a place's mark; none if it has none.
fn read(target: &Target) -> Result<Option<String>, StoreError> {
    let Some(size) = target.size(MARK)? else { return Ok(None) };
    let mut bytes = Vec::new();
    let end = size.min(MOST);
    match target.open(MARK, size, 0..end) {
        Ok(opened) => opened.reader(end).read_to_end(&mut bytes).map_err(|error| failed(target, error))?,
        Err(StoreError::Gone { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(String::from_utf8_lossy(bytes.trim_ascii()).into_owned()))
}

fn failed(target: &Target, error: io::Error) -> StoreError {
    StoreError::io(format!("read the file {MARK} in {}", target.address()), error)
}
