//! Machine code that outlives the process, and directories that are not to be trusted with it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use baton_engine::{CompileSpeed, Engine, EngineConfig, EngineError};
use baton_model::{Grants, Outcome};

use crate::guests;
use crate::support::{call, config, execute, limits};

fn engine(dir: &Path) -> Engine {
    Engine::new(EngineConfig { cache_dir: Some(dir.to_owned()), ..config() }).expect("an engine")
}

fn artifacts(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn a_component_is_compiled_once_and_then_taken_from_the_cache() {
    let home = tempfile::tempdir().unwrap();
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
    let dir = tempfile::tempdir().unwrap();
    engine(dir.path()).load(&guests::echo(), &Grants::default()).unwrap();
    assert!(!engine(dir.path()).load(&guests::retry(), &Grants::default()).unwrap().from_cache());
    let quick = EngineConfig { cache_dir: Some(dir.path().to_owned()), compile: CompileSpeed::Quick, ..config() };
    assert!(!Engine::new(quick).unwrap().load(&guests::echo(), &Grants::default()).unwrap().from_cache());
    assert_eq!(artifacts(dir.path()).len(), 3);
}

#[test]
fn a_damaged_artifact_is_compiled_again_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
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
fn a_file_that_is_refused_leaves_nothing_in_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    assert!(engine(dir.path()).load(&wat::parse_str("(component)").unwrap(), &Grants::default()).is_err());
    assert!(artifacts(dir.path()).is_empty());
}

#[test]
fn what_nobody_used_for_a_month_is_removed_and_strange_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
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
fn a_directory_that_others_can_write_to_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for mode in [0o770, 0o702, 0o777] {
        fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
        let refused = Engine::new(EngineConfig { cache_dir: Some(dir.path().to_owned()), ..config() }).err().unwrap();
        assert!(matches!(refused, EngineError::Cache { .. }), "{refused}");
        assert!(refused.to_string().contains("chmod 700"), "{refused}");
    }
}

#[test]
fn a_file_or_a_link_is_no_cache() {
    let home = tempfile::tempdir().unwrap();
    let (file, link) = (home.path().join("file"), home.path().join("link"));
    fs::write(&file, "").unwrap();
    std::os::unix::fs::symlink(home.path(), &link).unwrap();
    for dir in [file, link] {
        let refused = Engine::new(EngineConfig { cache_dir: Some(dir), ..config() }).err().unwrap();
        assert!(matches!(refused, EngineError::Cache { .. }), "{refused}");
    }
}
