//! Fetching a store item: downloaded, decompressed, unpacked, and put under its name only when all of it is right.

use std::fs;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use drover_store::hash::HashingReader;
use drover_store::nar::{self, Limits};
use drover_store::path::StorePath;
use drover_wire::ItemInfo;
use drover_wire::route::clients;
use ureq::BodyReader;

use super::retry::Patience;
use super::{ClientError, Coordinator, Unit, Watch};

/// The largest window that a nar may be compressed with: 128 MiB, which bounds the memory.
const WINDOW_LOG: u32 = 27;

/// Fetches an item and says where it is: in the folder `to` under its base name, or as `to` if there is no such folder.
///
/// # Errors
/// No such item; something under that name already; a coordinator that stays away; contents that are not what their
/// hash and size say. Nothing is left under the name then.
pub fn fetch(
    coordinator: &Coordinator,
    path: &StorePath,
    to: &Path,
    watch: &dyn Watch,
) -> Result<(ItemInfo, PathBuf), ClientError> {
    let target = if to.is_dir() { to.join(path.base_name()) } else { to.to_owned() };
    let folder = target.parent().unwrap_or(Path::new(""));
    refuse_existing(&target)?;
    let info: ItemInfo =
        coordinator.ask(&format!("asking about {path}"), &clients::ITEM, &[&path.base_name()])?;
    if !folder.as_os_str().is_empty() {
        fs::create_dir_all(folder)
            .map_err(|e| ClientError::local(format!("making the folder {}", folder.display()), e))?;
    }
    let partial = folder.join(partial_name(path));
    watch.begin(&format!("fetching {}", path.base_name()), Some(info.file_size), Unit::Bytes);
    let kept = unpack(coordinator, path, &info, &partial, watch).and_then(|()| {
        refuse_existing(&target)?;
        fs::rename(&partial, &target)
            .map_err(|e| ClientError::local(format!("naming {}", target.display()), e))
    });
    if let Err(error) = kept {
        remove(&partial);
        return Err(error);
    }
    Ok((info, target))
}

fn refuse_existing(target: &Path) -> Result<(), ClientError> {
    match target.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(ClientError::local(format!("looking at {}", target.display()), error)),
        Ok(_) => Err(ClientError::Exists { path: target.to_owned() }),
    }
}

/// A name that no other fetch has.
fn partial_name(path: &StorePath) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!(".drover-{}-{}-{}", path.hash_part(), std::process::id(), now.as_nanos())
}

fn remove(partial: &Path) {
    // What cannot be removed has a name that says what it is; the error that led here matters more.
    let _ = match partial.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(partial),
        Ok(_) => fs::remove_file(partial),
        Err(_) => Ok(()),
    };
}

fn unpack(
    coordinator: &Coordinator,
    path: &StorePath,
    info: &ItemInfo,
    partial: &Path,
    watch: &dyn Watch,
) -> Result<(), ClientError> {
    let corrupt = |why: String| ClientError::Corrupt { path: path.clone(), why };
    let mut download = Download {
        coordinator,
        doing: format!("fetching {path}"),
        base: path.base_name(),
        at: 0,
        size: info.file_size,
        body: None,
        patience: Patience::some(),
        failed: None,
        watch,
    };
    let result = (|| {
        let reading = |error| nar::Error::Io { action: "read", error };
        let compressed = BufReader::with_capacity(nar::BUFFER, &mut download);
        let mut decoder = zstd::Decoder::with_buffer(compressed).map_err(reading)?;
        decoder.window_log_max(WINDOW_LOG).map_err(reading)?;
        // One byte more than promised is enough to see that there is more.
        let mut nar = HashingReader::new(decoder.take(info.nar_size.saturating_add(1)));
        let limits = Limits { contents: info.nar_size, ..Limits::default() };
        nar::unpack(&mut nar, partial, limits)?;
        let (_, hash, size) = nar.finish();
        Ok::<_, nar::Error>((hash, size))
    })();
    // What went wrong on the way is the cause of what went wrong here.
    if let Some(error) = download.failed {
        return Err(error);
    }
    match result {
        Err(nar::Error::Tree { action, path, error }) => {
            Err(ClientError::local(format!("fetching: cannot {action} {}", path.display()), error))
        }
        Err(error) => Err(corrupt(error.to_string())),
        Ok((_, size)) if size != info.nar_size => {
            Err(corrupt(format!("its nar has {size} bytes, not {}", info.nar_size)))
        }
        Ok((hash, _)) if hash != info.nar_hash => {
            Err(corrupt(format!("its nar has the hash {hash}, not {}", info.nar_hash)))
        }
        Ok(_) => Ok(()),
    }
}

/// The bytes of a compressed nar, over as many connections as it takes.
struct Download<'a> {
    coordinator: &'a Coordinator,
    doing: String,
    base: &'a str,
    at: u64,
    size: u64,
    body: Option<BodyReader<'static>>,
    patience: Patience,
    failed: Option<ClientError>,
    watch: &'a dyn Watch,
}

impl Download<'_> {
    fn more(&mut self, buffer: &mut [u8]) -> Result<usize, ClientError> {
        // Of what is compressed as it comes nobody knows the size before its end.
        let left = if self.size == 0 { u64::MAX } else { self.size - self.at };
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        loop {
            match self.attempt(&mut buffer[..most]) {
                Ok(n) => {
                    self.at += n as u64;
                    self.watch.advance(n as u64);
                    self.patience = Patience::some();
                    return Ok(n);
                }
                // It has no parts.
                Err(error) if self.size == 0 && self.at > 0 => return Err(error),
                Err(error) if error.is_temporary() => {
                    self.body = None;
                    self.patience.wait_after(error, self.watch)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads at least one byte.
    fn attempt(&mut self, buffer: &mut [u8]) -> Result<usize, ClientError> {
        let body = match &mut self.body {
            Some(body) => body,
            None => {
                let from = (self.at > 0).then_some(self.at);
                let body = self.coordinator.stream(&self.doing, &clients::NAR, &[&self.base], &(), from)?;
                self.body.insert(body)
            }
        };
        match body.read(buffer) {
            Ok(0) if self.size == 0 => Ok(0),
            Ok(0) => Err(self.coordinator.broken(&self.doing, &io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => Ok(n),
            Err(error) => Err(self.coordinator.broken(&self.doing, &error)),
        }
    }
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.more(buffer).map_err(|error| {
            let told = io::Error::other(error.to_string());
            self.failed = Some(error);
            told
        })
    }
}
