//! `wasi:keyvalue`: buckets of keys and values. What a guest may ask for is decided here; where it is kept is a service.

use std::sync::Arc;

use baton_model::Bucket;
use wasmtime::component::{ComponentType, Lift, Linker, Lower, Resource, ResourceType};
use wasmtime::{Result, StoreContextMut};

use crate::services::{KeyValue, KeyValueError};
use crate::state::State;

/// The two drafts that components are built against. They differ in the type of a page's cursor, in the sign of what is
/// added, and in that only the second can compare and swap.
const FIRST: &str = "0.2.0-draft";
const SECOND: &str = "0.2.0-draft2";

/// The longest key, in bytes.
const KEY_BYTES_MAX: usize = 1 << 10;
/// The largest value.
const VALUE_BYTES_MAX: usize = 1 << 20;
/// The most that the values have together which one operation reads or writes: Redis does nothing else meanwhile.
const VALUES_BYTES_MAX: usize = 1 << 20;
/// The most pairs of one operation.
const BATCH_MAX: usize = 1_000;
/// The most keys that one call may touch, so that no call keeps the store to itself.
const KEYS_A_CALL_MAX: usize = 10_000;

/// Why an operation failed, as the interface has it.
#[derive(Debug, Clone, ComponentType, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "no-such-store")]
    NoSuchStore,
    /// No grant is told from no bucket: neither exists for the function.
    #[component(name = "access-denied")]
    #[expect(dead_code, reason = "the interface has the case; a bucket that is not granted is not there")]
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

impl From<KeyValueError> for Error {
    fn from(error: KeyValueError) -> Self {
        Self::Other(error.to_string())
    }
}

type Answer<T> = Result<(std::result::Result<T, Error>,)>;

/// A page of keys; `C` is the draft's cursor.
#[derive(ComponentType, Lower)]
#[component(record)]
struct Keys<C> {
    keys: Vec<String>,
    cursor: Option<C>,
}

/// A bucket that a guest has open.
#[derive(Clone)]
pub(crate) struct Open {
    bucket: Bucket,
    store: Arc<dyn KeyValue>,
    /// The most bytes that all buckets of the tenant may hold.
    bytes_max: u64,
}

/// A value that a guest has read and means to replace.
pub(crate) struct Cas {
    open: Open,
    key: String,
    read: Option<Vec<u8>>,
}

/// Why a swap failed, as the interface has it.
#[derive(ComponentType, Lower)]
#[component(variant)]
enum CasError {
    #[component(name = "store-error")]
    Store(Error),
    #[component(name = "cas-failed")]
    Failed(Resource<Cas>),
}

/// Offers both drafts.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    for version in [FIRST, SECOND] {
        store(linker, version)?;
        batch(linker, version)?;
    }
    increments::<u64>(linker, FIRST)?;
    increments::<i64>(linker, SECOND)?;
    pages::<u64>(linker, FIRST)?;
    pages::<String>(linker, SECOND)?;
    swaps(linker)
}

fn store(linker: &mut Linker<State>, version: &str) -> Result<()> {
    let mut store = linker.instance(&format!("wasi:keyvalue/store@{version}"))?;
    store.resource("bucket", ResourceType::host::<Open>(), |mut cx, rep| {
        cx.data_mut().table().delete(Resource::<Open>::new_own(rep))?;
        Ok(())
    })?;
    store.func_wrap("open", |mut cx, (name,): (String,)| open(cx.data_mut(), &name))?;
    store.func_wrap_async("[method]bucket.get", |cx, (bucket, key): (Resource<Open>, String)| {
        Box::new(on(cx, bucket, Keyed::one(key), |open, keys| async move {
            let mut found = open.store.get(&open.bucket, &keys.0, VALUES_BYTES_MAX).await?;
            Ok(found.pop().flatten())
        }))
    })?;
    store.func_wrap_async("[method]bucket.set", |cx, (bucket, key, value): (Resource<Open>, String, Vec<u8>)| {
        Box::new(on(cx, bucket, Pairs(vec![(key, value)]), |open, pairs| async move {
            Ok(open.store.set(&open.bucket, &pairs.0, open.bytes_max).await?)
        }))
    })?;
    store.func_wrap_async("[method]bucket.delete", |cx, (bucket, key): (Resource<Open>, String)| {
        Box::new(on(cx, bucket, Keyed::one(key), |open, keys| async move {
            Ok(open.store.delete(&open.bucket, &keys.0).await?)
        }))
    })?;
    store.func_wrap_async("[method]bucket.exists", |cx, (bucket, key): (Resource<Open>, String)| {
        Box::new(on(cx, bucket, Keyed::one(key), |open, keys| async move {
            Ok(open.store.exists(&open.bucket, &keys.0[0]).await?)
        }))
    })
}

