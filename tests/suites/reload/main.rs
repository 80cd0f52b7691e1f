//! What becomes of calls when files in the plugins folder come, change and go.

mod bad_files;
mod bombs;
mod changes;
mod policy;
mod under_load;
