//! `baton dead`: calls that were given up, looked at, sent again, dropped.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use baton_broker::{Admin, BrokerConfig, DeadLetters, Order, Reach, RedriveTally, Redriven};
use baton_model::{DeadLetter, FunctionId, LetterFilter, LetterSummary, PastAttempt};
use serde_json::json;

use super::ps::ago;
use crate::args::{Common, Dead, DeadLs, DeadMany, DeadShow, LetterWishes};
use crate::data;
use crate::exit::{Exit, UsageError};
use crate::settings::Settings;

/// How much of an error a line of the list has.
const ERROR_SHOWN: usize = 60;

pub(crate) async fn run(common: &Common, dead: &Dead) -> anyhow::Result<Exit> {
    let broker = Settings::read(common)?.caller()?;
    let letters = DeadLetters::new(&broker)?;
    match dead {
        Dead::Ls(ls) => list(&broker, &letters, ls).await,
        Dead::Show(show) => self::show(&broker, &letters, show).await,
        Dead::Redrive(many) => redrive(&broker, &letters, many).await,
        Dead::Drop(many) => drop_for_good(&broker, &letters, many).await,
    }
}

fn filter(wishes: &LetterWishes) -> LetterFilter {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ago = |ago: &Duration| u64::try_from(now.saturating_sub(*ago).as_millis()).unwrap_or(u64::MAX);
    LetterFilter {
        reason: wishes.reason.clone(),
        from_ms: wishes.newer.as_ref().map(ago),
        until_ms: wishes.older.as_ref().map(ago),
    }
}

async fn list(broker: &BrokerConfig, letters: &DeadLetters, ls: &DeadLs) -> anyhow::Result<Exit> {
    let functions = match &ls.function {
        Some(function) => vec![function.clone()],
        None => Admin::new(broker)?.functions().await?,
    };
    let (filter, limit) = (filter(&ls.wishes), ls.limit.max(1));
    let (mut found, mut more) = (Vec::new(), false);
    for function in &functions {
        let some = letters.list(function, &filter, Order::NewestFirst, None, limit).await?;
        more |= some.next.is_some();
        found.extend(some.letters);
    }
    found.sort_by_key(|letter: &LetterSummary| std::cmp::Reverse(letter.letter));
    more |= found.len() > limit;
    found.truncate(limit);
    let mut out = std::io::stdout().lock();
    if ls.json {
        writeln!(out, "{}", json!({ "letters": found, "more": more }))?;
    } else {
        print_list(&mut out, &found, more)?;
    }
    Ok(Exit::Ok)
}

fn print_list(out: &mut impl Write, letters: &[LetterSummary], more: bool) -> std::io::Result<()> {
    let id = |letter: &LetterSummary| letter.id.as_ref().map_or("-", |id| id.as_str()).to_owned();
    let widest = |text: &dyn Fn(&LetterSummary) -> String, least: usize| {
        letters.iter().map(|letter| text(letter).len()).max().unwrap_or(0).max(least)
    };
    let (name, of, call) =
        (widest(&|l| l.letter.to_string(), 6), widest(&|l| l.function.to_string(), 8), widest(&id, 4));
    let why = widest(&|l| l.reason.clone(), 6);
    writeln!(
        out,
        "{:name$}  {:of$}  {:call$}  {:why$}  {:>8}  {:>7}  ERROR",
        "LETTER", "FUNCTION", "CALL", "REASON", "ATTEMPTS", "DIED"
    )?;
    for letter in letters {
        let line = harmless(letter.error.lines().next().unwrap_or_default());
        let error: String = line.chars().take(ERROR_SHOWN).collect();
        writeln!(
            out,
            "{:name$}  {:of$}  {:call$}  {:why$}  {:>8}  {:>7}  {error}{}",
            letter.letter.to_string(),
            letter.function.to_string(),
            id(letter),
            harmless(&letter.reason),
            letter.attempts,
            ago(letter.died_ms),
            if error.len() < line.len() { " ..." } else { "" }
        )?;
    }
    if letters.is_empty() {
        writeln!(out, "(none)")?;
    }
    if more {
        writeln!(out, "(and more: --limit lists more of them, --reason, --older and --newer choose)")?;
    }
    Ok(())
}

