//! The invariants of an arena, as a test.

use super::node::{Backing, BlockId, NIL, State};
use super::{Arena, Node};

impl Arena {
    /// Tests the invariants. O(nodes + granules).
    ///
    /// # Errors
    /// The first that does not hold, in words.
    pub fn check(&self) -> Result<(), String> {
        let (mut at, mut prev) = (0, NIL);
        let (mut live, mut live_bytes, mut walked, mut listed, mut kept) = (0, 0, 0, 0, 0);
        for id in self.nodes.walk() {
            let node = &self.nodes[id];
            if node.offset != at || node.prev != prev || node.size == 0 {
                return Err(format!("node {id} at {:#x} does not follow {at:#x}", node.offset));
            }
            if node.backing != self.granules.under(node.offset, node.size) {
                return Err(format!("node {id} at {at:#x} has {:?}, its granules differ", node.backing));
            }
            if node.is_free() {
                self.check_free(id, node, prev)?;
                *(if node.state == State::Kept { &mut kept } else { &mut listed }) += 1;
            } else {
                self.check_block(id, node)?;
                live += 1;
                live_bytes += node.size;
            }
            walked += 1;
            at += node.size;
            prev = id;
        }
        if at != self.length || walked != self.nodes.count() || live != self.live {
            return Err(format!("the nodes end at {at:#x} of {:#x}; {live} blocks of {}", self.length, self.live));
        }
        if live_bytes != self.live_bytes {
            return Err(format!("{live_bytes} bytes lie in blocks, {} are counted", self.live_bytes));
        }
        let counts = self.lists.counts(&self.nodes);
        if counts != (listed, kept) {
            return Err(format!("the lists hold {counts:?} nodes, {listed} are free and {kept} are kept"));
        }
        self.granules.check()
    }

    fn check_free(&self, id: u32, node: &Node, prev: u32) -> Result<(), String> {
        let at = node.offset;
        if node.backing == Backing::Mixed {
            return Err(format!("the free node {id} at {at:#x} lies in more than one tier"));
        }
        if node.state == State::Kept && node.backing == Backing::None {
            return Err(format!("the kept node {id} at {at:#x} has no backing"));
        }
        if prev != NIL && node.merges_with(&self.nodes[prev]) {
            return Err(format!("nodes {prev} and {id} at {at:#x} should be one"));
        }
        if !self.lists.contains(&self.nodes, id) {
            return Err(format!("the free node {id} at {at:#x} is in no list"));
        }
        if !self.lists.knows_seam(&self.nodes, id) {
            return Err(format!("the seam behind the free node {id} at {at:#x} is not noted"));
        }
        Ok(())
    }

    fn check_block(&self, id: u32, node: &Node) -> Result<(), String> {
        let at = node.offset;
        if node.backing == Backing::None {
            return Err(format!("block {id} at {at:#x} has no backing"));
        }
        let is_known = self.find(at) == Some(BlockId(id));
        if is_known != (node.state == State::Used) {
            return Err(format!("block {id} at {at:#x} and the table of starts disagree"));
        }
        Ok(())
    }
}
