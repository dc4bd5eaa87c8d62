//! The Debian package: what is in it, and that its program runs where it lies.

use std::path::Path;
use std::process::Command;

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
        let example = root.join("usr/share/doc/trunkline/examples/trunkline.toml");
        run("usr/bin/trunkline", &[Path::new("check"), Path::new("--config"), &example]);
        for script in ["postinst", "prerm", "postrm"].map(|script| root.join("DEBIAN").join(script)) {
            said(Command::new("sh").arg("-n").arg(script));
        }
    });
}