async fn show(broker: &BrokerConfig, letters: &DeadLetters, show: &DeadShow) -> anyhow::Result<Exit> {
    let found = match find(broker, letters, show.function.as_ref(), &show.id).await? {
        Some(found) => letters.read(&found.function, found.letter).await?,
        None => None,
    };
    let Some(letter) = found else {
        eprintln!("there is no dead letter {}, by its own id or by that of its call", show.id);
        return Ok(Exit::Failed);
    };
    let mut out = std::io::stdout().lock();
    if show.json {
        let mut value = json!(letter);
        data::show_payload(&mut value, &letter.media_type, &letter.payload);
        writeln!(out, "{value}")?;
    } else {
        print_letter(&mut out, &letter)?;
    }
    Ok(Exit::Ok)
}

fn print_letter(out: &mut impl Write, letter: &DeadLetter) -> std::io::Result<()> {
    let DeadLetter { summary, accepted_ms, host, limits, history, backtrace, log, fields, payload, .. } = letter;
    let when = |ms: u64| {
        let at = UNIX_EPOCH + Duration::from_millis(ms);
        format!("{} ({} ago)", humantime::format_rfc3339_millis(at), ago(ms))
    };
    let mut row = |name: &str, text: &str| {
        let mut lines = text.lines().map(harmless);
        writeln!(out, "{name:9} {}", lines.next().unwrap_or_default())?;
        lines.try_for_each(|line| writeln!(out, "{:9} {line}", ""))
    };
    row("function", &summary.function.to_string())?;
    row("call", summary.id.as_ref().map_or("(it never was one)", |id| id.as_str()))?;
    row("letter", &summary.letter.to_string())?;
    row("reason", &summary.reason)?;
    row("error", &summary.error)?;
    row("attempts", &summary.attempts.to_string())?;
    if let Some(ms) = accepted_ms {
        row("accepted", &when(*ms))?;
    }
    row("died", &when(summary.died_ms))?;
    row("digest", &summary.digest.map_or("(no attempt was made)".to_owned(), |digest| digest.to_string()))?;
    if let Some(host) = host {
        row("host", host.as_str())?;
    }
    let limits: Vec<String> = limits.iter().map(|(name, most)| format!("{name} {most}")).collect();
    let tried: Vec<String> = history.iter().map(attempt_line).collect();
    for (name, lines) in [("limits", &limits), ("tried", &tried), ("backtrace", backtrace), ("log", log)] {
        if !lines.is_empty() {
            row(name, &lines.join("\n"))?;
        }
    }
    if !summary.is_whole {
        row("", "(the letter does not hold the whole call, and cannot be sent again)")?;
    }
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    row("fields", &fields.join("\n"))?;
    match std::str::from_utf8(payload) {
        Ok(text) => row("payload", text),
        Err(_) => row("payload", &format!("({} bytes that are no text; --json has them)", payload.len())),
    }
}

