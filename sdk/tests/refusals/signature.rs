#![allow(unused)]

use baton_sdk::prelude::*;

#[baton_sdk::function]
async fn asynchronous() {}

#[baton_sdk::function]
fn generic<T: Clone>(input: T) -> String {
    String::new()
}

#[baton_sdk::function]
fn two_inputs(first: String, context: &Context, second: u32) {}

#[baton_sdk::function]
unsafe extern "C" fn foreign() {}

struct Counter;

impl Counter {
    #[baton_sdk::function]
    fn method(&self) {}
}

#[baton_sdk::function]
struct NoFunction;

#[baton_sdk::function(name = "hello")]
fn arguments() {}

fn main() {}
