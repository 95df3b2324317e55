//! An agent by hand: says to the coordinator what the test wants it to say.

use drover_store::hash::Sha256Hash;
use drover_store::path::StorePath;
use drover_wire::agent::{Allocation, Hello, Orders, Output, Poll, Received, Report, Welcome};
use drover_wire::route::agents;
use drover_wire::{LeaseId, PROTOCOL};

use crate::farm::Farm;
use crate::graph::host_system;
use crate::http::{Answer, Peer};

/// An agent that has a password, and does nothing by itself.
#[derive(Debug, Clone)]
pub struct Hand {
    /// For requests that are not here.
    pub peer: Peer,
}

impl Hand {
    /// A new agent with this name, which has said hello.
    #[track_caller]
    #[must_use]
    pub fn new(farm: &Farm, name: &str) -> Self {
        let (uuid, password) = farm.client.new_agent(name);
        let hand =
            Self { peer: Peer::stranger(&format!("http://{}", farm.agents)).password(&uuid, &password) };
        let _: Welcome = hand.hello(&[]).value();
        hand
    }

    /// Says hello, with these leases.
    #[track_caller]
    #[must_use]
    pub fn hello(&self, holding: &[LeaseId]) -> Answer {
        self.peer.post(&agents::HELLO.path(&[]), &hello(holding))
    }

    /// Asks for a build until it gets one.
    #[track_caller]
    #[must_use]
    pub fn allocation(&self) -> Allocation {
        crate::wait::until("the coordinator should give a build", || {
            let orders: Orders =
                self.peer.post(&agents::POLL.path(&[]), &Poll { accepting: 1, holding: Vec::new() }).value();
            orders.allocations.into_iter().next()
        })
    }

    /// Sends a piece of the log.
    #[track_caller]
    #[must_use]
    pub fn log(&self, lease: LeaseId, offset: u64, bytes: &[u8]) -> Answer {
        self.peer.patch(&agents::LOG.path(&[&lease]), offset, bytes)
    }

    /// Says what will be uploaded.
    #[track_caller]
    #[must_use]
    pub fn declare(&self, lease: LeaseId, output: &Output) -> Answer {
        self.peer.post(&agents::DECLARE.path(&[&lease]), output)
    }

    /// Uploads from an offset: the bytes as they are.
    #[track_caller]
    #[must_use]
    pub fn upload(&self, lease: LeaseId, path: &StorePath, offset: u64, bytes: &[u8]) -> Answer {
        self.peer.patch(&agents::UPLOAD.path(&[&lease, &path.base_name()]), offset, bytes)
    }

    /// Declares and uploads one output, which must be taken.
    #[track_caller]
    pub fn deliver(&self, lease: LeaseId, output: &Output, compressed: &[u8]) {
        let _: Received = self.declare(lease, output).value();
        let received: Received = self.upload(lease, &output.path, 0, compressed).value();
        assert!(received.complete, "{received:?}");
    }

    /// Ends a lease.
    #[track_caller]
    #[must_use]
    pub fn report(&self, lease: LeaseId, report: &Report) -> Answer {
        self.peer.post(&agents::REPORT.path(&[&lease]), report)
    }
}

/// A first message.
#[must_use]
pub fn hello(holding: &[LeaseId]) -> Hello {
    Hello {
        protocol: PROTOCOL,
        version: "by hand".to_owned(),
        systems: vec![host_system()],
        builtins: vec!["download".to_owned()],
        max_parallel_builds: 1,
        max_allocated_builds: 1,
        holding: holding.to_vec(),
    }
}

/// The nar of a file with these bytes.
#[must_use]
pub fn file_nar(bytes: &[u8]) -> Vec<u8> {
    let mut nar = Vec::new();
    let mut string = |text: &[u8]| {
        nar.extend_from_slice(&(text.len() as u64).to_le_bytes());
        nar.extend_from_slice(text);
        nar.resize(nar.len().next_multiple_of(8), 0);
    };
    for text in ["nix-archive-1", "(", "type", "regular", "contents"] {
        string(text.as_bytes());
    }
    string(bytes);
    string(b")");
    nar
}

/// What is to be declared of a nar.
#[must_use]
pub fn declared(path: &StorePath, nar: &[u8], references: &[StorePath]) -> Output {
    let mut references = references.to_vec();
    references.sort_unstable();
    Output { path: path.clone(), nar_hash: Sha256Hash::of(nar), nar_size: nar.len() as u64, references }
}
