//! Seams: where free nodes of one stream in different tiers lie side by side, so that a block may
//! lie across them.
//!
//! ```text
//!   │ used │ free, dedicated │ free, shared │ used │ free, shared │ used │
//!                            ▲ a seam
//! ```
//!
//! Free neighbours in one tier are merged, so nothing else holds a block in more than one tier. A
//! seam is noted when a free node is listed, and looked at again only when someone searches. An
//! arena in which nothing is shared, or everything, has none and notes none.

use super::node::{Backing, NIL, Node, Nodes, State};

/// The nodes that had a seam behind them when they were listed.
#[derive(Debug, Default)]
pub(super) struct Seams {
    /// Whether the arena has backing in more than one tier.
    is_watching: bool,
    /// Each of them is marked as `seamed`.
    noted: Vec<u32>,
}

impl Seams {
    /// Says whether the arena has backing in more than one tier.
    pub(super) fn watch(&mut self, is_watching: bool) {
        self.is_watching = is_watching;
    }

    /// Forgets all seams, since all nodes are created anew.
    pub(super) fn clear(&mut self) {
        self.noted.clear();
    }

    /// Notes the seams of a free node that is listed now. O(1).
    #[inline]
    pub(super) fn note(&mut self, nodes: &mut Nodes, id: u32) {
        if self.is_watching {
            self.note_before_and_behind(nodes, id);
        }
    }

    fn note_before_and_behind(&mut self, nodes: &mut Nodes, id: u32) {
        for left in [nodes[id].prev, id] {
            if left != NIL && !nodes[left].seamed && is_seam(nodes, left) {
                nodes[left].seamed = true;
                self.noted.push(left);
            }
        }
    }

    /// The nodes that have a seam behind them. O(seams, and those that were noted since the last
    /// call and are gone).
    pub(super) fn all(&mut self, nodes: &mut Nodes) -> &[u32] {
        self.noted.retain(|left| {
            nodes[*left].seamed = is_seam(nodes, *left);
            nodes[*left].seamed
        });
        &self.noted
    }

    /// Whether the seam behind a node is known, if there is one. For checks: O(seams).
    pub(super) fn is_known(&self, nodes: &Nodes, left: u32) -> bool {
        !is_seam(nodes, left) || (nodes[left].seamed && self.noted.contains(&left))
    }
}

/// Whether a node and the next one are free, of one stream, and in different tiers.
fn is_seam(nodes: &Nodes, left: u32) -> bool {
    let node = &nodes[left];
    if node.next == NIL {
        return false;
    }
    let next = &nodes[node.next];
    let is_listed = |node: &Node| node.state == State::Free && node.backing != Backing::None;
    is_listed(node) && is_listed(next) && node.stream == next.stream && node.backing != next.backing
}
