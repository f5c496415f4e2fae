//! The folder of the bundles. A bundle is written under a temporary name, synced and renamed, so one with its final name is
//! complete, even if the writer was killed. The writer holds a lock on the temporary folder; an unlocked one is left over
//! and is removed.
//!
//! The folder belongs to this user or root and nobody else may write to it, unless the operator says otherwise; even then
//! nothing is followed or opened that another puts there (`sys/folder.rs`).
//!
//! Everything here blocks, forever on a hung disk: it belongs on a thread that is waited for only with a deadline.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{Access, AtFlags, CWD, FileType, Stat, accessat};
use rustix::io::Errno;
use rustix::process::geteuid;
use sha2::{Digest as _, Sha256};

use super::error::{PartError, SaveError};
use super::manifest::{DUMPS, ListedFile, MANIFEST, Manifest, Missing};
use super::quota::{Bundle, superfluous};
use crate::config::EvidenceSettings;
use crate::model::{Moment, rfc3339};
use crate::sys::folder::Folder;
use crate::sys::plain::FileError;

/// The end of every temporary name, which starts with a dot.
const TEMPORARY: &str = ".partial";
/// A bundle may use one part in so many of `max_bytes`.
const SHARE: u64 = 4;
/// Reserved for the manifest, which has about 3 KiB.
const MANIFEST_ROOM: u64 = 16 << 10;
/// A larger manifest is ignored.
pub const MANIFEST_CAP: usize = 64 << 10;
/// The most entries of the evidence folder that are read.
const MOST_ENTRIES: usize = 10_000;

/// Held while leftovers are removed and while a new folder is made and locked: until it is, it looks like a leftover.
static NEW_FOLDER: Mutex<()> = Mutex::new(());

/// The folder of the bundles.
#[derive(Debug)]
struct Store {
    settings: EvidenceSettings,
    dir: PathBuf,
    folder: Folder,
}

/// Why a folder is not one for evidence: what is read or removed there could be another user's.
fn refusal(stat: &Stat, own: u32) -> Option<String> {
    if stat.st_uid != own && stat.st_uid != 0 {
        Some(format!("uid {} owns it", stat.st_uid))
    } else if stat.st_mode & 0o022 != 0 {
        Some(format!(
            "others may write to it (mode {:o})",
            stat.st_mode & 0o7777
        ))
    } else {
        None
    }
}

impl Store {
    /// Opens the folder as the settings allow.
    fn open(
        settings: &EvidenceSettings,
        open: impl Fn(&Path) -> Result<Folder, FileError>,
    ) -> Result<Store, SaveError> {
        let dir = settings.dir.clone().ok_or(SaveError::Off)?;
        let opened = open(&dir);
        Store::of(settings, dir, opened)
    }

    /// Takes the folder if the settings allow it.
    fn of(
        settings: &EvidenceSettings,
        dir: PathBuf,
        opened: Result<Folder, FileError>,
    ) -> Result<Store, SaveError> {
        let folder = opened.map_err(|error| match error {
            FileError::StrangersLink { uid, .. } => SaveError::OfOthers {
                dir: dir.clone(),
                why: format!("uid {uid} made a link on its path"),
            },
            FileError::Io { cause, .. } => SaveError::folder(&dir, cause),
            other => SaveError::folder(&dir, io::Error::other(other)),
        })?;
        let stat = folder
            .stat()
            .map_err(|error| SaveError::folder(&dir, error))?;
        match refusal(&stat, geteuid().as_raw()) {
            Some(why) if !settings.shared => Err(SaveError::OfOthers { dir, why }),
            _ => Ok(Store {
                settings: settings.clone(),
                dir,
                folder,
            }),
        }
    }