fn batch(linker: &mut Linker<State>, version: &str) -> Result<()> {
    let mut batch = linker.instance(&format!("wasi:keyvalue/batch@{version}"))?;
    batch.func_wrap_async("get-many", |cx, (bucket, keys): (Resource<Open>, Vec<String>)| {
        Box::new(on(cx, bucket, Keyed(keys), |open, keys| async move {
            let found = open.store.get(&open.bucket, &keys.0, VALUES_BYTES_MAX).await?;
            let pairs = keys.0.into_iter().zip(found).map(|(key, value)| value.map(|value| (key, value)));
            Ok(pairs.collect::<Vec<_>>())
        }))
    })?;
    batch.func_wrap_async("set-many", |cx, (bucket, pairs): (Resource<Open>, Vec<(String, Vec<u8>)>)| {
        Box::new(on(cx, bucket, Pairs(pairs), |open, pairs| async move {
            Ok(open.store.set(&open.bucket, &pairs.0, open.bytes_max).await?)
        }))
    })?;
    batch.func_wrap_async("delete-many", |cx, (bucket, keys): (Resource<Open>, Vec<String>)| {
        Box::new(on(cx, bucket, Keyed(keys), |open, keys| async move {
            Ok(open.store.delete(&open.bucket, &keys.0).await?)
        }))
    })
}

/// What a draft counts in. Numbers are kept with a sign, so that the upper half of the first draft's is out of reach.
trait Number: ComponentType + Lift + Lower + TryInto<i64> + TryFrom<i64> + Send + 'static {}
impl Number for u64 {}
impl Number for i64 {}

fn increments<N: Number>(linker: &mut Linker<State>, version: &str) -> Result<()> {
    let mut atomics = linker.instance(&format!("wasi:keyvalue/atomics@{version}"))?;
    atomics.func_wrap_async("increment", |cx, (bucket, key, delta): (Resource<Open>, String, N)| {
        Box::new(on(cx, bucket, Keyed::one(key), |open, keys| async move {
            let delta = delta.try_into().map_err(|_| KeyValueError::NoNumber)?;
            let sum = open.store.increment(&open.bucket, &keys.0[0], delta, open.bytes_max).await?;
            Ok(N::try_from(sum).map_err(|_| KeyValueError::NoNumber)?)
        }))
    })
}

/// What a draft goes on with from page to page.
trait Cursor: ComponentType + Lift + Lower + Send + 'static {
    /// Where it stands; none if it is none that was given out.
    fn place(&self) -> Option<u64>;
    fn at(place: u64) -> Self;
}

impl Cursor for u64 {
    fn place(&self) -> Option<u64> {
        Some(*self)
    }
    fn at(place: u64) -> Self {
        place
    }
}

impl Cursor for String {
    fn place(&self) -> Option<u64> {
        self.parse().ok()
    }
    fn at(place: u64) -> Self {
        place.to_string()
    }
}

fn pages<C: Cursor>(linker: &mut Linker<State>, version: &str) -> Result<()> {
    let mut store = linker.instance(&format!("wasi:keyvalue/store@{version}"))?;
    store.func_wrap_async("[method]bucket.list-keys", |cx, (bucket, cursor): (Resource<Open>, Option<C>)| {
        Box::new(on(cx, bucket, Keyed(Vec::new()), |open, _| async move {
            let Some(place) = cursor.map_or(Some(0), |cursor| cursor.place()) else {
                return Err(Error::Other("the cursor is none that an earlier page ended with".to_owned()));
            };
            let (keys, next) = open.store.keys(&open.bucket, place).await?;
            Ok(Keys { keys, cursor: next.map(C::at) })
        }))
    })
}

fn swaps(linker: &mut Linker<State>) -> Result<()> {
    let mut atomics = linker.instance(&format!("wasi:keyvalue/atomics@{SECOND}"))?;
    atomics.resource("cas", ResourceType::host::<Cas>(), |mut cx, rep| {
        cx.data_mut().table().delete(Resource::<Cas>::new_own(rep))?;
        Ok(())
    })?;
    atomics.func_wrap_async("[static]cas.new", |mut cx, (bucket, key): (Resource<Open>, String)| {
        Box::new(async move {
            let open = match admitted(cx.data_mut(), &bucket, &Keyed(vec![key.clone()]))? {
                Ok(open) => open,
                Err(error) => return Ok((Err(error),)),
            };
            Ok((match read(&open, &key).await {
                Ok(read) => Ok(cx.data_mut().table().push(Cas { open, key, read })?),
                Err(error) => Err(error),
            },))
        })
    })?;
    atomics.func_wrap("[method]cas.current", |mut cx, (cas,): (Resource<Cas>,)| -> Answer<_> {
        Ok((Ok(cx.data_mut().table().get(&cas)?.read.clone()),))
    })?;
    atomics.func_wrap_async("swap", |mut cx, (cas, value): (Resource<Cas>, Vec<u8>)| {
        Box::new(async move {
            let Cas { open, key, read: was } = cx.data_mut().table().delete(cas)?;
            let refused = |error| Ok((Err(CasError::Store(error)),));
            let pair = Pairs(vec![(key, value)]);
            if let Err(error) = pair.check().and_then(|()| cx.data_mut().counts(1)) {
                return refused(error);
            }
            let (key, value) = &pair.0[0];
            match open.store.swap(&open.bucket, key, was.as_deref(), value, open.bytes_max).await {
                Ok(true) => return Ok((Ok(()),)),
                Ok(false) => {}
                Err(error) => return refused(error.into()),
            }
            // The guest gets a handle on what stands there now.
            let now = match read(&open, key).await {
                Ok(now) => now,
                Err(error) => return refused(error),
            };
            let again = cx.data_mut().table().push(Cas { open, key: key.clone(), read: now })?;
            Ok((Err(CasError::Failed(again)),))
        })
    })
}

