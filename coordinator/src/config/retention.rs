//! The table `[retention]`: what is kept for how long.

mod ages;
mod elsewhere;

pub use ages::Ages;
pub use elsewhere::ElsewhereConfig;
use serde::Deserialize;

use super::ConfigError;

/// The most rules for sets.
const RULES: usize = 200;
/// The most days that something may be kept for: a thousand years.
const DAYS: u64 = 365_000;

/// The table `[retention]`: what is kept for how long. Without rules for sets no output is ever removed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RetentionConfig {
    /// What is kept of sets: the first rule that has a set's name counts. A set that none has is kept as
    /// [`SetRule::default`] says.
    pub sets: Vec<SetRule>,
    /// Of fixed outputs that nothing else keeps.
    pub sources: Rule,
    /// Of everything else that no set wants, clients' own builds among it.
    pub others: Rule,
    /// How many hours pass between two looks at what may go.
    pub sweep_hours: u64,
    /// Servers that may have things in our stead.
    pub elsewhere: ElsewhereConfig,
    /// What was noted: logs, history and so on.
    pub ages: Ages,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            sets: Vec::new(),
            sources: Rule { days: 365, unless_elsewhere: false },
            others: Rule { days: 30, unless_elsewhere: false },
            sweep_hours: 24,
            elsewhere: ElsewhereConfig::default(),
            ages: Ages::default(),
        }
    }
}

/// What is kept of the sets of some names: their outputs, whoever built them and whenever, and what those refer to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SetRule {
    /// Which sets.
    pub names: Pattern,
    /// How many of the newest revisions are kept, the current one among them.
    #[serde(default = "keep_revisions")]
    pub keep_revisions: u64,
    /// For how many days a revision is kept beyond that: since it was superseded or the set dropped.
    #[serde(default = "keep_days")]
    pub keep_days: u64,
    /// Whether what was needed to build the outputs is kept, too, all the way down.
    #[serde(default)]
    pub build_inputs: bool,
    /// Whether what only such rules keep goes when another server has it: see [`ElsewhereConfig`].
    #[serde(default)]
    pub unless_elsewhere: bool,
}

impl Default for SetRule {
    fn default() -> Self {
        Self {
            names: Pattern("*".to_owned()),
            keep_revisions: keep_revisions(),
            keep_days: keep_days(),
            build_inputs: false,
            unless_elsewhere: false,
        }
    }
}

fn keep_revisions() -> u64 {
    1
}

fn keep_days() -> u64 {
    14
}

/// How long something is kept that no set wants.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rule {
    /// For how many days: of fixed outputs since something that is kept last needed them, of others since they came or
    /// were asked for.
    pub days: u64,
    /// As in [`SetRule`].
    #[serde(default)]
    pub unless_elsewhere: bool,
}

/// A pattern of names: `*` stands for any letters, `?` for one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Pattern(String);

impl Pattern {
    /// Whether a name is meant.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let (pattern, name): (Vec<char>, Vec<char>) = (self.0.chars().collect(), name.chars().collect());
        let (mut at, mut seen) = (0, 0);
        // Where to go on when what follows the last star does not fit: the star takes one letter more.
        let mut again = None;
        while seen < name.len() {
            match pattern.get(at) {
                Some('*') => {
                    again = Some((at + 1, seen + 1));
                    at += 1;
                }
                Some(letter) if *letter == '?' || *letter == name[seen] => {
                    at += 1;
                    seen += 1;
                }
                _ => match again {
                    Some((after, next)) => {
                        (at, seen) = (after, next);
                        again = Some((after, next + 1));
                    }
                    None => return false,
                },
            }
        }
        pattern[at.min(pattern.len())..].iter().all(|letter| *letter == '*')
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl RetentionConfig {
    /// Whether outputs are ever removed.
    #[must_use]
    pub fn removes(&self) -> bool {
        !self.sets.is_empty()
    }

    /// The first option that has things go when another server has them.
    fn first_elsewhere(&self) -> Option<&'static str> {
        let sets = self.sets.iter().any(|rule| rule.unless_elsewhere);
        [
            ("retention.sets.unless-elsewhere", sets),
            ("retention.sources.unless-elsewhere", self.sources.unless_elsewhere),
            ("retention.others.unless-elsewhere", self.others.unless_elsewhere),
        ]
        .into_iter()
        .find_map(|(option, is_on)| is_on.then_some(option))
    }

