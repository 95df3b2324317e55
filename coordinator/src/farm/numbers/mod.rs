//! Numbers about the farm, for those who watch it: counted where things happen, and read when somebody asks.
//!
//! One [`Numbers`] belongs to the farm. What it counts lives as long as the process; what can be looked up
//! (queue, places, agents) is looked up anew for each reader (`moment`). How they are written is for the crate to say.

mod counted;
mod moment;
mod table;

use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::registry::Registry;

pub(in crate::farm) use counted::UploadEnd;
pub use counted::{Fact, Numbers, Request, Traffic, Waited};

use super::Farm;
use super::error::Error;

/// The ways to write numbers down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own text format, 0.0.4.
    Prometheus,
    /// The text format of OpenMetrics, 1.0.0.
    OpenMetrics,
}

impl Format {
    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    fn write(self, registries: &[&Registry]) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        for registry in registries {
            match self {
                Self::Prometheus => prometheus_text::encode(&mut out, registry)?,
                Self::OpenMetrics => text::encode_registry(&mut out, registry)?,
            }
        }
        if self == Self::OpenMetrics {
            text::encode_eof(&mut out)?;
        }
        Ok(out)
    }
}

impl Farm {
    /// What is counted here.
    pub fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// All numbers, as of now.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn all_numbers(self: &std::sync::Arc<Self>, format: Format) -> Result<String, Error> {
        let farm = std::sync::Arc::clone(self);
        self.database
            .read(move |sql| {
                let moment = moment::look(&farm, sql)?;
                format
                    .write(&[farm.numbers.registry(), &moment])
                    .map_err(|_| Error::Damaged("the numbers cannot be written as text".to_owned()))
            })
            .await
    }
}

#[cfg(test)]
mod tests;
