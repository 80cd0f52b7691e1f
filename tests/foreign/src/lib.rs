//! A component that knows nothing of Baton but the export that every function has: it is built against the public
//! definitions of `wasi:config` and `wasi:keyvalue`, both drafts of the latter, as for any other host.
//!
//! Its payload is lines, each an order; its answer is a line for each.
//!
//! Built for wasm32-wasip2 alone; for the machine itself it is an empty crate.
#![cfg(all(target_os = "wasi", target_env = "p2"))]

mod bindings;

use bindings::exports::baton::function::handler::{Context, Failure, Guest, Reply};
use bindings::wasi::config::store as config;
use bindings::wasi::keyvalue0_2_0_draft::{atomics, batch, store};
use bindings::wasi::keyvalue0_2_0_draft2 as second;

struct Foreign;

impl Guest for Foreign {
    fn handle(_: Context, payload: Vec<u8>) -> Result<Reply, Failure> {
        let orders = String::from_utf8_lossy(&payload).into_owned();
        let told: Vec<String> = orders.lines().map(told).collect();
        Ok(Reply { media_type: "text/plain".to_owned(), body: told.join("\n").into_bytes() })
    }
}

/// What comes of an order: words that are separated by spaces.
fn told(order: &str) -> String {
    let words: Vec<&str> = order.split(' ').collect();
    match words.as_slice() {
        ["config", key] => format!("{:?}", config::get(key)),
        ["config-all"] => {
            let mut all = config::get_all().unwrap_or_default();
            all.sort();
            format!("{all:?}")
        }
        [bucket, rest @ ..] => match store::open(bucket) {
            Ok(bucket) => kept(&bucket, rest).unwrap_or_else(|error| format!("error: {error:?}")),
            Err(error) => format!("not opened: {error:?}"),
        },
        [] => String::new(),
    }
}

fn kept(bucket: &store::Bucket, order: &[&str]) -> Result<String, store::Error> {
    Ok(match order {
        ["get", key] => text(bucket.get(key)?),
        ["set", key, value] => done(bucket.set(key, value.as_bytes())?),
        // A value of so many bytes.
        ["fill", key, bytes] => done(bucket.set(key, &vec![b'x'; number(bytes)])?),
        // A key of so many bytes.
        ["set-long", bytes] => done(bucket.set(&"k".repeat(number(bytes)), b"v")?),
        ["delete", key] => done(bucket.delete(key)?),
        ["exists", key] => bucket.exists(key)?.to_string(),
        ["increment", key, by] => atomics::increment(bucket, key, number(by) as u64)?.to_string(),
        ["touch", times] => {
            for _ in 0..number(times) {
                bucket.exists("nothing")?;
            }
            "touched".to_owned()
        }
        // Whatever it is told.
        ["touch-for-ever"] => loop {
            drop(bucket.exists("nothing"));
        },
        ["read-for-ever", key] => loop {
            drop(bucket.get(key));
        },
        ["list-for-ever"] => loop {
            drop(bucket.list_keys(None));
        },
        // Pairs whose values have so many bytes each.
        ["fill-many", count, bytes] => {
            let pair = |i: usize| (format!("key-{i}"), vec![b'x'; number(bytes)]);
            done(batch::set_many(bucket, &(0..number(count)).map(pair).collect::<Vec<_>>())?)
        }
        ["set-many", count] => {
            let pair = |i: usize| (format!("key-{i}"), vec![b'x'; 10]);
            done(batch::set_many(bucket, &(0..number(count)).map(pair).collect::<Vec<_>>())?)
        }
        ["get-many", keys @ ..] => {
            let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            let found = batch::get_many(bucket, &keys)?;
            let found = found.into_iter().map(|pair| {
                pair.map_or("-".to_owned(), |(key, value)| format!("{key}={}", String::from_utf8_lossy(&value)))
            });
            found.collect::<Vec<_>>().join(" ")
        }
        ["delete-many", keys @ ..] => {
            let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            done(batch::delete_many(bucket, &keys)?)
        }
        // How many different keys all pages have together, and in how many pages.
        ["count"] => {
            let (mut keys, mut cursor, mut pages) = (std::collections::BTreeSet::new(), None, 0);
            loop {
                let page = bucket.list_keys(cursor)?;
                keys.extend(page.keys);
                pages += 1;
                cursor = page.cursor;
                if cursor.is_none() {
                    break format!("{} keys, {}", keys.len(), if pages > 1 { "in pages" } else { "in one page" });
                }
            }
        }
        ["second", name, order @ ..] => with_second(name, order).unwrap_or_else(|error| format!("error: {error:?}")),
        other => format!("no such order: {other:?}"),
    })
}

/// The same store through the second draft.
fn with_second(name: &str, order: &[&str]) -> Result<String, second::store::Error> {
    use second::atomics::{Cas, CasError, increment, swap};

    let bucket = second::store::open(name)?;
    Ok(match order {
        ["get", key] => text(bucket.get(key)?),
        ["increment", key, by] => increment(&bucket, key, by.parse().unwrap_or_default())?.to_string(),
        ["keys"] => {
            let mut page = bucket.list_keys(None)?;
            page.keys.sort();
            format!("{:?} {:?}", page.keys, page.cursor)
        }
        ["keys-from", cursor] => format!("{:?}", bucket.list_keys(Some(cursor))?.keys),
        // Somebody else writes in between; the second try, on the fresh handle, goes well.
        ["swap", key, between, value] => {
            let cas = Cas::new(&bucket, key)?;
            let read = text(cas.current()?);
            bucket.set(key, between.as_bytes())?;
            match swap(cas, value.as_bytes()) {
                Ok(()) => "the swap saw nothing".to_owned(),
                Err(CasError::StoreError(error)) => return Err(error),
                Err(CasError::CasFailed(again)) => {
                    let now = text(again.current()?);
                    match swap(again, value.as_bytes()) {
                        Ok(()) => format!("read {read}, then {now}, now {}", text(bucket.get(key)?)),
                        Err(_) => "the second swap failed too".to_owned(),
                    }
                }
            }
        }
        other => format!("no such order: {other:?}"),
    })
}

fn text(value: Option<Vec<u8>>) -> String {
    value.map_or("-".to_owned(), |value| String::from_utf8_lossy(&value).into_owned())
}

fn done((): ()) -> String {
    "done".to_owned()
}

fn number(word: &str) -> usize {
    word.parse().unwrap_or_default()
}
