//! The upper end of the transport chain: lets each phase of a call look at what has arrived already.
//!
//! While ureq waits for “100 Continue” the whole answer may arrive instead: a refusal. ureq 3.5 then goes on to the
//! phase that reads answers, which waits for more input before it looks at what is there: forever, if the server keeps
//! the connection open. Here the first wait of a new phase returns at once if there is input that no phase has used.

use std::fmt;

use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};
use ureq::{Error, Timeout};

/// Wraps the transports of the connectors before it.
pub(super) struct EagerConnector;

impl<In: Transport> Connector<In> for EagerConnector {
    type Out = EagerTransport<In>;

    fn connect(&self, _: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|inner| EagerTransport { inner, phase: None }))
    }
}

impl fmt::Debug for EagerConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EagerConnector")
    }
}

/// A transport that knows which phase waited last, by the limit that the phase has.
#[derive(Debug)]
pub(super) struct EagerTransport<In> {
    inner: In,
    phase: Option<Timeout>,
}

impl<In: Transport> Transport for EagerTransport<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.inner.transmit_output(amount, timeout)
    }

    /// Only called when ureq does not know of any use for the input that is there.
    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let is_new = self.phase.replace(timeout.reason) != Some(timeout.reason);
        if is_new && !self.inner.buffers().input().is_empty() {
            return Ok(true);
        }
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
