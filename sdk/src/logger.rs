//! Where the records of the `log` crate go: to the host, which filters them and adds the call's id.
//!
//! Nothing here is a reason to import the host's logging. `install` only stores a reference; if nothing in the component
//! reads it, that is, if nothing logs, link-time optimisation removes both, and the import with them.

#[cfg(all(target_os = "wasi", target_env = "p2"))]
pub(crate) use host::install;

/// What `tracing` tells about every entering and leaving of a span. It would drown what the author says.
#[cfg(any(test, all(target_os = "wasi", target_env = "p2")))]
const NOISE: &str = "tracing::span::active";

#[cfg(any(test, all(target_os = "wasi", target_env = "p2")))]
fn wanted(metadata: &log::Metadata<'_>) -> bool {
    metadata.target() != NOISE
}

#[cfg(all(target_os = "wasi", target_env = "p2"))]
mod host {
    use alloc::string::ToString;

    use crate::bindings::wasi::logging::logging;

    /// Makes the host the receiver of all records. A logger that the author has set stays.
    pub(crate) fn install() {
        if log::set_logger(&HostLogger).is_ok() {
            log::set_max_level(log::LevelFilter::Trace);
        }
    }

    struct HostLogger;

    impl log::Log for HostLogger {
        fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
            super::wanted(metadata)
        }

        fn log(&self, record: &log::Record<'_>) {
            if !self.enabled(record.metadata()) {
                return;
            }
            let level = match record.level() {
                log::Level::Error => logging::Level::Error,
                log::Level::Warn => logging::Level::Warn,
                log::Level::Info => logging::Level::Info,
                log::Level::Debug => logging::Level::Debug,
                log::Level::Trace => logging::Level::Trace,
            };
            match record.args().as_str() {
                Some(message) => logging::log(level, record.target(), message),
                None => logging::log(level, record.target(), &record.args().to_string()),
            }
        }

        fn flush(&self) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_steps_in_and_out_of_spans_are_left_out() {
        let metadata = |target| log::Metadata::builder().target(target).build();
        assert!(wanted(&metadata("wordcount")));
        assert!(!wanted(&metadata("tracing::span::active")));
    }
}
