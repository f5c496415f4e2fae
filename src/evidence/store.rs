//! The folder of the bundles. A bundle is written under a temporary name, synced and renamed, so one with its final name is
//! complete, even if the writer was killed. The writer holds a lock on the temporary folder; an unlocked one is left over
//! and is removed.
//!
//! Everything here blocks, forever on a hung disk: it belongs on a thread that is waited for only with a deadline.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock, statvfs};
use sha2::{Digest as _, Sha256};

use super::error::{PartError, SaveError};
use super::manifest::{DUMPS, ListedFile, MANIFEST, Manifest, Missing};
use crate::config::EvidenceSettings;
use crate::model::{Moment, rfc3339};

/// The end of every temporary name, which starts with a dot.
const TEMPORARY: &str = ".partial";
/// A bundle may use one part in so many of `max_bytes`.
const SHARE: u64 = 4;
/// Reserved for the manifest, which has about 3 KiB.
const MANIFEST_ROOM: u64 = 16 << 10;
/// A larger manifest is ignored.
pub const MANIFEST_CAP: u64 = MANIFEST_ROOM * 4;
/// The most entries of the evidence folder that are read.
const MOST_ENTRIES: usize = 10_000;

/// A complete bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bundle {
    path: PathBuf,
    /// The label of its broker in the name.
    label: String,
    /// The time in the name, in seconds since 1970.
    at: u64,
}

/// The complete bundles of a folder, the oldest first. Entries without a bundle's name are not ours.
///
/// # Errors
/// The folder cannot be read.
fn bundles(dir: &Path) -> io::Result<Vec<Bundle>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)?.take(MOST_ENTRIES) {
        let entry = entry?;
        if let (Some((at, label)), true) = (
            parse_name(entry.file_name().to_str()),
            entry.file_type()?.is_dir(),
        ) {
            found.push(Bundle {
                path: entry.path(),
                label,
                at,
            });
        }
    }
    found.sort_by(|a, b| (a.at, &a.path).cmp(&(b.at, &b.path)));
    Ok(found)
}

/// `2026-11-22T10-14-02Z-broker-219`
fn name_of(label: &str, at: Moment) -> String {
    format!("{}-broker-{}", rfc3339(at).replace(':', "-"), plain(label))
}

/// `kafka-vitals-broker-219.hprof`: one per broker, because each is as large as a heap and none is ever removed.
pub fn heap_dump_name(label: &str) -> String {
    format!("kafka-vitals-broker-{}.hprof", plain(label))
}

/// The label as a part of a file name.
fn plain(label: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '@' | '-' | '.') {
            c
        } else {
            '_'
        }
    };
    label.chars().map(plain).take(64).collect()
}

/// The time and the label in a bundle's name.
fn parse_name(name: Option<&str>) -> Option<(u64, String)> {
    let (time, label) = name?.split_once("-broker-")?;
    let (day, clock) = time.split_once('T')?;
    let at = humantime::parse_rfc3339(&format!("{day}T{}", clock.replace('-', ":"))).ok()?;
    let label = label.split('+').next()?.to_owned();
    Some((at.duration_since(UNIX_EPOCH).ok()?.as_secs(), label))
}

/// The manifest of each complete bundle, the oldest first; unreadable ones are left out.
pub fn manifests(dir: &Path) -> Vec<(PathBuf, Manifest)> {
    let of = |bundle: Bundle| {
        let path = bundle.path.join(MANIFEST);
        let small = fs::metadata(&path).is_ok_and(|metadata| metadata.len() <= MANIFEST_CAP);
        Some((
            bundle.path,
            serde_json::from_slice(&fs::read(&path).ok().filter(|_| small)?).ok()?,
        ))
    };
    bundles(dir)
        .unwrap_or_default()
        .into_iter()
        .filter_map(of)
        .collect()
}

/// Removes leftovers and enforces the limits, above all of age, while nothing new is written.
pub fn tidy(settings: &EvidenceSettings) -> io::Result<()> {
    let Some(dir) = settings.dir.as_ref().filter(|dir| dir.exists()) else {
        return Ok(());
    };
    sweep(dir)?;
    prune(settings, dir, 0, 0).map(drop)
}

