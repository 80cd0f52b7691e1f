#![allow(unused)]

use baton_sdk::prelude::*;

#[baton_sdk::function]
fn vector_in(input: Vec<u8>) {}

#[baton_sdk::function]
fn slice_in(input: &[u8]) {}

#[baton_sdk::function]
fn text_in(input: &str) {}

#[baton_sdk::function]
fn vector_out() -> Result<Vec<u8>> {
    Ok(Vec::new())
}

#[baton_sdk::function]
fn changed_context(context: &mut Context) {}

fn main() {}
