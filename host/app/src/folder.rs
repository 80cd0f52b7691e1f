//! One look into the plugins folder: which files would be functions, and whether they are the same as before.
//!
//! A look reads no file. Links are not followed, and only names that the rule allows are seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use baton_engine::COMPONENT_BYTES_MAX;
use baton_model::mutants::{Rule, is_left_out};
use baton_model::{FunctionId, Name, NameError};

/// The largest manifest, digest file, signature or file about a tenant.
const TEXT_BYTES_MAX: u64 = 64 << 10;

/// The name, without its end, of the file about a tenant.
const TENANT: &str = "tenant";

/// What says whether a file is the same as at the last look, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// The stamps of a component and of what stands beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamps {
    component: Stamp,
    manifest: Option<Stamp>,
    digest: Option<Stamp>,
    signature: Option<Stamp>,
}

/// A file that would be a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) stamps: Stamps,
}

/// What one look saw.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub(crate) functions: BTreeMap<FunctionId, Found>,
    /// Functions whose file is something that is not loaded, such as a link: what was loaded before stays.
    pub(crate) held: BTreeSet<FunctionId>,
    /// The folders that hold functions: the one that was looked into, and its tenants'.
    pub(crate) folders: Vec<PathBuf>,
    /// Files that end in `.wasm` but are no functions, with the reason.
    pub(crate) refused: Vec<(PathBuf, String)>,
}

/// The bytes of a function, read while nobody wrote them.
pub(crate) struct Contents {
    pub(crate) component: Vec<u8>,
    pub(crate) manifest: Option<String>,
    pub(crate) digest: Option<String>,
    pub(crate) signature: Option<String>,
}

/// Looks into `folder`.
pub(crate) fn look(folder: &Path) -> io::Result<Look> {
    let mut look = Look::default();
    look_into(folder, None, &mut look)?;
    Ok(look)
}

fn look_into(folder: &Path, tenant: Option<&Name>, look: &mut Look) -> io::Result<()> {
    look.folders.push(folder.to_owned());
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (path, file_name) = (entry.path(), entry.file_name());
        let Some(file_name) = file_name.to_str() else {
            look.refused.push((path, "its name is not UTF-8".to_owned()));
            continue;
        };
        if file_name.starts_with('.') {
            continue;
        }
        // It may have gone since the folder was listed.
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        match (file_name.strip_prefix('@'), file_name.strip_suffix(".wasm")) {
            (Some(tenant_name), _) if tenant.is_none() && meta.is_dir() => match Name::parse(tenant_name) {
                // A tenant's folder may go while it is listed; its functions are then missing, like any others.
                Ok(name) => _ = look_into(&path, Some(&name), look),
                Err(error) => look.refused.push((path, error.to_string())),
            },
            (_, Some(TENANT)) => {
                let rule = "tenant.toml beside it is about the tenant and would be its manifest; give it another name";
                look.refused.push((path, rule.to_owned()));
            }
            (_, Some(function_name)) => match named(function_name, tenant) {
                Ok(function) if meta.is_file() => _ = look.functions.insert(function, found(&path, &meta)),
                Ok(function) => {
                    look.held.insert(function);
                    let rule = "it is no regular file, and links are not followed; copy the component itself here";
                    look.refused.push((path, rule.to_owned()));
                }
                Err(error) => look.refused.push((path, error.to_string())),
            },
            _ => {}
        }
    }
    Ok(())
}

/// What one look for files about tenants saw.
#[derive(Debug, Default)]
pub(crate) struct TenantLook {
    pub(crate) files: BTreeMap<Name, TenantFound>,
    /// Where such files may come: the folder that was looked into, and its tenants'.
    pub(crate) folders: Vec<PathBuf>,
}

/// A file about a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TenantFound {
    pub(crate) path: PathBuf,
    pub(crate) stamp: Stamp,
}

