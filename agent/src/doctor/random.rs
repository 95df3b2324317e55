//! Random numbers, without which there is no TLS, and on the Hurd not even a table.

use super::{Finding, Glance, Outcome, expect, failed};

const BYTES: usize = 32;

pub(super) fn examine(_: &Glance) -> Outcome {
    let (mut one, mut other) = ([0; BYTES], [0; BYTES]);
    for buffer in [&mut one, &mut other] {
        drover_os::random::fill(buffer)
            .map_err(failed("read random numbers (without a system call for it they are /dev/urandom's)"))?;
    }
    expect(one != other, || "random numbers are the same twice".into())?;
    Ok(Finding::Works(format!("{BYTES} bytes at a time")))
}
