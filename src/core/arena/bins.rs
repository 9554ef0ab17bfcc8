//! An index of free blocks by size: two levels of bitmaps over lists, as in a TLSF allocator.
//!
//! ```text
//!  rows:    one for each power of two        columns: 32 equal steps within the power
//!  ┌──────┐   ┌──┬──┬──┬── … ──┬──┐
//!  │ row 0│──▶│ 0│ 1│ 2│       │31│   1 … 31 units of 512 bytes, each size in a list of its own
//!  │ row 1│──▶│32│33│34│       │63│   32 … 63 units
//!  │ row 2│──▶│64│66│68│       │  │   64 … 127 units, two sizes a list
//!  │  …   │        │
//!  └──────┘        └─▶ block ⇄ block ⇄ block     newest first
//! ```
//!
//! A bit for each row and for each list says which are not empty, so the next larger list that
//! holds anything is found by counting zeros. Within a list, whose sizes are within 1/32 of each
//! other, a bounded number of blocks is compared, and of those that fit the one at the lowest
//! offset is taken: the ends of an arena stay whole, which spares more than the tightest fit does.
//! The worst case is O(1), with [`SCAN`] as its constant.
//!
//! After M. Masmano et al., "TLSF: a new dynamic memory allocator for real-time systems", ECRTS
//! 2004; the search of the request's own list first, for repeated sizes, is ours.

use super::node::{NIL, Node, Nodes};
use crate::core::size::ALIGNMENT;

/// Columns in a row; 32 keep the widest step at 1/32 of the size.
const COLUMNS: usize = 32;
/// Rows: sizes up to 2^35 units, 16 TiB.
const ROWS: usize = 32;
/// How many blocks of one list are compared.
const SCAN: usize = 24;

/// Free blocks of one kind (one tier, one stream), findable by size. The links are inside the
/// nodes.
#[derive(Debug)]
pub(super) struct Bins {
    rows: u32,
    columns: [u32; ROWS],
    heads: [[u32; COLUMNS]; ROWS],
}

/// The list a size belongs to.
#[inline]
fn place(bytes: u64) -> (usize, usize) {
    let units = bytes / ALIGNMENT;
    if units < COLUMNS as u64 {
        return (0, units as usize);
    }
    let power = 63 - units.leading_zeros();
    let row = (power - 4) as usize;
    let column = (units >> (power - 5)) as usize & (COLUMNS - 1);
    (row, column)
}

impl Default for Bins {
    fn default() -> Self {
        Bins { rows: 0, columns: [0; ROWS], heads: [[NIL; COLUMNS]; ROWS] }
    }
}

impl Bins {
    /// Puts a free node in. O(1).
    #[inline]
    pub(super) fn insert(&mut self, nodes: &mut Nodes, id: u32) {
        let (row, column) = place(nodes[id].size);
        let head = self.heads[row][column];
        nodes[id].bin_prev = NIL;
        nodes[id].bin_next = head;
        if head != NIL {
            nodes[head].bin_prev = id;
        }
        self.heads[row][column] = id;
        self.columns[row] |= 1 << column;
        self.rows |= 1 << row;
    }

    /// Takes a node out that is in. Its size must be what it was when it was put in. O(1).
    #[inline]
    pub(super) fn remove(&mut self, nodes: &mut Nodes, id: u32) {
        let Node { size, bin_prev, bin_next, .. } = nodes[id];
        if bin_next != NIL {
            nodes[bin_next].bin_prev = bin_prev;
        }
        if bin_prev != NIL {
            nodes[bin_prev].bin_next = bin_next;
            return;
        }
        let (row, column) = place(size);
        self.heads[row][column] = bin_next;
        if bin_next == NIL {
            self.columns[row] &= !(1 << column);
            if self.columns[row] == 0 {
                self.rows &= !(1 << row);
            }
        }
    }

    /// A node of at least `bytes`: the lowest among the first [`SCAN`] of the nearest list that has
    /// one. O(1).
    #[inline]
    pub(super) fn find(&self, nodes: &Nodes, bytes: u64) -> Option<u32> {
        let (row, column) = place(bytes);
        if self.columns[row] & (1 << column) != 0
            && let Some(found) = lowest_fit(nodes, self.heads[row][column], bytes)
        {
            return Some(found);
        }
        let wider = self.columns[row] & (u32::MAX << column) & !(1 << column);
        if wider != 0 {
            return lowest_fit(nodes, self.heads[row][wider.trailing_zeros() as usize], bytes);
        }
        let larger = if row + 1 < ROWS { self.rows & (u32::MAX << (row + 1)) } else { 0 };
        if larger == 0 {
            return None;
        }
        let row = larger.trailing_zeros() as usize;
        let column = self.columns[row].trailing_zeros() as usize;
        lowest_fit(nodes, self.heads[row][column], bytes)
    }

    fn list<'a>(&self, nodes: &'a Nodes, (row, column): (usize, usize)) -> impl Iterator<Item = u32> + use<'a> {
        let mut id = self.heads[row][column];
        std::iter::from_fn(move || {
            let here = (id != NIL).then_some(id)?;
            id = nodes[here].bin_next;
            Some(here)
        })
    }

    /// Whether a node is in the list where it belongs. For checks: O(length of its list).
    pub(super) fn contains(&self, nodes: &Nodes, id: u32) -> bool {
        let (row, column) = place(nodes[id].size);
        let marked = self.rows & (1 << row) != 0 && self.columns[row] & (1 << column) != 0;
        marked && self.list(nodes, (row, column)).any(|found| found == id)
    }

    /// How many nodes are in. For checks: O(nodes).
    pub(super) fn count(&self, nodes: &Nodes) -> usize {
        self.longest(nodes, 0).count()
    }

    /// Whether nothing is in.
    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The nodes of at least `bytes`, the longest first, to within the width of a list.
    pub(super) fn longest<'a>(&'a self, nodes: &'a Nodes, bytes: u64) -> impl Iterator<Item = u32> + 'a {
        let least = place(bytes);
        let rows = (least.0..ROWS).rev().filter(|row| self.rows & (1 << row) != 0);
        let lists = rows.flat_map(|row| (0..COLUMNS).rev().map(move |column| (row, column)));
        let lists = lists.filter(|(row, column)| self.columns[*row] & (1 << column) != 0);
        let lists = lists.take_while(move |place| *place >= least);
        lists.flat_map(|place| self.list(nodes, place)).filter(move |id| nodes[*id].size >= bytes)
    }
}

/// The node at the lowest offset of a list that holds `bytes`.
#[inline]
fn lowest_fit(nodes: &Nodes, head: u32, bytes: u64) -> Option<u32> {
    let (mut lowest, mut at) = (NIL, u64::MAX);
    let mut id = head;
    for _ in 0..SCAN {
        if id == NIL {
            break;
        }
        let node = &nodes[id];
        if node.size >= bytes && node.offset < at {
            (lowest, at) = (id, node.offset);
        }
        id = node.bin_next;
    }
    (lowest != NIL).then_some(lowest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_monotonous_and_tight() {
        let mut last = (0, 0);
        for units in 1..200_000u64 {
            let here = place(units * ALIGNMENT);
            assert!(here >= last, "{units} units went back from {last:?} to {here:?}");
            last = here;
        }
        assert_eq!(place(31 * ALIGNMENT), (0, 31));
        assert_eq!(place(32 * ALIGNMENT), (1, 0));
        assert_eq!(place(63 * ALIGNMENT), (1, 31));
        assert_eq!(place(64 * ALIGNMENT), (2, 0));
        assert!(place(1 << 44).0 < ROWS);
    }
}
