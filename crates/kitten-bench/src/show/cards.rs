//! The known cards as a table.

use comfy_table::{CellAlignment, Table, presets};
use giant_kitten::show_size;
use kitten_sim::Card;

/// The cards with their published figures.
pub fn text(cards: &[Card]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["card", "memory", "bandwidth", "link", "over the link", "half precision"]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for card in cards {
        table.add_row([
            card.name.clone(),
            show_size(card.memory_bytes),
            format!("{:.0} GB/s", card.vram_bandwidth / 1e9),
            card.link.to_string(),
            format!("{:.1} GB/s", card.link.rate() / 1e9),
            format!("{:.1} TFLOPS", card.fp16_rate / 1e12),
        ]);
    }
    format!(
        "{table}\n\nAll figures are nominal: published, not measured (--json has the source of each). A profile takes \
         0.8 GiB\nof the memory for context and desktop, and five sixths of the link's raw rate.\n"
    )
}