async fn read(open: &Open, key: &str) -> std::result::Result<Option<Vec<u8>>, Error> {
    let mut found = open.store.get(&open.bucket, &[key.to_owned()], VALUES_BYTES_MAX).await?;
    Ok(found.pop().flatten())
}

fn open(state: &mut State, name: &str) -> Answer<Resource<Open>> {
    let Some(services) = state.services() else { return Ok((Err(Error::NoSuchStore),)) };
    let Some(grant) = &services.grants.keyvalue else { return Ok((Err(Error::NoSuchStore),)) };
    let Some(bucket) = grant.bucket(&services.function, name) else { return Ok((Err(Error::NoSuchStore),)) };
    let Some(store) = &services.keyvalue else {
        return Ok((Err(Error::Other("buckets are there during a call only".to_owned())),));
    };
    let open = Open { bucket, store: Arc::clone(store), bytes_max: grant.tenant_bytes_max };
    Ok((Ok(state.table().push(open)?),))
}

/// What an operation is about, within the limits or not.
trait Subject: Send + 'static {
    fn check(&self) -> std::result::Result<(), Error>;
    fn keys(&self) -> usize;
}

/// Keys.
struct Keyed(Vec<String>);

impl Keyed {
    fn one(key: String) -> Self {
        Self(vec![key])
    }
}

impl Subject for Keyed {
    fn check(&self) -> std::result::Result<(), Error> {
        at_most("an operation", self.0.len(), "keys", BATCH_MAX)?;
        self.0.iter().try_for_each(|key| at_most("a key", key.len(), "bytes", KEY_BYTES_MAX))
    }
    fn keys(&self) -> usize {
        self.0.len()
    }
}

/// Keys with values.
struct Pairs(Vec<(String, Vec<u8>)>);

impl Subject for Pairs {
    fn check(&self) -> std::result::Result<(), Error> {
        at_most("an operation", self.0.len(), "pairs", BATCH_MAX)?;
        self.0.iter().try_for_each(|(key, value)| {
            at_most("a key", key.len(), "bytes", KEY_BYTES_MAX)?;
            at_most("a value", value.len(), "bytes", VALUE_BYTES_MAX)
        })?;
        let bytes = self.0.iter().map(|(_, value)| value.len()).sum();
        at_most("an operation", bytes, "bytes of values", VALUES_BYTES_MAX)
    }
    fn keys(&self) -> usize {
        self.0.len()
    }
}

fn at_most(what: &str, found: usize, unit: &str, most: usize) -> std::result::Result<(), Error> {
    if found <= most { Ok(()) } else { Err(Error::Other(format!("{what} has {found} {unit}, it may have {most}"))) }
}

/// The bucket behind a handle, if the operation is within the limits.
fn admitted(
    state: &mut State,
    bucket: &Resource<Open>,
    subject: &impl Subject,
) -> Result<std::result::Result<Open, Error>> {
    let open = state.table().get(bucket)?.clone();
    Ok(subject.check().and_then(|()| state.counts(subject.keys().max(1))).map(|()| open))
}

/// Does one thing on an open bucket.
async fn on<S, T, F>(
    mut cx: StoreContextMut<'_, State>,
    bucket: Resource<Open>,
    subject: S,
    act: impl FnOnce(Open, S) -> F + Send,
) -> Answer<T>
where
    S: Subject,
    F: Future<Output = std::result::Result<T, Error>> + Send,
{
    match admitted(cx.data_mut(), &bucket, &subject)? {
        Ok(open) => Ok((act(open, subject).await,)),
        Err(error) => Ok((Err(error),)),
    }
}

impl State {
    /// Counts keys that are touched.
    fn counts(&mut self, keys: usize) -> std::result::Result<(), Error> {
        self.keys_touched += keys;
        if self.keys_touched <= KEYS_A_CALL_MAX {
            return Ok(());
        }
        Err(Error::Other(format!("a call may touch {KEYS_A_CALL_MAX} keys; this one has touched more")))
    }
}
