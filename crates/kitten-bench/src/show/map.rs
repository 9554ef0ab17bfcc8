//! The memory map as a picture.

use std::path::Path;

use anyhow::Result;
use giant_kitten::{Tier, show_size};
use plotters::prelude::*;

use super::canvas::{Area, BLUE, Drawn, FONT, GREEN, GREY, ORANGE, Picture, draw_into};
use crate::replay::Busiest;
use crate::text::plain;

const CELL: i32 = 9;
const COLUMNS: i32 = 100;
/// Where the first arena begins.
const TOP: i32 = 118;
/// The height of a line of the table.
const LINE: i32 = 18;
/// The cells of the scale.
const SCALE: i32 = 25;

/// Draws a memory map: one cell for each granule.
///
/// # Errors
/// A file that cannot be written.
pub fn draw_map(at: &Busiest, title: &str, path: &Path) -> Result<()> {
    draw_into(path, &MapPicture { at, title })
}

struct MapPicture<'a> {
    at: &'a Busiest,
    title: &'a str,
}

impl Picture for MapPicture<'_> {
    fn size(&self) -> (u32, u32) {
        let arenas = &self.at.map.arenas;
        let rows: u64 = arenas.iter().map(|arena| (arena.granules.len() as u64).div_ceil(COLUMNS as u64)).sum();
        let table = if self.at.modules.is_empty() { 0 } else { LINE as u64 * (self.at.modules.len() as u64 + 1) };
        let height = 150 + rows * CELL as u64 + 34 * arenas.len() as u64 + table;
        (COLUMNS as u32 * CELL as u32 + 48, u32::try_from(height).unwrap_or(u32::MAX))
    }

    fn draw<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        area.fill(&WHITE)?;
        self.draw_figures(area)?;
        draw_legend(area)?;
        let below = self.draw_arenas(area)?;
        self.draw_scale(area)?;
        self.draw_modules(area, below)
    }
}

fn style(size: u32) -> TextStyle<'static> {
    TextStyle::from((FONT, size)).color(&BLACK)
}

impl MapPicture<'_> {
    fn draw_figures<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        let Busiest { map, stats, .. } = self.at;
        area.draw(&Text::new(format!("Memory map: {}", self.title), (24, 14), style(22)))?;
        let figures = |tier: Tier| {
            let s = &stats.tiers[tier];
            format!(
                "{tier}: {} of blocks in {} mapped, of {}",
                show_size(s.allocated.current()),
                show_size(s.mapped.current()),
                show_size(stats.capacity[tier])
            )
        };
        let line = format!("{}   |   {}", figures(Tier::Dedicated), figures(Tier::Shared));
        area.draw(&Text::new(line, (24, 42), style(14)))?;
        let line = format!(
            "phase {}, reserve {}, {} of it in stock; one cell is {}; on the simulated GPU",
            stats.phase.name(),
            show_size(stats.reserve),
            show_size(map.stock[Tier::Dedicated].min(stats.reserve)),
            show_size(map.granule)
        );
        area.draw(&Text::new(line, (24, 62), style(14)))
    }

    /// Draws the arenas; returns where they end.
    fn draw_arenas<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B, i32> {
        let mut y = TOP;
        for arena in &self.at.map.arenas {
            let heading = format!("{} arena, {} blocks", arena.purpose, arena.class);
            area.draw(&Text::new(heading, (24, y), style(14)))?;
            y += 20;
            for (i, granule) in arena.granules.iter().enumerate() {
                let Some(tier) = granule.tier else { continue };
                let at = (24 + (i as i32 % COLUMNS) * CELL, y + (i as i32 / COLUMNS) * CELL);
                draw_cell(area, at, CELL - 1, [granule.model, granule.scratch, granule.other], tier)?;
            }
            y += (arena.granules.len() as i32 + COLUMNS - 1) / COLUMNS * CELL + 14;
        }
        Ok(y)
    }

    /// Draws how long a number of bytes is, above the right end of the rows.
    fn draw_scale<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        let (to, y) = (24 + COLUMNS * CELL - 1, TOP + 6);
        let from = to - SCALE * CELL;
        area.draw(&PathElement::new([(from, y), (to, y)], BLACK.stroke_width(1)))?;
        for end in [from, to] {
            area.draw(&PathElement::new([(end, y - 4), (end, y + 4)], BLACK.stroke_width(1)))?;
        }
        let label = show_size(SCALE as u64 * self.at.map.granule);
        area.draw(&Text::new(label, (from - 72, y - 8), style(14)))
    }

    fn draw_modules<B: DrawingBackend>(&self, area: &Area<B>, mut y: i32) -> Drawn<B> {
        if self.at.modules.is_empty() {
            return Ok(());
        }
        let mut line = |name: &str, dedicated: &str, shared: &str| {
            for (text, x) in [(name, 24), (dedicated, 424), (shared, 564)] {
                area.draw(&Text::new(text.to_owned(), (x, y), style(14)))?;
            }
            y += LINE;
            Ok(())
        };
        line("weights by module", "dedicated", "shared")?;
        let size = |bytes| if bytes > 0 { show_size(bytes) } else { "\u{2013}".to_owned() };
        let mut modules = self.at.modules.iter();
        modules.try_for_each(|module| line(&plain(&module.name), &size(module.dedicated), &size(module.shared)))
    }
}

fn draw_legend<B: DrawingBackend>(area: &Area<B>) -> Drawn<B> {
    let mut x = 24;
    let legend = [("model", [1, 0, 0]), ("scratch", [0, 1, 0]), ("other", [0, 0, 1]), ("free", [0, 0, 0])];
    for (name, kinds) in legend {
        for tier in Tier::ALL {
            draw_cell(area, (x, 92), 14, kinds, tier)?;
            let label = format!("{name}, {tier}");
            area.draw(&Text::new(label.clone(), (x + 19, 91), style(13)))?;
            x += 24 + 6 * label.len() as i32;
        }
    }
    Ok(())
}

/// A granule's colour: that of the largest part of its contents.
fn colour_of(kinds: [u64; 3]) -> RGBColor {
    let [model, scratch, other] = kinds;
    match model.max(scratch).max(other) {
        0 => WHITE,
        most if most == model => BLUE,
        most if most == scratch => ORANGE,
        _ => GREEN,
    }
}

/// Draws a granule: filled in the dedicated tier, framed with a faint filling in the shared one.
fn draw_cell<B: DrawingBackend>(
    area: &Area<B>,
    (x, y): (i32, i32),
    size: i32,
    kinds: [u64; 3],
    tier: Tier,
) -> Drawn<B> {
    let colour = colour_of(kinds);
    let frame = if colour == WHITE { GREY } else { colour };
    let filling = match tier {
        Tier::Dedicated if colour == WHITE => GREY.mix(0.45),
        Tier::Dedicated => colour.mix(1.0),
        Tier::Shared => colour.mix(0.22),
    };
    area.draw(&Rectangle::new([(x, y), (x + size, y + size)], filling.filled()))?;
    area.draw(&Rectangle::new([(x, y), (x + size, y + size)], frame.stroke_width(1)))
}
