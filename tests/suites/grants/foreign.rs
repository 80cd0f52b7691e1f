//! A component that was built for any host with `wasi:config` and `wasi:keyvalue`.

use anyhow::{Context, Result};
use baton_model::Status;
use baton_tests::settings::PATIENCE;
use baton_tests::{Stage, foreign_guest};

const MANIFEST: &str = r#"
[grants.config]
greeting = "hi"
[grants.keyvalue]
default = "function"
shared = "tenant"
"#;

async fn stage(functions: &[&str]) -> Result<Stage> {
    let stage = Stage::with(&[]).await?;
    let guest = foreign_guest()?;
    for function in functions {
        stage.folder.write_manifest(function, MANIFEST)?;
        stage.folder.install(function, &guest)?;
    }
    Ok(stage)
}

/// What the function tells about these orders, line by line.
async fn told(stage: &mut Stage, function: &str, orders: &[&str]) -> Result<Vec<String>> {
    let answer = stage.caller.call(function, orders.join("\n")).await?;
    assert_eq!(answer.status, Status::Ok, "{:?}", answer.error);
    Ok(String::from_utf8(answer.payload.to_vec())?.lines().map(str::to_owned).collect())
}

#[tokio::test]
async fn it_runs_unchanged_when_it_was_granted_what_it_imports() -> Result<()> {
    let mut stage = stage(&["foreign"]).await?;
    let _host = stage.host().start_ready(&["foreign"]).await?;
    for (order, expected) in [
        ("config greeting", r#"Ok(Some("hi"))"#),
        ("config nothing", "Ok(None)"),
        ("config-all", r#"[("greeting", "hi")]"#),
        ("default get a", "-"),
        ("default set a one", "done"),
        ("default get a", "one"),
        ("default exists a", "true"),
        ("default exists b", "false"),
        ("shared get a", "-"),
        ("default get-many a b", "a=one -"),
        ("default increment n 5", "5"),
        ("default increment n 37", "42"),
        ("default get n", "42"),
        (
            "default increment a 1",
            "error: Error::Other(\"what stands there is no whole number, or the sum needs more than 64 bits\")",
        ),
        ("default second default increment n -2", "40"),
        ("default second default keys", r#"["a", "n"] None"#),
        ("default second default swap a two three", "read one, then two, now three"),
        ("default second default swap fresh two three", "read -, then two, now three"),
        (
            "default second default keys-from nonsense",
            "error: Error::Other(\"the cursor is none that an earlier page ended with\")",
        ),
        ("default delete-many a n fresh none", "done"),
        ("default count", "0 keys, in one page"),
        ("default set-many 900", "done"),
        ("default count", "900 keys, in pages"),
        ("nobody get a", "not opened: Error::NoSuchStore"),
    ] {
        assert_eq!(told(&mut stage, "foreign", &[order]).await?.concat(), expected, "{order}");
    }
    Ok(())
}

#[tokio::test]
async fn without_a_manifest_it_is_refused_with_the_lines_to_add_and_runs_once_they_are_there() -> Result<()> {
    let stage = Stage::with(&[]).await?;
    stage.folder.install("foreign", &foreign_guest()?)?;
    let mut host = stage.host().start().await?;
    let is_refusal = |line: &str| line.contains("default/foreign") && line.contains("is refused");
    let said = host.lines().wait_for_several(1, PATIENCE, is_refusal).await?.concat();
    for part in
        ["wasi:keyvalue/store@0.2.0-draft", "wasi:config/store@0.2.0-rc.1", "[grants.keyvalue]", "[grants.config]"]
    {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    stage.folder.write_manifest("foreign", MANIFEST)?;
    host.ready("foreign").await
}

#[tokio::test]
async fn a_bucket_is_the_functions_own_or_the_tenants_and_never_anothers() -> Result<()> {
    let functions = ["acme/one", "acme/two", "other/one"];
    let mut stage = stage(&functions).await?;
    let _host = stage.host().start_ready(&functions).await?;
    told(&mut stage, "acme/one", &["default set a own", "shared set a ours"]).await?;
    assert_eq!(told(&mut stage, "acme/two", &["default get a", "shared get a"]).await?, ["-", "ours"]);
    assert_eq!(told(&mut stage, "other/one", &["default get a", "shared get a"]).await?, ["-", "-"]);
    let calls: Vec<String> = stage.caller.send_many("acme/one", "shared increment n 1", 50).await?;
    stage.caller.results("acme/one", &calls, PATIENCE).await?;
    assert_eq!(told(&mut stage, "acme/two", &["shared increment n 0"]).await?, ["50"]);
    Ok(())
}

#[tokio::test]
async fn what_a_tenant_keeps_is_counted_to_the_byte_and_never_more_than_it_may() -> Result<()> {
    let mut stage = stage(&["acme/one", "acme/two"]).await?;
    // A pair counts 64 bytes beside its key and its value.
    std::fs::write(stage.folder.path().join("@acme/tenant.toml"), "[quotas]\nstored_bytes = 1000\n")?;
    let _host = stage.host().start_ready(&["acme/one", "acme/two"]).await?;
    assert_eq!(told(&mut stage, "acme/one", &["default fill a 800"]).await?, ["done"]);
    // 865 are taken: 135 are left, for all functions of the tenant.
    let told_two = told(&mut stage, "acme/two", &["default fill b 71", "shared fill b 70", "default fill c 1"]).await?;
    assert!(told_two[0].contains("1001 bytes") && told_two[0].contains("1000"), "{told_two:?}");
    assert_eq!(told_two[1], "done");
    assert!(told_two[2].contains("1066 bytes"), "{told_two:?}");
    let orders = [
        "default increment n 1",
        "default second default swap s 1 2",
        "default set-many 3",
        "default exists key-0",
        "default fill a 801",
        "default fill a 700",
        "default set n 9",
        "default increment n 1",
    ];
    let told_one = told(&mut stage, "acme/one", &orders).await?;
    for refused in [0, 1, 2, 4] {
        assert!(told_one[refused].contains("raise `stored_bytes`"), "{refused}: {told_one:?}");
    }
    assert_eq!(told_one[3], "false", "all pairs or none");
    assert_eq!(&told_one[5..], ["done", "done", "10"], "what makes room may be written, and then what fits");
    let taken: u64 = redis::cmd("GET").arg("baton:{acme}:kv").query_async(stage.caller.connection()).await?;
    assert_eq!(taken, (1 + 64 + 700) + (1 + 64 + 70) + (1 + 64 + 2));
    told(&mut stage, "acme/one", &["default delete a", "default delete n", "shared delete b"]).await?;
    let taken: Option<u64> = redis::cmd("GET").arg("baton:{acme}:kv").query_async(stage.caller.connection()).await?;
    assert_eq!(taken, None, "nothing is left");
    Ok(())
}

#[tokio::test]
async fn keys_values_and_what_one_call_touches_have_their_limits() -> Result<()> {
    let mut stage = stage(&["foreign"]).await?;
    let _host = stage.host().start_ready(&["foreign"]).await?;
    let key = "k".repeat(1024);
    for (order, word) in [
        (format!("default set {key} v"), "done"),
        (format!("default set {key}k v"), "a key has 1025 bytes, it may have 1024"),
        ("default fill v 1048576".to_owned(), "done"),
        ("default fill v 1048577".to_owned(), "a value has 1048577 bytes, it may have 1048576"),
        ("default set-many 1001".to_owned(), "an operation has 1001 pairs, it may have 1000"),
        ("default get-many v v".to_owned(), "these values have 2097152 bytes together"),
        ("default fill-many 2 524289".to_owned(), "an operation has 1048578 bytes of values, it may have 1048576"),
        ("default touch 10001".to_owned(), "a call may touch 10000 keys"),
    ] {
        let said = told(&mut stage, "foreign", &[&order]).await?.concat();
        assert!(said.contains(word), "{}: {said}", order.chars().take(40).collect::<String>());
    }
    // The value is there, at its largest.
    let found: u64 = redis::cmd("HSTRLEN")
        .arg("baton:{default}:kv:foreign:default")
        .arg("v")
        .query_async(stage.caller.connection())
        .await
        .context("the bucket is a hash")?;
    assert_eq!(found, 1_048_576);
    Ok(())
}
