//! What a function's signature says, and every rule it may break, each with its mend.
//!
//! Only the text of the signature is judged here. Whether a type can be read or written is for the compiler, which asks
//! the traits in `baton-sdk`.

use proc_macro2::{Span, TokenStream};
use syn::spanned::Spanned;
use syn::{Error, FnArg, ItemFn, Result, ReturnType, Type};

/// Which attribute it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    Durable,
}

/// A signature that breaks no rule.
pub(crate) struct Signature {
    pub(crate) kind: Kind,
    pub(crate) function: ItemFn,
    /// In the order in which they are declared.
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) output: Output,
}

pub(crate) enum Parameter {
    /// `&Context`
    ContextRef,
    /// `Context`
    ContextOwned,
    /// `&Execution`
    Execution,
    Input(Box<Type>),
}

pub(crate) enum Output {
    /// No return type, or one that is not called `Result`.
    Plain(Option<Box<Type>>),
    /// A type called `Result`, and where its answer and its error stand; an alias may leave them out.
    Fallible { answer: Span, error: Span },
}

pub(crate) fn read(kind: Kind, arguments: TokenStream, item: TokenStream) -> Result<Signature> {
    if !arguments.is_empty() {
        return Err(Error::new_spanned(
            arguments,
            format!(
                "`{}` takes no arguments; a function is named by its file, and configured by its manifest",
                kind.attribute()
            ),
        ));
    }
    let function: ItemFn = syn::parse2(item).map_err(|error| {
        Error::new(
            error.span(),
            format!(
                "`{}` goes on a function with a body, outside of any `impl` or `trait` ({error})",
                kind.attribute()
            ),
        )
    })?;

    let mut faults = Faults::default();
    check_qualifiers(&function, &mut faults);
    let parameters = read_parameters(kind, &function, &mut faults);
    let output = read_output(&function, &mut faults);
    faults.into_result()?;
    Ok(Signature { kind, function, parameters, output })
}

impl Kind {
    fn attribute(self) -> &'static str {
        match self {
            Self::Plain => "#[baton_sdk::function]",
            Self::Durable => "#[baton_sdk::durable]",
        }
    }
}

fn check_qualifiers(function: &ItemFn, faults: &mut Faults) {
    let signature = &function.sig;
    if let Some(token) = &signature.asyncness {
        faults.add(
            token,
            "a Baton function cannot be `async`: each call has an instance of its own, and waiting in it blocks nobody else; \
             remove `async`",
        );
    }
    if let Some(token) = &signature.unsafety {
        faults.add(token, "a Baton function cannot be `unsafe`: the host calls it with any input; remove `unsafe`");
    }
    if let Some(abi) = &signature.abi {
        faults.add(abi, "a Baton function has the Rust ABI, the macro writes the one of components; remove `extern`");
    }
    if !signature.generics.params.is_empty() || signature.generics.where_clause.is_some() {
        faults.add(
            &signature.generics,
            "a Baton function cannot be generic: a component holds one function with one input; write the types out",
        );
    }
    if let Some(variadic) = &signature.variadic {
        faults.add(variadic, "a Baton function takes one input at most; remove `...`");
    }
}

fn read_parameters(kind: Kind, function: &ItemFn, faults: &mut Faults) -> Vec<Parameter> {
    let mut parameters = Vec::new();
    let (mut context_seen, mut input_seen, mut execution_seen) = (false, false, false);
    for argument in &function.sig.inputs {
        let typed = match argument {
            FnArg::Receiver(receiver) => {
                faults.add(
                    receiver,
                    "a Baton function cannot be a method: no value outlives a call; make it a function outside of the `impl`",
                );
                continue;
            }
            FnArg::Typed(typed) => typed,
        };
        let Some(parameter) = read_parameter(&typed.ty, faults) else { continue };
        let (seen, complaint) = match parameter {
            Parameter::ContextRef | Parameter::ContextOwned => {
                (&mut context_seen, "a call has one context; remove this parameter")
            }
            Parameter::Execution => (&mut execution_seen, "a function runs in one execution; remove this parameter"),
            Parameter::Input(_) => (
                &mut input_seen,
                "a Baton function takes one input: the payload of the call; put the values together in one struct that \
                 derives `Deserialize`",
            ),
        };
        if std::mem::replace(seen, true) {
            faults.add(typed, complaint);
        }
        parameters.push(parameter);
    }
    match kind {
        Kind::Plain if execution_seen => faults.add(
            &function.sig.inputs,
            "a function with an execution is durable; write `#[baton_sdk::durable]` in place of `#[baton_sdk::function]`",
        ),
        Kind::Durable if !execution_seen => faults.add(
            &function.sig,
            "a durable function takes its steps by its execution; add a parameter `execution: &Execution`, or write \
             `#[baton_sdk::function]`",
        ),
        Kind::Plain | Kind::Durable => {}
    }
    parameters
}

