//! The compiling process: limits itself, reads one component, writes its machine code, ends. The host's side of it is
//! `compiler.rs`.

use std::io::{self, Read};

use rustix::process::{Resource, Rlimit, getrlimit, nice, setrlimit};

use crate::order::{Answer, Budget, Order};

/// Address space beyond the memory it writes to: the program itself, stacks, and what allocators only reserve.
const RESERVED_BYTES: u64 = 2 << 30;

/// Files that it may have open: its three pipes, and what the system is asked on the way.
const FILES_MAX: u64 = 16;

/// How much calls come before it where the processor is short.
const NICENESS: i32 = 5;

/// Why a compiling process ends without an answer.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// There is no order on the standard input.
    #[error("no component came in ({0}); hosts start this command, there is nothing in it for people")]
    NoOrder(io::Error),
    /// A limit cannot be set, and without it nothing is compiled.
    #[error("cannot limit this process: {0}")]
    Limits(rustix::io::Errno),
    /// The engine is not to be had.
    #[error("cannot set up the compiler: {0}")]
    Engine(String),
    /// Nobody takes the answer.
    #[error("cannot hand over the machine code: {0}")]
    Answer(io::Error),
}

/// Serves one order from the standard input and answers on the standard output. The process ends at once when the
/// standard input does: then its host is gone. It has to be the first that a process does: files that are open already
/// are closed.
///
/// # Errors
/// [`WorkerError`]. A component that is not valid is an answer and no error.
pub fn compile_worker() -> Result<(), WorkerError> {
    // For people who list processes; without it nothing is lost.
    let _ = std::fs::write("/proc/self/comm", "baton-compile");
    close_strange_files();
    let mut input = io::stdin();
    let order = Order::read(&mut input).map_err(WorkerError::NoOrder)?;
    confine(Budget::of(order.component_bytes)).map_err(WorkerError::Limits)?;
    let mut component = Vec::new();
    let bytes = order.component_bytes as u64;
    let read = input.by_ref().take(bytes).read_to_end(&mut component).map_err(WorkerError::NoOrder)?;
    if read != order.component_bytes {
        return Err(WorkerError::NoOrder(io::ErrorKind::UnexpectedEof.into()));
    }
    end_with_host(input)?;
    let answer = compile(order, &component)?;
    answer.write(&mut io::stdout().lock()).map_err(WorkerError::Answer)
}

/// Compiles, and loads nothing.
fn compile(order: Order, component: &[u8]) -> Result<Answer, WorkerError> {
    let engine = order.settings().to_compiler().and_then(|settings| wasmtime::Engine::new(&settings));
    let engine = engine.map_err(|e| WorkerError::Engine(format!("{e:#}")))?;
    Ok(match engine.precompile_component(component) {
        Ok(code) => Answer::Code(code),
        Err(error) if error.is::<wasmtime::OutOfMemory>() => Answer::OutOfMemory,
        Err(error) => Answer::Refused(format!("{error:#}")),
    })
}

/// Ends this process when the host does, however that comes about: the pipe closes with it.
fn end_with_host(mut input: io::Stdin) -> Result<(), WorkerError> {
    let wait = move || {
        while input.read(&mut [0]).is_err_and(|e| e.kind() == io::ErrorKind::Interrupted) {}
        std::process::exit(1);
    };
    let thread = std::thread::Builder::new().name("baton-host-watch".into()).spawn(wait);
    thread.map(drop).map_err(WorkerError::NoOrder)
}

/// Closes what the host was started with by accident and handed on: what it opens itself it does not hand on.
fn close_strange_files() {
    let numbers = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse::<i32>().ok();
    let open: Vec<i32> =
        std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten().filter_map(numbers).collect();
    for file in open.into_iter().filter(|file| *file > 2) {
        // SAFETY: this process has just begun and has one thread, and nothing in it has opened a file that still is
        // open: the listing itself is closed by now. So nobody owns what is closed here.
        #[allow(unsafe_code, reason = "the standard library has no safe way to close what nobody owns")]
        unsafe {
            rustix::io::close(file);
        }
    }
}

/// Limits this process for good.
fn confine(budget: Budget) -> rustix::io::Result<()> {
    // The soft limit's signal tells the host why this process ended; the hard limit stands behind it.
    limit(Resource::Cpu, budget.cpu_s, budget.cpu_s + 1)?;
    for (resource, most) in [
        (Resource::Data, budget.memory_bytes),
        (Resource::As, budget.memory_bytes.saturating_add(RESERVED_BYTES)),
        (Resource::Nofile, FILES_MAX),
        (Resource::Fsize, 0),
        (Resource::Core, 0),
    ] {
        limit(resource, most, most)?;
    }
    // Where it may not be nice it compiles all the same.
    let _ = nice(NICENESS);
    Ok(())
}

/// Lowers a limit; one that is lower already stays.
fn limit(resource: Resource, current: u64, maximum: u64) -> rustix::io::Result<()> {
    let maximum = getrlimit(resource).maximum.map_or(maximum, |already| already.min(maximum));
    setrlimit(resource, Rlimit { current: Some(current.min(maximum)), maximum: Some(maximum) })
}
