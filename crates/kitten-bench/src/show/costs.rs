//! Calls off the hot path as a table.

use comfy_table::{CellAlignment, Table, presets};

use crate::hotpath::costs::Costs;

/// What each call costs in microseconds, a column for each number of blocks.
pub fn text(costs: &[Costs]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    let header = costs.iter().map(|costs| format!("{} blocks", costs.blocks));
    table.set_header(std::iter::once("µs".to_owned()).chain(header));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    type Figure = fn(&Costs) -> f64;
    let rows: [(&str, Figure); 7] = [
        ("a malloc of loading that overflows", |costs| costs.loading),
        ("a malloc that falls to free shared memory, and its free", |costs| costs.overflow),
        ("a safe point at which nothing has changed", |costs| costs.safe_point),
        ("the statistics", |costs| costs.stats),
        ("the memory that can be had", |costs| costs.memory_info),
        ("emptying the cache when nothing is idle", |costs| costs.reset),
        ("a snapshot", |costs| costs.snapshot),
    ];
    for (name, nanoseconds) in rows {
        let cells = costs.iter().map(|costs| format!("{:.1}", nanoseconds(costs) / 1e3));
        table.add_row(std::iter::once(name.to_owned()).chain(cells));
    }
    format!("{table}\n\nMeasured on this machine's processor; five sixths of the blocks live, in both tiers.\n")
}
