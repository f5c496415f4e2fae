//! Finds the brokers' jars, resolved once from Maven Central into a cache folder outside the repository, and JDKs.

use std::env;
use std::fs::{self, File};
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::FlockOperation;

use crate::versions::Version;

/// The remedy that messages name when a JDK or Maven is missing.
pub const INSTALL: &str = "install it with `apt-get install openjdk-17-jdk-headless maven`";

/// Returns `$KAFKA_VITALS_LAB_CACHE`, else `$XDG_CACHE_HOME/kafka-vitals-lab`, else `~/.cache/kafka-vitals-lab`.
pub fn cache_folder() -> Result<PathBuf> {
    let named = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let folder = named("KAFKA_VITALS_LAB_CACHE")
        .or_else(|| named("XDG_CACHE_HOME").map(|base| base.join("kafka-vitals-lab")))
        .or_else(|| named("HOME").map(|home| home.join(".cache/kafka-vitals-lab")))
        .context(
            "no folder for the brokers' jars: set KAFKA_VITALS_LAB_CACHE, XDG_CACHE_HOME or HOME",
        )?;
    std::path::absolute(&folder).with_context(|| format!("cache folder {}", folder.display()))
}

/// Returns the jars of `version`, sorted.
pub fn jars(version: &Version) -> Result<Vec<PathBuf>> {
    resolved(version.name, || broker(version))
}

/// Returns the option of a JVM by which the rules in this file hold. Byteman is a Java agent that delays a thread where a
/// rule says, so that a race always has the same result.
pub fn byteman(rules: &str) -> Result<String> {
    let jars = resolved("byteman-4.0.24", || {
        dependency("org.jboss.byteman", "byteman", "4.0.24", "")
    })?;
    let agent = jars.first().context("a jar of Byteman")?;
    Ok(format!("-javaagent:{}=script:{rules}", agent.display()))
}

/// Returns the jars in the cache folder of that name and first resolves them with Maven if the cache lacks them.
///
/// A lock in the cache folder prevents two processes from resolving at once, and the folder appears complete or not at
/// all.
fn resolved(name: &str, dependencies: impl Fn() -> String) -> Result<Vec<PathBuf>> {
    let cache = cache_folder()?;
    let folder = cache.join(name);
    if !folder.is_dir() {
        fs::create_dir_all(&cache)
            .with_context(|| format!("create the cache folder {}", cache.display()))?;
        let lock_path = cache.join("lock");
        let lock =
            File::create(&lock_path).with_context(|| format!("create {}", lock_path.display()))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .with_context(|| format!("lock {}", lock_path.display()))?;
        if !folder.is_dir() {
            resolve(name, &dependencies(), &cache, &folder)?;
        }
    }
    let mut jars = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jar") {
            jars.push(path);
        }
    }
    jars.sort();
    if jars.is_empty() {
        bail!(
            "{} has no jars: remove it, and the next run resolves it again",
            folder.display()
        );
    }
    Ok(jars)
}

fn resolve(name: &str, dependencies: &str, cache: &Path, folder: &Path) -> Result<()> {
    eprintln!(
        "lab: resolving the jars of {name} with Maven into {} (up to 60 MB)",
        folder.display()
    );
    let work = tempfile::Builder::new()
        .prefix(".resolving-")
        .tempdir_in(cache)?;
    let output = work.path().join("jars");
    fs::write(work.path().join("pom.xml"), project(dependencies))?;
    let status = Command::new("mvn")
        .args(["--batch-mode", "--quiet", "-Dstyle.color=never", "--file"])
        .arg(work.path().join("pom.xml"))
        .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", output.display()))
        .stdin(Stdio::null())
        // With `--quiet` these are only errors.
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("start Maven (`mvn`): {INSTALL}"))?;
    ensure!(
        status.success(),
        "Maven could not resolve {name} ({status}); its messages above say why"
    );
    fs::rename(&output, folder)
        .with_context(|| format!("move the resolved jars to {}", folder.display()))
}

/// Returns the Maven dependencies of a broker: its artifact, and what that needs in addition.
fn broker(version: &Version) -> String {
    let mut extra = String::new();
    for coordinates in version.extra {
        let mut parts = coordinates.splitn(3, ':');
        let mut part = || parts.next().unwrap_or_default();
        extra += &dependency(part(), part(), part(), "");
    }
    // Old poms name these three, Maven Central lacks them, and the broker does not need them.
    let exclusions: String = [
        ("com.sun.jmx", "jmxri"),
        ("com.sun.jdmk", "jmxtools"),
        ("javax.jms", "jms"),
    ]
    .map(|(group, artifact)| {
        format!(
            "<exclusion><groupId>{group}</groupId><artifactId>{artifact}</artifactId></exclusion>"
        )
    })
    .concat();
    dependency(
        "org.apache.kafka",
        &format!("kafka_{}", version.scala),
        version.name,
        &exclusions,
    ) + &extra
}

fn project(dependencies: &str) -> String {
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\n\
         <groupId>lab</groupId><artifactId>broker</artifactId><version>1</version><packaging>pom</packaging>\n\
         <dependencies>\n{dependencies}</dependencies></project>\n"
    )
}

fn dependency(group: &str, artifact: &str, version: &str, exclusions: &str) -> String {
    format!(
        "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>\
         <exclusions>{exclusions}</exclusions></dependency>\n"
    )
}

/// Returns the `java` to start brokers with: `$JAVA_HOME/bin/java`, else the one on `PATH`.
pub fn java() -> Result<PathBuf> {
    if let Some(home) = env::var_os("JAVA_HOME").filter(|home| !home.is_empty()) {
        let java = PathBuf::from(home).join("bin/java");
        if !java.is_file() {
            bail!(
                "JAVA_HOME is set, but there is no {}: unset it or {INSTALL}",
                java.display()
            );
        }
        return Ok(java);
    }
    on_path("java").with_context(|| format!("no `java` on PATH: {INSTALL}"))
}

/// Returns the `java` of a JDK whose major version is `wanted`. It searches `JAVA_HOME*`, `PATH`, the folders beside that
/// JDK, and `java-*` in the cache folder, where `scripts/prerequisites.sh` puts JDKs that the machine lacks.
pub fn java_of(wanted: impl RangeBounds<u32>) -> Option<PathBuf> {
    let variables =
        env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("JAVA_HOME"));
    let mut homes: Vec<PathBuf> = variables.map(|(_, home)| home.into()).collect();
    let on_path = on_path("java")
        .and_then(|java| Some(java.canonicalize().ok()?.parent()?.parent()?.to_path_buf()));
    let beside = on_path
        .as_ref()
        .and_then(|home| Some(home.parent()?.to_path_buf()));
    homes.extend(on_path);
    for folder in [beside, cache_folder().ok()].into_iter().flatten() {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut inside: Vec<_> = entries.map(|entry| entry.path()).collect();
        inside.sort();
        homes.extend(inside);
    }
    let fits = |home: &PathBuf| {
        let release = fs::read_to_string(home.join("release")).unwrap_or_default();
        let version = release
            .lines()
            .find_map(|line| line.strip_prefix("JAVA_VERSION=\""));
        let major =
            version.and_then(|version| version.split(['.', '"', '-', '+']).next()?.parse().ok());
        major.is_some_and(|major: u32| wanted.contains(&major)) && home.join("bin/java").is_file()
    };
    homes
        .into_iter()
        .find(fits)
        .map(|home| home.join("bin/java"))
}

/// Returns the first file of that name in the folders of `PATH`.
pub fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}