/// Removes what killed writers left behind.
fn sweep(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)?.take(MOST_ENTRIES).filter_map(Result::ok) {
        let is_ours = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with('.') && name.ends_with(TEMPORARY));
        let Some(folder) = is_ours.then(|| File::open(entry.path()).ok()).flatten() else {
            continue;
        };
        // Held until everything is removed: a writer that has just created the folder must not use it meanwhile.
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Another process may be removing it; what remains is tried again.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// Removes the oldest bundles, never the newest of a broker, until so many bytes and bundles may be added. Returns the
/// bytes of the remaining ones.
fn prune(settings: &EvidenceSettings, dir: &Path, more_bytes: u64, more: usize) -> io::Result<u64> {
    let bundles = bundles(dir)?;
    let newest: BTreeMap<&str, &Path> = bundles
        .iter()
        .map(|b| (b.label.as_str(), b.path.as_path()))
        .collect();
    let sizes: Vec<u64> = bundles.iter().map(|bundle| size(&bundle.path)).collect();
    let (mut bytes, mut count) = (sizes.iter().sum::<u64>(), bundles.len());
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    for (bundle, size) in std::iter::zip(&bundles, sizes) {
        let old = settings
            .max_age
            .is_some_and(|age| now.saturating_sub(bundle.at) > age.as_secs());
        let too_much = bytes.saturating_add(more_bytes) > settings.max_bytes
            || count + more > settings.max_bundles;
        if (!old && !too_much) || newest.get(bundle.label.as_str()) == Some(&bundle.path.as_path())
        {
            continue;
        }
        // If this is killed midway, no partial bundle may keep a bundle's name.
        let name = bundle
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let doomed = dir.join(format!(".{name}{TEMPORARY}"));
        if let Err(error) =
            fs::rename(&bundle.path, &doomed).and_then(|()| fs::remove_dir_all(&doomed))
        {
            tracing::warn!(bundle = %name, %error, "cannot remove old evidence");
            continue;
        }
        (bytes, count) = (bytes.saturating_sub(size), count - 1);
        tracing::info!(bundle = %name, "removed old evidence, to keep within its limits");
    }
    Ok(bytes)
}

