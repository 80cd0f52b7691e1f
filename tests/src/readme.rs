//! The commands that a README promises, read from its blocks.
//!
//! A fenced block of a kind that the caller names, such as `sh run`, is a promise: each line that starts with `$ ` is a command,
//! and the lines up to the next one are what it prints. `…` stands for any text within a line; a line that is `…` alone
//! stands for any number of lines. A command that no line follows may print what it likes.

/// One command and what it must print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where the command stands in the README.
    pub line: usize,
    /// The command, for a shell.
    pub command: String,
    /// What it must print, with wildcards; empty if anything will do.
    pub expected: Vec<String>,
}

/// All commands of all blocks whose fence says one of `kinds`.
#[must_use]
pub fn steps(readme: &str, kinds: &[&str]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut in_fence, mut in_block) = (false, false);
    for (number, line) in readme.lines().enumerate() {
        if let Some(info) = line.trim_start().strip_prefix("```") {
            in_fence = !in_fence;
            in_block = in_fence && kinds.contains(&info.trim());
        } else if in_block {
            if let Some(command) = line.strip_prefix("$ ") {
                steps.push(Step { line: number + 1, command: command.to_owned(), expected: Vec::new() });
            } else if let Some(step) = steps.last_mut() {
                if step.command.ends_with('\\') {
                    step.command = format!("{}\n{line}", step.command);
                } else if !line.is_empty() {
                    step.expected.push(line.to_owned());
                }
            }
        }
    }
    steps
}

/// Whether `printed` is what `expected` promises. Empty lines and white space at the ends of lines do not count.
#[must_use]
pub fn matches(expected: &[String], printed: &str) -> bool {
    let printed: Vec<&str> = printed.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    expected.is_empty() || lines_match(expected, &printed)
}

fn lines_match(expected: &[String], printed: &[&str]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((line, rest)) if line.trim() == "…" => {
            (0..=printed.len()).any(|skip| lines_match(rest, &printed[skip..]))
        }
        Some((line, rest)) => printed
            .split_first()
            .is_some_and(|(have, more)| line_matches(line.trim_end(), have) && lines_match(rest, more)),
    }
}

/// Whether the parts between the wildcards stand in the line, in their order and bound to its ends.
fn line_matches(expected: &str, printed: &str) -> bool {
    let Some((head, tail)) = expected.split_once('…') else { return expected == printed };
    let Some(mut rest) = printed.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = tail.split('…').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = "\
text
```sh
$ not run
```
```sh run
$ baton call hello \\
    --data '{}'
{\"greeting\":\"Hello, …\"}

$ true
```
";

    #[test]
    fn only_marked_blocks_are_promises() {
        let steps = steps(README, &["sh run"]);
        assert_eq!(steps.len(), 2);
        assert_eq!((steps[0].line, steps[0].command.as_str()), (6, "baton call hello \\\n    --data '{}'"));
        assert_eq!(steps[0].expected, ["{\"greeting\":\"Hello, …\"}"]);
        assert_eq!((steps[1].command.as_str(), steps[1].expected.len()), ("true", 0));
    }

    #[test]
    fn a_wildcard_is_any_text_within_a_line_or_any_number_of_lines() {
        let fits = |expected: &[&str], printed| {
            matches(&expected.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>(), printed)
        };
        assert!(fits(&["a … c"], "a b b c\n"));
        assert!(fits(&["…ms, …"], "3 ms, digest\n"));
        assert!(!fits(&["a … c"], "a b d"));
        assert!(!fits(&["a…a"], "a"));
        assert!(fits(&["first", "…", "last"], "first\n1\n\n2\nlast\n"));
        assert!(fits(&["first", "…"], "first\n"));
        assert!(!fits(&["first"], "first\nsecond\n"));
        assert!(fits(&[], "anything\n"));
    }
}
