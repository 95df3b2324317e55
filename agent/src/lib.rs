//! The agent of the drover build farm: one small static program on every build machine.
