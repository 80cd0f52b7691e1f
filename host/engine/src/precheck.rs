//! Cheap checks on a component's bytes: what would cost the compiler far more than its size says is refused before any
//! of it is compiled. One pass, in time linear in the size; nothing is validated here, and nothing is compiled.
//!
//! The limits were set beside what real tools make: the largest interpreters that were found compiled to components
//! (JavaScript, Python) have 13,333 functions, bodies of 427 KB, 16 loops in one another, 2,048 of loops times locals
//! and, from `switch`, 803 blocks in one another.

use wasmparser::{
    CompositeInnerType, Encoding, FunctionBody, MemoryType, Operator, Parser, Payload, TypeRef, TypeSectionReader,
};

/// The most functions, in all modules together. An empty one costs the compiler 5 KB of memory.
const FUNCTIONS_MAX: usize = 50_000;

/// The largest body of a function: the compiler holds all of it at once, in a form 100 times as large.
const BODY_BYTES_MAX: usize = 512 << 10;

/// The most loops that a function may have in one another.
const LOOPS_DEEP_MAX: usize = 128;

/// The most loops in one another times locals: at the head of each loop the compiler asks for each local where its
/// value comes from.
const LOOPS_TIMES_LOCALS_MAX: usize = 10_000;

/// The most blocks of any kind that a function may have in one another.
const BLOCKS_DEEP_MAX: usize = 2_000;

/// The most components and modules in one another.
const NESTED_MAX: usize = 16;

/// Why a component is not given to the compiler.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Costly {
    /// It has too many functions.
    #[error(
        "it has {functions} functions or more, a component may have {FUNCTIONS_MAX}; remove those that are not used"
    )]
    Functions {
        /// How many were counted.
        functions: usize,
    },
    /// One function is too large.
    #[error("its function {function} has {bytes} bytes, a function may have {BODY_BYTES_MAX}; split it")]
    Body {
        /// Which one, counted through all modules.
        function: usize,
        /// How large it is.
        bytes: usize,
    },
    /// One function has too many loops in one another.
    #[error("its function {function} has more than {LOOPS_DEEP_MAX} loops in one another; split it")]
    Loops {
        /// Which one, counted through all modules.
        function: usize,
    },
    /// One function has too many loops in one another for its locals.
    #[error(
        "its function {function} has {loops} loops in one another and {locals} locals; the product may be \
         {LOOPS_TIMES_LOCALS_MAX}; split it"
    )]
    LoopsTimesLocals {
        /// Which one, counted through all modules.
        function: usize,
        /// How deep its loops are; without loops, 1.
        loops: usize,
        /// How many locals it has, parameters among them.
        locals: usize,
    },
    /// One function has too many blocks in one another.
    #[error("its function {function} has more than {BLOCKS_DEEP_MAX} blocks in one another; split it")]
    Blocks {
        /// Which one, counted through all modules.
        function: usize,
    },
    /// Components or modules lie too deep in one another.
    #[error("it has more than {NESTED_MAX} components in one another; compose them flatter")]
    Nested,
    /// It wants memory that threads share.
    #[error("it has shared memory, which this host does not have; build it without threads")]
    SharedMemory,
    /// It wants a memory with 64-bit addresses.
    #[error("it has a 64-bit memory, which this host does not have; build it for wasm32")]
    Memory64,
}

/// Why a file does not come as far as the compiler.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Costly(#[from] Costly),
    /// It cannot be read as a component.
    #[error("{0}")]
    Malformed(#[from] wasmparser::BinaryReaderError),
}

/// One module or component that is being read.
struct Frame {
    /// How many parameters each of a module's types has. Types that are no functions have none.
    params: Vec<u16>,
    /// The type of each function that the module defines.
    functions: Vec<u32>,
    /// How many of their bodies were seen.
    bodies: usize,
}

