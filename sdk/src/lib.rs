//! Write functions for Baton, the serverless-style WebAssembly plugin host.
//!
//! A function is a Rust function with one attribute:
//!
//! ```
//! use baton_sdk::prelude::*;
//!
//! #[derive(Deserialize)]
//! struct Input {
//!     name: String,
//! }
//!
//! #[derive(Serialize)]
//! struct Greeting {
//!     greeting: String,
//! }
//!
//! #[baton_sdk::function]
//! fn hello(input: Input) -> Result<Greeting> {
//!     Ok(Greeting { greeting: format!("Hello, {}", input.name) })
//! }
//!
//! let reply = baton_sdk::testing::call::<hello>(Default::default(), r#"{"name":"Ada"}"#).unwrap();
//! assert_eq!(reply.text(), r#"{"greeting":"Hello, Ada"}"#);
//! ```
//!
//! Its crate is a `cdylib` that depends on `baton-sdk`, and on `serde` with `derive` if it has types of its own, built
//! with `cargo build --release --target wasm32-wasip2`. A crate holds one function.
//!
//! # What a function takes and gives
//!
//! It may take the [`Context`] of the call (`&Context` or `Context`), and one input; see [`FromPayload`]. It gives an
//! answer, or a `Result` of an answer and an error; see [`IntoReply`] and [`Failure`]. The rule for both: [`Bytes`],
//! [`Text`] and [`Reply`] are the bytes as they are, every other type is JSON. So a `String` is a JSON string, with quotes.
//!
//! # What an error does
//!
//! `?` works on every error. Such an error is a [`Failure::Retry`]: the host tries the call again, as often as its policy
//! allows, and then puts it aside for people. A failure that no further attempt can mend is a [`Failure::reject`]; a
//! payload that does not fit the input is rejected with the code `bad-input` before the function runs.
//!
//! # Logging
//!
//! The macros of the `log` crate (feature `log`, on by default, reexported as `baton_sdk::log`) and of the `tracing`
//! crate (feature `tracing`, reexported as `baton_sdk::tracing`) send their records to the host, with no set-up. A
//! function that logs nothing does not import the host's logging, if it is built with `lto = true`.
//!
//! # Beyond the call
//!
//! Settings ([`config`]), buckets of keys and values that outlive a call ([`keyvalue`]) and calls of other functions
//! ([`calls`]) are there when the function's manifest grants them. A component that uses what was not granted is refused
//! when it is loaded; one that does not use a thing does not ask for it.
//!
//! # Functions that live for days
//!
//! A function with the attribute [`macro@durable`] may sleep for a week or wait for an event, and goes on whatever becomes of the
//! host that it began on; see [`durable`](mod@durable).
//!
//! # Small and fast functions
//!
//! Whatever a component imports costs time on every call. Rust's standard library imports the command-line part of WASI
//! as soon as anything may panic, to print the message. A function that needs neither can leave the standard library
//! out, and imports nothing then; see [`no_std_runtime!`].

#![no_std]
#![warn(missing_docs)]

extern crate alloc;
// In tests and other native builds the standard library has to come from somewhere for `#![no_std]` functions.
#[cfg(not(target_family = "wasm"))]
extern crate std;
// The macro writes `::baton_sdk`, in this crate's own tests too.
extern crate self as baton_sdk;

#[cfg(all(target_family = "wasm", not(all(target_os = "wasi", target_env = "p2"))))]
compile_error!("a Baton function is a WASI 0.2 component; build it with `--target wasm32-wasip2`");

#[cfg(all(target_os = "wasi", target_env = "p2"))]
#[doc(hidden)]
pub mod bindings;
pub mod calls;
pub mod config;
mod context;
pub mod durable;
#[cfg(all(target_os = "wasi", target_env = "p2"))]
mod exported;
mod failure;
pub mod keyvalue;
#[cfg(feature = "log")]
mod logger;
#[cfg(all(target_os = "wasi", target_env = "p2"))]
mod no_std;
mod payload;
mod reply;
pub mod testing;

pub use context::Context;
pub use failure::{Failure, Result};
#[cfg(feature = "log")]
pub use log;
pub use payload::{Bytes, FromPayload, Text};
pub use reply::{IntoReply, Reply};
pub use serde;
pub use serde_json;
#[cfg(feature = "tracing")]
pub use tracing;

