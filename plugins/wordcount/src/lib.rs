//! Counts the words of a text: a small real job, with input of two kinds and a line in the log.

use std::cmp::Reverse;
use std::collections::HashMap;

use baton_sdk::prelude::*;

/// How many of the most frequent words are told, unless the input says otherwise.
const TOP: usize = 10;

#[derive(Deserialize)]
struct Input {
    text: String,
    #[serde(default = "top")]
    top: usize,
}

fn top() -> usize {
    TOP
}

#[derive(Serialize)]
struct Counts {
    lines: usize,
    words: usize,
    characters: usize,
    bytes: usize,
    /// The most frequent first, and words of equal count by the alphabet.
    top: Vec<Word>,
}

#[derive(Serialize)]
struct Word {
    word: String,
    count: usize,
}

#[baton_sdk::function]
fn wordcount(context: &Context, payload: Bytes) -> Result<Counts> {
    let counts = if context.media_type().starts_with("text/") {
        count(payload.text()?, TOP)
    } else {
        let input: Input = payload.json()?;
        count(&input.text, input.top)
    };
    log::info!("counted {} words in {} lines", counts.words, counts.lines);
    Ok(counts)
}

fn count(text: &str, top: usize) -> Counts {
    let mut by_word = HashMap::<String, usize>::new();
    let mut words = 0;
    for word in words_of(text) {
        words += 1;
        *by_word.entry(word.to_lowercase()).or_default() += 1;
    }
    let mut ranked: Vec<Word> = by_word.into_iter().map(|(word, count)| Word { word, count }).collect();
    ranked.sort_unstable_by(|a, b| (Reverse(a.count), &a.word).cmp(&(Reverse(b.count), &b.word)));
    ranked.truncate(top);
    Counts { lines: text.lines().count(), words, characters: text.chars().count(), bytes: text.len(), top: ranked }
}

/// Runs of letters and digits, with the apostrophes and hyphens inside of them.
fn words_of(text: &str) -> impl Iterator<Item = &str> {
    let inside = |c| matches!(c, '\'' | '’' | '-');
    text.split(move |c: char| !c.is_alphanumeric() && !inside(c))
        .map(move |word| word.trim_matches(inside))
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_sdk::testing::{call, context};

    const COUNTED: &str = r#"{"lines":2,"words":5,"characters":24,"bytes":25,"top":[{"word":"the","count":2},{"word":"café","count":1}]}"#;

    #[test]
    fn json_is_counted_up_to_the_words_asked_for() {
        let reply =
            call::<wordcount>(context().build(), r#"{"text":"The café: don't\nthe ends","top":2}"#).ok().unwrap();
        assert_eq!(reply.media_type(), "application/json");
        assert_eq!(reply.text(), COUNTED);
    }

    #[test]
    fn plain_text_is_counted_as_it_is() {
        let context = context().media_type("text/plain; charset=utf-8").build();
        let reply = call::<wordcount>(context, "- one two - Two").ok().unwrap();
        let top = r#"[{"word":"two","count":2},{"word":"one","count":1}]"#;
        assert_eq!(reply.text(), format!(r#"{{"lines":1,"words":3,"characters":15,"bytes":15,"top":{top}}}"#));
    }

    #[test]
    fn no_text_has_no_words() {
        let counts = count("", TOP);
        assert_eq!((counts.lines, counts.words, counts.bytes, counts.top.len()), (0, 0, 0, 0));
    }

    #[test]
    fn text_that_is_no_utf_8_is_rejected() {
        let context = context().media_type("text/plain").build();
        let failure = call::<wordcount>(context, b"\xff").err().unwrap();
        assert!(matches!(&failure, Failure::Reject { code, .. } if code == "bad-input"), "{failure}");
    }
}
