//! Compiling, in a process of its own: the host hands in a component and takes machine code, or a reason, back.
//!
//! A component is a stranger's, and a compiler is a large program that a stranger's file drives: what it may use is
//! limited by the system, and what goes wrong in it ends a process that nobody misses. What it limits is in
//! `worker.rs`; what is refused before it comes to this, in `precheck.rs`.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::check::{LoadError, brief};
use crate::config::CompileSpeed;
use crate::order::{Answer, Budget, Order};

/// How much of what a compiling process complains is read.
const COMPLAINT_BYTES_MAX: u64 = 4 << 10;

/// Where components are compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compiler {
    /// In a process of its own for each: this program with these arguments, which have to lead to
    /// [`compile_worker`](crate::compile_worker).
    Process {
        /// The program, the very one that runs now: `/proc/self/exe` holds even when its file is replaced.
        program: PathBuf,
        /// What makes it the compiler.
        arguments: Vec<OsString>,
    },
    /// In this process, without any limit: for tests and measurements, whose components are their own.
    InProcess,
}

/// Why there is no machine code. The texts say what to do, so that they can be shown to whoever made the component.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// It took too much CPU time.
    #[error(
        "the compiler used more than {seconds} s of CPU, which is what a file of this size gets; split its largest \
         functions, or build it optimised for size"
    )]
    Cpu {
        /// The limit.
        seconds: u64,
    },
    /// It took too long.
    #[error("the compiler took longer than {seconds} s, which is what a file of this size gets; is the machine busy?")]
    Wall {
        /// The limit.
        seconds: u64,
    },
    /// It took too much memory.
    #[error(
        "the compiler used more than {mib} MiB of memory, which is what a file of this size gets; split its largest \
         functions, or build it optimised for size"
    )]
    Memory {
        /// The limit.
        mib: u64,
    },
    /// It ended without an answer.
    #[error("the compiler failed on it: {0}; build it with another version of its tools, or report it")]
    Failed(String),
    /// The process cannot be started; no fault of the file.
    #[error("cannot start the compiler's process: {0}; is there memory, and room for a process?")]
    Start(io::Error),
}

impl Compiler {
    /// Machine code for this component, as wasmtime serialises it. Blocks until it is there.
    pub(crate) fn compile(
        &self,
        engine: &wasmtime::Engine,
        speed: CompileSpeed,
        component: &[u8],
    ) -> Result<Vec<u8>, LoadError> {
        match self {
            Self::InProcess => {
                engine.precompile_component(component).map_err(|e| LoadError::Invalid(brief(&format!("{e:#}"))))
            }
            Self::Process { program, arguments } => {
                let order = Order { compile: speed, component_bytes: component.len() };
                let mut command = Command::new(program);
                // It needs no variable but this, which wasmtime's compiler reads; what is in ours may be secret.
                command.arg0("baton").args(arguments).env_clear().env("RAYON_NUM_THREADS", threads().to_string());
                // A terminal's Ctrl-C is for the host, which ends in order.
                command.process_group(0);
                order_from(command, order, component, Budget::of(component.len()))
            }
        }
    }
}

/// How many threads one compilation has: more would have memory of their own, and gain little.
fn threads() -> usize {
    const THREADS_MAX: usize = 8;
    thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX)
}

/// A process that is killed and reaped at the end of its scope.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        // Where it has been reaped already, both do nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the process, has it serve the order within the budget's time, and reads why it ended.
fn order_from(mut command: Command, order: Order, component: &[u8], budget: Budget) -> Result<Vec<u8>, LoadError> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut worker = Worker(command.spawn().map_err(CompileError::Start)?);
    let pid = Pid::from_child(&worker.0);
    let (ended, end) = mpsc::channel::<()>();
    let (said, is_late) = thread::scope(|scope| {
        let watch = thread::Builder::new().name("baton-compile".into()).spawn_scoped(scope, move || {
            let is_late = end.recv_timeout(Duration::from_secs(budget.wall_s)) == Err(RecvTimeoutError::Timeout);
            if is_late {
                // It is not reaped before this thread has ended, so the id is still its own.
                let _ = kill_process(pid, Signal::KILL);
            }
            is_late
        });
        let watch = watch.map_err(CompileError::Start)?;
        let said = talk(&mut worker.0, order, component, budget);
        // Waits for its end, and leaves it to be reaped.
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while waitid(WaitId::Pid(pid), how).is_err_and(|e| e == Errno::INTR) {}
        drop(ended);
        Ok::<_, CompileError>((said, watch.join().unwrap_or(false)))
    })?;
    let status = worker.0.wait().map_err(CompileError::Start)?;
    if is_late {
        return Err(CompileError::Wall { seconds: budget.wall_s }.into());
    }
    let answer = if status.success() { said.ok().and_then(Answer::parse) } else { None };
    match answer {
        Some(Answer::Code(code)) => Ok(code),
        Some(Answer::Refused(reason)) => Err(LoadError::Invalid(brief(&reason))),
        Some(Answer::OutOfMemory) => Err(CompileError::Memory { mib: budget.memory_bytes >> 20 }.into()),
        None => Err(failure(status, &complaint(&mut worker.0), budget).into()),
    }
}

