//! What WASI offers, asked for without the standard library's care. Nothing is written by hand here but the interfaces,
//! which stand here whole: the linker compares them with the standard library's.
#![allow(unsafe_code, missing_docs, unreachable_pub, clippy::all, reason = "generated bindings")]

wit_bindgen::generate!({
    inline: r#"
        package hostile:guest;
        world raw {
            import wasi:io/poll@0.2.6;
            import wasi:clocks/monotonic-clock@0.2.6;
            import wasi:random/random@0.2.6;
            import wasi:logging/logging@0.1.0-draft;
        }
        package wasi:io@0.2.6 {
            interface poll {
                resource pollable { ready: func() -> bool; block: func(); }
                poll: func(in: list<borrow<pollable>>) -> list<u32>;
            }
        }
        package wasi:clocks@0.2.6 {
            interface monotonic-clock {
                use wasi:io/poll@0.2.6.{pollable};
                type instant = u64;
                type duration = u64;
                now: func() -> instant;
                resolution: func() -> duration;
                subscribe-instant: func(when: instant) -> pollable;
                subscribe-duration: func(when: duration) -> pollable;
            }
        }
        package wasi:random@0.2.6 {
            interface random {
                get-random-bytes: func(len: u64) -> list<u8>;
                get-random-u64: func() -> u64;
            }
        }
        package wasi:logging@0.1.0-draft {
            interface logging {
                enum level { trace, debug, info, warn, error, critical }
                log: func(level: level, context: string, message: string);
            }
        }
    "#,
    world: "raw",
    generate_all,
});
