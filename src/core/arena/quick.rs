//! Small blocks kept whole when they are freed, for the next request of the same size: quick lists,
//! as in Quick Fit.
//!
//! ```text
//!  size      512   1024   1536   2048  …  1 MiB
//!  newest     ▼      │      ▼      │        │
//!            #7             #3                 a list for each size, threaded through the nodes
//!             ▼
//!            #2
//! ```
//!
//! A program that runs layer after layer asks for the same few sizes again and again; such a
//! request takes a block back as it was, and nothing is merged and split in between. Merging is
//! only put off: whoever needs more than the lists have empties them first ([`QuickLists::drain`]),
//! and so does the [`LIMIT`]-th block in them.
//!
//! After C. B. Weinstock and W. A. Wulf, "Quick Fit: an efficient algorithm for heap storage
//! allocation", SIGPLAN Notices 23(10), 1988.

use super::node::{NIL, Nodes};
use crate::core::size::{ALIGNMENT, SMALL_LIMIT};

/// So many blocks at most are kept: it bounds what one request may have to merge.
const LIMIT: u32 = 256;
/// Sizes that have a list, the unused one of 0 bytes among them.
const SIZES: usize = (SMALL_LIMIT / ALIGNMENT) as usize + 1;

/// The lists. The links are inside the nodes.
#[derive(Debug)]
pub(super) struct QuickLists {
    heads: Box<[u32; SIZES]>,
    /// One bit for each size that was put in since the lists were last emptied.
    met: [u64; SIZES.div_ceil(64)],
    count: u32,
}

impl QuickLists {
    pub(super) fn new() -> Self {
        QuickLists { heads: Box::new([NIL; SIZES]), met: [0; SIZES.div_ceil(64)], count: 0 }
    }

    /// The block of this size that was put in last, if there is any. O(1).
    #[inline]
    pub(super) fn newest(&self, bytes: u64) -> Option<u32> {
        let head = *self.heads.get((bytes / ALIGNMENT) as usize)?;
        (head != NIL).then_some(head)
    }

    /// Takes [`newest`](QuickLists::newest) out. O(1).
    #[inline]
    pub(super) fn pop(&mut self, nodes: &Nodes, bytes: u64) {
        let head = &mut self.heads[(bytes / ALIGNMENT) as usize];
        debug_assert_ne!(*head, NIL);
        *head = nodes[*head].bin_next;
        self.count -= 1;
    }

    /// Puts a node in, unless there are too many: whether it is in. O(1).
    #[inline]
    pub(super) fn push(&mut self, nodes: &mut Nodes, id: u32) -> bool {
        if self.count == LIMIT {
            return false;
        }
        let node = &mut nodes[id];
        let size = (node.size / ALIGNMENT) as usize;
        node.bin_next = self.heads[size];
        self.heads[size] = id;
        self.met[size / 64] |= 1 << (size % 64);
        self.count += 1;
        true
    }

    /// Whether nothing is in.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes any node out.
    pub(super) fn drain(&mut self, nodes: &Nodes) -> Option<u32> {
        for (word, bits) in self.met.iter_mut().enumerate() {
            while *bits != 0 {
                let head = &mut self.heads[word * 64 + bits.trailing_zeros() as usize];
                if *head != NIL {
                    let id = *head;
                    *head = nodes[id].bin_next;
                    self.count -= 1;
                    return Some(id);
                }
                *bits &= *bits - 1;
            }
        }
        None
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.heads.fill(NIL);
        self.met.fill(0);
        self.count = 0;
    }

    /// Whether a node is in the list of its size. For checks: O(length of its list).
    pub(super) fn contains(&self, nodes: &Nodes, id: u32) -> bool {
        let mut at = self.heads[(nodes[id].size / ALIGNMENT) as usize];
        while at != NIL && at != id {
            at = nodes[at].bin_next;
        }
        at == id
    }

    /// How many nodes are in.
    pub(super) fn count(&self) -> usize {
        self.count as usize
    }
}