fn size(folder: &Path) -> u64 {
    let files = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .take(MOST_ENTRIES)
        .filter_map(Result::ok);
    files
        .filter_map(|file| file.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

/// The bytes that may be written until only `floor` bytes are free.
fn free_above_floor(dir: &Path, floor: u64) -> io::Result<u64> {
    let space = statvfs(dir)?;
    Ok(space
        .f_bavail
        .saturating_mul(space.f_frsize)
        .saturating_sub(floor))
}

/// A bundle that is being written. If it is dropped without [`Writer::commit`], there is no bundle.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    folder: PathBuf,
    name: String,
    /// While it is open, no process removes the folder.
    _lock: File,
    settings: EvidenceSettings,
    may_remove: bool,
    /// The bytes that its files may still use.
    bytes_left: u64,
    files: Vec<ListedFile>,
    missing: Vec<Missing>,
    /// Why a thread dump that was taken could not be written.
    refused_dump: Option<String>,
}

impl Writer {
    /// Creates the temporary folder. With `may_remove` older bundles are removed as far as the limits require.
    pub fn begin(
        settings: &EvidenceSettings,
        label: &str,
        at: Moment,
        may_remove: bool,
    ) -> Result<Writer, SaveError> {
        let dir = settings.dir.clone().ok_or(SaveError::Off)?;
        let fail = |error| SaveError::folder(&dir, error);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(fail)?;
        sweep(&dir).map_err(fail)?;
        let share = settings.max_bytes / SHARE;
        let kept = if may_remove {
            prune(settings, &dir, share, 1).map_err(fail)?
        } else {
            0
        };
        let bytes_left = share
            .min(settings.max_bytes.saturating_sub(kept))
            .saturating_sub(MANIFEST_ROOM);
        let free = free_above_floor(&dir, settings.min_free).map_err(fail)?;
        if bytes_left == 0 {
            return Err(SaveError::Full(dir));
        }
        if free < MANIFEST_ROOM {
            let min_free = settings.min_free;
            return Err(SaveError::NoSpace { dir, min_free });
        }
        let name = name_of(label, at);
        let folder = dir.join(format!(".{name}.{}{TEMPORARY}", std::process::id()));
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(fail)?;
        let lock = File::open(&folder).map_err(fail)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| fail(errno.into()))?;
        Ok(Writer {
            dir,
            folder,
            name,
            _lock: lock,
            settings: settings.clone(),
            may_remove,
            bytes_left,
            files: Vec::new(),
            missing: Vec::new(),
            refused_dump: None,
        })
    }

    /// Writes one file and syncs it; a file that cannot be read or written is listed as missing with the reason.
    pub fn add(&mut self, name: &str, content: Result<Vec<u8>, PartError>) {
        let is_dump = DUMPS.contains(&name) && content.is_ok();
        let written = content.and_then(|content| {
            let bytes = content.len() as u64;
            if bytes > self.bytes_left {
                return Err(PartError::TooLarge(bytes));
            }
            let path = self.folder.join(name);
            match free_above_floor(&self.folder, self.settings.min_free) {
                Ok(free) if free < bytes + MANIFEST_ROOM => return Err(PartError::NoSpace(bytes)),
                Ok(_) => write(&self.folder, name, &content),
                Err(error) => Err(error),
            }
            .map_err(|cause| PartError::Write { path, cause })
        });
        match written {
            Ok(file) => {
                self.bytes_left -= file.bytes;
                self.files.push(file);
            }
            Err(error) => {
                let why = error.to_string();
                if is_dump {
                    self.refused_dump = Some(why.clone());
                }
                self.missing.push(Missing {
                    name: name.to_owned(),
                    why,
                });
            }
        }
    }

    /// Why the written files are useless as evidence; the bundle is then tried again later.
    fn useless(&self) -> Option<SaveError> {
        let useless = |what, why| SaveError::Useless {
            dir: self.dir.clone(),
            what,
            why,
        };
        if self.files.iter().all(|file| file.bytes == 0) {
            let why = self
                .missing
                .last()
                .map_or("nothing was read", |missing| &missing.why);
            return Some(useless("not one file could be saved", why.to_owned()));
        }
        let has_dump = self.files.iter().any(|file| DUMPS.contains(&&*file.name));
        let why = self.refused_dump.clone().filter(|_| !has_dump)?;
        Some(useless("no thread dump fits", why))
    }

    /// Adds the written and the missing files to the manifest, writes it, and gives the bundle its name.
    pub fn commit(self, manifest: Manifest) -> Result<PathBuf, SaveError> {
        let useless = self.useless();
        let manifest = Manifest {
            files: self.files,
            missing: self.missing,
            ..manifest
        };
        let fail = |cause: io::Error| SaveError::commit(&self.folder, cause);
        let written = useless.map_or(Ok(()), Err).and_then(|()| {
            let text = serde_json::to_vec_pretty(&manifest).map_err(|error| fail(error.into()))?;
            write(&self.folder, MANIFEST, &text).map_err(fail)
        });
        let committed = written.and_then(|_| {
            let named = File::open(&self.folder)
                .and_then(|folder| folder.sync_all())
                .and_then(|()| {
                    // The kernel renames no folder onto one with content.
                    let mut names = (1..100).map(|n| {
                        if n == 1 {
                            self.name.clone()
                        } else {
                            format!("{}+{n}", self.name)
                        }
                    });
                    let named = names.find_map(|name| {
                        match fs::rename(&self.folder, self.dir.join(&name)) {
                            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => None,
                            renamed => Some(renamed.map(|()| self.dir.join(name))),
                        }
                    });
                    named.unwrap_or_else(|| Err(io::ErrorKind::AlreadyExists.into()))
                });
            let path = named.map_err(fail)?;
            File::open(&self.dir)
                .and_then(|dir| dir.sync_all())
                .map_err(|cause| SaveError::commit(&self.dir, cause))?;
            Ok(path)
        });
        if committed.is_err() {
            // What remains is removed later.
            let _ = fs::remove_dir_all(&self.folder);
        } else if self.may_remove
            && let Err(error) = prune(&self.settings, &self.dir, 0, 0)
        {
            // The previous bundle was the newest of its broker until now.
            tracing::warn!(%error, "cannot enforce the limits of the evidence folder");
        }
        committed
    }
}

fn write(folder: &Path, name: &str, content: &[u8]) -> io::Result<ListedFile> {
    let path = folder.join(name);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        });
    if let Err(error) = written {
        // A partial file is useless, and its space may suffice for the next.
        let _ = fs::remove_file(&path);
        return Err(error);
    }
    Ok(ListedFile {
        name: name.to_owned(),
        bytes: content.len() as u64,
        sha256: sha256(content),
    })
}

/// The checksum in hexadecimal digits, as `sha256sum` writes it.
pub fn sha256(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
