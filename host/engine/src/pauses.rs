//! The waits of the standard clock. A durable function has none: its clock stands still between two things that it learns, so a
//! wait of its own would be one that no replay knows.

use wasmtime::component::{HasData, Linker, Resource};
use wasmtime::{Result, bail};
use wasmtime_wasi::clocks::{WasiClocksCtxView, WasiClocksView as _};
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock::{self, Host};

use crate::state::State;

const RULE: &str = "a durable function cannot wait by the standard clock, of which its log knows nothing: sleep with a step \
                    (`execution.sleep`), or call a function that waits";

/// The standard clock, and whether it may be waited for.
struct Clock<'a> {
    inner: WasiClocksCtxView<'a>,
    stands_still: bool,
}

struct HasClock;

impl HasData for HasClock {
    type Data<'a> = Clock<'a>;
}

/// Offers the interface, in the place of the crate's.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    linker.allow_shadowing(true);
    monotonic_clock::add_to_linker::<State, HasClock>(linker, |state| {
        let stands_still = state.steps.is_some();
        Clock { inner: state.clocks(), stands_still }
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

impl Host for Clock<'_> {
    fn now(&mut self) -> Result<u64> {
        self.inner.now()
    }

    fn resolution(&mut self) -> Result<u64> {
        self.inner.resolution()
    }

    // What is over already may be asked for: that is how a guest looks without waiting.
    fn subscribe_instant(&mut self, when: u64) -> Result<Resource<DynPollable>> {
        if self.stands_still && when > self.inner.now()? {
            bail!(RULE);
        }
        self.inner.subscribe_instant(when)
    }

    fn subscribe_duration(&mut self, duration: u64) -> Result<Resource<DynPollable>> {
        if self.stands_still && duration > 0 {
            bail!(RULE);
        }
        self.inner.subscribe_duration(duration)
    }
}
