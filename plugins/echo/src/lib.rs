//! Answers with what it is given. It does without the standard library, so its component imports nothing and a call of
//! it costs next to nothing.
#![no_std]

use baton_sdk::prelude::*;

baton_sdk::no_std_runtime!();

#[baton_sdk::function]
fn echo(context: &Context, payload: Bytes) -> Reply {
    Reply::new(context.media_type(), payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_sdk::testing::{call, context};

    #[test]
    fn bytes_come_back_with_their_media_type() {
        let context = context().media_type("image/png").build();
        assert_eq!(call::<echo>(context, b"\x89\x00\xff"), Ok(Reply::new("image/png", b"\x89\x00\xff")));
    }

    #[test]
    fn nothing_comes_back_as_nothing() {
        assert_eq!(call::<echo>(Context::default(), ""), Ok(Reply::new("", "")));
    }
}
