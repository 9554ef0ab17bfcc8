//! A step's timeline as a picture.

use std::path::Path;

use anyhow::Result;
use giant_kitten::show_size;
use plotters::prelude::*;

use super::canvas::{Area, BLUE, Drawn, FAINT, FONT, GREEN, GREY, ORANGE, Picture, VERMILION, draw_into};
use crate::replay::timeline::{StepTimeline, Stretch};
use crate::text;

const WIDTH: i32 = 1200;
const LEFT: i32 = 170;
const RIGHT: i32 = 30;
/// Where the first lane begins, and how high a lane is.
const TOP: i32 = 104;
const LANE: i32 = 54;
const GAP: i32 = 22;
/// The height of the lane of the ring.
const RING: i32 = 96;

/// Draws a timeline. `title` names the work, the card and the placement.
///
/// # Errors
/// A file that cannot be written.
pub fn draw_timeline(line: &StepTimeline, title: &str, path: &Path) -> Result<()> {
    draw_into(path, &TimelinePicture { line, title })
}

/// A step in one sentence: what it takes, and why.
pub fn in_words(line: &StepTimeline) -> String {
    let total = |stretches: &[Stretch]| text::seconds(StepTimeline::total(stretches), 3);
    let hidden = line.hidden().map_or("nothing is copied ahead".to_owned(), |hidden| {
        format!(
            "{} are copied ahead in {} s, {:.0} % of it behind the work",
            show_size(line.copied_bytes),
            total(&line.copies),
            100.0 * hidden
        )
    });
    format!(
        "{} s: the card computes for {} s, reads and writes host memory in place for {} s, and waits {} s for \
         copies; {hidden}",
        text::seconds(line.seconds, 3),
        total(&line.computes),
        total(&line.in_place),
        total(&line.waits)
    )
}

/// A kind of stretches in a lane: which, their colour, and what they are.
type Kind<'a> = (&'a [Stretch], RGBColor, &'a str);

struct TimelinePicture<'a> {
    line: &'a StepTimeline,
    title: &'a str,
}

impl Picture for TimelinePicture<'_> {
    fn size(&self) -> (u32, u32) {
        (WIDTH as u32, (TOP + 3 * (LANE + GAP) + RING + 70) as u32)
    }

    fn draw<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        area.fill(&WHITE)?;
        let text = |words: String, at: (i32, i32), size: u32| Text::new(words, at, style(size));
        area.draw(&text(format!("What a step does when: {}", self.title), (24, 14), 22))?;
        area.draw(&text(in_words(self.line), (24, 44), 15))?;
        area.draw(&text("modelled on the simulated GPU; nothing here is measured".into(), (24, 66), 14))?;
        let line = self.line;
        let lanes: [(&str, &[Kind<'_>]); 3] = [
            ("the card", &[(&line.computes, BLUE, "computes"), (&line.in_place, VERMILION, "host memory in place")]),
            ("waits", &[(&line.waits, ORANGE, "for copies")]),
            ("the link", &[(&line.copies, GREEN, "copies ahead")]),
        ];
        let mut y = TOP;
        for (name, kinds) in lanes {
            self.draw_lane(area, y, name, kinds)?;
            y += LANE + GAP;
        }
        self.draw_ring(area, y)?;
        self.draw_axis(area, y + RING)
    }
}

fn style(size: u32) -> TextStyle<'static> {
    TextStyle::from((FONT, size)).color(&BLACK)
}

impl TimelinePicture<'_> {
    fn x(&self, time: f64) -> i32 {
        let width = f64::from(WIDTH - LEFT - RIGHT);
        LEFT + (width * time / self.line.seconds.max(f64::MIN_POSITIVE)).round() as i32
    }

    fn draw_lane<B: DrawingBackend>(&self, area: &Area<B>, y: i32, name: &str, kinds: &[Kind<'_>]) -> Drawn<B> {
        area.draw(&Text::new(name, (24, y + 8), style(16)))?;
        area.draw(&Rectangle::new([(LEFT, y), (WIDTH - RIGHT, y + LANE)], FAINT.filled()))?;
        for (number, (stretches, colour, what)) in kinds.iter().enumerate() {
            for (begin, end) in merged(stretches, |time| self.x(time)) {
                area.draw(&Rectangle::new([(begin, y), (end, y + LANE)], colour.filled()))?;
            }
            let legend = y + 26 + 14 * number as i32;
            area.draw(&Rectangle::new([(24, legend + 3), (33, legend + 12)], colour.filled()))?;
            area.draw(&Text::new(*what, (37, legend), style(12)))?;
        }
        Ok(())
    }

    /// What the ring holds, against its length.
    fn draw_ring<B: DrawingBackend>(&self, area: &Area<B>, y: i32) -> Drawn<B> {
        area.draw(&Text::new("the ring", (24, y + 8), style(16)))?;
        area.draw(&Text::new(show_size(self.line.ring_bytes), (24, y + 28), style(12)))?;
        area.draw(&Rectangle::new([(LEFT, y), (WIDTH - RIGHT, y + RING)], FAINT.filled()))?;
        let height = |bytes: u64| (f64::from(RING) * bytes as f64 / self.line.ring_bytes.max(1) as f64) as i32;
        let until = self.line.held.iter().skip(1).map(|(time, _)| *time).chain([self.line.seconds]);
        // Of all that one column of pixels shows, the most.
        let mut columns = vec![0; (WIDTH - LEFT - RIGHT + 1) as usize];
        for ((from, bytes), until) in self.line.held.iter().zip(until) {
            for x in self.x(*from)..=self.x(until) {
                if let Some(column) = columns.get_mut((x - LEFT).max(0) as usize) {
                    *column = height(*bytes).max(*column);
                }
            }
        }
        for (number, held) in columns.into_iter().enumerate().filter(|(_, held)| *held > 0) {
            let x = LEFT + number as i32;
            area.draw(&Rectangle::new([(x, y + RING - held), (x + 1, y + RING)], GREEN.mix(0.6).filled()))?;
        }
        Ok(())
    }

    fn draw_axis<B: DrawingBackend>(&self, area: &Area<B>, y: i32) -> Drawn<B> {
        for tenth in 0..=10 {
            let time = self.line.seconds * f64::from(tenth) / 10.0;
            let x = self.x(time);
            area.draw(&PathElement::new([(x, TOP), (x, y + 5)], GREY.mix(0.5).stroke_width(1)))?;
            area.draw(&Text::new(format!("{} s", text::seconds(time, 3)), (x - 18, y + 10), style(13)))?;
        }
        Ok(())
    }
}

/// The stretches in pixels. Those that touch are one, and each is at least one pixel wide.
fn merged(stretches: &[Stretch], x: impl Fn(f64) -> i32) -> Vec<(i32, i32)> {
    let mut merged: Vec<(i32, i32)> = Vec::new();
    for (begin, end) in stretches {
        let (begin, end) = (x(*begin), x(*end));
        match merged.last_mut() {
            Some(last) if begin <= last.1 => last.1 = last.1.max(end),
            _ if begin == end => {}
            _ => merged.push((begin, end)),
        }
    }
    merged
}