/// Reads the whole file once and holds it against the limits.
pub(crate) fn check(bytes: &[u8]) -> Result<(), Refusal> {
    let mut frames: Vec<Frame> = Vec::new();
    let mut functions_before = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload?;
        if let Payload::Version { encoding: Encoding::Module | Encoding::Component, .. } = payload {
            if frames.len() == NESTED_MAX {
                return Err(Costly::Nested.into());
            }
            frames.push(Frame { params: Vec::new(), functions: Vec::new(), bodies: 0 });
            continue;
        }
        let Some(frame) = frames.last_mut() else { continue };
        match payload {
            Payload::End(_) => {
                functions_before += frame.bodies;
                frames.pop();
            }
            Payload::TypeSection(types) => frame.params = params_of(types)?,
            Payload::FunctionSection(functions) => {
                let defined = usize::try_from(functions.count()).unwrap_or(usize::MAX);
                let functions_in_all = functions_before.saturating_add(defined);
                if functions_in_all > FUNCTIONS_MAX {
                    return Err(Costly::Functions { functions: functions_in_all }.into());
                }
                frame.functions = functions.into_iter().collect::<Result<_, _>>()?;
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    if let TypeRef::Memory(memory) = import?.ty {
                        check_memory(memory)?;
                    }
                }
            }
            Payload::MemorySection(memories) => {
                for memory in memories {
                    check_memory(memory?)?;
                }
            }
            Payload::CodeSectionEntry(body) => {
                let kind = frame.functions.get(frame.bodies).and_then(|kind| usize::try_from(*kind).ok());
                let params = kind.and_then(|kind| frame.params.get(kind)).copied().unwrap_or(0);
                check_body(&body, functions_before + frame.bodies, params.into())?;
                frame.bodies += 1;
            }
            // What else there is costs what its bytes say.
            _ => {}
        }
    }
    Ok(())
}

fn params_of(types: TypeSectionReader<'_>) -> Result<Vec<u16>, wasmparser::BinaryReaderError> {
    let mut params = Vec::new();
    for group in types {
        for kind in group?.into_types() {
            let count = match kind.composite_type.inner {
                CompositeInnerType::Func(function) => function.params().len(),
                // No function has any of these.
                CompositeInnerType::Array(_) | CompositeInnerType::Struct(_) | CompositeInnerType::Cont(_) => 0,
            };
            params.push(u16::try_from(count).unwrap_or(u16::MAX));
        }
    }
    Ok(params)
}

fn check_memory(memory: MemoryType) -> Result<(), Costly> {
    match memory {
        MemoryType { shared: true, .. } => Err(Costly::SharedMemory),
        MemoryType { memory64: true, .. } => Err(Costly::Memory64),
        MemoryType { .. } => Ok(()),
    }
}

fn check_body(body: &FunctionBody<'_>, function: usize, params: usize) -> Result<(), Refusal> {
    let bytes = body.range().len();
    if bytes > BODY_BYTES_MAX {
        return Err(Costly::Body { function, bytes }.into());
    }
    let mut locals = params;
    for group in body.get_locals_reader()? {
        locals = locals.saturating_add(usize::try_from(group?.0).unwrap_or(usize::MAX));
    }
    let loops = loops_deep(body, function)?.max(1);
    if loops.saturating_mul(locals) > LOOPS_TIMES_LOCALS_MAX {
        return Err(Costly::LoopsTimesLocals { function, loops, locals }.into());
    }
    Ok(())
}