/// Looks for `tenant.toml` in `folder`, which is about the tenant `default`, and in the folders of its tenants.
pub(crate) fn look_for_tenants(folder: &Path) -> io::Result<TenantLook> {
    let mut look = TenantLook { files: BTreeMap::new(), folders: vec![folder.to_owned()] };
    let mut see = |tenant: &Name, folder: &Path| {
        let path = folder.join(TENANT).with_extension("toml");
        if let Ok(meta) = std::fs::symlink_metadata(&path) {
            look.files.insert(tenant.clone(), TenantFound { path, stamp: Stamp::of(&meta) });
        }
    };
    let default = FunctionId::of_default_tenant(Name::parse(TENANT).expect("it is a name")).tenant().clone();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_str().and_then(|name| Name::parse(name.strip_prefix('@')?).ok());
        if let Some(name) = name.filter(|name| *name != default)
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
        {
            see(&name, &entry.path());
            look.folders.push(entry.path());
        }
    }
    see(&default, folder);
    Ok(look)
}

/// Reads a file about a tenant. None if it is not the same any more.
///
/// # Errors
/// A sentence for people, if it cannot be read or is too large.
pub(crate) fn read_tenant(found: &TenantFound) -> Result<Option<String>, String> {
    read_text(&found.path, found.stamp)
}

fn named(name: &str, tenant: Option<&Name>) -> Result<FunctionId, NameError> {
    let name = Name::parse(name)?;
    Ok(match tenant {
        Some(tenant) => FunctionId::new(tenant.clone(), name),
        None => FunctionId::of_default_tenant(name),
    })
}

fn found(path: &Path, meta: &Metadata) -> Found {
    let beside = |path: PathBuf| std::fs::symlink_metadata(path).ok().map(|meta| Stamp::of(&meta));
    let stamps = Stamps {
        component: Stamp::of(meta),
        manifest: beside(manifest_path(path)),
        digest: beside(digest_path(path)),
        signature: beside(signature_path(path)),
    };
    Found { path: path.to_owned(), stamps }
}

/// One component, wherever it lies.
///
/// # Errors
/// The system's word, if there is no such file.
pub(crate) fn at(component: &Path) -> io::Result<Found> {
    std::fs::symlink_metadata(component).map(|meta| found(component, &meta))
}

/// The file about the tenant in whose folder a component lies, if there is one.
pub(crate) fn tenant_beside(component: &Path) -> Option<TenantFound> {
    let path = component.with_file_name(TENANT).with_extension("toml");
    let meta = std::fs::symlink_metadata(&path).ok()?;
    Some(TenantFound { path, stamp: Stamp::of(&meta) })
}

fn manifest_path(component: &Path) -> PathBuf {
    component.with_extension("toml")
}

fn digest_path(component: &Path) -> PathBuf {
    component.with_extension("wasm.sha256")
}

fn signature_path(component: &Path) -> PathBuf {
    component.with_extension("wasm.minisig")
}

/// Reads what was found. None if it is not the same any more: somebody writes it.
///
/// # Errors
/// A sentence for people, if it cannot be read or is too large.
pub(crate) fn read(found: &Found) -> Result<Option<Contents>, String> {
    let stamps = &found.stamps;
    let bytes_max = u64::try_from(COMPONENT_BYTES_MAX).unwrap_or(u64::MAX);
    if stamps.component.size > bytes_max {
        return Err(format!("it has {} bytes, the limit is {bytes_max}", stamps.component.size));
    }
    let Some(component) = read_whole(&found.path, stamps.component, bytes_max)? else { return Ok(None) };
    let text = |path: PathBuf, stamp: Option<Stamp>| match stamp {
        None => Ok(Some(None)),
        Some(stamp) => read_text(&path, stamp).map(|text| text.map(Some)),
    };
    let Some(manifest) = text(manifest_path(&found.path), stamps.manifest)? else { return Ok(None) };
    let Some(digest) = text(digest_path(&found.path), stamps.digest)? else { return Ok(None) };
    let Some(signature) = text(signature_path(&found.path), stamps.signature)? else { return Ok(None) };
    Ok(Some(Contents { component, manifest, digest, signature }))
}

