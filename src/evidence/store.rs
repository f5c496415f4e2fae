//! Where bundles lie. A bundle is written under a temporary name, synced and renamed: one that carries its own name is
//! whole, whenever the writer was killed. Whoever writes holds a lock on the temporary folder, so what nobody holds is
//! left over and is swept.
//!
//! Everything here blocks, for ever on a hung disk: it belongs on a thread that nobody waits for without a deadline.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock, statvfs};
use sha2::{Digest as _, Sha256};

use super::manifest::{DUMPS, ListedFile, MANIFEST, Manifest, Missing};
use crate::config::EvidenceSettings;
use crate::model::{Moment, rfc3339};

/// Every temporary name ends so, and begins with a dot.
const TEMPORARY: &str = ".partial";
/// A bundle may take this part of `max_bytes`.
const SHARE: u64 = 4;
/// Left for the manifest, which has some 3 KiB.
const MANIFEST_ROOM: u64 = 16 << 10;
/// A larger manifest is none.
pub const MANIFEST_CAP: u64 = MANIFEST_ROOM * 4;
/// Folders in the evidence folder that are looked at.
const MOST_ENTRIES: usize = 10_000;

/// A whole bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    pub path: PathBuf,
    /// Label of its broker as it stands in the name.
    label: String,
    /// In seconds since 1970, from the name.
    at: u64,
}

