//! Logs: their text as safe HTML, and the pages that show it.
//!
//! A log is whatever a builder wrote: bytes that are no text, sequences for terminals, text that looks like HTML, lines
//! without an end. [`lines`] makes of it what a terminal would show in the end, [`html`] writes that with all of it
//! escaped, and [`document`] and [`pieces`] fold it by the phases that Guix's builders announce.

#[allow(dead_code, reason = "for the pages that come")]
mod document;
#[allow(dead_code, reason = "for the pages that come")]
mod html;
mod lines;
mod page;
mod phases;
#[allow(dead_code, reason = "for the pages that come")]
mod pieces;
mod style;

#[cfg(test)]
mod tests;

pub(in crate::serve::pages) use page::show;
