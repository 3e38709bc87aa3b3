//! The images for the swarm tests: the runtime stages of the users' `Dockerfile` with the binaries
//! built here, the base images they stand on, and images for Redis, MongoDB and foreign services.
//!
//! Where a registry can be reached the real base images are pulled. Where none can, Debian stands in
//! for them: made by debootstrap, imported under the names that the Dockerfiles use, and labelled as
//! stand-ins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::ImagesArgs;
use crate::install;
use crate::process::{self, find_program, run_aside};
use crate::servers::{SECANTUS, Servers, docker};
use crate::workspace;

/// The tag of the services' images in tests.
pub(crate) const TEST_TAG: &str = "test";

/// Our images are named `roundtrip-<service>`; these are targets of the Dockerfile.
const SERVICES: [&str; 3] = ["frontend", "events-service", "backend"];

/// Images that are pulled, or else made from Debian packages.
const DEBIAN_IMAGES: [DebianImage; 3] = [
    DebianImage {
        name: "debian:bookworm-slim",
        root: &PLAIN,
        command: "bash",
    },
    // One file system for both: what a stand-in has too much of harms nobody, and half a minute is
    // saved.
    DebianImage {
        name: "python:3-slim-bookworm",
        root: &WITH_PROGRAMS,
        command: "python3",
    },
    DebianImage {
        name: "redis:7-bookworm",
        root: &WITH_PROGRAMS,
        command: "redis-server",
    },
];

const PLAIN: DebianRoot = DebianRoot {
    name: "debian",
    packages: &[],
};
const WITH_PROGRAMS: DebianRoot = DebianRoot {
    name: "debian-programs",
    packages: &["python3", "redis-server"],
};

/// The database's image has a stand-in of another kind: `xtask/stand-ins/mongo`.
const MONGO_IMAGE: &str = "mongo:7";

/// How long to wait for a registry: an image has some hundred megabytes at most, and where there is no
/// registry the answer mostly comes at once.
const PULL_MAX: Duration = Duration::from_secs(180);

/// The newest C library that a binary for the runtime image may be built with: the one in there.
const RUNTIME_GLIBC: (u32, u32) = (2, 36);

/// What `cargo xtask images` does.
///
/// # Errors
/// There is no engine, or an image cannot be made.
pub(crate) fn chore(args: &ImagesArgs) -> Result<()> {
    let servers = Servers::get(true)?;
    let host = servers.docker_host().context("no engine")?;
    make_base_images(host)?;
    if !args.base_only {
        let profile: &[&str] = if args.release { &["--release"] } else { &[] };
        run_aside(
            workspace::cargo()
                .args(["build", "--workspace", "--bins"])
                .args(profile),
        )?;
        make_service_images(host, &workspace::bin_dir(args.release)?, &[&args.tag])?;
    }
    Ok(())
}

/// Makes sure that all images are there that ours stand on or are tested with.
///
/// # Errors
/// One can neither be pulled nor made.
pub(crate) fn make_base_images(host: &str) -> Result<()> {
    for image in DEBIAN_IMAGES {
        if !is_there(host, image.name) && !pull(host, image.name)? {
            image.import(host).with_context(|| {
                format!(
                    "no registry gives the image {}, and no stand-in can be made",
                    image.name
                )
            })?;
        }
    }
    if !is_there(host, MONGO_IMAGE) && !pull(host, MONGO_IMAGE)? {
        build_mongo_stand_in(host).context("cannot make a stand-in for the database's image")?;
    }
    Ok(())
}

