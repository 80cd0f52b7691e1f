//! Every comparison of a run, and those in which Baton is not ahead.

/// What was compared.
#[derive(Debug, Default)]
pub(super) struct Against {
    compared: usize,
    behind: Vec<String>,
}

impl Against {
    /// Compares a figure of which less is better. Figures are shown in `unit`.
    pub(super) fn lower(&mut self, what: &str, ours: f64, peer: &str, theirs: f64, unit: &str) {
        self.compare(what, ours, peer, theirs, unit, ours < theirs);
    }

    /// Compares a figure of which more is better.
    pub(super) fn higher(&mut self, what: &str, ours: f64, peer: &str, theirs: f64, unit: &str) {
        self.compare(what, ours, peer, theirs, unit, ours > theirs);
    }

    fn compare(&mut self, what: &str, ours: f64, peer: &str, theirs: f64, unit: &str, is_ahead: bool) {
        self.compared += 1;
        if !is_ahead {
            self.behind.push(format!("{what}: {} {unit}, {peer} {} {unit}", brief(ours), brief(theirs)));
        }
    }

    /// The title, and a line for each comparison that Baton does not win.
    pub(super) fn remark(self) -> (String, Vec<String>) {
        let title = format!("Where Baton is not ahead ({} of {} comparisons)", self.behind.len(), self.compared);
        let none = if self.compared == 0 { "nothing could be compared" } else { "nowhere in this run" };
        (title, if self.behind.is_empty() { vec![none.to_owned()] } else { self.behind })
    }
}

fn brief(figure: f64) -> String {
    if figure >= 100.0 { format!("{figure:.0}") } else { format!("{figure:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_equal_or_worse_is_named_and_what_is_better_is_not() {
        let mut against = Against::default();
        against.lower("time", 1.0, "other", 2.0, "ms");
        against.lower("memory", 50.0, "other", 5.0, "MiB");
        against.higher("rate", 3.0, "other", 3.0, "a second");
        against.higher("nothing to compare", f64::NAN, "other", 3.0, "a second");
        let (title, lines) = against.remark();
        assert_eq!(title, "Where Baton is not ahead (3 of 4 comparisons)");
        assert_eq!(lines[0], "memory: 50.00 MiB, other 5.00 MiB");
    }
}