/// How many loops the body has in one another.
fn loops_deep(body: &FunctionBody<'_>, function: usize) -> Result<usize, Refusal> {
    // For each open block, whether it is a loop.
    let mut open: Vec<bool> = Vec::new();
    let (mut loops, mut loops_deep) = (0, 0);
    for operator in body.get_operators_reader()? {
        let is_loop = match operator? {
            Operator::Loop { .. } => true,
            Operator::Block { .. } | Operator::If { .. } | Operator::Try { .. } | Operator::TryTable { .. } => false,
            Operator::End | Operator::Delegate { .. } => {
                loops -= usize::from(open.pop() == Some(true));
                continue;
            }
            _ => continue,
        };
        open.push(is_loop);
        loops += usize::from(is_loop);
        loops_deep = loops_deep.max(loops);
        if loops > LOOPS_DEEP_MAX {
            return Err(Costly::Loops { function }.into());
        }
        if open.len() > BLOCKS_DEEP_MAX {
            return Err(Costly::Blocks { function }.into());
        }
    }
    Ok(loops_deep)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(items: &str) -> Vec<u8> {
        wat::parse_str(format!("(component (core module {items}))")).expect("a component")
    }

    fn refused(bytes: &[u8]) -> Costly {
        match check(bytes) {
            Err(Refusal::Costly(costly)) => costly,
            other => panic!("not costly: {other:?}"),
        }
    }

    /// `deep` blocks of a kind in one another, in a function of these locals.
    fn deep(block: &str, deep: usize, locals: usize) -> Vec<u8> {
        let (open, close) = (format!("({block} ").repeat(deep), ")".repeat(deep));
        module(&format!("(func (local {}) {open}{close})", "i32 ".repeat(locals)))
    }

    #[test]
    fn loops_and_their_product_with_locals_are_limited() {
        check(&deep("loop", 128, 78)).expect("within the limits");
        assert_eq!(refused(&deep("loop", 129, 0)), Costly::Loops { function: 0 });
        let bomb = refused(&deep("loop", 100, 101));
        assert_eq!(bomb, Costly::LoopsTimesLocals { function: 0, loops: 100, locals: 101 });
        assert_eq!(
            refused(&deep("block", 1, 10_001)),
            Costly::LoopsTimesLocals { function: 0, loops: 1, locals: 10_001 },
            "locals alone"
        );
    }

    #[test]
    fn loops_that_follow_one_another_are_not_in_one_another() {
        let row = "(loop (block)) ".repeat(300);
        check(&module(&format!("(func (local {}) {row})", "i64 ".repeat(300)))).expect("within the limits");
    }

    #[test]
    fn parameters_are_locals() {
        let params = "i32 ".repeat(999);
        let loops = format!("{}{}", "(loop ".repeat(11), ")".repeat(11));
        // The type that counts is the function's own, behind another's.
        let text = format!("(type (func)) (type $wide (func (param {params}))) (func) (func (type $wide) {loops})");
        let costly = refused(&module(&text));
        assert_eq!(costly, Costly::LoopsTimesLocals { function: 1, loops: 11, locals: 999 });
    }

    #[test]
    fn a_switch_of_hundreds_of_cases_is_no_bomb_and_one_of_thousands_is() {
        check(&deep("block", 803, 69)).expect("what a JavaScript toolchain makes");
        assert_eq!(refused(&deep("block", 2_001, 0)), Costly::Blocks { function: 0 });
    }

    #[test]
    fn functions_are_counted_through_all_modules() {
        let half = |count| format!("(core module {})", "(func)".repeat(count));
        let both = |a, b| wat::parse_str(format!("(component {} {})", half(a), half(b))).unwrap();
        check(&both(25_000, 25_000)).expect("within the limits");
        assert_eq!(refused(&both(25_000, 25_001)), Costly::Functions { functions: 50_001 });
    }

    #[test]
    fn a_huge_body_is_named() {
        let body = |nops| module(&format!("(func) (func {})", "nop ".repeat(nops)));
        check(&body(BODY_BYTES_MAX - 10)).expect("within the limits");
        let costly = refused(&body(BODY_BYTES_MAX));
        assert!(matches!(costly, Costly::Body { function: 1, bytes } if bytes > BODY_BYTES_MAX), "{costly:?}");
    }

    #[test]
    fn memories_that_are_shared_or_wide_are_named() {
        for memory in ["(memory 1 1 shared)", r#"(import "a" "b" (memory 1 1 shared))"#] {
            assert_eq!(refused(&module(memory)), Costly::SharedMemory);
        }
        for memory in ["(memory i64 1)", r#"(import "a" "b" (memory i64 1))"#] {
            assert_eq!(refused(&module(memory)), Costly::Memory64);
        }
    }

    #[test]
    fn components_in_one_another_are_limited() {
        let nested = |deep: usize| wat::parse_str("(component ".repeat(deep) + &")".repeat(deep)).unwrap();
        check(&nested(NESTED_MAX)).expect("within the limits");
        assert_eq!(refused(&nested(NESTED_MAX + 1)), Costly::Nested);
    }

    #[test]
    fn bytes_that_are_cut_are_an_answer_and_never_a_panic() {
        let whole = deep("loop", 20, 20);
        for end in 0..whole.len() {
            let _ = check(&whole[..end]);
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]

        #[test]
        fn bytes_that_were_changed_are_an_answer_and_never_a_panic(
            changes in proptest::collection::vec((0_usize..200, proptest::num::u8::ANY), 1..8),
        ) {
            let mut bytes = deep("loop", 20, 20);
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            let _ = check(&bytes);
        }

        #[test]
        fn any_bytes_behind_the_preamble_are_an_answer(
            rest in proptest::collection::vec(proptest::num::u8::ANY, 0..500),
        ) {
            let _ = check(&[b"\0asm\x0d\0\x01\0", rest.as_slice()].concat());
            // The same as a module, which is section 1 of a component.
            let module = [b"\0asm\x01\0\0\0", rest.as_slice()].concat();
            let size = [u8::try_from(module.len() & 0x7f).unwrap() | 0x80, u8::try_from(module.len() >> 7).unwrap()];
            let _ = check(&[b"\0asm\x0d\0\x01\0\x01", size.as_slice(), &module].concat());
        }
    }
}
