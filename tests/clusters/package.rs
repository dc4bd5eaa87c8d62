//! The Debian package: what is in it, that its program runs where it lies, that its pages lead to what it has, and that the
//! licences of all that is built in are told.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;

use crate::fixture::{limited, program};

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn the_package_has_what_its_page_says_and_its_program_runs() {
    limited(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut make = Command::new("packaging/deb");
        make.arg("--program").arg(program()).arg("--into").arg(folder.path()).env("DPKG_DEB_COMPRESSOR_TYPE", "none");
        make.env("CARGO_NET_OFFLINE", "true");
        let package = said(&mut make);
        let field = |name: &str| said(Command::new("dpkg-deb").args(["--field", &package, name]));
        assert_eq!([field("Package"), field("Version")], ["trunkline", env!("CARGO_PKG_VERSION")]);
        assert!(field("Depends").contains("libc6 (>= "), "{}", field("Depends"));
        let root = folder.path().join("root");
        said(Command::new("dpkg-deb").args(["--raw-extract", &package]).arg(&root));
        let page = std::fs::read_to_string("packaging/README.md").unwrap();
        let places: Vec<&str> = page.split('`').filter(|word| word.starts_with('/')).collect();
        assert!(places.len() >= 6, "{places:?}");
        for place in places {
            assert!(root.join(place.trim_start_matches('/')).exists(), "{place}");
        }
        let run = |place: &str, arguments: &[&Path]| said(Command::new(root.join(place)).args(arguments));
        said(Command::new("md5sum").args(["--check", "--quiet", "DEBIAN/md5sums"]).current_dir(&root));
        let example = root.join("usr/share/doc/trunkline/examples/trunkline.toml");
        run("usr/bin/trunkline", &[Path::new("check"), Path::new("--config"), &example]);
        for script in ["postinst", "prerm", "postrm"].map(|script| root.join("DEBIAN").join(script)) {
            said(Command::new("sh").arg("-n").arg(script));
        }
        let documents = root.join("usr/share/doc/trunkline");
        // An image may leave out the documents: what is used is none of them.
        let hook = root.join("usr/share/trunkline/patroni/before_stop").symlink_metadata().unwrap();
        assert!(hook.is_file());
        assert_eq!(hook.permissions().mode() & 0o777, 0o755);
        let unnamed = without_licence(&documents.join("third-party-licences.gz"));
        assert!(unnamed.is_empty(), "these are built in, and their licences are not told: {unnamed:?}");
        let pages = pages_below(&documents);
        assert!(pages.len() > 10, "{pages:?}");
        let dead: Vec<_> = pages.iter().flat_map(|page| dead_links(page)).collect();
        assert!(dead.is_empty(), "these lead nowhere: {dead:?}");
    });
}

#[test]
fn the_image_is_built_by_the_compiler_that_the_profile_is_for() {
    let compiler = include_str!("../../.cargo/release.profdata.rustc").split(' ').nth(1).unwrap();
    let image = format!("FROM rust:{compiler}-bookworm AS build");
    let file = include_str!("../../packaging/Dockerfile");
    assert!(file.lines().any(|line| line == image), "packaging/Dockerfile: {image}");
}

/// What is built in by Cargo's word, and not named there.
fn without_licence(told: &Path) -> Vec<String> {
    let told = said(Command::new("gzip").args(["--decompress", "--stdout"]).arg(told));
    let mut ask = Command::new("cargo");
    ask.args(["tree", "--locked", "--edges=normal", "--prefix=none", "--format={p}"]).env("CARGO_NET_OFFLINE", "true");
    let tree = said(&mut ask);
    let crates = tree.lines().filter_map(|line| line.split_once(" v"));
    let crates = crates.map(|(name, rest)| format!("{name} {}: ", rest.split(' ').next().unwrap()));
    let others: Vec<String> = crates.filter(|name| !name.starts_with("trunkline ")).collect();
    assert!(others.len() > 100, "{tree}");
    others.into_iter().filter(|name| !told.lines().any(|line| line.starts_with(name))).collect()
}

fn pages_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let pages = entries.flat_map(|path| if path.is_dir() { pages_below(&path) } else { vec![path] });
    pages.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The links of a page to files that are not there. What has `::` in it is a name of the source, for rustdoc.
fn dead_links(page: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(page).unwrap();
    let links = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let targets = links.captures_iter(&text).map(|link| link.get(1).unwrap().as_str());
    let files = targets.filter(|target| !target.contains("::") && !target.contains("://"));
    let is_dead = |target: &&str| {
        let path = target.split('#').next().unwrap_or_default();
        !page.parent().unwrap().join(path).exists()
    };
    files.filter(is_dead).map(|target| format!("{}: {target}", page.display())).collect()
}
