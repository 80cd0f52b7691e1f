//! `baton call`, `send` and `get`.

use anyhow::{Context, Result};
use baton_tests::settings::CALL_TIMEOUT;
use baton_tests::{Commands, Stage};

#[tokio::test]
async fn call_prints_the_result_and_exits_with_zero() -> Result<()> {
    let stage = Stage::with(&["hello", "echo"]).await?;
    let host = stage.host().start_ready(&["hello", "echo"]).await?;
    let commands = host.commands();
    let greeted = commands.run(&["call", "hello", "--data", r#"{"name":"Ada"}"#]).await?.expect(0)?;
    assert_eq!(greeted.stdout.trim_end(), r#"{"greeting":"Hello, Ada"}"#);
    let full_name = commands.run(&["call", "default/hello", "--data", "{}"]).await?.expect(0)?;
    assert_eq!(full_name.stdout.trim_end(), r#"{"greeting":"Hello, world"}"#);

    std::fs::write(stage.folder.path().join("input.txt"), "from a file")?;
    let here = commands.clone().within(stage.folder.path());
    let from_file = here.run(&["call", "echo", "--data", "@input.txt"]).await?.expect(0)?;
    assert_eq!(from_file.stdout.trim_end(), "from a file");
    let from_input = commands.run_with_input(&["call", "echo", "--data", "-"], b"from a pipe").await?.expect(0)?;
    assert_eq!(from_input.stdout.trim_end(), "from a pipe");
    Ok(())
}

#[tokio::test]
async fn call_in_json_says_what_became_of_the_call() -> Result<()> {
    let stage = Stage::with(&["hello"]).await?;
    let host = stage.host().start_ready(&["hello"]).await?;
    let printed = host.commands().run(&["call", "hello", "--data", r#"{"name":"Ada"}"#, "--json"]).await?.expect(0)?;
    let result = printed.json()?;
    assert_eq!((&result["status"], &result["attempts"]), (&"ok".into(), &1.into()), "{result}");
    assert!(result["id"].is_string() && result["digest"].is_string(), "{result}");
    assert!(result.to_string().contains("Hello, Ada"), "the answer is in it: {result}");
    Ok(())
}

#[tokio::test]
async fn call_exits_with_one_when_the_function_fails() -> Result<()> {
    let stage = Stage::with(&["fail"]).await?;
    let host = stage.host().start_ready(&["fail"]).await?;
    for (kind, word) in [("reject", "as-asked"), ("trap", "trap")] {
        let data = format!(r#"{{"kind":"{kind}"}}"#);
        let failed = host.commands().run(&["call", "fail", "--data", &data]).await?.expect(1)?;
        assert!(failed.stderr.contains(word), "it says why: {failed:?}");
        assert!(failed.stdout.is_empty(), "there is no result to print: {failed:?}");
        let failed = host.commands().run(&["call", "fail", "--data", &data, "--json"]).await?.expect(1)?;
        assert_eq!(failed.json()?["error"]["code"], word);
    }
    Ok(())
}

#[tokio::test]
async fn call_exits_with_three_when_there_is_no_answer_in_time() -> Result<()> {
    let stage = Stage::with(&["sleep"]).await?;
    let host = stage.host().start_ready(&["sleep"]).await?;
    let late = ["call", "sleep", "--data", r#"{"ms":20000}"#, CALL_TIMEOUT, "500ms"];
    host.commands().run(&late).await?.expect(3)?;
    let nobody = host.commands().run(&["call", "nobody", "--data", "{}", CALL_TIMEOUT, "300ms"]).await?.expect(3)?;
    assert!(nobody.stderr.contains("nobody"), "it says what it waited for: {nobody:?}");
    Ok(())
}

#[tokio::test]
async fn commands_exit_with_four_when_redis_is_unreachable() -> Result<()> {
    let commands = Commands::at_redis("redis+unix:///tmp/there-is-no-such-socket.sock");
    for arguments in [&["call", "hello", "--data", "{}"][..], &["send", "hello", "--data", "{}"], &["ps"]] {
        let unreachable = commands.run(arguments).await?.expect(4)?;
        assert!(
            unreachable.stderr.contains("there-is-no-such-socket"),
            "it says what it could not reach: {unreachable:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn send_prints_an_id_that_get_finds() -> Result<()> {
    let mut stage = Stage::with(&["hello"]).await?;
    let host = stage.host().start_ready(&["hello"]).await?;
    let commands = host.commands();
    let sent = commands.run(&["send", "hello", "--data", r#"{"name":"Ada"}"#]).await?.expect(0)?;
    let id = sent.stdout.trim();
    assert!(!id.is_empty() && !id.contains(char::is_whitespace), "the id and nothing else: {sent:?}");
    stage.caller.quiescent("hello").await?;
    let got = commands.run(&["get", id]).await?.expect(0)?;
    assert_eq!(got.stdout.trim_end(), r#"{"greeting":"Hello, Ada"}"#);

    let sent = commands.run(&["send", "hello", "--data", r#"{"name":"Bob"}"#, "--json"]).await?.expect(0)?.json()?;
    let id = sent["id"].as_str().context("an id")?;
    stage.caller.quiescent("hello").await?;
    let got = commands.run(&["get", id, "--json"]).await?.expect(0)?.json()?;
    assert_eq!(got["status"], "ok", "{got}");
    assert!(got.to_string().contains("Hello, Bob"), "{got}");
    Ok(())
}

#[tokio::test]
async fn send_sends_a_call_for_each_line_of_a_file() -> Result<()> {
    let mut stage = Stage::with(&["hello"]).await?;
    let host = stage.host().start_ready(&["hello"]).await?;
    let commands = host.commands();
    let lines: String = (0..1_234).map(|n| format!("{{\"name\":\"guest {n}\"}}\n")).collect();
    let file = stage.folder.path().join("guests.jsonl");
    std::fs::write(&file, lines + "\n")?;
    let data = format!("@{}", file.display());
    let sent = commands.run(&["send", "hello", "--lines", "--data", &data]).await?.expect(0)?;
    let ids: Vec<&str> = sent.stdout.lines().collect();
    assert_eq!(ids.len(), 1_234, "one for each line that is not empty");
    stage.caller.quiescent("hello").await?;
    for n in [0, 999, 1_000, 1_233] {
        let got = commands.run(&["get", ids[n]]).await?.expect(0)?;
        assert_eq!(got.stdout.trim_end(), format!("{{\"greeting\":\"Hello, guest {n}\"}}"));
    }
    commands.run(&["send", "hello", "--lines", "--id", "one", "--data", &data]).await?.expect(2)?;
    Ok(())
}

#[tokio::test]
async fn one_call_to_several_functions_has_one_id() -> Result<()> {
    let stage = Stage::with(&["echo", "hello", "fail"]).await?;
    let host = stage.host().start_ready(&["echo", "hello", "fail"]).await?;
    let commands = host.commands();
    let to_both = ["send", "echo,hello", "--data", r#"{"name":"Ada"}"#];
    let sent = commands.run(&to_both).await?.expect(0)?;
    let id = sent.stdout.trim_end();
    let got = commands.run(&["get", id, "--fanout", "--wait", "20s"]).await?.expect(0)?;
    let lines: Vec<&str> = got.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{got:?}");
    assert!(lines[0].starts_with("default/echo ") && lines[0].ends_with(r#"ok         {"name":"Ada"}"#), "{got:?}");
    assert!(lines[1].starts_with("default/hello") && lines[1].ends_with(r#"{"greeting":"Hello, Ada"}"#), "{got:?}");

    // Sent again under its id it is the same, and one that fails is seen; so is one that nobody runs.
    for functions in ["echo,fail,nobody", "echo,fail,nobody"] {
        let named = ["send", functions, "--data", r#"{"kind":"reject"}"#, "--id", "order-7", "--json"];
        let sent = commands.run(&named).await?.expect(0)?.json()?;
        assert_eq!(sent["id"], "order-7", "{sent}");
        commands.run(&["get", "order-7", "--function", "fail", "--wait", "20s"]).await?.expect(1)?;
        commands.run(&["get", "order-7", "--function", "echo", "--wait", "20s"]).await?.expect(0)?;
    }
    let got = commands.run(&["get", "order-7", "--fanout", "--json"]).await?.expect(3)?.json()?;
    let states: Vec<&str> = (0..3).filter_map(|n| got["calls"][n]["state"].as_str()).collect();
    assert_eq!(states, ["completed", "failed", "pending"], "{got}");
    assert_eq!(got["calls"][1]["result"]["error"]["code"], "as-asked", "{got}");

    let other = commands.run(&["send", "hello,fail", "--id", "order-7"]).await?.expect(1)?;
    assert!(other.stderr.contains("other functions"), "{other:?}");
    commands.run(&["get", "unknown", "--fanout"]).await?.expect(1)?;
    for wrong in ["echo,echo", "echo,acme/hello", "echo,", "echo,Hello"] {
        let refused = commands.run(&["send", wrong]).await?.expect(2)?;
        assert!(!refused.stderr.is_empty(), "{wrong}");
    }
    commands.run(&["call", "echo,hello"]).await?.expect(2)?;
    Ok(())
}

#[tokio::test]
async fn get_of_an_unknown_call_says_so() -> Result<()> {
    let stage = Stage::with(&[]).await?;
    let commands = Commands::at_redis(&stage.redis.url());
    let unknown = commands.run(&["get", "default/hello/1-0"]).await?;
    assert_ne!(unknown.code, Some(0), "{unknown:?}");
    assert!(unknown.stderr.contains("1-0"), "it names the call: {unknown:?}");
    Ok(())
}

#[tokio::test]
async fn bad_arguments_exit_with_two_and_name_the_mend() -> Result<()> {
    for arguments in [
        &[][..],
        &["fly"],
        &["call"],
        &["call", "Not A Name", "--data", "{}"],
        &["call", "hello", "--data", "@/there/is/no/such/file"],
        &["call", "hello", "--data", "{}", "--colour", "red"],
        &["serve", "--redis", "gopher://somewhere"],
        &["serve", "--drain-timeout", "soon"],
        &["check"],
        &["get"],
    ] {
        let refused = Commands::alone().run(arguments).await?;
        assert_eq!(refused.code, Some(2), "{arguments:?}: {refused:?}");
        assert!(!refused.stderr.trim().is_empty(), "{arguments:?} is told nothing");
    }
    Ok(())
}