fn read_text(path: &Path, stamp: Stamp) -> Result<Option<String>, String> {
    let bytes = read_whole(path, stamp, TEXT_BYTES_MAX)?;
    bytes.map(String::from_utf8).transpose().map_err(|_| format!("{} is not UTF-8", path.display()))
}

fn read_whole(path: &Path, stamp: Stamp, bytes_max: u64) -> Result<Option<Vec<u8>>, String> {
    let fail = |error: io::Error| format!("{} cannot be read: {error}", path.display());
    let mut file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let is_any = is_left_out(Rule::FileStability);
    let is_same = |file: &File| file.metadata().map(|meta| meta.is_file() && (is_any || Stamp::of(&meta) == stamp));
    if !is_same(&file).map_err(fail)? {
        return Ok(None);
    }
    // Before anything is made room for: a file may say any size without holding a byte.
    if stamp.size > bytes_max {
        return Err(format!("{} has {} bytes, the limit is {bytes_max}", path.display(), stamp.size));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(stamp.size).unwrap_or(0));
    file.by_ref().take(stamp.size + 1).read_to_end(&mut bytes).map_err(fail)?;
    let is_whole = is_any || u64::try_from(bytes.len()) == Ok(stamp.size);
    Ok((is_whole && is_same(&file).map_err(fail)?).then_some(bytes))
}

fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_folders_say_which_function_a_file_is() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| std::fs::write(folder.path().join(name), b"x").unwrap();
        for dir in ["@acme", "hello", "@Bad"] {
            std::fs::create_dir(folder.path().join(dir)).unwrap();
        }
        for name in ["hello.wasm", "@acme/resize.wasm", "hello/inner.wasm", ".hidden.wasm", "notes.txt", "Bad.wasm"] {
            write(name);
        }
        std::os::unix::fs::symlink(folder.path().join("hello.wasm"), folder.path().join("link.wasm")).unwrap();
        let look = look(folder.path()).unwrap();
        let names: Vec<String> = look.functions.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["acme/resize", "default/hello"]);
        assert_eq!(look.refused.len(), 3, "{:?}", look.refused);
        assert_eq!(look.folders.len(), 2);
    }

    #[test]
    fn a_sparse_file_of_terabytes_is_refused_before_it_is_given_room() {
        let folder = tempfile::tempdir().unwrap();
        let sparse = |name: &str| {
            std::fs::File::create(folder.path().join(name)).unwrap().set_len(8 << 40).unwrap();
        };
        std::fs::write(folder.path().join("hello.wasm"), b"one").unwrap();
        for beside in ["hello.toml", "hello.wasm.sha256", "hello.wasm.minisig"] {
            sparse(beside);
            let found = look(folder.path()).unwrap().functions.into_values().next().unwrap();
            assert!(read(&found).err().unwrap().contains("the limit is"), "{beside}");
            std::fs::remove_file(folder.path().join(beside)).unwrap();
        }
        sparse("tenant.toml");
        let found = look_for_tenants(folder.path()).unwrap().files.into_values().next().unwrap();
        assert!(read_tenant(&found).unwrap_err().contains("the limit is"));
    }

    #[test]
    fn a_file_that_changed_since_the_look_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hello.wasm");
        std::fs::write(&path, b"one").unwrap();
        let before = look(folder.path()).unwrap().functions.into_values().next().unwrap();
        assert_eq!(read(&before).unwrap().unwrap().component, b"one");
        std::fs::write(&path, b"three").unwrap();
        assert!(read(&before).unwrap().is_none());
        std::fs::remove_file(&path).unwrap();
        assert!(read(&before).unwrap().is_none());
    }
}