    /// # Errors
    /// The first value that cannot be.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let bad = |option, value: String, reason| Err(ConfigError::Value { option, value, reason });
        if self.sets.len() > RULES {
            return bad(
                "retention.sets",
                format!("{} rules", self.sets.len()),
                "there may be 200 rules at most",
            );
        }
        if self.sweep_hours == 0 || self.sweep_hours > 24 * 366 {
            let reason = "it must be at least 1, and at most 8784, which is a year";
            return bad("retention.sweep-hours", self.sweep_hours.to_string(), reason);
        }
        for rule in &self.sets {
            if rule.names.0.is_empty() {
                let reason = "it must be the name of a set or a pattern such as patch-*";
                return bad("retention.sets.names", "empty".to_owned(), reason);
            }
            if rule.keep_revisions == 0 {
                let reason =
                    "the current revision of a set is kept until the set is dropped: it must be at least 1";
                return bad("retention.sets.keep-revisions", "0".to_owned(), reason);
            }
        }
        let days =
            [("retention.sources.days", self.sources.days), ("retention.others.days", self.others.days)];
        let kept = self.sets.iter().map(|rule| ("retention.sets.keep-days", rule.keep_days));
        for (option, days) in days.into_iter().chain(kept) {
            if days > DAYS {
                return bad(option, days.to_string(), "it must be at most 365000, which is a thousand years");
            }
        }
        self.elsewhere.check()?;
        if let Some(option) = self.first_elsewhere().filter(|_| self.elsewhere.servers.is_empty()) {
            let reason =
                "nobody is named who may have it: it needs servers and keys in [retention.elsewhere]";
            return bad(option, "true".to_owned(), reason);
        }
        Ok(())
    }

    /// The rule that counts for a set, and its place among the rules.
    #[must_use]
    pub fn rule_of(&self, set: &str) -> Option<(usize, &SetRule)> {
        self.sets.iter().enumerate().find(|(_, rule)| rule.names.has(set))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> RetentionConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn patterns_have_the_names_that_they_should() {
        for (pattern, has, has_not) in [
            ("master", &["master"][..], &["master2", "maste", ""][..]),
            ("patch-*", &["patch-", "patch-71234"], &["patch", "a-patch-1"]),
            ("*-team", &["rust-team", "-team", "a-team-team"], &["rust-team2", "team"]),
            ("v1.?.*", &["v1.4.0", "v1.5."], &["v1.10.0", "v1.4"]),
            ("*a*b*", &["ab", "xaybz", "aab"], &["ba", "b"]),
            ("*", &["", "anything"], &[]),
        ] {
            let pattern = Pattern(pattern.to_owned());
            assert!(has.iter().all(|name| pattern.has(name)), "{pattern}");
            assert!(has_not.iter().all(|name| !pattern.has(name)), "{pattern}");
        }
    }

    #[test]
    fn the_first_rule_that_has_a_name_counts_and_nothing_is_removed_without_rules() {
        let config = read(
            "[[sets]]\nnames = 'master'\nkeep-revisions = 2\n[[sets]]\nnames = 'm*'\nkeep-days = 3\nbuild-inputs = true\n\
             [others]\ndays = 7\n",
        );
        config.check().unwrap();
        let (place, rule) = config.rule_of("master").unwrap();
        assert_eq!((place, rule.keep_revisions, rule.keep_days, rule.build_inputs), (0, 2, 14, false));
        let (place, rule) = config.rule_of("mesa").unwrap();
        assert_eq!((place, rule.keep_revisions, rule.keep_days, rule.build_inputs), (1, 1, 3, true));
        assert_eq!(config.rule_of("x"), None);
        assert_eq!((config.others.days, config.sources.days), (7, 365));
        assert!(config.removes() && !RetentionConfig::default().removes());
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_name_of_the_option() {
        for (text, option) in [
            ("[[sets]]\nnames = ''\n", "retention.sets.names"),
            ("[[sets]]\nnames = 'a'\nkeep-revisions = 0\n", "retention.sets.keep-revisions"),
            ("[[sets]]\nnames = 'a'\nkeep-days = 999999999\n", "retention.sets.keep-days"),
            ("sweep-hours = 0\n", "retention.sweep-hours"),
            ("[others]\ndays = 1\nunless-elsewhere = true\n", "retention.others.unless-elsewhere"),
            ("[[sets]]\nnames = 'a'\nunless-elsewhere = true\n", "retention.sets.unless-elsewhere"),
            ("[elsewhere]\nservers = ['bordeaux']\nkeys = ['k']\n", "retention.elsewhere.servers"),
            ("[elsewhere]\nservers = ['http://']\nkeys = ['k']\n", "retention.elsewhere.servers"),
            ("[elsewhere]\nservers = ['https://a?b']\nkeys = ['k']\n", "retention.elsewhere.servers"),
            ("[elsewhere]\nservers = ['https://a']\n", "retention.elsewhere.keys"),
            ("[elsewhere]\nafter-days = 999999999\n", "retention.elsewhere.after-days"),
            ("[elsewhere]\ncheck-days = 0\n", "retention.elsewhere.check-days"),
        ] {
            let error = read(text).check().unwrap_err().to_string();
            assert!(error.contains(option), "{text}: {error}");
        }
        assert!(toml::from_str::<RetentionConfig>("[[sets]]\nname = 'a'\n").is_err());
        assert!(toml::from_str::<RetentionConfig>("[others]\ndays = -1\n").is_err());
    }
}
