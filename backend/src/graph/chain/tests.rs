//! Names in headers against files on a disk.

use super::*;
use crate::graph::Graph;
use crate::node::NodeOptions;
use crate::node::options::{DriverOptions, FileOptions, Locking};
use std::os::unix::fs::symlink;
use tempfile::TempDir;

/// `images/top`, `images/sub/base`, `images/fifo`-like things, and `other/secret` beside.
fn place() -> TempDir {
    let place = TempDir::new().unwrap();
    let dir = |name: &str| fs::create_dir_all(place.path().join(name)).unwrap();
    let file = |name: &str| fs::write(place.path().join(name), b"x").unwrap();
    ["images/sub", "other"].into_iter().for_each(dir);
    ["images/top", "images/base", "images/sub/base", "other/secret", "images/a:b"].into_iter().for_each(file);
    symlink(place.path().join("other/secret"), place.path().join("images/link")).unwrap();
    symlink("base", place.path().join("images/alias")).unwrap();
    symlink(place.path().join("other"), place.path().join("images/way")).unwrap();
    place
}

fn look(place: &TempDir, allowed: &[PathBuf], name: &str) -> Result<PathBuf, String> {
    let top = place.path().join("images/top");
    let chain = Chain::begin(&top, allowed).unwrap();
    chain.find(&top, name).map(|found| found.path).map_err(|error| error.to_string())
}

#[test]
fn names_lead_to_files_in_the_directory_of_the_image() {
    let place = place();
    for name in ["base", "sub/base", "./base", "sub/../base", "alias"] {
        assert_eq!(look(&place, &[], name), Ok(place.path().join("images").join(name)));
    }
    let absolute = place.path().join("images/sub/base");
    assert_eq!(look(&place, &[], absolute.to_str().unwrap()), Ok(absolute));
}

#[test]
fn names_do_not_lead_out_of_the_directory() {
    let place = place();
    let absolute = place.path().join("other/secret");
    for name in
        ["../other/secret", absolute.to_str().unwrap(), "link", "way/secret", "/etc/passwd", "sub/../../other/secret"]
    {
        let text = look(&place, &[], name).unwrap_err();
        assert!(text.contains("outside of the image's directory"), "{name}: {text}");
    }
}

#[test]
fn an_allowed_directory_is_as_good_as_the_images_own() {
    let place = place();
    let allowed = [place.path().join("other"), place.path().join("nowhere")];
    assert!(look(&place, &allowed, "../other/secret").is_ok());
    assert!(look(&place, &allowed, "way/secret").is_ok());
    assert!(look(&place, &allowed, "/etc/passwd").is_err());
}

#[test]
fn only_paths_of_regular_files_are_followed() {
    let place = place();
    for name in ["json:{\"driver\":\"null-co\"}", "nbd://host/x", "nbd:host:1", "file:base", "a:b", "\0"] {
        let text = look(&place, &[], name).unwrap_err();
        assert!(text.contains("no path"), "{name}: {text}");
    }
    assert!(look(&place, &[], "./a:b").is_ok(), "a colon behind a slash is part of a name");
    assert!(look(&place, &[], "sub").unwrap_err().contains("no regular file"));
    let text = look(&place, &[], "missing").unwrap_err();
    assert_eq!(
        text,
        format!("Could not open '{}': No such file or directory", place.path().join("images/missing").display())
    );
}

#[test]
fn a_chain_ends_where_it_meets_itself_and_when_it_is_too_long() {
    let place = place();
    let top = place.path().join("images/top");
    let chain = Chain::begin(&top, &[]).unwrap();
    let found = |chain: &Chain, name: &str| chain.find(&top, name).unwrap();
    assert!(chain.clone().below(&found(&chain, "top")).is_err());
    let chain = chain.clone().below(&found(&chain, "base")).unwrap();
    let alias = chain.clone().below(&found(&chain, "alias")).unwrap_err();
    assert!(alias.to_string().contains("its own backing chain"), "{alias}");
    let mut chain = chain;
    for number in 2..DEPTH_MAX {
        let name = number.to_string();
        fs::write(place.path().join("images").join(&name), b"x").unwrap();
        let below = found(&chain, &name);
        chain = chain.below(&below).unwrap();
    }
    let last = found(&chain, "sub/base");
    assert!(chain.below(&last).is_err());
}

#[test]
fn a_file_that_takes_the_place_of_one_that_was_looked_at_is_refused() {
    let place = place();
    let top = place.path().join("images/top");
    let found = Chain::begin(&top, &[]).unwrap().find(&top, "base").unwrap();
    let file = FileOptions { filename: found.path.clone(), locking: Locking::Off, device: false };
    let open = |name: &str| {
        let options = NodeOptions::new(DriverOptions::File(file.clone()));
        Graph::new().open(&NodeOptions { node_name: Some(name.into()), ..options }).unwrap()
    };
    assert!(found.check(&open("same")).is_ok());
    fs::remove_file(&found.path).unwrap();
    symlink(place.path().join("other/secret"), &found.path).unwrap();
    let text = found.check(&open("other")).unwrap_err().to_string();
    assert!(text.contains("another file"), "{text}");
}
