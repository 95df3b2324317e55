//! What Guix's builders say about their phases.

use super::lines::Line;

/// The most characters of a phase's name that are shown.
const NAME: usize = 80;

/// A line that says something about a phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mark {
    /// A phase starts: “starting phase `unpack'”.
    Starts(String),
    /// A phase has ended: “phase `unpack' succeeded after 0.1 seconds”.
    Ends(Ended),
}

/// How a phase ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    /// Its name.
    pub(super) name: String,
    /// Whether it did what it was to do.
    pub(super) succeeded: bool,
    /// Seconds, as the builder wrote them.
    pub(super) seconds: String,
}

impl Mark {
    /// What a whole line says.
    pub(super) fn of(line: &Line<'_>) -> Option<Self> {
        if !line.begins || !line.ends || line.text.len() > 1024 {
            return None;
        }
        if let Some(name) = line.text.strip_prefix("starting phase ") {
            let (name, rest) = quoted(name)?;
            return rest.trim().is_empty().then_some(Self::Starts(name));
        }
        let (name, rest) = quoted(line.text.strip_prefix("phase ")?)?;
        let (succeeded, rest) = match rest.trim_start().split_once(" after ")? {
            ("succeeded", rest) => (true, rest),
            ("failed", rest) => (false, rest),
            _ => return None,
        };
        let seconds = rest.trim().strip_suffix(" seconds")?;
        let is_number =
            seconds.len() <= 16 && seconds.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        is_number.then(|| Self::Ends(Ended { name, succeeded, seconds: seconds.to_owned() }))
    }
}

/// A name in quotes, and what is behind it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let text = text.strip_prefix(['`', '\'', '‘'])?;
    let (name, rest) = text.split_once(['\'', '’'])?;
    if name.is_empty() {
        return None;
    }
    Some((name.chars().take(NAME).collect(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(text: &str) -> Option<Mark> {
        Mark::of(&Line { text, runs: &[], begins: true, ends: true, at: 0 })
    }

    #[test]
    fn the_words_of_builders_are_known() {
        assert_eq!(mark("starting phase `unpack'"), Some(Mark::Starts("unpack".to_owned())));
        let ended = |succeeded, seconds: &str| {
            Some(Mark::Ends(Ended { name: "build".to_owned(), succeeded, seconds: seconds.to_owned() }))
        };
        assert_eq!(mark("phase `build' succeeded after 12.3 seconds"), ended(true, "12.3"));
        assert_eq!(mark("phase `build' failed after 0.0 seconds"), ended(false, "0.0"));
        assert_eq!(mark("phase ‘build’ failed after 7 seconds"), ended(false, "7"));
    }

    #[test]
    fn other_words_are_words() {
        for text in [
            "",
            "starting phase",
            "starting phase ``",
            "starting phase `x' again",
            " starting phase `x'",
            "phase `x' succeeded",
            "phase `x' went after 1 seconds",
            "phase `x' failed after <b> seconds",
        ] {
            assert_eq!(mark(text), None, "{text}");
        }
        let piece = Line { text: "starting phase `x'", runs: &[], begins: false, ends: true, at: 0 };
        assert_eq!(Mark::of(&piece), None);
    }
}
