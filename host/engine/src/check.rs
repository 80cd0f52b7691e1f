//! The rules that a file must keep to be a function, and what is said when it breaks one. Nothing runs here.

use baton_model::Grants;
use wasmtime::component::types::ComponentItem;

use crate::compiler::CompileError;
use crate::durable;
use crate::log::harmless;
use crate::offer::{self, Refused, Ungranted};
use crate::precheck::{self, Costly, Refusal};

/// The largest component.
pub const COMPONENT_BYTES_MAX: usize = 32 << 20;

/// The one export of a function.
const HANDLER: &str = "baton:function/handler@0.1.0";

/// Why a file is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is larger than [`COMPONENT_BYTES_MAX`].
    #[error("the file has {bytes} bytes, a component may have {COMPONENT_BYTES_MAX}: strip its debug information")]
    TooLarge {
        /// How large it is.
        bytes: usize,
    },
    /// It is something else than a component.
    #[error("the file is no WebAssembly component: {0}")]
    NotAComponent(&'static str),
    /// It is a component that cannot be read or compiled.
    #[error("the component is not valid, perhaps the file is cut short or needs a feature that is off: {0}")]
    Invalid(String),
    /// It would cost the compiler too much.
    #[error("the component is too costly to compile: {0}")]
    Costly(Costly),
    /// The compiler had to be stopped, or failed.
    #[error(transparent)]
    Compiler(#[from] CompileError),
    /// It does not export the handler, or another interface beside it.
    #[error(
        "a function exports `{HANDLER}` and no other interface; this component exports {}: build it against that world, \
         and look whether the file is whole", if .found.is_empty() { "nothing".to_owned() } else { .found.join(", ") }
    )]
    WrongExports {
        /// What it exports.
        found: Vec<String>,
    },
    /// It imports what the host does not have.
    #[error(
        "the component imports what this host does not have: {}; a function may import the command-line part of WASI \
         0.2, wasi:logging/logging@0.1.0-draft, and what its manifest grants", .missing.join(", ")
    )]
    MissingImports {
        /// All of them.
        missing: Vec<String>,
    },
    /// It imports what its manifest does not grant.
    #[error("the component imports what its manifest does not grant: {}", mends(.ungranted))]
    NotGranted {
        /// All of them.
        ungranted: Vec<Ungranted>,
    },
    /// It is durable, and asks for what a replay cannot answer.
    #[error(
        "a durable function cannot use {}: what it learns there would not be the same when it is run again; have it call a \
         function that does", .asked.join(", ")
    )]
    NotDurable {
        /// What it asks for.
        asked: Vec<String>,
    },
    /// An import or the export has the right name and another type.
    #[error("the component's types are not those of the interfaces it names: {0}; build it against the host's `wit/`")]
    WrongTypes(String),
    /// The trial instance did not come to life.
    #[error("the component cannot be instantiated: {0}")]
    Trial(String),
    /// It is no fault of the file.
    #[error("the host could not load the component: {0}")]
    Host(String),
}

/// Says at once what is no component.
pub(crate) fn kind(bytes: &[u8]) -> Result<(), LoadError> {
    if bytes.len() > COMPONENT_BYTES_MAX {
        return Err(LoadError::TooLarge { bytes: bytes.len() });
    }
    // The preamble's second half: version and layer, as the component model's binary format has them.
    let what = match bytes {
        [] => "it is empty; was it still being written?",
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => return Ok(()),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => {
            "it is a core module; build with `--target wasm32-wasip2`, whose result is a component"
        }
        [0, b'a', b's', b'm'] | [0, b'a', b's', b'm', _, ..] => {
            "it has an unknown version of the binary format, or is cut short"
        }
        [0x7f, b'E', b'L', b'F', ..] => "it is machine code (ELF); a host takes `.wasm` only and compiles it itself",
        _ => "it does not start with the bytes `\\0asm`; is it another kind of file, or text?",
    };
    Err(LoadError::NotAComponent(what))
}

/// Says of a component that was not compiled yet what makes it not worth the try.
pub(crate) fn before_compiling(bytes: &[u8]) -> Result<(), LoadError> {
    precheck::check(bytes).map_err(|refusal| match refusal {
        Refusal::Costly(costly) => LoadError::Costly(costly),
        Refusal::Malformed(error) => LoadError::Invalid(brief(&error.to_string())),
    })
}

/// Demands the handler and no other interface among the exports, and imports that are there and granted. Returns the imports' names.
pub(crate) fn names(
    engine: &wasmtime::Engine,
    code: &wasmtime::component::Component,
    grants: &Grants,
) -> Result<Vec<String>, LoadError> {
    let kind = code.component_type();
    let found: Vec<String> = kind.exports(engine).map(|(name, _)| brief(name)).collect();
    let is_handler = match kind.get_export(engine, HANDLER) {
        Some(export) => matches!(export.ty, ComponentItem::ComponentInstance(_)),
        None => false,
    };
    // Some toolchains (componentize-py) export something of their own under a plain name. What is named like an interface
    // was meant for a host.
    let is_other = |name: &String| name != HANDLER && name.contains(':');
    if found.iter().any(is_other) || !is_handler {
        return Err(LoadError::WrongExports { found });
    }
    let imports: Vec<String> = kind.imports(engine).map(|(name, _)| brief(name)).collect();
    granted(&imports, grants)?;
    Ok(imports)
}

/// Demands that each import is there and granted. What nobody has comes first: no line in a manifest mends that.
pub(crate) fn granted(imports: &[String], grants: &Grants) -> Result<(), LoadError> {
    if imports.iter().any(|import| import == durable::NAME) {
        let asked = offer::unrepeatable(imports, grants);
        if !asked.is_empty() {
            return Err(LoadError::NotDurable { asked });
        }
    }
    match offer::admits(imports, grants) {
        Ok(()) => Ok(()),
        Err(Refused { missing, ungranted }) if missing.is_empty() => Err(LoadError::NotGranted { ungranted }),
        Err(Refused { missing, .. }) => Err(LoadError::MissingImports { missing }),
    }
}

/// The imports, each with its mend; the mend is said once where several have the same.
fn mends(ungranted: &[Ungranted]) -> String {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for Ungranted { import, mend } in ungranted {
        match groups.iter_mut().find(|(known, _)| known == mend) {
            Some((_, imports)) => imports.push(import),
            None => groups.push((mend, vec![import])),
        }
    }
    let said = groups.iter().map(|(mend, imports)| format!("{} ({mend})", imports.join(", ")));
    said.collect::<Vec<_>>().join("; ")
}

/// A text that comes from a file, fit for a message: harmless and at most about 1 KiB.
pub(crate) fn brief(text: &str) -> String {
    const CHARS_MAX: usize = 1_000;
    let mut out = harmless(&text.chars().take(CHARS_MAX).collect::<String>());
    if text.chars().nth(CHARS_MAX).is_some() {
        out.push_str(" ...");
    }
    out
}
