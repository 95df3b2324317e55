//! A small tree in memory.

use std::collections::BTreeMap;

use super::{Visitor, Writer};

/// A small tree in memory, to make nars of: a key, a script, a test's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A file.
    File {
        /// Whether it may be run.
        executable: bool,
        /// Its bytes.
        contents: Vec<u8>,
    },
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// A directory, by the names of its entries.
    Directory(BTreeMap<Vec<u8>, Node>),
}

impl Node {
    /// A file that is not executable.
    pub fn file(contents: impl Into<Vec<u8>>) -> Self {
        Self::File { executable: false, contents: contents.into() }
    }

    /// An executable file.
    pub fn program(contents: impl Into<Vec<u8>>) -> Self {
        Self::File { executable: true, contents: contents.into() }
    }

    /// The nar of this tree.
    pub fn to_nar(&self) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        // A vector takes every byte, so neither step can fail.
        self.visit(&mut writer).and_then(|()| writer.finish()).unwrap_or_default()
    }

    /// Tells `visitor` about this tree.
    ///
    /// # Errors
    /// Those of the visitor.
    pub fn visit(&self, visitor: &mut impl Visitor) -> Result<(), super::Error> {
        match self {
            Self::File { executable, contents } => {
                visitor.regular(*executable, contents.len() as u64)?;
                visitor.contents(contents)?;
                visitor.end_regular()
            }
            Self::Symlink(target) => visitor.symlink(target),
            Self::Directory(entries) => {
                visitor.directory()?;
                for (name, node) in entries {
                    visitor.entry(name)?;
                    node.visit(visitor)?;
                }
                visitor.leave()
            }
        }
    }
}