    /// Whether something in the folder is taken for the exporter's own.
    fn is_own_folder(&self, name: &str) -> bool {
        self.folder.stat_of(name).is_ok_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::Directory
                && (!self.settings.shared || stat.st_uid == geteuid().as_raw())
        })
    }

    /// The complete bundles, the oldest first. Entries without a bundle's name are not ours.
    fn bundles(&self) -> io::Result<Vec<Bundle>> {
        let mut found: Vec<Bundle> = self
            .folder
            .names(MOST_ENTRIES)?
            .into_iter()
            .filter_map(|name| {
                let (at, label) = parse_name(&name)?;
                self.is_own_folder(&name)
                    .then_some(Bundle { name, label, at })
            })
            .collect();
        found.sort_by(|a, b| (a.at, &a.name).cmp(&(b.at, &b.name)));
        Ok(found)
    }

    /// Removes what killed writers left behind. Returns how many write now.
    fn sweep(&self) -> io::Result<usize> {
        let mut locked = 0;
        for name in self.folder.names(MOST_ENTRIES)? {
            if !(name.starts_with('.') && name.ends_with(TEMPORARY) && self.is_own_folder(&name)) {
                continue;
            }
            let Ok(left_over) = self.folder.inner(&name) else {
                continue;
            };
            // Held until everything is removed: a writer that has just created the folder must not use it meanwhile.
            match left_over.lock() {
                // Another process may be removing it; what remains is tried again.
                Ok(()) => _ = self.folder.remove(&name, MOST_ENTRIES),
                Err(_) => locked += 1,
            }
        }
        Ok(locked)
    }

    /// Removes bundles until so many bytes and bundles may be added. Returns the bytes of the remaining ones.
    fn prune(&self, more_bytes: u64, more: usize) -> io::Result<u64> {
        let bundles: Vec<(Bundle, u64)> = self
            .bundles()?
            .into_iter()
            .map(|bundle| {
                let bytes = self.folder.inner(&bundle.name).map_or(0, |it| size(&it));
                (bundle, bytes)
            })
            .collect();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let mut kept: u64 = bundles.iter().map(|(_, bytes)| bytes).sum();
        for index in superfluous(&bundles, &self.settings, now, more_bytes, more) {
            let Some((Bundle { name, .. }, bytes)) = bundles.get(index) else {
                continue;
            };
            // If this is killed midway, no partial bundle may keep a bundle's name.
            let doomed = format!(".{name}{TEMPORARY}");
            let removed = self.folder.inner(name).and_then(|opened| {
                self.folder.rename(name, &opened, &doomed)?;
                self.folder.remove(&doomed, MOST_ENTRIES)
            });
            match removed {
                Ok(()) => {
                    tracing::info!(bundle = %name, "removed old evidence, to keep within its limits")
                }
                // Another writer was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(bundle = %name, %error, "cannot remove old evidence");
                    continue;
                }
            }
            kept = kept.saturating_sub(*bytes);
        }
        Ok(kept)
    }

    /// The bytes that may be written until only `min_free` bytes are free.
    fn free(&self) -> io::Result<u64> {
        Ok(self.folder.free()?.saturating_sub(self.settings.min_free))
    }
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
fn parse_name(name: &str) -> Option<(u64, String)> {
    let (time, label) = name.split_once("-broker-")?;
    let (day, clock) = time.split_once('T')?;
    let at = humantime::parse_rfc3339(&format!("{day}T{}", clock.replace('-', ":"))).ok()?;
    let label = label.split('+').next()?.to_owned();
    Some((at.duration_since(UNIX_EPOCH).ok()?.as_secs(), label))
}

/// The manifest of each complete bundle, the oldest first; unreadable ones are left out.
pub fn manifests(settings: &EvidenceSettings) -> Vec<(PathBuf, Manifest)> {
    let Ok(store) = Store::open(settings, Folder::open) else {
        return Vec::new();
    };
    let of = |bundle: Bundle| {
        let text = store
            .folder
            .inner(&bundle.name)
            .ok()?
            .read(MANIFEST, MANIFEST_CAP)
            .ok()?;
        Some((
            store.dir.join(bundle.name),
            serde_json::from_slice(&text).ok()?,
        ))
    };
    let bundles = store.bundles().unwrap_or_default();
    bundles.into_iter().filter_map(of).collect()
}

/// Removes leftovers and enforces the limits, above all of age, while nothing new is written.
///
/// # Errors
/// Also where no bundle could be written.
pub fn tidy(settings: &EvidenceSettings) -> Result<(), SaveError> {
    let dir = settings.dir.clone().ok_or(SaveError::Off)?;
    let opened = Folder::open(&dir);
    // It is created for the first bundle.
    if let Err(FileError::Missing { .. }) = opened {
        return may_write(&dir);
    }
    let store = Store::of(settings, dir, opened)?;
    may_write(&store.dir)?;
    let _only = NEW_FOLDER.lock().unwrap_or_else(PoisonError::into_inner);
    let tidied = store.sweep().and_then(|_| store.prune(0, 0));
    tidied
        .map(drop)
        .map_err(|error| SaveError::folder(&store.dir, error))
}

/// Whether this user may write to the folder, or create it in the nearest one above that exists.
fn may_write(dir: &Path) -> Result<(), SaveError> {
    for folder in dir.ancestors() {
        match may_write_to(folder) {
            Ok(()) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(SaveError::folder(folder, errno.into())),
        }
    }
    Ok(())
}

/// The older call ignores the capabilities of a user other than root. The newer one (faccessat2) is refused under systemd
/// before 247, whose filter of system calls does not know it, so its refusal says nothing.
fn may_write_to(folder: &Path) -> Result<(), Errno> {
    let asked = |flags| accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, flags);
    match asked(AtFlags::empty()) {
        Err(Errno::ACCESS) => asked(AtFlags::EACCESS).map_err(|_| Errno::ACCESS),
        answer => answer,
    }
}

fn size(folder: &Folder) -> u64 {
    let files = folder.names(MOST_ENTRIES).unwrap_or_default().into_iter();
    files
        .filter_map(|file| u64::try_from(folder.stat_of(&file).ok()?.st_size).ok())
        .sum()
}

