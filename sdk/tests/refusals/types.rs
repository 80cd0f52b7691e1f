#![allow(unused)]

use baton_sdk::prelude::*;

struct Plain;

#[baton_sdk::function]
fn no_deserialize(input: Plain) {}

#[baton_sdk::function]
fn no_serialize() -> Plain {
    Plain
}

#[baton_sdk::function]
fn no_serialize_in_result() -> Result<Plain> {
    Ok(Plain)
}

#[baton_sdk::function]
fn no_error() -> Result<u32, Plain> {
    Err(Plain)
}

fn main() {}
