//! The layout of a step as a picture: addresses upwards, calls from left to right.

use std::path::Path;

use anyhow::Result;
use giant_kitten::show_size;
use plotters::prelude::*;

use super::canvas::{Area, BLUE, Drawn, FAINT, FONT, GREEN, GREY, ORANGE, Picture, VERMILION, draw_into};
use crate::replay::layout::{Laid, StepLayout};

const WIDTH: i32 = 1200;
const HEIGHT: i32 = 760;
const LEFT: i32 = 110;
const RIGHT: i32 = 30;
const TOP: i32 = 92;
const BOTTOM: i32 = 48;

/// Draws a layout. `title` names the work, the card and how blocks are laid out.
///
/// # Errors
/// A file that cannot be written.
pub fn draw_layout(layout: &StepLayout, title: &str, path: &Path) -> Result<()> {
    draw_into(path, &LayoutPicture { layout, title })
}

/// A layout in one sentence.
pub fn layout_in_words(layout: &StepLayout) -> String {
    let come_and_go = layout.blocks.iter().filter(|block| block.from > 0).count();
    format!(
        "{come_and_go} large blocks are allocated; {} live at most, in {} that are backed ({:.2} %)",
        show_size(layout.live_bytes),
        show_size(layout.backed_bytes),
        100.0 * layout.backed_bytes as f64 / layout.live_bytes.max(1) as f64
    )
}

struct LayoutPicture<'a> {
    layout: &'a StepLayout,
    title: &'a str,
}

fn style(size: u32) -> TextStyle<'static> {
    TextStyle::from((FONT, size)).color(&BLACK)
}

impl Picture for LayoutPicture<'_> {
    fn size(&self) -> (u32, u32) {
        (WIDTH as u32, HEIGHT as u32)
    }

    fn draw<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        area.fill(&WHITE)?;
        area.draw(&Text::new(format!("Where large blocks lie: {}", self.title), (24, 14), style(22)))?;
        area.draw(&Text::new(layout_in_words(self.layout), (24, 44), style(15)))?;
        let legend = "on the simulated GPU; addresses upwards, calls to the right; grey lives throughout";
        area.draw(&Text::new(legend, (24, 66), style(14)))?;
        area.draw(&Rectangle::new([(LEFT, TOP), (WIDTH - RIGHT, HEIGHT - BOTTOM)], FAINT.filled()))?;
        for (number, block) in self.layout.blocks.iter().enumerate() {
            self.draw_block(area, number, block)?;
        }
        self.draw_axes(area)
    }
}

impl LayoutPicture<'_> {
    /// The end of the highest block.
    fn top(&self) -> u64 {
        self.layout.blocks.iter().map(|block| block.offset + block.bytes).max().unwrap_or(1)
    }

    fn x(&self, call: u64) -> i32 {
        LEFT + (f64::from(WIDTH - LEFT - RIGHT) * call as f64 / self.layout.calls.max(1) as f64) as i32
    }

    fn y(&self, offset: u64) -> i32 {
        HEIGHT - BOTTOM - (f64::from(HEIGHT - TOP - BOTTOM) * offset as f64 / self.top() as f64) as i32
    }

    fn draw_block<B: DrawingBackend>(&self, area: &Area<B>, number: usize, block: &Laid) -> Drawn<B> {
        let stays = block.from == 0 && block.to == self.layout.calls;
        let colour = if stays { GREY } else { [BLUE, GREEN, ORANGE, VERMILION][number % 4] };
        let (from, to) = (self.x(block.from), self.x(block.to).max(self.x(block.from) + 1));
        let (high, low) = (self.y(block.offset + block.bytes), self.y(block.offset));
        area.draw(&Rectangle::new([(from, high), (to, low.max(high + 1))], colour.mix(0.8).filled()))
    }

    fn draw_axes<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        for eighth in 0..=8u64 {
            let offset = self.top() * eighth / 8;
            area.draw(&Text::new(show_size(offset), (12, self.y(offset) - 7), style(13)))?;
            let call = self.layout.calls * eighth / 8;
            area.draw(&Text::new(call.to_string(), (self.x(call) - 12, HEIGHT - BOTTOM + 10), style(13)))?;
        }
        area.draw(&Text::new("calls", (LEFT, HEIGHT - 22), style(13)))
    }
}