/// Builds the images of the services from binaries that are built already, under each of the tags. The
/// tag is their version too, so that no two are the same image.
///
/// # Errors
/// A binary is missing, or an image cannot be built.
pub(crate) fn make_service_images(host: &str, bin_dir: &Path, tags: &[&str]) -> Result<()> {
    let client = client_with_buildkit()?;
    let revision = process::output(
        Command::new("git")
            .args(["rev-parse", "HEAD"])
            .current_dir(workspace::root()),
    )
    .unwrap_or_else(|_| "unknown".to_owned());
    // A binary built with a newer C library than the runtime image's does not start there.
    let glibc = process::output(Command::new("getconf").arg("GNU_LIBC_VERSION")).ok();
    let here_is_fine = glibc
        .as_deref()
        .and_then(glibc_version)
        .is_some_and(|v| v <= RUNTIME_GLIBC);
    let (binaries, context) = if here_is_fine {
        ("prebuilt", stage_binaries(bin_dir)?)
    } else {
        ("builder", workspace::root().to_owned())
    };
    for tag in tags {
        for service in SERVICES {
            eprintln!("building the image roundtrip-{service}:{tag}");
            process::output(
                buildkit(&client, host)
                    .arg("--file")
                    .arg(workspace::root().join("Dockerfile"))
                    .args([
                        "--target",
                        service,
                        "--tag",
                        &format!("roundtrip-{service}:{tag}"),
                    ])
                    .args(["--build-arg", &format!("BINARIES={binaries}")])
                    .args(["--build-arg", &format!("VERSION={tag}")])
                    .args(["--build-arg", &format!("REVISION={}", revision.trim())])
                    .arg(&context),
            )?;
        }
    }
    Ok(())
}

/// Puts what the Dockerfile's stages need when nothing is compiled in there into a folder of its own.
fn stage_binaries(bin_dir: &Path) -> Result<PathBuf> {
    let context = workspace::state_dir().join("context");
    let prebuilt = context.join("prebuilt");
    fs::create_dir_all(&prebuilt)
        .with_context(|| format!("cannot make the folder {}", prebuilt.display()))?;
    copy(
        &workspace::root().join("task-maps.json"),
        &context.join("task-maps.json"),
    )?;
    for service in SERVICES {
        let staged = prebuilt.join(service);
        copy(&bin_dir.join(service), &staged)?;
        if find_program("strip").is_some() {
            // Debug builds are a hundred megabytes each with what debuggers want to know.
            process::output(Command::new("strip").arg("--strip-debug").arg(&staged))?;
        }
    }
    Ok(context)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn is_there(host: &str, image: &str) -> bool {
    process::output(docker(host).args(["image", "inspect", "--format", "{{.Id}}", image])).is_ok()
}

/// Whether the image could be pulled.
fn pull(host: &str, image: &str) -> Result<bool> {
    let pulled = process::output_within(PULL_MAX, docker(host).args(["pull", "--quiet", image]));
    process::check_interrupted()?;
    Ok(pulled.is_ok())
}

/// A root file system made of Debian packages.
struct DebianRoot {
    name: &'static str,
    packages: &'static [&'static str],
}

/// An image whose stand-in is such a file system.
struct DebianImage {
    name: &'static str,
    root: &'static DebianRoot,
    command: &'static str,
}

impl DebianImage {
    fn import(&self, host: &str) -> Result<()> {
        let archive = self.root.archive()?;
        eprintln!("importing a stand-in for {}", self.name);
        process::output(
            docker(host)
                .arg("import")
                .args(["--change", "LABEL roundtrip.stand-in=yes"])
                .args(["--change", &format!("CMD [\"{}\"]", self.command)])
                .arg(&archive)
                .arg(self.name),
        )?;
        Ok(())
    }
}

impl DebianRoot {
    /// The file system as an archive; made once, and kept in the cache.
    fn archive(&self) -> Result<PathBuf> {
        let archive = workspace::cache_dir().join(format!("{}-bookworm.tar", self.name));
        if archive.exists() {
            return Ok(archive);
        }
        let debootstrap = install::program_of_package("debootstrap", "debootstrap")?;
        eprintln!("making a file system of Debian packages: {}", self.name);
        let work = workspace::state_dir().join("debootstrap");
        let root = work.join(self.name);
        let packages = work.join("packages");
        remove_if_there(&root)?;
        fs::create_dir_all(&packages)
            .with_context(|| format!("cannot make the folder {}", packages.display()))?;
        let mut command = Command::new(debootstrap);
        command.arg("--variant=minbase");
        command.arg(format!("--cache-dir={}", packages.display()));
        if !self.packages.is_empty() {
            command.arg(format!("--include={}", self.packages.join(",")));
        }
        process::output(command.arg("bookworm").arg(&root))?;
        // What the slim images leave out as well.
        for dir in [
            "var/cache/apt",
            "var/lib/apt/lists",
            "usr/share/doc",
            "usr/share/locale",
            "usr/share/man",
        ] {
            remove_if_there(&root.join(dir))?;
        }
        // Where the real Python images have it.
        let python = root.join("usr/bin/python3");
        if python.exists() {
            for name in ["python", "python3"] {
                let link = root.join("usr/local/bin").join(name);
                std::os::unix::fs::symlink("/usr/bin/python3", &link)
                    .with_context(|| format!("cannot make the link {}", link.display()))?;
            }
        }
        // Written under another name first: half an archive must not be taken for a whole one.
        let unfinished = archive.with_extension("unfinished");
        fs::create_dir_all(workspace::cache_dir()).context("cannot make the cache folder")?;
        process::output(
            Command::new("tar")
                .args(["--create", "--numeric-owner", "--one-file-system", "--file"])
                .arg(&unfinished)
                .arg("--directory")
                .arg(&root)
                .arg("."),
        )?;
        fs::rename(&unfinished, &archive)
            .with_context(|| format!("cannot write {}", archive.display()))?;
        remove_if_there(&root)?;
        Ok(archive)
    }
}

