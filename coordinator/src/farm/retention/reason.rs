//! Why something is kept.

use drover_wire::retention::Ground;

use crate::config::RetentionConfig;

/// Why an item is kept: the first reason that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reason {
    /// A rule for sets, by its place among them.
    Rule(u8),
    /// A set for which there is no rule.
    Unruled,
    /// A build that is open, or an agent that holds one.
    Builds,
    /// A client asked for it lately.
    Asked,
    /// A fixed output that was needed lately.
    Sources,
    /// It came lately.
    Others,
    /// A source of derivations, which goes with them.
    Source,
    /// There are no rules.
    NoRules,
}

/// The number of the first reason after those of the rules.
const AFTER_RULES: u8 = 201;

impl Reason {
    /// That of the rule at this place; there are 200 at most.
    pub(super) fn rule(place: usize) -> Self {
        u8::try_from(place).map_or(Self::Unruled, Self::Rule)
    }

    /// A number, which is never 0.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Rule(place) => place.min(AFTER_RULES - 2) + 1,
            Self::Unruled => AFTER_RULES,
            Self::Builds => AFTER_RULES + 1,
            Self::Asked => AFTER_RULES + 2,
            Self::Sources => AFTER_RULES + 3,
            Self::Others => AFTER_RULES + 4,
            Self::Source => AFTER_RULES + 5,
            Self::NoRules => AFTER_RULES + 6,
        }
    }

    /// The reason of a number.
    pub(super) fn of(number: u8) -> Option<Self> {
        let after = [
            Self::Unruled,
            Self::Builds,
            Self::Asked,
            Self::Sources,
            Self::Others,
            Self::Source,
            Self::NoRules,
        ];
        match number.checked_sub(AFTER_RULES) {
            Some(place) => after.get(usize::from(place)).copied(),
            None => number.checked_sub(1).map(Self::Rule),
        }
    }

    /// Whether it does not keep what another server has.
    pub(super) fn is_weak(self, config: &RetentionConfig) -> bool {
        match self {
            Self::Rule(place) => {
                config.sets.get(usize::from(place)).is_some_and(|rule| rule.unless_elsewhere)
            }
            Self::Sources => config.sources.unless_elsewhere,
            Self::Others => config.others.unless_elsewhere,
            Self::Unruled | Self::Builds | Self::Asked | Self::Source | Self::NoRules => false,
        }
    }

    /// As it is told to clients.
    pub(super) fn ground(self, config: &RetentionConfig) -> Ground {
        match self {
            Self::Rule(place) => {
                let names = config.sets.get(usize::from(place)).map(|rule| rule.names.to_string());
                Ground::Sets { names: names.unwrap_or_default() }
            }
            Self::Unruled => Ground::SetsWithoutRule,
            Self::Builds => Ground::OpenBuilds,
            Self::Asked => Ground::Asked,
            Self::Sources => Ground::FixedOutputs,
            Self::Others => Ground::Young,
            Self::Source => Ground::Sources,
            Self::NoRules => Ground::NoRules,
        }
    }
}
