//! The stacks of a snapshot or a history. Each is written once, and rows refer to it by its number.

use std::collections::HashMap;

use serde::{Serialize, Serializer};

use crate::abi::stacks::{Frame, Stack};
use crate::core::history::Who;

use super::write::Rows;

/// Stacks, numbered in the order in which rows first refer to them. As JSON, each stack is a list
/// of frames, the innermost first.
pub(super) struct Stacks<'a> {
    numbers: HashMap<*const Stack, usize>,
    named: Vec<&'a Stack>,
}

impl<'a> Stacks<'a> {
    /// The stacks of some rows.
    pub(super) fn of(rows: impl Iterator<Item = &'a Who>) -> Stacks<'a> {
        let mut stacks = Stacks { numbers: HashMap::new(), named: Vec::new() };
        for stack in rows.filter_map(stack_of) {
            stacks.numbers.entry(stack).or_insert_with(|| {
                stacks.named.push(stack);
                stacks.named.len() - 1
            });
        }
        stacks
    }

    /// The number of a row's stack, if the row has one.
    pub(super) fn number(&self, who: Option<&Who>) -> Option<usize> {
        self.numbers.get(&std::ptr::from_ref(who.and_then(stack_of)?)).copied()
    }
}

fn stack_of(who: &Who) -> Option<&Stack> {
    who.downcast_ref()
}

impl Serialize for Stacks<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.named.iter().map(|stack| Rows(stack.frames.iter().map(FrameRow::of))))
    }
}

#[derive(Serialize)]
struct FrameRow<'a> {
    filename: &'a str,
    line: u32,
    name: &'a str,
}

impl FrameRow<'_> {
    fn of(frame: &Frame) -> FrameRow<'_> {
        FrameRow { filename: &frame.code.filename, line: frame.line, name: &frame.code.name }
    }
}
