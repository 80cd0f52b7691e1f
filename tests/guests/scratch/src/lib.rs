//! Works with files through the standard library, and tells what came of it. The payload is `MODE [NUMBER]`.
//!
//! Built for wasm32-wasip2 alone; for the machine itself it is an empty crate.
#![cfg(all(target_os = "wasi", target_env = "p2"))]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};

use baton_sdk::prelude::*;

#[baton_sdk::function]
fn scratch_guest(order: Text) -> Result<Reply> {
    let (mode, number) = order.split_once(' ').unwrap_or((&order, "0"));
    let number: u64 = number.parse().unwrap_or(0);
    let done = match mode {
        "round-trip" => round_trip(),
        "write" => write(number),
        "append" => append(number),
        "sparse" => File::create("/tmp/f").and_then(|mut file| {
            file.seek(SeekFrom::Start(number))?;
            file.write_all(b"x")?;
            Ok("written".into())
        }),
        "grow" => File::create("/tmp/f").and_then(|file| file.set_len(number)).map(|()| "grown".into()),
        // What is removed and still open takes its room as before.
        "write-and-remove" => (0..10).try_fold(String::new(), |_, n| {
            let mut file = File::create(format!("/tmp/{n}"))?;
            file.write_all(&vec![b'x'; usize::try_from(number).unwrap_or(0)])?;
            fs::remove_file(format!("/tmp/{n}"))?;
            Ok("removed".into())
        }),
        "files" => (0..number).try_fold(String::new(), |_, n| {
            File::create(format!("/tmp/{n}"))?;
            Ok("made".into())
        }),
        "directories" => (0..number).try_fold(String::from("/tmp"), |path, _| {
            let path = format!("{path}/d");
            fs::create_dir(&path)?;
            Ok(path)
        }),
        "open" => {
            let open: io::Result<Vec<File>> =
                (0..number).map(|_| File::options().append(true).create(true).open("/tmp/f")).collect();
            open.map(|open| open.len().to_string())
        }
        "outside" => Ok(outside()),
        "left" => fs::read_dir("/tmp").map(|entries| entries.count().to_string()),
        other => return Err(Failure::reject("no-such-mode", other)),
    };
    Ok(Reply::new("text/plain", done.unwrap_or_else(|error| error.to_string())))
}

/// Everything that a program expects of files.
fn round_trip() -> io::Result<String> {
    fs::create_dir("/tmp/d")?;
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open("/tmp/d/f")?;
    file.write_all(b"hello, ")?;
    file.write_all(b"file")?;
    file.sync_all()?;
    file.rewind()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    fs::rename("/tmp/d/f", "/tmp/g")?;
    fs::remove_dir("/tmp/d")?;
    let names: Vec<String> = fs::read_dir("/tmp")?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    Ok(format!("{text} in {} of {} bytes", names.join(" "), fs::metadata("/tmp/g")?.len()))
}

fn write(bytes: u64) -> io::Result<String> {
    let mut file = File::create("/tmp/f")?;
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(10_000);
        file.write_all(&vec![b'x'; usize::try_from(piece).unwrap_or(0)])?;
        left -= piece;
    }
    Ok("written".into())
}

fn append(bytes: u64) -> io::Result<String> {
    for _ in 0..bytes {
        File::options().append(true).create(true).open("/tmp/f")?.write_all(b"x")?;
    }
    Ok("appended".into())
}

/// Ways out; each is told by what it came to.
#[expect(deprecated, reason = "the one way to make a link that the standard library has on every system")]
fn outside() -> String {
    let link = |to, at| fs::soft_link(to, at).and_then(|()| fs::read(at)).map(drop);
    let ways: [(&str, io::Result<()>); 8] = [
        ("absolute", fs::read("/etc/passwd").map(drop)),
        ("up", fs::read("/tmp/../etc/passwd").map(drop)),
        ("far up", fs::read("/tmp/../../../../../../../../etc/passwd").map(drop)),
        ("list", fs::read_dir("/").map(drop)),
        ("hard link", File::create("/tmp/h").and_then(|_| fs::hard_link("/tmp/h", "/tmp/i"))),
        ("link", link("/etc/passwd", "/tmp/j")),
        ("link up", link("../../../../../../../../etc/passwd", "/tmp/k")),
        ("link within", File::create("/tmp/l").and_then(|_| link("l", "/tmp/m"))),
    ];
    let opened: Vec<&str> = ways.iter().filter(|(_, came)| came.is_ok()).map(|(way, _)| *way).collect();
    if opened.is_empty() { "closed".into() } else { opened.join(", ") }
}
