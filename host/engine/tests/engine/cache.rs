//! Machine code that outlives the process, and directories that are not to be trusted with it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use baton_engine::{CompileSpeed, Engine, EngineConfig, EngineError};
use baton_model::{Grants, Outcome};

use crate::guests;
use crate::support::{call, config, execute, limits};

/// A folder that nobody else can read, as the engine demands it.
fn private_dir() -> tempfile::TempDir {
    tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().expect("a folder")
}

fn engine(dir: &Path) -> Engine {
    Engine::new(EngineConfig { cache_dir: Some(dir.to_owned()), ..config() }).expect("an engine")
}

/// What lies in the cache beside its key.
fn artifacts(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| *path != dir.join("key")).collect()
}

fn from_cache(dir: &Path, bytes: &[u8]) -> bool {
    engine(dir).load(bytes, &Grants::default()).unwrap().from_cache()
}

#[tokio::test]
async fn a_component_is_compiled_once_and_then_taken_from_the_cache() {
    let home = private_dir();
    let dir = home.path().join("made/by/the/engine");
    assert!(!engine(&dir).load(&guests::echo(), &Grants::default()).unwrap().from_cache());
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    let component = engine(&dir).load(&guests::echo(), &Grants::default()).unwrap();
    assert!(component.from_cache());
    assert!(matches!(execute(&component, call("abc"), limits()).await.0, Outcome::Replied(_)));
    assert_eq!(artifacts(&dir).len(), 1, "nothing else is left");
}

#[test]
fn another_component_and_another_compiler_setting_have_artifacts_of_their_own() {
    let dir = private_dir();
    engine(dir.path()).load(&guests::echo(), &Grants::default()).unwrap();
    assert!(!engine(dir.path()).load(&guests::retry(), &Grants::default()).unwrap().from_cache());
    let quick = EngineConfig { cache_dir: Some(dir.path().to_owned()), compile: CompileSpeed::Quick, ..config() };
    assert!(!Engine::new(quick).unwrap().load(&guests::echo(), &Grants::default()).unwrap().from_cache());
    assert_eq!(artifacts(dir.path()).len(), 3);
}

#[test]
fn a_damaged_artifact_is_compiled_again_and_replaced() {
    let dir = private_dir();
    engine(dir.path()).load(&guests::echo(), &Grants::default()).unwrap();
    let path = artifacts(dir.path()).pop().unwrap();
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [&[][..], &whole[..20], &whole[..whole.len() - 1], &flipped] {
        fs::write(&path, damaged).unwrap();
        assert!(!engine(dir.path()).load(&guests::echo(), &Grants::default()).unwrap().from_cache());
        assert!(engine(dir.path()).load(&guests::echo(), &Grants::default()).unwrap().from_cache(), "it was replaced");
    }
}

#[test]
fn an_artifact_of_another_directory_is_not_used() {
    let (ours, theirs) = (private_dir(), private_dir());
    assert!(!from_cache(ours.path(), &guests::echo()) && !from_cache(theirs.path(), &guests::echo()));
    let (path, foreign) = (artifacts(ours.path()).pop().unwrap(), artifacts(theirs.path()).pop().unwrap());
    assert_eq!(path.file_name(), foreign.file_name(), "the same component has the same name everywhere");
    assert!(from_cache(ours.path(), &guests::echo()));
    fs::copy(&foreign, &path).unwrap();
    assert!(!from_cache(ours.path(), &guests::echo()), "whole, and sealed with another key");
    // With their key it would have been ours.
    fs::copy(foreign, path).unwrap();
    fs::copy(theirs.path().join("key"), ours.path().join("key")).unwrap();
    assert!(from_cache(ours.path(), &guests::echo()));
}

#[test]
fn an_artifact_does_not_stand_for_another_component() {
    let dir = private_dir();
    from_cache(dir.path(), &guests::echo());
    let echo = artifacts(dir.path()).pop().unwrap();
    from_cache(dir.path(), &guests::retry());
    let retry = artifacts(dir.path()).into_iter().find(|path| *path != echo).unwrap();
    fs::copy(echo, retry).unwrap();
    assert!(!from_cache(dir.path(), &guests::retry()));
}

#[test]
fn the_key_is_ours_alone_and_another_host_takes_it_over() {
    let dir = private_dir();
    let key = dir.path().join("key");
    drop(engine(dir.path()));
    let first = fs::read(&key).unwrap();
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    drop(engine(dir.path()));
    assert_eq!(fs::read(&key).unwrap(), first);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn a_key_that_others_can_read_or_that_is_none_is_refused() {
    let refusal = |dir: &Path| {
        let refused = Engine::new(EngineConfig { cache_dir: Some(dir.to_owned()), ..config() }).err().unwrap();
        assert!(refused.to_string().contains("`key`") && refused.to_string().contains("remove it"), "{refused}");
    };
    let dir = private_dir();
    let key = dir.path().join("key");
    drop(engine(dir.path()));
    fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    refusal(dir.path());
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let known = fs::read(&key).unwrap();
    fs::write(&key, &known[1..]).unwrap();
    refusal(dir.path());
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    fs::write(elsewhere.path(), &known).unwrap();
    fs::remove_file(&key).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), &key).unwrap();
    refusal(dir.path());
}

#[test]
fn a_file_that_is_refused_leaves_nothing_in_the_cache() {
    let dir = private_dir();
    assert!(engine(dir.path()).load(&wat::parse_str("(component)").unwrap(), &Grants::default()).is_err());
    assert!(artifacts(dir.path()).is_empty());
}

#[test]
fn what_nobody_used_for_a_month_is_removed_and_strange_files_are_left_alone() {
    let dir = private_dir();
    engine(dir.path()).load(&guests::echo(), &Grants::default()).unwrap();
    let path = artifacts(dir.path()).pop().unwrap();
    let strange = dir.path().join("README");
    fs::write(&strange, "mine").unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(31 * 24 * 3600);
    for file in [&path, &strange] {
        fs::File::options().write(true).open(file).unwrap().set_modified(long_ago).unwrap();
    }
    // Use makes it young again.
    drop(engine(dir.path()));
    assert_eq!(artifacts(dir.path()), [strange]);
}

#[test]
fn a_directory_that_others_can_read_or_write_is_refused() {
    let dir = private_dir();
    for mode in [0o770, 0o702, 0o777, 0o750, 0o704] {
        fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
        let refused = Engine::new(EngineConfig { cache_dir: Some(dir.path().to_owned()), ..config() }).err().unwrap();
        assert!(matches!(refused, EngineError::Cache { .. }), "{refused}");
        assert!(refused.to_string().contains("chmod 700"), "{refused}");
    }
}

#[test]
fn a_file_or_a_link_is_no_cache() {
    let home = private_dir();
    let (file, link) = (home.path().join("file"), home.path().join("link"));
    fs::write(&file, "").unwrap();
    std::os::unix::fs::symlink(home.path(), &link).unwrap();
    for dir in [file, link] {
        let refused = Engine::new(EngineConfig { cache_dir: Some(dir), ..config() }).err().unwrap();
        assert!(matches!(refused, EngineError::Cache { .. }), "{refused}");
    }
}
