//! The one place where bytes become machine code that runs. Who may hand bytes to it is said here.

use wasmtime::component::Component;

/// Makes a component of what [`wasmtime::Engine::precompile_component`] gave.
///
/// The bytes must come from a compiler that is this very program: out of the pipe of the process that this host
/// started for it, or out of the cache, where they bear this host's own seal. Nothing else calls this.
pub(crate) fn load(engine: &wasmtime::Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: as above, these bytes are what `precompile_component` gave. They are in memory that nobody else can
    // change. wasmtime itself compares the settings of the engine, the abilities of the machine and our exact version
    // string (`EngineConfig::to_wasmtime`) with those that stand in the bytes.
    #[allow(unsafe_code, reason = "wasmtime cannot know where machine code comes from; the callers do")]
    unsafe {
        Component::deserialize(engine, code)
    }
}
