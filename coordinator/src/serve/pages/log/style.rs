//! How a terminal would show a piece of text, in classes of the style sheet.

use std::fmt::Write as _;

/// A parameter of an escape sequence, and whether it belongs to the one before (`38:5:1`) or stands for itself.
pub(super) type Parameter = (u16, bool);

/// The sixteen colours, as most terminals have them; all others are shown as the nearest of these.
const PALETTE: [[i32; 3]; 16] = [
    [0, 0, 0],
    [205, 0, 0],
    [0, 205, 0],
    [205, 205, 0],
    [0, 0, 238],
    [205, 0, 205],
    [0, 205, 205],
    [229, 229, 229],
    [127, 127, 127],
    [255, 0, 0],
    [0, 255, 0],
    [255, 255, 0],
    [92, 92, 255],
    [255, 0, 255],
    [0, 255, 255],
    [255, 255, 255],
];
/// The steps of the colour cube of 256 colours.
const STEPS: [i32; 6] = [0, 95, 135, 175, 215, 255];

const BOLD: u8 = 1;
const DIM: u8 = 2;
const ITALIC: u8 = 4;
const UNDERLINE: u8 = 8;
const REVERSE: u8 = 16;
const STRIKE: u8 = 32;
/// The classes of the marks.
const MARKS: [(u8, &str); 6] =
    [(BOLD, "sb"), (DIM, "sd"), (ITALIC, "si"), (UNDERLINE, "su"), (REVERSE, "sr"), (STRIKE, "ss")];

/// Colours and marks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Style {
    text: Option<u8>,
    ground: Option<u8>,
    marks: u8,
}

impl Style {
    /// Follows a sequence that selects how text is shown. What is not known changes nothing.
    pub(super) fn select(&mut self, parameters: &[Parameter]) {
        let mut rest = parameters;
        while let Some(((code, _), after)) = rest.split_first() {
            let own = after.iter().take_while(|(_, joined)| *joined).count();
            let (joined, mut after) = after.split_at(own);
            match code {
                0 => *self = Self::default(),
                1 => self.marks |= BOLD,
                2 => self.marks |= DIM,
                3 => self.marks |= ITALIC,
                4 if matches!(joined, [(0, _), ..]) => self.marks &= !UNDERLINE,
                4 | 21 => self.marks |= UNDERLINE,
                7 => self.marks |= REVERSE,
                9 => self.marks |= STRIKE,
                22 => self.marks &= !(BOLD | DIM),
                23 => self.marks &= !ITALIC,
                24 => self.marks &= !UNDERLINE,
                27 => self.marks &= !REVERSE,
                29 => self.marks &= !STRIKE,
                30..=37 => self.text = small(code - 30),
                39 => self.text = None,
                40..=47 => self.ground = small(code - 40),
                49 => self.ground = None,
                90..=97 => self.text = small(code - 90 + 8),
                100..=107 => self.ground = small(code - 100 + 8),
                38 | 48 | 58 => {
                    let colour = if joined.is_empty() {
                        let (colour, used) = separate(after);
                        after = after.get(used..).unwrap_or_default();
                        colour
                    } else {
                        one(joined)
                    };
                    match (code, colour) {
                        (38, Some(colour)) => self.text = Some(colour),
                        (48, Some(colour)) => self.ground = Some(colour),
                        _ => {}
                    }
                }
                _ => {}
            }
            rest = after;
        }
    }

    /// Whether it is that of text without any.
    pub(super) fn is_plain(self) -> bool {
        self == Self::default()
    }

    /// The names of its classes, with spaces between them.
    pub(super) fn classes(self, out: &mut String) {
        let mut first = true;
        let mut next = |out: &mut String| {
            if !std::mem::take(&mut first) {
                out.push(' ');
            }
        };
        // Writing to a string does not fail.
        if let Some(colour) = self.text {
            next(out);
            let _ = write!(out, "c{colour}");
        }
        if let Some(colour) = self.ground {
            next(out);
            let _ = write!(out, "g{colour}");
        }
        for (mark, class) in MARKS {
            if self.marks & mark != 0 {
                next(out);
                out.push_str(class);
            }
        }
    }
}

