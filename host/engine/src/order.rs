//! What a host and its compiling process say to each other: one order goes in, one answer comes out. Nothing runs here.
//!
//! Both are the same program, so there is no version in it.

use std::io::{self, Read, Write};

use crate::config::{CompileSpeed, EngineConfig, Tuning};

/// What one compilation may use.
///
/// The limits grow with the file. The costliest of the real components that were measured, a JavaScript interpreter,
/// takes 0.9 s of CPU and 20 MiB of memory for each MiB of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// The most CPU time, of all threads together.
    pub(crate) cpu_s: u64,
    /// The most time.
    pub(crate) wall_s: u64,
    /// The most memory that it writes to.
    pub(crate) memory_bytes: u64,
}

impl Budget {
    /// What a component of this size may use.
    pub(crate) fn of(component_bytes: usize) -> Self {
        let bytes = u64::try_from(component_bytes).unwrap_or(u64::MAX);
        let cpu_s = 4 + (6 * bytes).div_ceil(1 << 20);
        // On a machine that does other work too.
        Self { cpu_s, wall_s: 4 * cpu_s, memory_bytes: (256 << 20) + 64 * bytes }
    }
}

/// One component to compile; its bytes follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) compile: CompileSpeed,
    pub(crate) component_bytes: usize,
}

impl Order {
    pub(crate) fn write(self, out: &mut impl Write) -> io::Result<()> {
        let speed = match self.compile {
            CompileSpeed::Full => 0,
            CompileSpeed::Quick => 1,
        };
        let mut head = [speed; 9];
        head[1..].copy_from_slice(&(self.component_bytes as u64).to_le_bytes());
        out.write_all(&head)
    }

    pub(crate) fn read(input: &mut impl Read) -> io::Result<Self> {
        let mut head = [0; 9];
        input.read_exact(&mut head)?;
        let [speed, size @ ..] = head;
        let compile = match speed {
            0 => CompileSpeed::Full,
            1 => CompileSpeed::Quick,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        let component_bytes = usize::try_from(u64::from_le_bytes(size)).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(Self { compile, component_bytes })
    }

    /// The settings under which an engine makes machine code that the host's own engine takes.
    pub(crate) fn settings(self) -> EngineConfig {
        EngineConfig { compile: self.compile, tuning: Tuning::Tuned, ..EngineConfig::default() }
    }
}

/// What became of an order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The machine code, as wasmtime serialises it.
    Code(Vec<u8>),
    /// The component is not valid, and why.
    Refused(String),
    /// The memory limit was met.
    OutOfMemory,
}

impl Answer {
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let (kind, bytes) = match self {
            Self::Code(code) => (0, code.as_slice()),
            Self::Refused(reason) => (1, reason.as_bytes()),
            Self::OutOfMemory => (2, &[][..]),
        };
        out.write_all(&[kind])?;
        out.write_all(bytes)?;
        out.flush()
    }

    /// None if it is no answer.
    pub(crate) fn parse(mut bytes: Vec<u8>) -> Option<Self> {
        match *bytes.first()? {
            0 => {
                bytes.remove(0);
                Some(Self::Code(bytes))
            }
            1 => Some(Self::Refused(String::from_utf8_lossy(&bytes[1..]).into_owned())),
            2 => Some(Self::OutOfMemory),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ordered_and_answered_arrives_as_it_was_said() {
        for compile in [CompileSpeed::Full, CompileSpeed::Quick] {
            let order = Order { compile, component_bytes: 18_304_989 };
            let mut bytes = Vec::new();
            order.write(&mut bytes).unwrap();
            assert_eq!(Order::read(&mut bytes.as_slice()).unwrap(), order);
            assert!(Order::read(&mut &bytes[1..]).is_err(), "cut short");
        }
        for answer in [Answer::Code(vec![0, 1, 2]), Answer::Refused("why".into()), Answer::OutOfMemory] {
            let mut bytes = Vec::new();
            answer.write(&mut bytes).unwrap();
            assert_eq!(Answer::parse(bytes), Some(answer));
        }
        assert_eq!((Answer::parse(vec![]), Answer::parse(vec![9])), (None, None));
    }

    #[test]
    fn the_budget_has_room_for_the_costliest_components_that_were_measured() {
        // Size, seconds of CPU and peak of memory: a JavaScript and a Python interpreter.
        for (bytes, cpu_s, memory_bytes) in [(12_030_922, 10, 390 << 20), (18_304_989, 9, 380 << 20)] {
            let budget = Budget::of(bytes);
            assert!(budget.cpu_s > 5 * cpu_s && budget.memory_bytes > 2 * memory_bytes, "{budget:?}");
        }
        let smallest = Budget::of(0);
        assert_eq!((smallest.cpu_s, smallest.memory_bytes), (4, 256 << 20));
    }
}
