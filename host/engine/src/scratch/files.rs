//! `wasi:filesystem` for functions: the WASI crate's, which keeps a guest within its directory, with the quota before
//! whatever makes a file or lets one grow. There are no links, and nothing waits for the disk to have it.

use std::sync::Arc;

use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemCtxView};
use wasmtime_wasi::p2::bindings::filesystem::preopens;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    self, Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, DirectoryEntryStream, ErrorCode,
    Filesize, HostDescriptor, HostDirectoryEntryStream, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsError, FsResult};

use super::quota::{Full, Quota, Ticket};
use super::streams::{Place, Reader, Writer};
use crate::state::State;

/// A guest's view of its files. Without a quota there are none: no directory was opened for it.
pub(crate) struct Files<'a> {
    pub(crate) inner: WasiFilesystemCtxView<'a>,
    pub(crate) quota: Option<Arc<Quota>>,
}

struct HasFiles;

impl HasData for HasFiles {
    type Data<'a> = Files<'a>;
}

/// Offers the interface, in the place of the crate's.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    preopens::add_to_linker::<State, HasFiles>(linker, State::files)?;
    types::add_to_linker::<State, HasFiles>(linker, State::files)?;
    linker.allow_shadowing(false);
    Ok(())
}

impl From<Full> for FsError {
    fn from(Full: Full) -> Self {
        ErrorCode::InsufficientSpace.into()
    }
}

impl Files<'_> {
    fn quota(&self) -> FsResult<&Arc<Quota>> {
        self.quota.as_ref().ok_or_else(|| ErrorCode::NotPermitted.into())
    }

    /// How long a file is now; nothing else has a length to grow.
    fn length(&self, file: &Resource<Descriptor>) -> FsResult<u64> {
        match self.inner.table.get(file)? {
            Descriptor::File(file) => Ok(file.file.metadata()?.len()),
            Descriptor::Dir(_) => Err(ErrorCode::IsDirectory.into()),
        }
    }

    fn writer(
        &mut self,
        stream: Resource<DynOutputStream>,
        place: Place,
        open: Ticket,
    ) -> FsResult<Resource<DynOutputStream>> {
        let (inner, quota) = (self.inner.table.delete(stream)?, Arc::clone(self.quota()?));
        let writer: DynOutputStream = Box::new(Writer { inner, place, quota, _open: open });
        Ok(self.inner.table.push(writer)?)
    }
}

impl preopens::Host for Files<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let Some(quota) = self.quota.clone() else { return Ok(Vec::new()) };
        let Ok(open) = quota.open() else { return Ok(Vec::new()) };
        let directories = preopens::Host::get_directories(&mut self.inner)?;
        open.forget();
        Ok(directories)
    }
}

impl types::Host for Files<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        types::Host::convert_error_code(&mut self.inner, error)
    }

    fn filesystem_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        types::Host::filesystem_error_code(&mut self.inner, error)
    }
}