fn small(number: u16) -> Option<u8> {
    u8::try_from(number).ok()
}

/// A colour as `5;N` or `2;R;G;B`, and how many parameters that took.
fn separate(parameters: &[Parameter]) -> (Option<u8>, usize) {
    match parameters {
        [(5, _), (number, _), ..] => (indexed(*number), 2),
        [(2, _), (red, _), (green, _), (blue, _), ..] => (nearest([*red, *green, *blue]), 4),
        _ => (None, parameters.len()),
    }
}

/// A colour as `5:N`, or `2:R:G:B` with or without the number of a colour space.
fn one(parameters: &[Parameter]) -> Option<u8> {
    match parameters {
        [(5, _), (number, _), ..] => indexed(*number),
        [(2, _), (red, _), (green, _), (blue, _)] | [(2, _), _, (red, _), (green, _), (blue, _), ..] => {
            nearest([*red, *green, *blue])
        }
        _ => None,
    }
}

fn indexed(number: u16) -> Option<u8> {
    let number = u8::try_from(number).ok()?;
    match number {
        0..=15 => Some(number),
        16..=231 => {
            let cube = usize::from(number - 16);
            let step = |digit: usize| STEPS.get(digit % 6).copied().unwrap_or_default();
            Some(closest([step(cube / 36), step(cube / 6), step(cube)]))
        }
        232..=255 => {
            let grey = i32::from(number - 232) * 10 + 8;
            Some(closest([grey; 3]))
        }
    }
}

fn nearest(colour: [u16; 3]) -> Option<u8> {
    colour.iter().all(|part| *part <= 255).then(|| closest(colour.map(i32::from)))
}

fn closest(colour: [i32; 3]) -> u8 {
    let far = |one: &[i32; 3]| -> i32 { one.iter().zip(colour).map(|(a, b)| (a - b) * (a - b)).sum() };
    let found = (0_u8..).zip(&PALETTE).min_by_key(|(_, one)| far(one));
    found.map_or(7, |(number, _)| number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(parameters: &[u16]) -> String {
        let mut style = Style::default();
        let parameters: Vec<Parameter> = parameters.iter().map(|number| (*number, false)).collect();
        style.select(&parameters);
        let mut out = String::new();
        style.classes(&mut out);
        out
    }

    #[test]
    fn colours_and_marks_become_classes() {
        for (parameters, expected) in [
            (&[1, 31][..], "c1 sb"),
            (&[97, 44], "c15 g4"),
            (&[1, 4, 0], ""),
            (&[1, 2, 3, 22], "si"),
            (&[7, 9, 27, 29, 4, 24], ""),
            (&[32, 39], ""),
        ] {
            assert_eq!(classes(parameters), expected, "{parameters:?}");
        }
    }

    #[test]
    fn other_colours_become_the_nearest_of_the_sixteen() {
        for (parameters, expected) in [
            (&[38, 5, 9][..], "c9"),
            (&[38, 5, 196, 1], "c9 sb"),
            (&[38, 5, 244], "c8"),
            (&[48, 2, 250, 10, 10], "g9"),
            (&[38, 2, 0, 0, 230, 4], "c4 su"),
            // Too few, too large, unknown.
            (&[38, 5], ""),
            (&[38, 2, 1, 2], ""),
            (&[38, 5, 256, 1], "sb"),
            (&[38, 2, 0, 256, 0, 1], "sb"),
            (&[200, 1], "sb"),
        ] {
            assert_eq!(classes(parameters), expected, "{parameters:?}");
        }
    }

    #[test]
    fn parameters_that_belong_together_are_taken_together() {
        let mut style = Style::default();
        style.select(&[
            (38, false),
            (2, true),
            (0, true),
            (0, true),
            (0, true),
            (238, true),
            (4, false),
            (3, true),
        ]);
        let mut out = String::new();
        style.classes(&mut out);
        assert_eq!(out, "c4 su");
        style.select(&[(4, false), (0, true), (38, false), (5, true), (1, true)]);
        out.clear();
        style.classes(&mut out);
        assert_eq!(out, "c1");
    }
}