fn remove_if_there(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    Ok(())
}

fn build_mongo_stand_in(host: &str) -> Result<()> {
    let program = SECANTUS.find_or_install()?;
    let context = workspace::state_dir().join("mongo");
    fs::create_dir_all(&context).context("cannot make a folder to build in")?;
    let source = workspace::root()
        .join("xtask")
        .join("stand-ins")
        .join("mongo");
    for file in ["Dockerfile", "mongod"] {
        copy(&source.join(file), &context.join(file))?;
    }
    copy(&program, &context.join(SECANTUS.program))?;
    eprintln!("building a stand-in for {MONGO_IMAGE}");
    let client = client_with_buildkit()?;
    process::output(
        buildkit(&client, host)
            .args(["--tag", MONGO_IMAGE])
            .arg(&context),
    )?;
    Ok(())
}

/// A command that builds an image, to be completed.
fn buildkit(client: &Path, host: &str) -> Command {
    let mut command = Command::new(client);
    command
        .env("DOCKER_HOST", host)
        .env("DOCKER_BUILDKIT", "1")
        .args(["build", "--progress=plain"]);
    command
}

/// A Docker client that can build with BuildKit, which skips the stages of a Dockerfile that are not
/// asked for: one with the component buildx, or one older than version 23, which has its own.
/// There can be several clients on a machine.
fn client_with_buildkit() -> Result<PathBuf> {
    let clients = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
        dirs.into_iter()
            .map(|dir| dir.join("docker"))
            .filter(|file| process::is_executable(file))
    };
    if let Some(client) = clients().find(|client| can_buildkit(client)) {
        return Ok(client);
    }
    if install::can_install_packages() {
        install::packages(&["docker.io"])?;
        if let Some(client) = clients().find(|client| can_buildkit(client)) {
            return Ok(client);
        }
    }
    bail!("no Docker client here can build with BuildKit: install its component buildx")
}

fn can_buildkit(client: &Path) -> bool {
    if process::output(Command::new(client).args(["buildx", "version"])).is_ok() {
        return true;
    }
    process::output(Command::new(client).arg("--version"))
        .is_ok_and(|version| client_major(&version).is_some_and(|major| major < 23))
}

/// The major version in `Docker version 20.10.24+dfsg1, build 297e128`.
fn client_major(version: &str) -> Option<u32> {
    version
        .trim()
        .strip_prefix("Docker version ")?
        .split('.')
        .next()?
        .parse()
        .ok()
}

/// The version in `glibc 2.36`.
fn glibc_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_versions_are_read() {
        assert_eq!(
            client_major("Docker version 20.10.24+dfsg1, build 297e128\n"),
            Some(20)
        );
        assert_eq!(
            client_major("Docker version 28.2.2, build e6534b4"),
            Some(28)
        );
        assert_eq!(client_major("podman version 4.3.1"), None);
        assert_eq!(client_major(""), None);
    }

    #[test]
    fn c_library_versions_are_compared_as_numbers() {
        assert_eq!(glibc_version("glibc 2.36\n"), Some((2, 36)));
        assert!(glibc_version("glibc 2.9").is_some_and(|version| version <= RUNTIME_GLIBC));
        assert!(glibc_version("glibc 2.41").is_some_and(|version| version > RUNTIME_GLIBC));
        assert_eq!(glibc_version("musl 1.2"), None);
    }
}
