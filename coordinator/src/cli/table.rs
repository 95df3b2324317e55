//! Tables of aligned columns that fit the terminal.

use console::{measure_text_width, pad_str, truncate_str};

const GAP: &str = "  ";
/// The narrowest that the last column is made before others are left out.
const NARROWEST: usize = 16;

/// A column's head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    title: &'static str,
    right: bool,
    /// Left out on a narrow terminal: the highest first; 0 never.
    dispensable: u8,
}

impl Column {
    pub(crate) const fn new(title: &'static str) -> Self {
        Self { title, right: false, dispensable: 0 }
    }

    /// For numbers.
    pub(crate) const fn right(self) -> Self {
        Self { right: true, ..self }
    }

    /// Left out when there is no room: the higher the sooner.
    pub(crate) const fn dispensable(self, dispensable: u8) -> Self {
        Self { dispensable, ..self }
    }
}

/// A table being filled. The last column takes what room is left.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// One more row, with a cell for each column.
    pub(crate) fn row(&mut self, cells: impl Into<Vec<String>>) {
        let cells = cells.into();
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// Its lines, at most so wide if there is a limit.
    pub(crate) fn lines(&self, limit: Option<usize>) -> Vec<String> {
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(i, column)| {
                let cells =
                    self.rows.iter().filter_map(|row| row.get(i)).map(|cell| measure_text_width(cell));
                cells.max().unwrap_or(0).max(column.title.len())
            })
            .collect();
        let mut shown: Vec<usize> = (0..self.columns.len()).collect();
        let last = self.columns.len().saturating_sub(1);
        let room = |shown: &[usize]| {
            let others: usize = shown.iter().filter(|i| **i != last).map(|i| widths[*i] + GAP.len()).sum();
            limit.map(|limit| limit.saturating_sub(others))
        };
        let wanted = widths.last().copied().unwrap_or(0).min(NARROWEST);
        while room(&shown).is_some_and(|room| room < wanted) {
            let least = shown.iter().copied().filter(|i| self.columns[*i].dispensable > 0);
            match least.max_by_key(|i| self.columns[*i].dispensable) {
                Some(least) => shown.retain(|i| *i != least),
                None => break,
            }
        }
        let head: Vec<&str> = self.columns.iter().map(|c| c.title).collect();
        let rows = self.rows.iter().map(|row| row.iter().map(String::as_str).collect::<Vec<_>>());
        std::iter::once(head)
            .chain(rows)
            .map(|cells| {
                let cells = shown.iter().filter_map(|&i| {
                    let cell = *cells.get(i)?;
                    let column = self.columns[i];
                    Some(match room(&shown) {
                        Some(room) if i == last && !column.right => {
                            truncate_str(cell, room.max(1), "…").into_owned()
                        }
                        _ if i == last && !column.right => cell.to_owned(),
                        _ => {
                            let side = if column.right {
                                console::Alignment::Right
                            } else {
                                console::Alignment::Left
                            };
                            pad_str(cell, widths[i], side, None).into_owned()
                        }
                    })
                });
                let line = cells.collect::<Vec<_>>().join(GAP);
                let line = line.trim_end();
                match limit {
                    Some(limit) => truncate_str(line, limit, "…").into_owned(),
                    None => line.to_owned(),
                }
            })
            .collect()
    }
}

/// Words in lines of at most so many columns; a word that is longer stands alone.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && measure_text_width(&line) + 1 + measure_text_width(word) > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let columns = [
            Column::new("ID"),
            Column::new("AGENT").dispensable(1),
            Column::new("SIZE").right(),
            Column::new("NAME"),
        ];
        let mut table = Table::new(&columns);
        table.row(["1".into(), "sparky".into(), "7 B".into(), "hello-2.12.2".into()]);
        table.row(["22".into(), "ä".into(), "123 B".into(), "a-much-longer-name-than-that".into()]);
        table
    }

    #[test]
    fn columns_are_aligned_and_nothing_is_cut_without_a_limit() {
        let lines = table().lines(None);
        assert_eq!(lines[0], "ID  AGENT    SIZE  NAME");
        assert_eq!(lines[1], "1   sparky    7 B  hello-2.12.2");
        assert_eq!(lines[2], "22  ä       123 B  a-much-longer-name-than-that");
    }

    #[test]
    fn the_last_column_is_cut_first_and_dispensable_ones_go_then() {
        let lines = table().lines(Some(36));
        assert_eq!(lines[2], "22  ä       123 B  a-much-longer-na…");
        let lines = table().lines(Some(30));
        assert_eq!(lines[2], "22  123 B  a-much-longer-name…");
        assert!(table().lines(Some(9)).iter().all(|line| measure_text_width(line) <= 9));
    }

    #[test]
    fn words_are_wrapped_and_long_ones_stand_alone() {
        assert_eq!(
            wrap("waits for /gnu/store/long-path to come", 12),
            ["waits for", "/gnu/store/long-path", "to come"]
        );
        assert_eq!(wrap("", 5), [""]);
    }
}