/// Makes a Rust function a Baton function: the one that the crate's component holds.
///
/// The function itself stays as it is and can be called from Rust. Beside it stands a type of the same name that
/// implements [`Function`], which [`testing::call`] takes.
///
/// ```
/// use baton_sdk::prelude::*;
///
/// #[baton_sdk::function]
/// fn add(context: &Context, numbers: Vec<i64>) -> Result<i64> {
///     match numbers.as_slice() {
///         [] => Err(Failure::reject("nothing-to-add", format!("call {} has no numbers", context.call_id()))),
///         some => Ok(some.iter().sum()),
///     }
/// }
///
/// assert_eq!(add(&Context::default(), vec![1, 2]), Ok(3));
/// assert_eq!(baton_sdk::testing::call::<add>(Context::default(), "[1, 2]").unwrap().text(), "3");
/// ```
///
/// # What it refuses
///
/// Anything but a free function; `async`, `unsafe`, `extern` and generic ones; more than one input; borrowed input;
/// `Vec<u8>` and its like, where [`Bytes`] is meant. Whether an answer is a `Result` is told by the type's name, so an
/// alias of it must be called `Result` too.
pub use baton_sdk_macros::function;

/// Makes a Rust function a durable Baton function, which takes the steps of an [`Execution`](durable::Execution); see
/// [`durable`](mod@durable).
///
/// It takes `&Execution`, and beside it what any [`function`](macro@function) takes. An error is for good: run again over the
/// same log, the function would end so again. So an error that would be a [`Failure::Retry`] ends the execution with the code
/// `failed`.
pub use baton_sdk_macros::durable;

/// What most functions use.
pub mod prelude {
    #[cfg(feature = "log")]
    pub use crate::log;
    #[cfg(feature = "tracing")]
    pub use crate::tracing;
    pub use crate::{Bytes, Context, Failure, Reply, Result, Text};
    pub use serde::{Deserialize, Serialize};
}

/// A function, from the payload's bytes to the reply. Implemented by [`macro@function`].
pub trait Function {
    /// Answers one call.
    ///
    /// # Errors
    /// The function's own, and a rejection with the code `bad-input` if the payload does not fit the function's input.
    fn handle(context: Context, payload: Bytes) -> Result<Reply>;
}

/// For the code that macros write; no part of the interface.
#[doc(hidden)]
pub mod __private {
    #[cfg(all(target_os = "wasi", target_env = "p2"))]
    pub use crate::{bindings, exported::Exported, no_std::Libc};
    #[cfg(all(target_os = "wasi", target_env = "p2"))]
    pub use wit_bindgen;

    pub use crate::durable::for_good;
    pub use crate::failure::IntoFailure;
}

/// What the standard library otherwise brings, for a `#![no_std]` function: the allocator, and the end of a panic.
///
/// Written once in the function's crate. A panic ends the call as any trap does, without a message. Natively, for tests,
/// it is nothing.
///
/// ```
/// // #![no_std] stands at the top of the crate.
/// use baton_sdk::prelude::*;
///
/// baton_sdk::no_std_runtime!();
///
/// #[baton_sdk::function]
/// fn echo(context: &Context, payload: Bytes) -> Reply {
///     Reply::new(context.media_type(), payload)
/// }
/// ```
///
/// The standard library comes back in with any dependency that uses it, and the compiler then says that `panic_impl` is
/// defined twice. `default-features = false` usually keeps it out. Cargo unites the features of all packages that one
/// command builds, so the cause may be another package.
#[macro_export]
macro_rules! no_std_runtime {
    () => {
        #[cfg(all(target_os = "wasi", target_env = "p2"))]
        const _: () = {
            #[global_allocator]
            static ALLOCATOR: $crate::__private::Libc = $crate::__private::Libc;

            #[panic_handler]
            fn panic(_: &::core::panic::PanicInfo<'_>) -> ! {
                ::core::arch::wasm32::unreachable()
            }

            /// What the standard library exports for the host to place arguments in memory.
            #[unsafe(no_mangle)]
            extern "C" fn cabi_realloc(old: *mut u8, old_bytes: usize, align: usize, new_bytes: usize) -> *mut u8 {
                // SAFETY: called by the host only, by the rules of the canonical ABI.
                unsafe { $crate::__private::Libc::cabi_realloc(old, old_bytes, align, new_bytes) }
            }
        };
    };
}
