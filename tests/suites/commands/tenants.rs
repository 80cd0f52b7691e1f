//! Tenants: `baton tenant`, tokens at a real host, and what a tenant's Redis user can do.

use anyhow::{Context, Result, ensure};
use baton_tests::settings::PATIENCE;
use baton_tests::{Commands, Http, Redis, Stage, until};
use redis::aio::MultiplexedConnection;

const ADA: &str = r#"{"name":"Ada"}"#;

/// `baton` with this folder of plugins, and `baton.toml` in the folder itself.
struct Operator<'a> {
    stage: &'a Stage,
    plugins: String,
}

impl<'a> Operator<'a> {
    fn of(stage: &'a Stage) -> Self {
        Self { stage, plugins: stage.folder.path().display().to_string() }
    }

    async fn run(&self, arguments: &[&str], code: i32) -> Result<String> {
        let mut all = vec!["tenant"];
        all.extend(arguments);
        all.extend(["--plugins", &self.plugins]);
        let finished = Commands::alone().within(self.stage.folder.path()).run(&all).await?.expect(code)?;
        Ok(if code == 0 { finished.stdout } else { finished.stderr })
    }

    /// A new token for this tenant.
    async fn token(&self, tenant: &str, more: &[&str]) -> Result<String> {
        Ok(self.run(&[&["token", tenant], more].concat(), 0).await?.trim_end().to_owned())
    }
}