/// A stranger's text with everything escaped that could act on a terminal.
fn harmless(text: &str) -> String {
    let acts = |c: char| {
        (c.is_control() && c != '\t')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if acts(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// One attempt in one line.
fn attempt_line(attempt: &PastAttempt) -> String {
    let PastAttempt { attempt, end, error, host, digest, started_ms, ended_ms, then_waited_ms } = attempt;
    let mut line = format!("{attempt}: {end}");
    if let (Some(started), Some(ended)) = (started_ms, ended_ms) {
        let at = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(*started));
        line.push_str(&format!(", started {at}, took {} ms", ended.saturating_sub(*started)));
    }
    if let Some(host) = host {
        line.push_str(&format!(", on {host}"));
    }
    if let Some(digest) = digest {
        line.push_str(&format!(", {}", digest.short()));
    }
    if let Some(wait) = then_waited_ms {
        line.push_str(&format!(", then waited {wait} ms"));
    }
    if let Some(said) = error.lines().next() {
        line.push_str(&format!(": {said}"));
    }
    line
}

/// The letter of this id, of this function or of the only one that has such a letter.
async fn find(
    broker: &BrokerConfig,
    letters: &DeadLetters,
    function: Option<&FunctionId>,
    id: &str,
) -> anyhow::Result<Option<LetterSummary>> {
    let functions = match function {
        Some(function) => vec![function.clone()],
        None => Admin::new(broker)?.functions().await?,
    };
    let mut found = Vec::new();
    for function in &functions {
        found.extend(letters.find(function, id).await?);
    }
    if found.len() > 1 {
        let all = found.iter().map(|letter| letter.function.to_string()).collect::<Vec<_>>().join(", ");
        return Err(
            UsageError(format!("several functions have a letter {id}: {all}; say which with --function")).into()
        );
    }
    Ok(found.pop())
}

/// The function and the letters of it that are meant, where no ids are given.
fn meant<'a>(many: &'a DeadMany, what: &str) -> anyhow::Result<(&'a FunctionId, LetterFilter)> {
    let filter = filter(&many.wishes);
    if !many.all && filter == LetterFilter::default() {
        let rule = format!("say which letters to {what}: their ids, or --reason, --older, --newer or --all");
        return Err(UsageError(rule).into());
    }
    match &many.function {
        Some(function) => Ok((function, filter)),
        None => Err(UsageError(format!("say whose letters to {what} with --function")).into()),
    }
}

async fn redrive(broker: &BrokerConfig, letters: &DeadLetters, many: &DeadMany) -> anyhow::Result<Exit> {
    let (mut tally, mut missing) = (RedriveTally::default(), false);
    if many.ids.is_empty() {
        let (function, filter) = meant(many, "send again")?;
        tally = letters.redrive_meant(function, &filter, Reach::all()).await?;
    }
    for id in &many.ids {
        let Some(letter) = find(broker, letters, many.function.as_ref(), id).await? else {
            eprintln!("there is no dead letter {id}, by its own id or by that of its call");
            missing = true;
            continue;
        };
        for end in letters.redrive(&letter.function, std::slice::from_ref(&letter)).await? {
            match end {
                Redriven::SentAgain => tally.redriven += 1,
                Redriven::Ended => tally.ended += 1,
                Redriven::NotWhole => tally.not_whole += 1,
                Redriven::UnderWay => tally.under_way += 1,
                Redriven::Gone => missing = true,
            }
        }
    }
    let mut out = std::io::stdout().lock();
    if many.json {
        writeln!(out, "{}", json!(tally))?;
    } else {
        writeln!(out, "{} sent again", tally.redriven)?;
        let left = [
            (tally.quarantined, "left: they may have ended their hosts; name them, or say --reason poison"),
            (tally.ended, "left: their calls have another result by now; `baton dead drop` removes them"),
            (tally.not_whole, "left: they do not hold a whole call"),
            (tally.under_way, "left: their calls are under way again"),
        ];
        for (count, why) in left.iter().filter(|(count, _)| *count > 0) {
            writeln!(out, "{count} {why}")?;
        }
    }
    // Whoever names a letter wants that very one.
    let failed = missing || !many.ids.is_empty() && tally.ended + tally.not_whole + tally.under_way > 0;
    Ok(if failed { Exit::Failed } else { Exit::Ok })
}

async fn drop_for_good(broker: &BrokerConfig, letters: &DeadLetters, many: &DeadMany) -> anyhow::Result<Exit> {
    let (mut dropped, mut missing) = (0, false);
    if many.ids.is_empty() {
        let (function, filter) = meant(many, "drop")?;
        (dropped, _) = letters.drop_meant(function, &filter, Reach::all()).await?;
    }
    for id in &many.ids {
        match find(broker, letters, many.function.as_ref(), id).await? {
            Some(letter) => dropped += letters.drop_letters(&letter.function, std::slice::from_ref(&letter)).await?,
            None => {
                eprintln!("there is no dead letter {id}, by its own id or by that of its call");
                missing = true;
            }
        }
    }
    let mut out = std::io::stdout().lock();
    if many.json {
        writeln!(out, "{}", json!({ "dropped": dropped }))?;
    } else {
        writeln!(out, "{dropped} dropped")?;
    }
    Ok(if missing { Exit::Failed } else { Exit::Ok })
}
