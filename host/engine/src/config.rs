//! The engine's settings, and how they become wasmtime's. No instance is made here.

use std::path::PathBuf;

use ipnet::IpNet;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, ModuleVersionStrategy, OptLevel};
use wasmtime::{PoolingAllocationConfig, RegallocAlgorithm, WasmFeatures};

use crate::compiler::Compiler;

/// The exact version of wasmtime that made an artifact of the cache. The crate's own check compares the major version
/// only, so that a security release would go on running the machine code of the release before it.
pub const WASMTIME_VERSION: &str = "48.0.8";

/// Limits on one instance, whatever its manifest says.
pub(crate) const CORE_INSTANCES_MAX: u32 = 32;
pub(crate) const MEMORIES_MAX: u32 = 4;
pub(crate) const TABLES_MAX: u32 = 4;
pub(crate) const TABLE_ELEMENTS_MAX: usize = 20_000;

/// How many memories the pool has address space for: each one reserves 4 GiB of the 128 TiB that a process has.
const POOL_MEMORIES_MAX: u32 = 16_384;

/// What an engine is made from.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The most instances that live at the same time.
    pub instances_max: u32,
    /// The most memory that any instance can have; a function's own limit cannot go above it.
    pub memory_bytes_max: usize,
    /// Where compiled components are kept; none keeps nothing.
    pub cache_dir: Option<PathBuf>,
    /// Where components are compiled.
    pub compiler: Compiler,
    /// How much the compiler tries.
    pub compile: CompileSpeed,
    /// Whether the engine is tuned for many short calls.
    pub tuning: Tuning,
    /// Where the scratch directories of calls lie while they run; none gives none. What a crash left there is removed.
    pub scratch_dir: Option<PathBuf>,
    /// Networks that requests of functions may reach although they are not public.
    pub egress_networks: Vec<IpNet>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            instances_max: 1_000,
            memory_bytes_max: 128 << 20,
            cache_dir: None,
            compiler: Compiler::InProcess,
            compile: CompileSpeed::Full,
            tuning: Tuning::Tuned,
            scratch_dir: None,
            egress_networks: Vec::new(),
        }
    }
}

/// How much the compiler tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompileSpeed {
    /// Fast code.
    Full,
    /// Code soon: for the loop of editing and trying.
    Quick,
}

/// Whether the engine is tuned for many short calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tuning {
    /// Pooled and pre-mapped memory; what hosts use.
    Tuned,
    /// What the crate does when nobody tells it anything: only for the benchmark to compare with.
    CrateDefaults,
}

impl EngineConfig {
    /// wasmtime's settings for these.
    pub(crate) fn to_wasmtime(&self) -> wasmtime::Result<Config> {
        let mut config = self.to_compiler()?;
        match self.tuning {
            Tuning::Tuned => config.allocation_strategy(InstanceAllocationStrategy::Pooling(self.pool())),
            Tuning::CrateDefaults => &mut config,
        };
        Ok(config)
    }

    /// The part of them on which machine code depends. An engine made from these alone compiles for one made from all
    /// of them, and reserves no memory for instances.
    pub(crate) fn to_compiler(&self) -> wasmtime::Result<Config> {
        let mut config = Config::new();
        config.module_version(ModuleVersionStrategy::Custom(WASMTIME_VERSION.into()))?;
        match self.compile {
            CompileSpeed::Full => {}
            CompileSpeed::Quick => {
                config.cranelift_opt_level(OptLevel::None);
                config.cranelift_regalloc_algorithm(RegallocAlgorithm::SinglePass);
            }
        }
        if self.tuning == Tuning::CrateDefaults {
            return Ok(config);
        }
        // What no function needs is off, so that its faults are not ours. Whatever the build's features say, these
        // stay off.
        config.wasm_features(
            WasmFeatures::THREADS
                | WasmFeatures::SHARED_EVERYTHING_THREADS
                | WasmFeatures::MEMORY64
                | WasmFeatures::MULTI_MEMORY
                | WasmFeatures::GC
                | WasmFeatures::GC_TYPES
                | WasmFeatures::FUNCTION_REFERENCES
                | WasmFeatures::EXCEPTIONS
                | WasmFeatures::LEGACY_EXCEPTIONS
                | WasmFeatures::STACK_SWITCHING
                | WasmFeatures::RELAXED_SIMD
                | WasmFeatures::CUSTOM_PAGE_SIZES
                | WasmFeatures::WIDE_ARITHMETIC
                | WasmFeatures::CM_ASYNC,
            false,
        );
        config.shared_memory(false);
        // Component-model async costs every store its tables, and no function of the contract uses it.
        config.concurrency_support(false);
        config.epoch_interruption(true);
        config.memory_init_cow(true);
        // A trap's frames carry names, not lines: reading a stranger's debug sections is work that a stranger sets us.
        config.wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Disable);
        config.native_unwind_info(false);
        Ok(config)
    }

    /// The pool, with every total derived from the one number of instances.
    fn pool(&self) -> PoolingAllocationConfig {
        let mut pool = PoolingAllocationConfig::new();
        let n = self.instances_max;
        pool.total_component_instances(n)
            .total_core_instances(n.saturating_mul(CORE_INSTANCES_MAX))
            .total_memories(n.saturating_mul(MEMORIES_MAX).min(n.max(POOL_MEMORIES_MAX)))
            .total_tables(n.saturating_mul(TABLES_MAX))
            .total_stacks(n)
            .max_core_instances_per_component(CORE_INSTANCES_MAX)
            .max_memories_per_component(MEMORIES_MAX)
            .max_tables_per_component(TABLES_MAX)
            .max_tables_per_module(TABLES_MAX)
            .max_memories_per_module(1)
            .table_elements(TABLE_ELEMENTS_MAX)
            .max_memory_size(self.memory_bytes_max)
            .max_unused_warm_slots(100);
        if PoolingAllocationConfig::is_pagemap_scan_available() {
            // The kernel (6.7 or newer) says which pages an instance touched: those are reset in place, and the next
            // instance finds them mapped.
            pool.pagemap_scan(Enabled::Yes).linear_memory_keep_resident(2 << 20).table_keep_resident(1 << 20);
        } else {
            // Without that, whatever is kept is rewritten whole after each call, so little is kept.
            pool.pagemap_scan(Enabled::No).linear_memory_keep_resident(64 << 10).table_keep_resident(16 << 10);
        }
        pool
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_that_marks_artifacts_is_the_version_that_is_built() {
        let lock = include_str!("../../../Cargo.lock");
        assert!(
            lock.contains(&format!("name = \"wasmtime\"\nversion = \"{WASMTIME_VERSION}\"\n")),
            "WASMTIME_VERSION must follow Cargo.lock"
        );
    }
}