fn bearer(token: &str) -> [(&'static str, String); 2] {
    [("authorization", format!("Bearer {token}")), ("content-type", "application/json".to_owned())]
}

async fn call(http: &Http, token: &str, path: &str) -> Result<u16> {
    let headers = bearer(token);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Ok(http.post_with(path, &headers, ADA).await?.status)
}

async fn until_answered(http: &Http, token: &str, path: &str, status: u16) -> Result<()> {
    until(&format!("{path} is answered with {status}"), PATIENCE, async || {
        Ok((call(http, token, path).await? == status).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_token_opens_what_is_its_tenants_and_is_replaced_without_a_gap() -> Result<()> {
    let stage = Stage::with(&["hello"]).await?;
    let hello = std::fs::read(stage.folder.file("hello")?)?;
    let operator = Operator::of(&stage);
    for tenant in ["acme", "other"] {
        operator.run(&["add", tenant], 0).await?;
        stage.folder.install(&format!("{tenant}/hello"), &hello)?;
    }
    let refused = operator.run(&["add", "acme"], 2).await?;
    ensure!(refused.contains("is there already"), "{refused}");
    let refused = operator.run(&["token", "nobody"], 2).await?;
    ensure!(refused.contains("baton tenant add nobody"), "{refused}");
    let root = operator.run(&["token", "--operator", "--name", "me"], 0).await?;
    let config = stage.folder.path().join("baton.toml");
    let host = stage.host().http().argument("--config").argument(config.as_os_str());
    let host = host.start_ready(&["hello", "acme/hello", "other/hello"]).await?;
    let http = Http::of(&host).await?;
    let root = root.trim_end();
    ensure!(call(&http, root, "/v1/call/acme/hello").await? == 200, "an operator may call everything");

    let first = operator.token("acme", &["--name", "ci", "--expires", "90d"]).await?;
    until_answered(&http, &first, "/v1/call/acme/hello", 200).await?;
    http.post("/v1/call/acme/hello", ADA).await?.problem(401, "unauthorized")?;
    for path in ["/v1/call/other/hello", "/v1/call/hello", "/v1/call/acme/nobody"] {
        ensure!(call(&http, &first, path).await? == 404, "{path}");
    }
    let headers = bearer(&first);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    http.get_with("/v1/hosts", &headers).await?.problem(403, "operators-only")?;
    let functions = http.get_with("/v1/functions", &headers).await?.expect(200)?.json()?;
    ensure!(functions["functions"].as_array().is_some_and(|all| all.len() == 1), "{functions}");

    let refused = operator.run(&["token", "acme", "--name", "ci"], 2).await?;
    ensure!(refused.contains("already"), "{refused}");
    let second = operator.token("acme", &[]).await?;
    until_answered(&http, &second, "/v1/call/acme/hello", 200).await?;
    ensure!(call(&http, &first, "/v1/call/acme/hello").await? == 200, "both are valid");
    let listed = operator.run(&["ls", "--json"], 0).await?;
    let listed: serde_json::Value = serde_json::from_str(&listed)?;
    let acme = &listed["tenants"][0];
    ensure!(acme["tenant"] == "acme" && acme["functions"][0] == "hello", "{listed}");
    ensure!(acme["tokens"][0]["name"] == "ci" && acme["tokens"][0]["expires"].is_string(), "{listed}");
    ensure!(acme["tokens"][1]["name"] == "token" && acme["tokens"][1]["expires"].is_null(), "{listed}");
    operator.run(&["token", "acme", "--remove", "ci"], 0).await?;
    until_answered(&http, &first, "/v1/call/acme/hello", 401).await?;
    ensure!(call(&http, &second, "/v1/call/acme/hello").await? == 200, "the other one stays");
    let written = std::fs::read_to_string(stage.folder.path().join("@acme/tenant.toml"))?;
    ensure!(!written.contains(&second) && written.contains("# Its share of a host"), "{written}");
    Ok(())
}

#[tokio::test]
async fn a_link_leads_no_token_into_another_tenant_s_file() -> Result<()> {
    let stage = Stage::with(&[]).await?;
    let operator = Operator::of(&stage);
    for tenant in ["acme", "victim"] {
        operator.run(&["add", tenant], 0).await?;
    }
    let at = |name: &str| stage.folder.path().join(name);
    let before = std::fs::read_to_string(at("@victim/tenant.toml"))?;
    std::fs::remove_file(at("@acme/tenant.toml"))?;
    std::os::unix::fs::symlink("../@victim/tenant.toml", at("@acme/tenant.toml"))?;
    std::os::unix::fs::symlink("@victim", at("@other"))?;
    for tenant in ["acme", "other"] {
        let refused = operator.run(&["token", tenant], 2).await?;
        ensure!(refused.contains("is a link"), "{refused}");
    }
    ensure!(std::fs::read_to_string(at("@victim/tenant.toml"))? == before, "nothing was written");
    Ok(())
}

/// A connection to this Redis as somebody.
async fn connect_as(redis: &Redis, user: &str, password: &str) -> Result<MultiplexedConnection> {
    let client = redis::Client::open(format!("{}?user={user}&pass={password}", redis.url()))?;
    Ok(client.get_multiplexed_async_connection().await?)
}

/// Makes the user that `baton tenant acl` describes; gives its password.
async fn make_user(operator: &Operator<'_>, tenant: &str) -> Result<String> {
    let printed = operator.run(&["acl", tenant, "--json"], 0).await?;
    let printed: serde_json::Value = serde_json::from_str(&printed)?;
    let line = printed["acl"].as_str().context("it prints the line")?;
    let mut words = line.split(' ');
    let mut command = redis::cmd(words.next().context("a command")?);
    words.for_each(|word| _ = command.arg(word));
    let mut admin = operator.stage.redis.connect().await?;
    command.exec_async(&mut admin).await?;
    Ok(printed["password"].as_str().context("it prints the password")?.to_owned())
}

#[tokio::test]
async fn a_tenants_redis_user_can_call_its_functions_and_read_their_results_and_nothing_else() -> Result<()> {
    let mut stage = Stage::with(&["hello"]).await?;
    stage.folder.install("acme/hello", &std::fs::read(stage.folder.file("hello")?)?)?;
    let host = stage.host().start_ready(&["hello", "acme/hello"]).await?;
    // Another tenant's call, with its result and a dead letter, to have something that is not to be seen.
    let id = stage.caller.send("hello", ADA).await?;
    stage.caller.result("hello", &id).await?;
    stage.caller.add("acme/hello", &[("payload", b"{}"), ("colour", b"red")]).await?;
    stage.caller.until_dead("acme/hello", 1).await?;

    let operator = Operator::of(&stage);
    let password = make_user(&operator, "acme").await?;
    let url = format!("{}?user=acme&pass={password}", stage.redis.url());
    let answered = Commands::at_redis(&url).run(&["call", "acme/hello", "--data", ADA]).await?.expect(0)?;
    ensure!(answered.stdout.trim_end() == r#"{"greeting":"Hello, Ada"}"#, "{answered:?}");
    // An id of its own needs no further right: the same again is answered with the first result.
    for (data, expected) in [(ADA, "Hello, Ada"), (r#"{"name":"Bob"}"#, "Hello, Ada")] {
        let named = ["call", "acme/hello", "--id", "order-1", "--data", data];
        let answered = Commands::at_redis(&url).run(&named).await?.expect(0)?;
        ensure!(answered.stdout.contains(expected), "{answered:?}");
    }
    ensure!(connect_as(&stage.redis, "acme", "wrong").await.is_err(), "the password counts");

    let mut acme = connect_as(&stage.redis, "acme", &password).await?;
    let mut may = async |line: &str| {
        let mut words = line.split(' ');
        let mut command = redis::cmd(words.next().unwrap_or_default());
        words.for_each(|word| _ = command.arg(word));
        let answer: redis::RedisResult<redis::Value> = command.query_async(&mut acme).await;
        match answer {
            Ok(_) => anyhow::Ok(true),
            Err(error) if error.code() == Some("NOPERM") => Ok(false),
            Err(error) => Err(error).with_context(|| line.to_owned()),
        }
    };
    for line in [
        "XADD baton:{acme/hello}:calls * payload {} reply acme.me",
        "XADD baton:{acme/new}:calls * payload {}",
        "GET baton:{acme/hello}:result:1-0",
        "PING",
    ] {
        ensure!(may(line).await?, "{line} is refused");
    }
    for line in [
        "XADD baton:{default/hello}:calls * payload {}",
        "XADD baton:{acme2/hello}:calls * payload {}",
        "XADD baton:{acme/hello}:dead * payload {}",
        "XADD baton:{acme/hello}:result:1-0 * payload {}",
        "XADD baton:{hosts}:calls * payload {}",
        "GET baton:{default/hello}:result:1-0",
        "GET baton:{acme/hello}:calls",
        "GET baton:{hosts}:probe",
        "SET baton:{acme/hello}:result:1-0 x",
        "XRANGE baton:{acme/hello}:calls - +",
        "XREAD STREAMS baton:{acme/hello}:calls 0",
        "XRANGE baton:{acme/hello}:dead - +",
        "XREADGROUP GROUP hosts me STREAMS baton:{acme/hello}:calls >",
        "XDEL baton:{acme/hello}:calls 1-0",
        "XTRIM baton:{acme/hello}:calls MAXLEN 0",
        "XGROUP DESTROY baton:{acme/hello}:calls hosts",
        "XACK baton:{acme/hello}:calls hosts 1-0",
        "DEL baton:{acme/hello}:calls",
        "ZADD baton:{acme/hello}:delayed 1 x",
        "KEYS *",
        "SCAN 0",
        "EVAL return 0",
        "EVALSHA ffffffffffffffffffffffffffffffffffffffff 0",
        "PUBLISH baton:reply:acme.me x",
        "PUBLISH baton:hosts x",
        "SUBSCRIBE baton:reply:other.me",
        "SUBSCRIBE baton:hosts",
        "PSUBSCRIBE *",
        "PSUBSCRIBE baton:reply:*",
        "PSUBSCRIBE baton:reply:acme*",
        "CLIENT LIST",
        "CLIENT KILL ID 1",
        "CONFIG GET *",
        "ACL WHOAMI",
        "INFO",
        "MONITOR",
        "FLUSHALL",
        "MULTI",
    ] {
        ensure!(!may(line).await?, "{line} is allowed");
    }
    let mut notices = redis::Client::open(url)?.get_async_pubsub().await?;
    notices.subscribe("baton:reply:acme.me").await?;
    notices.psubscribe("baton:reply:acme.*").await?;
    // Redis's own word for it: these commands and no category.
    let mut admin = stage.redis.connect().await?;
    let list: Vec<String> = redis::cmd("ACL").arg("LIST").query_async(&mut admin).await?;
    let line = list.iter().find(|line| line.starts_with("user acme ")).context("the user is listed")?;
    let mut commands: Vec<&str> = line.split(' ').filter(|word| word.starts_with(['+', '-'])).collect();
    commands.sort_unstable();
    let allowed = ["+get", "+ping", "+psubscribe", "+punsubscribe", "+subscribe", "+unsubscribe", "+xadd", "-@all"];
    ensure!(commands == allowed, "{line}");
    drop(host);
    Ok(())
}

/// How many entries the function's stream ever had.
async fn ever_added(stage: &mut Stage, function: &str) -> Result<u64> {
    let mut ask = redis::cmd("XINFO");
    ask.arg("STREAM").arg(format!("baton:{{{function}}}:calls"));
    let facts: std::collections::BTreeMap<String, redis::Value> = ask.query_async(stage.caller.connection()).await?;
    Ok(redis::from_redis_value(facts.get("entries-added").context("Redis 7 counts them")?.clone())?)
}

#[tokio::test]
async fn as_a_tenants_redis_user_the_command_line_does_what_it_may_and_says_what_it_may_not() -> Result<()> {
    let mut stage = Stage::with(&["hello"]).await?;
    stage.folder.install("acme/hello", &std::fs::read(stage.folder.file("hello")?)?)?;
    let _host = stage.host().start_ready(&["acme/hello"]).await?;
    let password = make_user(&Operator::of(&stage), "acme").await?;
    let commands = Commands::at_redis(&format!("{}?user=acme&pass={password}", stage.redis.url()));
    let before = baton_tests::now_ms();
    let send = ["send", "acme/hello", "--data", ADA, "--delay", "1s"];
    for more in [&[][..], &["--id", "order-1"], &["--key", "k"]] {
        let sent = commands.run(&[&send[..], more].concat()).await?.expect(0)?;
        let id = sent.stdout.trim_end();
        let got = commands.run(&["get", id, "--function", "acme/hello", "--wait", "20s"]).await?.expect(0)?;
        ensure!(got.stdout.trim_end() == r#"{"greeting":"Hello, Ada"}"#, "{got:?}");
        let started = stage.caller.result("acme/hello", id).await?.started_ms;
        ensure!(started >= Some(before + 1_000), "it waited: {started:?}");
    }
    let called = commands.run(&["call", "acme/hello", "--data", ADA, "--delay", "200ms", "--key", "k"]).await?;
    ensure!(called.expect(0)?.stdout.contains("Hello, Ada"));
    let added = ever_added(&mut stage, "acme/hello").await?;
    let lines = format!("{ADA}\n{ADA}\n");
    let sent = ["send", "acme/hello", "--lines", "--data", "-"];
    let sent = commands.run_with_input(&sent, lines.as_bytes()).await?.expect(0)?;
    ensure!(sent.stdout.lines().count() == 2, "{sent:?}");
    ensure!(ever_added(&mut stage, "acme/hello").await? == added + 2, "each line is one call");
    for id in sent.stdout.lines() {
        stage.caller.result("acme/hello", id).await?;
    }
    for refused in [
        &["cancel", "1-0", "--function", "acme/hello"][..],
        &["why", "1-0", "--function", "acme/hello"],
        &["dead", "ls", "acme/hello"],
        &["dead", "redrive", "1-0", "--function", "acme/hello"],
        &["send", "acme/hello,acme/other", "--data", ADA],
        &["get", "1-0"],
        &["ps"],
    ] {
        let said = commands.run(refused).await?.expect(1)?;
        ensure!(said.stderr.contains("NOPERM") && said.stderr.contains("token of the tenant"), "{refused:?}: {said:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_tenant_with_channels_of_its_own_has_no_notice_written_into_anothers() -> Result<()> {
    let mut stage = Stage::with(&["hello"]).await?;
    let hello = std::fs::read(stage.folder.file("hello")?)?;
    let operator = Operator::of(&stage);
    operator.run(&["add", "acme"], 0).await?;
    stage.folder.install("acme/hello", &hello)?;
    let host = stage.host().http().start_ready(&["hello", "acme/hello"]).await?;
    let mut heard = stage.redis.subscribe(&["baton:reply:*"]).await?;
    let victim = [("payload", ADA.as_bytes()), ("id", b"forged"), ("reply", b"other.victim")];
    let id = stage.caller.add("acme/hello", &victim).await?;
    ensure!(!id.is_empty());
    let result = stage.caller.result("acme/hello", "forged").await?;
    ensure!(result.error.as_ref().is_some_and(|error| error.code == "bad-reply"), "{result:?}");
    let dead = stage.caller.until_dead("acme/hello", 1).await?;
    ensure!(dead[0].text("reason") == "bad-reply" && dead[0].text("error").contains("acme."), "{dead:?}");
    let own = [("payload", ADA.as_bytes()), ("id", b"own"), ("reply", b"acme.me")];
    stage.caller.add("acme/hello", &own).await?;
    stage.caller.result("acme/hello", "own").await?;
    // Who may do otherwise does.
    stage.caller.add("hello", &[("payload", ADA.as_bytes()), ("id", b"free"), ("reply", b"other.victim")]).await?;
    stage.caller.result("hello", "free").await?;
    let mut channels: Vec<String> = heard.drain().await?.into_iter().map(|(channel, _)| channel).collect();
    channels.sort();
    ensure!(channels == ["baton:reply:acme.me", "baton:reply:other.victim"], "{channels:?}");
    // The gateway and the command line listen on channels of the tenant.
    let answer = Http::of(&host).await?.post("/v1/call/acme/hello", ADA).await?.expect(200)?;
    ensure!(answer.body[..] == *br#"{"greeting":"Hello, Ada"}"#, "{answer:?}");
    host.commands().run(&["call", "acme/hello", "--data", ADA]).await?.expect(0)?;
    let told = heard.drain().await?;
    ensure!(told.len() == 2 && told.iter().all(|(channel, _)| channel.starts_with("baton:reply:acme.")), "{told:?}");
    Ok(())
}
