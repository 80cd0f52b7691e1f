//! `baton ps`, `check` and `doctor`.

use anyhow::Result;
use baton_model::{Digest, HostState, OfflineReason};
use baton_tests::{CORE_MODULE, Commands, Redis, Stage, sample, wrong_world};
use serde_json::json;

#[tokio::test]
async fn ps_lists_hosts_and_what_is_loaded_where() -> Result<()> {
    let stage = Stage::with(&["hello"]).await?;
    stage.folder.install("acme/echo", &sample("echo")?)?;
    let one = stage.host().start_ready(&["hello", "acme/echo"]).await?;
    let mut two = stage.host().start_ready(&["hello", "acme/echo"]).await?;
    let record = one.record().await?;
    assert_eq!((record.pid, record.state), (one.pid(), HostState::Online));
    assert!(record.seats > 0 && !record.machine.is_empty() && !record.version.is_empty(), "{record:?}");
    let mut loaded: Vec<(String, Digest)> =
        record.functions.iter().map(|loaded| (loaded.function.to_string(), loaded.digest)).collect();
    loaded.sort();
    let expected = [("acme/echo", Digest::of(&sample("echo")?)), ("default/hello", Digest::of(&sample("hello")?))];
    assert_eq!(loaded, expected.map(|(name, digest)| (name.to_owned(), digest)));

    let listing = one.commands().run(&["ps", "--json"]).await?.expect(0)?.json()?;
    assert_eq!(listing["hosts"].as_array().map(Vec::len), Some(2), "{listing}");
    assert_eq!(listing["functions"].as_array().map(Vec::len), Some(2), "{listing}");
    let readable = one.commands().run(&["ps"]).await?.expect(0)?;
    for word in ["acme/echo", "hello", record.id.as_str()] {
        assert!(readable.stdout.contains(word), "{word} is not in {readable:?}");
    }

    two.stop().await?;
    let hosts = one.commands().hosts().await?;
    let (left, there): (Vec<_>, Vec<_>) = hosts.into_iter().partition(|host| host.state == HostState::Offline);
    assert_eq!((there.len(), left.len()), (1, 1), "a host that left stays listed");
    assert_eq!(left[0].reason, Some(OfflineReason::Shutdown));
    let readable = one.commands().run(&["ps"]).await?.expect(0)?;
    assert!(readable.stdout.contains("offline (shutdown)"), "{readable:?}");
    let machines = one.commands().run(&["ps", "--json"]).await?.expect(0)?.json()?["machines"].clone();
    assert_eq!((&machines[0]["state"], &machines[0]["online"]), (&"online".into(), &1.into()), "{machines}");
    Ok(())
}

#[tokio::test]
async fn ps_of_nothing_is_an_empty_listing() -> Result<()> {
    let redis = Redis::start().await?;
    let listing = Commands::at_redis(&redis.url()).run(&["ps", "--json"]).await?.expect(0)?.json()?;
    assert_eq!(listing["hosts"], serde_json::json!([]));
    assert_eq!(listing["functions"], serde_json::json!([]));
    Ok(())
}

#[tokio::test]
async fn check_says_of_a_file_what_a_host_would_say() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("thing.wasm");
    let path = file.to_string_lossy().into_owned();
    let commands = Commands::alone().within(dir.path());
    for name in ["hello", "echo", "sleep", "fail", "wordcount"] {
        let component = sample(name)?;
        std::fs::write(&file, &component)?;
        let good = commands.run(&["check", &path]).await?.expect(0)?;
        let digest = Digest::of(&component);
        assert!(good.stdout.contains(&digest.short()), "{name}: it says which component that is: {good:?}");
        let good = commands.run(&["check", &path, "--json"]).await?.expect(0)?.json()?;
        assert_eq!(good["digest"], digest.to_string(), "{name}: {good}");
    }

    std::fs::write(
        dir.path().join("thing.toml"),
        "[limits]\ntime_ms = 70\n[grants.config]\nkey = { env = \"KEY\" }\n",
    )?;
    let refused = commands.run(&["check", &path]).await?.expect(1)?;
    assert!(
        refused.stdout.contains("grants.config.env = [\"KEY\"]"),
        "it says what the operator has to do: {refused:?}"
    );
    std::fs::write(dir.path().join("thing.toml"), "[limits]\ntime_ms = 70\n[grants.config]\nkey = \"plain\"\n")?;
    let asks = commands.run(&["check", &path, "--json"]).await?.expect(0)?.json()?;
    assert_eq!((&asks["limits"]["time_ms"], &asks["grants"]["config"]["key"]), (&json!(70), &json!("plain")), "{asks}");
    std::fs::write(dir.path().join("tenant.toml"), "limits.time_ms = 60\n")?;
    let refused = commands.run(&["check", &path]).await?.expect(1)?;
    assert!(refused.stdout.contains("its tenant.toml allows 60"), "{refused:?}");
    std::fs::remove_file(dir.path().join("thing.toml"))?;
    std::fs::remove_file(dir.path().join("tenant.toml"))?;

    let truncated = sample("hello")?[..5000].to_vec();
    let mut bad = wrong_world()?;
    bad.extend([("a core module", CORE_MODULE.to_vec()), ("nothing", Vec::new()), ("half a file", truncated)]);
    for (what, bytes) in bad {
        std::fs::write(&file, bytes)?;
        let refused = commands.run(&["check", &path]).await?.expect(1)?;
        let said = refused.stdout + &refused.stderr;
        assert!(said.contains("thing.wasm"), "{what}: it names the file: {said}");
    }
    let missing = commands.run(&["check", "no-such-file.wasm"]).await?;
    assert_ne!(missing.code, Some(0));
    assert!(missing.stderr.contains("no-such-file.wasm"), "{missing:?}");
    Ok(())
}

#[tokio::test]
async fn doctor_says_what_redis_may_lose_and_how_to_mend_it() -> Result<()> {
    let stage = Stage::with(&["hello"]).await?;
    let folder = stage.folder.path().to_string_lossy().into_owned();
    let durable = Redis::durable().await?;
    let doctor = ["doctor", "--plugins", &folder];
    let good = Commands::at_redis(&durable.url()).run(&doctor).await?;
    for word in ["Redis", "noeviction", "max_map_count", "open files", "wasm"] {
        assert!(good.stdout.contains(word), "{word} is looked at: {good:?}");
    }

    let evicting = Redis::with(&[("maxmemory", "100mb"), ("maxmemory-policy", "allkeys-random")]).await?;
    let bad = Commands::at_redis(&evicting.url()).run(&doctor).await?.expect(1)?;
    assert!(bad.stdout.contains("allkeys-random") && bad.stdout.contains("noeviction"), "fault and mend: {bad:?}");
    let bad = Commands::at_redis(&evicting.url()).run(&["doctor", "--plugins", &folder, "--json"]).await?.expect(1)?;
    assert!(bad.json()?.to_string().contains("noeviction"), "{bad:?}");
    Ok(())
}

#[tokio::test]
async fn every_command_explains_itself() -> Result<()> {
    let help = Commands::alone().run(&["--help"]).await?.expect(0)?;
    for command in ["serve", "dev", "call", "send", "get", "ps", "check", "doctor"] {
        assert!(help.stdout.contains(command), "{command} is not in the help");
        let own = Commands::alone().run(&[command, "--help"]).await?.expect(0)?;
        assert!(!own.stdout.trim().is_empty(), "{command} explains nothing");
    }
    Commands::alone().run(&["--version"]).await?.expect(0)?;
    Ok(())
}
