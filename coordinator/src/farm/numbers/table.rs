//! Numbers that were looked up, as rows with labels.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

/// A label's value: mostly a name that somebody gave to something.
pub(super) type Value = String;

/// Where numbers are put that were looked up.
#[derive(Debug)]
pub(super) struct Table(pub(super) Registry);

impl Table {
    pub(super) fn new() -> Self {
        Self(Registry::with_prefix(super::counted::PREFIX))
    }

    /// One number; none is left out.
    pub(super) fn one(&mut self, name: &str, unit: Option<Unit>, help: &str, value: Option<f64>) {
        let Some(value) = value else { return };
        match unit {
            Some(unit) => self.0.register_with_unit(name, help, unit, ConstGauge::new(value)),
            None => self.0.register(name, help, ConstGauge::new(value)),
        }
    }

    /// One number that only grows.
    pub(super) fn growing(&mut self, name: &str, unit: Option<Unit>, help: &str, value: Option<f64>) {
        let Some(value) = value else { return };
        match unit {
            Some(unit) => self.0.register_with_unit(name, help, unit, ConstCounter::new(value)),
            None => self.0.register(name, help, ConstCounter::new(value)),
        }
    }

    /// A number for each of several things, which these labels tell apart.
    pub(super) fn each<const N: usize>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        labels: [&'static str; N],
        rows: impl IntoIterator<Item = ([Value; N], f64)>,
    ) {
        let family = Family::<Vec<(&'static str, Value)>, Gauge<f64, AtomicU64>>::default();
        for (values, number) in rows {
            family.get_or_create(&labels.into_iter().zip(values).collect()).set(number);
        }
        match unit {
            Some(unit) => self.0.register_with_unit(name, help, unit, family),
            None => self.0.register(name, help, family),
        }
    }
}

/// As the numbers of metrics are. What is larger than 2⁵³ loses its last digits.
#[allow(clippy::cast_precision_loss)]
pub(super) fn real(number: u64) -> f64 {
    number as f64
}