fn read_parameter(ty: &Type, faults: &mut Faults) -> Option<Parameter> {
    if let Type::Reference(reference) = ty {
        if is_named(&reference.elem, "Execution") && reference.mutability.is_none() {
            return Some(Parameter::Execution);
        }
        if !is_named(&reference.elem, "Context") {
            let mend = if is_bytes(ty) {
                "write `Bytes` for the payload's bytes".to_owned()
            } else if is_named(&reference.elem, "str") {
                "write `Text` for a payload that is plain text, or `String` for a JSON string".to_owned()
            } else {
                "remove the `&`".to_owned()
            };
            faults.add(ty, &format!("a Baton function owns its input, only the context may be borrowed; {mend}"));
            return None;
        }
        if let Some(token) = &reference.mutability {
            faults.add(token, "the context of a call cannot be changed; write `&Context`");
            return None;
        }
        return Some(Parameter::ContextRef);
    }
    if is_named(ty, "Context") {
        return Some(Parameter::ContextOwned);
    }
    if let Type::ImplTrait(_) = ty {
        faults.add(ty, "a Baton function cannot be generic, and `impl Trait` makes it so; write the type out");
        return None;
    }
    if is_bytes(ty) {
        faults.add(
            ty,
            "`Vec<u8>` would be read from a JSON list of numbers, which is hardly meant; write `Bytes` for the payload as it is",
        );
        return None;
    }
    Some(Parameter::Input(Box::new(ty.clone())))
}

fn read_output(function: &ItemFn, faults: &mut Faults) -> Output {
    let ReturnType::Type(_, ty) = &function.sig.output else { return Output::Plain(None) };
    let fallible = is_named(ty, "Result");
    let answer = if fallible { type_arguments(ty).next() } else { Some(&**ty) };
    if let Some(answer) = answer {
        if is_bytes(answer) {
            faults.add(
                answer,
                "raw bytes would be answered as a JSON list of numbers, which is hardly meant; answer with `Bytes`, or with a \
                 `Reply` to name the media type",
            );
        } else if let Type::ImplTrait(_) = answer {
            faults.add(answer, "a Baton function cannot answer with `impl Trait`; write the type out");
        }
    }
    if !fallible {
        return Output::Plain(Some(ty.clone()));
    }
    let at = |index| type_arguments(ty).nth(index).map_or_else(|| ty.span(), Spanned::span);
    Output::Fallible { answer: at(0), error: at(1) }
}

/// Whether a type's last path segment is `name`: `Context`, `baton_sdk::Context`, but not an alias with another name.
fn is_named(ty: &Type, name: &str) -> bool {
    match ty {
        Type::Path(path) => path.path.segments.last().is_some_and(|segment| segment.ident == name),
        Type::Paren(inner) => is_named(&inner.elem, name),
        Type::Group(inner) => is_named(&inner.elem, name),
        _ => false,
    }
}

/// `Vec<u8>`, `&[u8]`, `[u8; N]`, `Box<[u8]>` and borrowed forms of them.
fn is_bytes(ty: &Type) -> bool {
    match ty {
        Type::Reference(reference) => is_bytes(&reference.elem),
        Type::Slice(slice) => is_named(&slice.elem, "u8"),
        Type::Array(array) => is_named(&array.elem, "u8"),
        Type::Path(_) if is_named(ty, "Vec") => {
            type_arguments(ty).next().is_some_and(|element| is_named(element, "u8"))
        }
        Type::Path(_) if is_named(ty, "Box") => type_arguments(ty).next().is_some_and(is_bytes),
        _ => false,
    }
}

/// The `T` and `E` of `Name<T, E>`.
fn type_arguments(ty: &Type) -> impl Iterator<Item = &Type> {
    let segment = match ty {
        Type::Path(path) => path.path.segments.last(),
        _ => None,
    };
    let arguments = match segment.map(|segment| &segment.arguments) {
        Some(syn::PathArguments::AngleBracketed(arguments)) => Some(arguments.args.iter()),
        _ => None,
    };
    arguments.into_iter().flatten().filter_map(|argument| match argument {
        syn::GenericArgument::Type(ty) => Some(ty),
        _ => None,
    })
}

/// All faults of a signature, so that an author sees them at once.
#[derive(Default)]
struct Faults(Option<Error>);

impl Faults {
    fn add(&mut self, at: &(impl quote::ToTokens + Spanned), message: &str) {
        let error = Error::new_spanned(at, message);
        match &mut self.0 {
            Some(first) => first.combine(error),
            None => self.0 = Some(error),
        }
    }

    fn into_result(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}