/// The whole bundles of a folder, the oldest first. What does not carry a bundle's name is somebody else's.
///
/// # Errors
/// The folder cannot be read.
pub fn whole(dir: &Path) -> io::Result<Vec<Whole>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)?.take(MOST_ENTRIES) {
        let entry = entry?;
        if let (Some((at, label)), true) = (
            parse_name(entry.file_name().to_str()),
            entry.file_type()?.is_dir(),
        ) {
            found.push(Whole {
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

/// `kafka-vitals-broker-219.hprof`: one of each broker, for each is as large as a heap and none is ever removed.
pub fn heap_dump_name(label: &str) -> String {
    format!("kafka-vitals-broker-{}.hprof", plain(label))
}

/// Fit for the name of a file.
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

/// Time and label of a bundle's name.
fn parse_name(name: Option<&str>) -> Option<(u64, String)> {
    let (time, label) = name?.split_once("-broker-")?;
    let (day, clock) = time.split_once('T')?;
    let at = humantime::parse_rfc3339(&format!("{day}T{}", clock.replace('-', ":"))).ok()?;
    let label = label.split('+').next()?.to_owned();
    Some((at.duration_since(UNIX_EPOCH).ok()?.as_secs(), label))
}

/// The manifest of each whole bundle, the oldest first; those that cannot be read are left out.
pub fn manifests(dir: &Path) -> Vec<(PathBuf, Manifest)> {
    let of = |bundle: Whole| {
        let path = bundle.path.join(MANIFEST);
        let small = fs::metadata(&path).is_ok_and(|metadata| metadata.len() <= MANIFEST_CAP);
        Some((
            bundle.path,
            serde_json::from_slice(&fs::read(&path).ok().filter(|_| small)?).ok()?,
        ))
    };
    whole(dir)
        .unwrap_or_default()
        .into_iter()
        .filter_map(of)
        .collect()
}

/// Sweeps, and keeps the limits, of age above all, while nothing new is written.
pub fn tidy(settings: &EvidenceSettings) -> io::Result<()> {
    let Some(dir) = settings.dir.as_ref().filter(|dir| dir.exists()) else {
        return Ok(());
    };
    sweep(dir)?;
    prune(settings, dir, 0, 0).map(drop)
}

/// Removes what writers that were killed left behind.
fn sweep(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)?.take(MOST_ENTRIES).filter_map(Result::ok) {
        let is_ours = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with('.') && name.ends_with(TEMPORARY));
        let Some(folder) = is_ours.then(|| File::open(entry.path()).ok()).flatten() else {
            continue;
        };
        // Held until all is gone: a writer that has just made the folder must not take it for its own meanwhile.
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Another one may be at it; what remains is tried again.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// Removes the oldest bundles until so many bytes and bundles may be added; never the newest of a broker. Gives back
/// how many bytes the remaining ones have.
fn prune(settings: &EvidenceSettings, dir: &Path, more_bytes: u64, more: usize) -> io::Result<u64> {
    let bundles = whole(dir)?;
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
        // Killed midway, this must not leave half a bundle that counts.
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

/// Bytes that may be written until the floor of free space is reached.
fn free_above_floor(dir: &Path, floor: u64) -> io::Result<u64> {
    let space = statvfs(dir)?;
    Ok(space
        .f_bavail
        .saturating_mul(space.f_frsize)
        .saturating_sub(floor))
}

/// A bundle that is being written. Dropped without [`Writer::commit`], it never counts.
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    folder: PathBuf,
    name: String,
    /// For as long as it lives, nobody sweeps the folder.
    _lock: File,
    settings: EvidenceSettings,
    may_remove: bool,
    /// Bytes that its files may still have.
    room: u64,
    files: Vec<ListedFile>,
    missing: Vec<Missing>,
    /// Why a thread dump that was had could not be written.
    refused_dump: Option<String>,
}

impl Writer {
    /// Makes room, and the temporary folder. With `may_remove` older bundles go where the limits ask for it.
    ///
    /// # Errors
    /// Why nothing can be written: the folder, the cause, the remedy.
    pub fn begin(
        settings: &EvidenceSettings,
        label: &str,
        at: Moment,
        may_remove: bool,
    ) -> Result<Writer, String> {
        let dir = settings
            .dir
            .clone()
            .ok_or("evidence is off: no folder for it; give --evidence.dir")?;
        let fail = |error: io::Error| {
            let uid = rustix::process::geteuid().as_raw();
            format!(
                "{}: {error}; let uid {uid} write there, or name another folder by --evidence.dir",
                dir.display()
            )
        };
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
        let room = share
            .min(settings.max_bytes.saturating_sub(kept))
            .saturating_sub(MANIFEST_ROOM);
        let free = free_above_floor(&dir, settings.min_free).map_err(fail)?;
        if room == 0 || free < MANIFEST_ROOM {
            let dir = dir.display();
            return Err(if room == 0 {
                format!(
                    "{dir}: the newest bundles of all brokers fill evidence.max_bytes; move some away or raise it"
                )
            } else {
                format!(
                    "{dir}: less is free there than evidence.min_free ({} MiB); make space or lower it",
                    settings.min_free >> 20
                )
            });
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
        let (files, missing) = (Vec::new(), Vec::new());
        let settings = settings.clone();
        let refused_dump = None;
        Ok(Writer {
            dir,
            folder,
            name,
            _lock: lock,
            settings,
            may_remove,
            room,
            files,
            missing,
            refused_dump,
        })
    }

    /// Writes one file and syncs it; what cannot be had or written is listed with its reason.
    pub fn add(&mut self, name: &str, content: Result<Vec<u8>, String>) {
        let is_dump = DUMPS.contains(&name) && content.is_ok();
        let written = content.and_then(|content| {
            let bytes = content.len() as u64;
            if bytes > self.room {
                return Err(format!(
                    "its {bytes} bytes are more than the limits of the evidence leave"
                ));
            }
            match free_above_floor(&self.folder, self.settings.min_free) {
                Ok(free) if free < bytes + MANIFEST_ROOM => Err(format!(
                    "its {bytes} bytes would go below evidence.min_free"
                )),
                Ok(_) => write(&self.folder, name, &content),
                Err(error) => Err(error.to_string()),
            }
        });
        match written {
            Ok(file) => {
                self.room -= file.bytes;
                self.files.push(file);
            }
            Err(why) => {
                if is_dump {
                    self.refused_dump = Some(format!(
                        "{}: no thread dump fits: {why}",
                        self.dir.display()
                    ));
                }
                self.missing.push(Missing {
                    name: name.to_owned(),
                    why,
                });
            }
        }
    }

    /// Why what was written is not worth the name of evidence: it is tried again when there is more room.
    fn worthless(&self) -> Option<String> {
        if self.files.iter().all(|file| file.bytes == 0) {
            let why = self
                .missing
                .last()
                .map_or("nothing was had", |missing| &missing.why);
            return Some(format!(
                "{}: not one file could be saved: {why}",
                self.dir.display()
            ));
        }
        let has_dump = self.files.iter().any(|file| DUMPS.contains(&&*file.name));
        self.refused_dump.clone().filter(|_| !has_dump)
    }

    /// Writes the manifest, to which what was written and what is missing is added, and gives the bundle its name.
    ///
    /// # Errors
    /// Then there is no bundle.
    pub fn commit(self, manifest: Manifest) -> Result<PathBuf, String> {
        let worthless = self.worthless();
        let manifest = Manifest {
            files: self.files,
            missing: self.missing,
            ..manifest
        };
        let text = serde_json::to_vec_pretty(&manifest).map_err(|error| error.to_string())?;
        let written = worthless.map_or_else(|| write(&self.folder, MANIFEST, &text), Err);
        let committed = written.and_then(|_| {
            let named = File::open(&self.folder)
                .and_then(|folder| folder.sync_all())
                .and_then(|()| {
                    // A folder is not renamed onto one that holds something.
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
            let path = named.map_err(|error| format!("{}: {error}", self.folder.display()))?;
            File::open(&self.dir)
                .and_then(|dir| dir.sync_all())
                .map_err(|error| error.to_string())?;
            Ok(path)
        });
        if committed.is_err() {
            // What remains of it is swept later.
            let _ = fs::remove_dir_all(&self.folder);
        } else if self.may_remove
            && let Err(error) = prune(&self.settings, &self.dir, 0, 0)
        {
            // The bundle before this one was the newest of its broker until now.
            tracing::warn!(%error, "cannot look through old evidence");
        }
        committed.map_err(|why| {
            format!("{why}; make space there, or name another folder by --evidence.dir")
        })
    }
}

fn write(folder: &Path, name: &str, content: &[u8]) -> Result<ListedFile, String> {
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
        // Half a file is none, and its space may do for the next.
        let _ = fs::remove_file(&path);
        return Err(format!("{}: {error}", path.display()));
    }
    Ok(ListedFile {
        name: name.to_owned(),
        bytes: content.len() as u64,
        sha256: sha256(content),
    })
}

/// In hexadecimal digits, as `sha256sum` writes it.
pub fn sha256(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
