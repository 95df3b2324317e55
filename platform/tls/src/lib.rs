//! Whom connections with TLS trust: the system's authorities, those of a file, pinned keys, or anybody where the contents
//! are checked; and what is wrong with a certificate, in one sentence that says what to do.
//!
//! Both programs are clients of a coordinator, so that this is here. Of HTTP it has nothing but the place in ureq's chain
//! of transports ([`TlsConnector`]).

mod certificate;
mod clock;
mod connector;
mod date;
mod pin;
mod roots;
mod trust;
mod verify;

pub use certificate::Facts;
pub use connector::{TlsConnector, agent};
pub use date::{http_date, of_http, timestamp, utc};
pub use pin::Pin;
pub use trust::Trust;
pub use verify::reason;
