//! What is written around a function: the function as it was, a type of the same name that stands for it, and, for
//! WASI 0.2 only, the component's export.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;

use crate::signature::{Kind, Output, Parameter, Signature};

pub(crate) fn expand(signature: &Signature) -> TokenStream {
    let function = &signature.function;
    let name = &function.sig.ident;
    let visibility = &function.vis;
    let locals = Locals::default();
    let Locals { context, payload, input, output } = &locals;
    let read = signature.parameters.iter().map(|parameter| read_input(parameter, &locals));
    let arguments = signature.parameters.iter().map(|parameter| match parameter {
        Parameter::ContextRef => quote!(&#context),
        Parameter::ContextOwned => quote!(::core::clone::Clone::clone(&#context)),
        Parameter::Execution => quote!(&::baton_sdk::durable::Execution::begin()),
        Parameter::Input(_) => quote!(#input),
    });
    let answer = match signature.kind {
        Kind::Plain => answer(&signature.output, output),
        Kind::Durable => {
            let answer = answer(&signature.output, output);
            // It may be a statement with a return in it.
            quote!((move || { #answer })().map_err(::baton_sdk::__private::for_good))
        }
    };
    let text = format!("The function `{name}`, as a type: for `baton_sdk::testing::call`.");

    quote! {
        #function

        #[doc = #text]
        #[allow(non_camel_case_types, reason = "the type has the name of the function it stands for")]
        #visibility enum #name {}

        impl ::baton_sdk::Function for #name {
            // A function may take neither the context nor the payload, and may answer with nothing.
            #[allow(unused_variables, clippy::let_unit_value, reason = "the signature decides what is used")]
            fn handle(
                #context: ::baton_sdk::Context,
                #payload: ::baton_sdk::Bytes,
            ) -> ::core::result::Result<::baton_sdk::Reply, ::baton_sdk::Failure> {
                #(#read)*
                let #output = #name(#(#arguments),*);
                #answer
            }
        }

        // Where nothing is exported, the compiler would take the function for unused.
        #[cfg(not(all(target_os = "wasi", target_env = "p2")))]
        const _: fn(
            ::baton_sdk::Context,
            ::baton_sdk::Bytes,
        ) -> ::core::result::Result<::baton_sdk::Reply, ::baton_sdk::Failure> = <#name as ::baton_sdk::Function>::handle;

        #[cfg(all(target_os = "wasi", target_env = "p2"))]
        const _: () = {
            type Exported = ::baton_sdk::__private::Exported<#name>;
            ::baton_sdk::__private::bindings::export!(Exported with_types_in ::baton_sdk::__private::bindings);
        };
    }
}

/// Names that no function of the author's can be hidden by.
struct Locals {
    context: Ident,
    payload: Ident,
    input: Ident,
    output: Ident,
}

impl Default for Locals {
    fn default() -> Self {
        let local = |name| Ident::new(name, Span::mixed_site());
        Self { context: local("context"), payload: local("payload"), input: local("input"), output: local("output") }
    }
}

fn read_input(parameter: &Parameter, Locals { payload, input, .. }: &Locals) -> TokenStream {
    match parameter {
        Parameter::ContextRef | Parameter::ContextOwned | Parameter::Execution => TokenStream::new(),
        Parameter::Input(ty) => quote_spanned! { ty.span() =>
            let #input = <#ty as ::baton_sdk::FromPayload>::from_payload(#payload)?;
        },
    }
}

/// The errors a wrong type raises are shown at that type, hence the spans.
fn answer(output: &Output, local: &Ident) -> TokenStream {
    match output {
        Output::Plain(None) => quote!(::baton_sdk::IntoReply::into_reply(#local)),
        Output::Plain(Some(ty)) => {
            let mut local = local.clone();
            local.set_span(local.span().located_at(ty.span()));
            quote_spanned!(ty.span() => ::baton_sdk::IntoReply::into_reply(#local))
        }
        Output::Fallible { answer, error } => {
            let answered = quote_spanned!(*answer => ::baton_sdk::IntoReply::into_reply(answer));
            let failed = quote_spanned!(*error => ::baton_sdk::__private::IntoFailure::into_failure(error));
            quote! {
                match #local {
                    ::core::result::Result::Ok(answer) => #answered,
                    ::core::result::Result::Err(error) => ::core::result::Result::Err(#failed),
                }
            }
        }
    }
}