/// Hands the order over and reads the answer. Its standard input stays open: its end would say that the host is gone.
fn talk(worker: &mut Child, order: Order, component: &[u8], budget: Budget) -> io::Result<Vec<u8>> {
    // The end of its output is closed on return: one that says more than it may must not wait for ever.
    let (Some(input), Some(output)) = (&mut worker.stdin, worker.stdout.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    // One that has ended already takes nothing and says nothing; its status tells why.
    let handed_over = order.write(input).and_then(|()| input.write_all(component));
    let mut answer = Vec::new();
    output.take(budget.memory_bytes).read_to_end(&mut answer)?;
    handed_over.map(|()| answer)
}

/// What it printed for people. It has ended, so this does not wait.
fn complaint(worker: &mut Child) -> String {
    let mut bytes = Vec::new();
    if let Some(errors) = &mut worker.stderr {
        let _ = errors.take(COMPLAINT_BYTES_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// Why a process ended without an answer.
fn failure(status: ExitStatus, complaint: &str, budget: Budget) -> CompileError {
    if status.signal() == Some(Signal::XCPU.as_raw()) {
        return CompileError::Cpu { seconds: budget.cpu_s };
    }
    // What the standard library says before it aborts.
    if complaint.contains("memory allocation of") {
        return CompileError::Memory { mib: budget.memory_bytes >> 20 };
    }
    let what = if complaint.is_empty() { String::new() } else { format!(", saying: {complaint}") };
    CompileError::Failed(brief(&format!("it ended with {status}{what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Budget = Budget { cpu_s: 1, wall_s: 60, memory_bytes: 1 << 20 };

    /// What is said of an order that this script served.
    fn served_by(script: &str, budget: Budget) -> Result<Vec<u8>, LoadError> {
        let mut command = Command::new("/bin/sh");
        let component = [7; 100];
        // It takes the order first, as the compiler does.
        command.args(["-c", &format!("head -c 109 >/dev/null; {script}")]);
        let order = Order { compile: CompileSpeed::Full, component_bytes: component.len() };
        order_from(command, order, &component, budget)
    }

    fn refusal(script: &str) -> String {
        served_by(script, BUDGET).expect_err("no code came").to_string()
    }

    #[test]
    fn an_answer_counts_only_from_a_process_that_ended_well() {
        assert_eq!(served_by(r"printf '\0code'", BUDGET).unwrap(), b"code");
        let refused = served_by(r"printf '\1bad type'", BUDGET).expect_err("no code");
        assert!(matches!(&refused, LoadError::Invalid(reason) if reason == "bad type"), "{refused:?}");
        let failed = refusal(r"printf '\0code'; echo half of it >&2; exit 3");
        assert!(failed.contains("exit status: 3") && failed.contains("half of it"), "{failed}");
        assert!(refusal("true").contains("the compiler failed on it"));
    }

    #[test]
    fn why_a_process_was_stopped_is_told_with_the_limit() {
        assert!(refusal("kill -s XCPU $$").contains("more than 1 s of CPU"));
        let lack = refusal("echo 'memory allocation of 5 bytes failed' >&2; kill -s ABRT $$");
        assert!(lack.contains("more than 1 MiB of memory"), "{lack}");
        assert!(refusal(r"printf '\2'").contains("more than 1 MiB of memory"));
        let crash = refusal("kill -s SEGV $$");
        assert!(crash.contains("signal: 11"), "{crash}");
    }

    #[test]
    fn a_process_that_takes_too_long_is_killed() {
        let late = served_by("exec sleep 1000", Budget { wall_s: 1, ..BUDGET }).expect_err("no code came");
        assert!(matches!(late, LoadError::Compiler(CompileError::Wall { seconds: 1 })), "{late:?}");
    }

    #[test]
    fn a_process_that_says_too_much_is_not_listened_to() {
        let failed = refusal("exec yes");
        assert!(failed.contains("the compiler failed on it"), "{failed}");
    }

    #[test]
    fn a_process_that_does_not_start_is_no_fault_of_the_file() {
        let compiler = Compiler::Process { program: "/nowhere/baton".into(), arguments: Vec::new() };
        let engine = wasmtime::Engine::default();
        let failed = compiler.compile(&engine, CompileSpeed::Full, b"").expect_err("it is not there");
        assert!(matches!(failed, LoadError::Compiler(CompileError::Start(_))), "{failed:?}");
    }

    #[test]
    fn the_environment_of_the_host_is_not_handed_on() {
        let compiler = Compiler::Process {
            program: "/bin/sh".into(),
            arguments: ["-c", r"printf '\0'; tr '\0' '\n' </proc/$$/environ"].map(OsString::from).to_vec(),
        };
        assert!(!std::fs::read("/proc/self/environ").unwrap().is_empty(), "this process has an environment");
        let said = compiler.compile(&wasmtime::Engine::default(), CompileSpeed::Full, b"").unwrap();
        assert_eq!(String::from_utf8(said).unwrap(), format!("RAYON_NUM_THREADS={}\n", threads()));
    }
}