impl HostDescriptor for Files<'_> {
    async fn open_at(
        &mut self,
        dir: Resource<Descriptor>,
        follow: PathFlags,
        path: String,
        how: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        let quota = Arc::clone(self.quota()?);
        let open = quota.open()?;
        let makes = how.contains(OpenFlags::CREATE)
            && self.inner.stat_at(Resource::new_borrow(dir.rep()), follow, path.clone()).await.is_err();
        if makes {
            quota.make()?;
        }
        // What the disk has does not matter: the directory does not outlive the attempt.
        let sync = DescriptorFlags::FILE_INTEGRITY_SYNC
            | DescriptorFlags::DATA_INTEGRITY_SYNC
            | DescriptorFlags::REQUESTED_WRITE_SYNC;
        let opened = self.inner.open_at(dir, follow, path, how, flags & !sync).await;
        match &opened {
            Ok(_) => open.forget(),
            Err(_) if makes => quota.unmake(),
            Err(_) => {}
        }
        opened
    }

    fn drop(&mut self, descriptor: Resource<Descriptor>) -> wasmtime::Result<()> {
        HostDescriptor::drop(&mut self.inner, descriptor)?;
        if let Some(quota) = &self.quota {
            quota.close();
        }
        Ok(())
    }

    fn read_via_stream(&mut self, file: Resource<Descriptor>, offset: Filesize) -> FsResult<Resource<DynInputStream>> {
        let open = self.quota()?.open()?;
        let stream = self.inner.read_via_stream(file, offset)?;
        let inner = self.inner.table.delete(stream)?;
        let reader: DynInputStream = Box::new(Reader { inner, _open: open });
        Ok(self.inner.table.push(reader)?)
    }

    fn write_via_stream(
        &mut self,
        file: Resource<Descriptor>,
        position: Filesize,
    ) -> FsResult<Resource<DynOutputStream>> {
        let open = self.quota()?.open()?;
        let high = self.length(&file)?;
        let stream = self.inner.write_via_stream(file, position)?;
        self.writer(stream, Place::At { position, high }, open)
    }

    fn append_via_stream(&mut self, file: Resource<Descriptor>) -> FsResult<Resource<DynOutputStream>> {
        let open = self.quota()?.open()?;
        let stream = self.inner.append_via_stream(file)?;
        self.writer(stream, Place::End, open)
    }

    async fn write(&mut self, file: Resource<Descriptor>, bytes: Vec<u8>, offset: Filesize) -> FsResult<Filesize> {
        let end = offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let growth = end.saturating_sub(self.length(&file)?);
        self.quota()?.grow(growth)?;
        self.inner.write(file, bytes, offset).await
    }

    async fn set_size(&mut self, file: Resource<Descriptor>, size: Filesize) -> FsResult<()> {
        let growth = size.saturating_sub(self.length(&file)?);
        self.quota()?.grow(growth)?;
        self.inner.set_size(file, size).await
    }

    async fn create_directory_at(&mut self, dir: Resource<Descriptor>, path: String) -> FsResult<()> {
        let quota = Arc::clone(self.quota()?);
        quota.make()?;
        let made = self.inner.create_directory_at(dir, path).await;
        if made.is_err() {
            quota.unmake();
        }
        made
    }

    async fn read_directory(&mut self, dir: Resource<Descriptor>) -> FsResult<Resource<DirectoryEntryStream>> {
        let open = self.quota()?.open()?;
        let entries = self.inner.read_directory(dir).await?;
        open.forget();
        Ok(entries)
    }

    async fn link_at(
        &mut self,
        _: Resource<Descriptor>,
        _: PathFlags,
        _: String,
        _: Resource<Descriptor>,
        _: String,
    ) -> FsResult<()> {
        Err(ErrorCode::NotPermitted.into())
    }

    async fn symlink_at(&mut self, _: Resource<Descriptor>, _: String, _: String) -> FsResult<()> {
        Err(ErrorCode::NotPermitted.into())
    }

    /// A hint that the disk need not hear.
    async fn advise(&mut self, file: Resource<Descriptor>, _: Filesize, _: Filesize, _: Advice) -> FsResult<()> {
        self.length(&file).map(drop)
    }

    /// Nothing that is in the directory has to survive; a guest that makes the disk work would only slow its neighbours.
    async fn sync(&mut self, descriptor: Resource<Descriptor>) -> FsResult<()> {
        self.inner.table.get(&descriptor)?;
        Ok(())
    }

    async fn sync_data(&mut self, descriptor: Resource<Descriptor>) -> FsResult<()> {
        self.inner.table.get(&descriptor)?;
        Ok(())
    }

    // The rest neither makes nor grows anything.

    async fn get_flags(&mut self, descriptor: Resource<Descriptor>) -> FsResult<DescriptorFlags> {
        self.inner.get_flags(descriptor).await
    }

    async fn get_type(&mut self, descriptor: Resource<Descriptor>) -> FsResult<DescriptorType> {
        self.inner.get_type(descriptor).await
    }

    async fn set_times(
        &mut self,
        descriptor: Resource<Descriptor>,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        self.inner.set_times(descriptor, accessed, modified).await
    }

    async fn read(
        &mut self,
        file: Resource<Descriptor>,
        bytes: Filesize,
        offset: Filesize,
    ) -> FsResult<(Vec<u8>, bool)> {
        self.inner.read(file, bytes, offset).await
    }

    async fn stat(&mut self, descriptor: Resource<Descriptor>) -> FsResult<DescriptorStat> {
        self.inner.stat(descriptor).await
    }

    async fn stat_at(
        &mut self,
        dir: Resource<Descriptor>,
        follow: PathFlags,
        path: String,
    ) -> FsResult<DescriptorStat> {
        self.inner.stat_at(dir, follow, path).await
    }

    async fn set_times_at(
        &mut self,
        dir: Resource<Descriptor>,
        follow: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        self.inner.set_times_at(dir, follow, path, accessed, modified).await
    }

    async fn readlink_at(&mut self, dir: Resource<Descriptor>, path: String) -> FsResult<String> {
        self.inner.readlink_at(dir, path).await
    }

    async fn remove_directory_at(&mut self, dir: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.inner.remove_directory_at(dir, path).await
    }

    async fn rename_at(
        &mut self,
        dir: Resource<Descriptor>,
        old: String,
        new_dir: Resource<Descriptor>,
        new: String,
    ) -> FsResult<()> {
        self.inner.rename_at(dir, old, new_dir, new).await
    }

    async fn unlink_file_at(&mut self, dir: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.inner.unlink_file_at(dir, path).await
    }

    async fn is_same_object(&mut self, a: Resource<Descriptor>, b: Resource<Descriptor>) -> wasmtime::Result<bool> {
        self.inner.is_same_object(a, b).await
    }

    async fn metadata_hash(&mut self, descriptor: Resource<Descriptor>) -> FsResult<MetadataHashValue> {
        self.inner.metadata_hash(descriptor).await
    }

    async fn metadata_hash_at(
        &mut self,
        dir: Resource<Descriptor>,
        follow: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        self.inner.metadata_hash_at(dir, follow, path).await
    }
}

impl HostDirectoryEntryStream for Files<'_> {
    async fn read_directory_entry(
        &mut self,
        entries: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        self.inner.read_directory_entry(entries).await
    }

    fn drop(&mut self, entries: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        HostDirectoryEntryStream::drop(&mut self.inner, entries)?;
        if let Some(quota) = &self.quota {
            quota.close();
        }
        Ok(())
    }
}
