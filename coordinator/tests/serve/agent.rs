//! An agent by hand.

use drover_store::StorePath;
use drover_wire::agent::{
    Allocation, Closure, Hello, Orders, Output, Poll, Received, Report, Reported, Welcome,
};
use drover_wire::route::agents;
use drover_wire::{LeaseId, PROTOCOL};

use crate::graph::SYSTEM;
use crate::peer::{Answer, Peer};

#[derive(Clone)]
pub(crate) struct Agent(pub(crate) Peer);

impl Agent {
    #[track_caller]
    pub(crate) fn hello(&self, holding: &[LeaseId]) -> Welcome {
        self.0.post(&agents::HELLO.path(&[]), &hello(holding)).value()
    }

    /// Asks once for orders.
    #[track_caller]
    pub(crate) fn poll(&self, accepting: u32, holding: &[LeaseId]) -> Orders {
        self.0.post(&agents::POLL.path(&[]), &Poll { accepting, holding: holding.to_vec() }).value()
    }

    /// Asks for one build, which there must be.
    #[track_caller]
    pub(crate) fn allocation(&self) -> Allocation {
        self.poll(1, &[]).allocations.into_iter().next().expect("there is a build for it")
    }

    #[track_caller]
    pub(crate) fn closure(&self, lease: LeaseId) -> Closure {
        self.0.get(&agents::CLOSURE.path(&[&lease])).value()
    }

    #[track_caller]
    pub(crate) fn log(&self, lease: LeaseId, offset: u64, bytes: &[u8]) -> Answer {
        self.0.patch(&agents::LOG.path(&[&lease]), offset, bytes)
    }

    #[track_caller]
    pub(crate) fn declare(&self, lease: LeaseId, output: &Output) -> Received {
        self.0.post(&agents::DECLARE.path(&[&lease]), output).value()
    }

    #[track_caller]
    pub(crate) fn upload(&self, lease: LeaseId, path: &StorePath, offset: u64, bytes: &[u8]) -> Answer {
        self.0.patch(&upload_path(lease, path), offset, bytes)
    }

    #[track_caller]
    pub(crate) fn report(&self, lease: LeaseId, report: &Report) -> Reported {
        self.0.post(&agents::REPORT.path(&[&lease]), report).value()
    }

    /// Uploads an output and reports success.
    #[track_caller]
    pub(crate) fn succeed(&self, lease: LeaseId, output: &Output, compressed: &[u8]) -> Reported {
        let received = self.declare(lease, output).received;
        let from = usize::try_from(received).unwrap();
        let received: Received = self.upload(lease, &output.path, received, &compressed[from..]).value();
        assert!(received.complete, "{received:?}");
        self.report(lease, &Report::Succeeded { outputs: vec![output.clone()] })
    }
}

pub(crate) fn upload_path(lease: LeaseId, path: &StorePath) -> String {
    agents::UPLOAD.path(&[&lease, &path.base_name()])
}

pub(crate) fn hello(holding: &[LeaseId]) -> Hello {
    Hello {
        protocol: PROTOCOL,
        version: "by hand".to_owned(),
        systems: vec![SYSTEM.to_owned()],
        builtins: Vec::new(),
        max_parallel_builds: 1,
        max_allocated_builds: 1,
        holding: holding.to_vec(),
    }
}
