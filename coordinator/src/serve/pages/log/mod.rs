//! Logs: their text as safe HTML, and the pages that show it.
//!
//! A log is whatever a builder wrote: bytes that are no text, sequences for terminals, text that looks like HTML, lines
//! without an end. [`lines`] makes of it what a terminal would show in the end, [`html`] writes that with all of it
//! escaped, and [`document`] and [`pieces`] fold it by the phases that Guix's builders announce.

mod document;
mod html;
mod lines;
mod live;
mod page;
mod phases;
mod pieces;
mod style;
mod window;

#[cfg(test)]
mod tests;

pub(super) use live::follow;
pub(super) use page::{address, end, show};