/// A bundle that is being written. If it is dropped without [`Writer::commit`], there is no bundle.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    /// Locked, so that no process removes it.
    folder: Folder,
    /// The names of the folder while it is written and then.
    temporary: String,
    name: String,
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
        let store = Store::open(settings, Folder::open_or_create)?;
        let fail = |error| SaveError::folder(&store.dir, error);
        let _only = NEW_FOLDER.lock().unwrap_or_else(PoisonError::into_inner);
        let writing = store.sweep().map_err(fail)?;
        let share = settings.max_bytes / SHARE;
        let kept = if may_remove {
            let for_all = share.saturating_mul(writing as u64 + 1);
            store.prune(for_all, 1).map_err(fail)?
        } else {
            0
        };
        let left = settings.max_bytes.saturating_sub(kept) / (writing as u64 + 1);
        let bytes_left = share.min(left).saturating_sub(MANIFEST_ROOM);
        if bytes_left == 0 {
            return Err(SaveError::Full(store.dir));
        }
        if store.free().map_err(fail)? < MANIFEST_ROOM {
            return Err(SaveError::NoSpace {
                dir: store.dir,
                min_free: settings.min_free,
            });
        }
        let name = name_of(label, at);
        // Nobody can foresee it, and have it taken.
        let random = RandomState::new().build_hasher().finish();
        let temporary = format!(".{name}.{random:016x}{TEMPORARY}");
        let folder = store.folder.create(&temporary).map_err(fail)?;
        folder.lock().map_err(fail)?;
        Ok(Writer {
            store,
            folder,
            temporary,
            name,
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
            let path = self.path(name);
            match self.store.free() {
                Ok(free) if free < bytes + MANIFEST_ROOM => return Err(PartError::NoSpace(bytes)),
                Ok(_) => self.write(name, &content),
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
    fn useless(&self, manifest: &Manifest) -> Option<SaveError> {
        let useless = |what, why| SaveError::Useless {
            dir: self.store.dir.clone(),
            what,
            why,
        };
        if manifest.files.iter().all(|file| file.bytes == 0) {
            let why = manifest
                .missing
                .last()
                .map_or("nothing was read", |missing| &missing.why);
            return Some(useless("not one file could be saved", why.to_owned()));
        }
        let has_dump = manifest
            .files
            .iter()
            .any(|file| DUMPS.contains(&&*file.name));
        let why = self.refused_dump.clone().filter(|_| !has_dump)?;
        Some(useless("no thread dump fits", why))
    }

    /// The path of a file, for messages.
    fn path(&self, name: &str) -> PathBuf {
        self.store.dir.join(&self.temporary).join(name)
    }

    fn write(&self, name: &str, content: &[u8]) -> io::Result<ListedFile> {
        self.folder.write(name, content)?;
        Ok(ListedFile {
            name: name.to_owned(),
            bytes: content.len() as u64,
            sha256: sha256(content),
        })
    }

    /// Adds the written and the missing files to the manifest, writes it, and gives the bundle its name.
    pub fn commit(mut self, manifest: Manifest) -> Result<PathBuf, SaveError> {
        let manifest = Manifest {
            files: std::mem::take(&mut self.files),
            missing: std::mem::take(&mut self.missing),
            ..manifest
        };
        let committed = self
            .useless(&manifest)
            .map_or(Ok(()), Err)
            .and_then(|()| self.finish(&manifest));
        if committed.is_err() {
            // What remains is removed later.
            let _ = self.store.folder.remove(&self.temporary, MOST_ENTRIES);
        } else if self.may_remove
            && let Err(error) = self.store.prune(0, 0)
        {
            // The previous bundle was the newest of its broker until now.
            tracing::warn!(%error, "cannot enforce the limits of the evidence folder");
        }
        committed
    }

    fn finish(&self, manifest: &Manifest) -> Result<PathBuf, SaveError> {
        let fail = |cause: io::Error| SaveError::commit(&self.path(""), cause);
        let text = serde_json::to_vec_pretty(manifest).map_err(|error| fail(error.into()))?;
        self.write(MANIFEST, &text).map_err(fail)?;
        self.folder.sync().map_err(fail)?;
        let names = (1..100).map(|n| match n {
            1 => self.name.clone(),
            n => format!("{}+{n}", self.name),
        });
        for name in names {
            // The kernel renames no folder onto one with content, nor onto what is none.
            match self
                .store
                .folder
                .rename(&self.temporary, &self.folder, &name)
            {
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory
                    ) => {}
                Err(error) => return Err(fail(error)),
                Ok(()) => {
                    let synced = self.store.folder.sync();
                    synced.map_err(|cause| SaveError::commit(&self.store.dir, cause))?;
                    return Ok(self.store.dir.join(name));
                }
            }
        }
        Err(fail(io::ErrorKind::AlreadyExists.into()))
    }
}

/// The checksum in hexadecimal digits, as `sha256sum` writes it.
pub fn sha256(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests;
