//! The engine as hosts use it: components come in as bytes, outcomes come out.

mod attempts;
mod cache;
mod grants;
mod guests;
mod load;
mod logs;
mod outside;
mod support;
