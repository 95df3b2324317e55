//! How long builds take: learnt by package and system, guessed until then.

use std::collections::HashMap;

use super::{Millis, Platform};

/// What is guessed where nothing at all is known.
const UNKNOWN: Millis = 60_000;
/// How many of the last durations of a package count, and of those of all packages of a system.
const OF_PACKAGE: f64 = 8.0;
const OF_PLATFORM: f64 = 4096.0;
/// What is usual on the system counts as much as so many builds of the package itself: one build says little.
const PRIOR: f64 = 1.0;

/// A package on a system.
pub(super) type Name = u32;

/// The mean logarithm of what came last: a build that took days among many that took minutes says little about the next.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    count: f64,
    mean: f64,
}

impl Mean {
    fn add(&mut self, time: Millis, last: f64) {
        self.count = (self.count + 1.0).min(last);
        self.mean += ((time.max(1) as f64).ln() - self.mean) / self.count;
    }
}

/// What is known of durations, in the time of an agent of usual speed.
#[derive(Debug, Default)]
pub(super) struct Durations {
    numbers: HashMap<(String, Platform), Name>,
    names: Vec<(Platform, Mean)>,
    platforms: HashMap<Platform, Mean>,
}

impl Durations {
    pub(super) fn name(&mut self, package: &str, platform: Platform) -> Name {
        if let Some(name) = self.numbers.get(&(package.to_owned(), platform)) {
            return *name;
        }
        let name = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push((platform, Mean::default()));
        self.numbers.insert((package.to_owned(), platform), name);
        name
    }

    /// How long it takes as far as builds of the same name tell.
    pub(super) fn known(&self, name: Name) -> Option<Millis> {
        let (_, mean) = self.names.get(name as usize)?;
        (mean.count > 0.0).then(|| mean.mean.exp() as Millis)
    }

    /// How long it takes as far as anybody knows; never nothing.
    pub(super) fn estimate(&self, name: Name) -> Millis {
        let Some((platform, own)) = self.names.get(name as usize) else { return UNKNOWN };
        let usual = self.platforms.get(platform).map_or((UNKNOWN as f64).ln(), |usual| usual.mean);
        let mean = (own.mean * own.count + usual * PRIOR) / (own.count + PRIOR);
        (mean.exp() as Millis).max(1)
    }

    pub(super) fn learn(&mut self, name: Name, time: Millis) {
        let Some((platform, mean)) = self.names.get_mut(name as usize) else { return };
        mean.add(time, OF_PACKAGE);
        self.platforms.entry(*platform).or_default().add(time, OF_PLATFORM);
    }
}

/// The name of a derivation without its version, which begins at the first digit that follows a `-`, and without what
/// makes it a file.
#[must_use]
pub fn package_of(derivation: &str) -> &str {
    let name = derivation.strip_suffix(".drv").unwrap_or(derivation);
    let bytes = name.as_bytes();
    let version = bytes.windows(2).position(|pair| pair[0] == b'-' && pair[1].is_ascii_digit());
    match version {
        Some(at) if at > 0 => &name[..at],
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_no_part_of_a_package() {
        assert_eq!(package_of("hello-2.12.1.drv"), "hello");
        assert_eq!(package_of("gtk+-3.24.drv"), "gtk+");
        assert_eq!(package_of("python-3d-1.0"), "python");
        assert_eq!(package_of("guix-daemon"), "guix-daemon");
        assert_eq!(package_of("-1.drv"), "-1");
        assert_eq!(package_of(""), "");
    }

    #[test]
    fn the_last_durations_of_a_package_count_and_those_of_the_system_until_there_is_one() {
        let mut durations = Durations::default();
        let (hello, gcc) = (durations.name("hello", 1), durations.name("gcc", 1));
        assert_eq!(durations.estimate(hello), UNKNOWN);
        for _ in 0..20 {
            durations.learn(hello, 5_000);
        }
        let about = |time: Millis, expected: Millis| time.abs_diff(expected) <= 1;
        assert!(about(durations.estimate(hello), 5_000));
        assert_eq!(durations.known(gcc), None);
        assert!(about(durations.estimate(gcc), 5_000));
        let elsewhere = durations.name("hello", 2);
        assert_eq!(durations.estimate(elsewhere), UNKNOWN);
        for _ in 0..40 {
            durations.learn(hello, 9_000);
        }
        assert!((8_000..9_001).contains(&durations.estimate(hello)), "{}", durations.estimate(hello));
        durations.learn(gcc, 0);
        assert!(durations.estimate(gcc) >= 1);
    }
}
