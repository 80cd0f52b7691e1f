//! The attribute macro of `baton-sdk`. Its documentation is there, as `baton_sdk::function`.
//!
//! What lives here: reading a signature (`signature`) and writing what surrounds the function (`expand`). What a call
//! does at run time never does: that is code of `baton-sdk`, which people can read and step through.

mod expand;
mod signature;

use proc_macro::TokenStream;

use crate::signature::Kind;

/// Makes a Rust function a Baton function. See `baton_sdk::function`.
#[proc_macro_attribute]
pub fn function(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expanded(Kind::Plain, arguments, item)
}

/// Makes a Rust function a durable Baton function. See `baton_sdk::durable`.
#[proc_macro_attribute]
pub fn durable(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expanded(Kind::Durable, arguments, item)
}

fn expanded(kind: Kind, arguments: TokenStream, item: TokenStream) -> TokenStream {
    match signature::read(kind, arguments.into(), item.clone().into()) {
        Ok(signature) => expand::expand(&signature).into(),
        // The item is kept beside the complaint, so that its other uses raise no further errors.
        Err(error) => {
            let mut output = item;
            output.extend(TokenStream::from(error.into_compile_error()));
            output
        }
    }
}
