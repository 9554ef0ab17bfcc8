//! Charts: a sweep, and a card compared with the model.

use std::path::Path;

use anyhow::{Result, bail};
use plotters::coord::CoordTranslate;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::canvas::{Area, BLUE, Drawn, FAINT, FONT, Format, GREEN, GREY, Picture, VERMILION, draw, draw_into};
use crate::replay::Compared;
use crate::replay::sweep::{PLATEAU, Sweep};
use crate::text;

const GIB: f64 = (1u64 << 30) as f64;
/// The height of a sweep's chart by that of its highest point: the legend lies above the points.
const HEADROOM: f64 = 1.5;

/// The area of a chart with linear axes.
type Chart<'a, B> = ChartContext<'a, B, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Draws a sweep.
///
/// # Errors
/// A file that cannot be written; a sweep without a single time.
pub fn plot_sweep(sweep: &Sweep, path: &Path) -> Result<()> {
    if sweep.best().is_none() {
        bail!("there is nothing to draw: every reserve ran out of memory");
    }
    draw_into(path, sweep)
}

impl Picture for Sweep {
    fn size(&self) -> (u32, u32) {
        (900, 560)
    }

    fn draw<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        let points: Vec<(f64, f64)> =
            self.points.iter().filter_map(|p| Some((p.reserve_bytes as f64 / GIB, p.seconds?))).collect();
        let lines = [("first-come", self.first_come, VERMILION), ("all dedicated", self.limit, GREY)];
        let highest = points.iter().map(|p| p.1).chain(lines.iter().filter_map(|l| l.1)).fold(0.0, f64::max);
        let (left, right) = (points.first().map_or(0.0, |p| p.0), points.last().map_or(1.0, |p| p.0));
        let right = if right > left { right } else { left + 1.0 };

        area.fill(&WHITE)?;
        draw_title(area, &format!("Seconds per step against the reserve: {}", self.trace))?;
        let subtitle = TextStyle::from((FONT, 15)).color(&RGBColor(90, 90, 90));
        let under = format!("modelled on the simulated GPU, profile {}; nothing here is measured", self.profile);
        area.draw(&Text::new(under, (24, 44), subtitle))?;

        let mut chart = layout(area, 72).build_cartesian_2d(left..right, 0.0..highest * HEADROOM)?;
        chart
            .configure_mesh()
            .x_desc("reserve, GiB")
            .y_desc("seconds per step")
            .axis_desc_style((FONT, 16))
            .label_style((FONT, 14))
            .light_line_style(WHITE)
            .bold_line_style(FAINT)
            .x_labels(12)
            .y_labels(8)
            .draw()?;
        draw_plateau(self, &mut chart, right - left, highest)?;
        for (name, seconds, colour) in lines {
            let Some(seconds) = seconds else { continue };
            chart
                .draw_series(DashedLineSeries::new([(left, seconds), (right, seconds)], 8, 5, colour.stroke_width(2)))?
                .label(format!("{name}: {} s", text::seconds(seconds, 2)))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], colour.stroke_width(2)));
        }
        chart
            .draw_series(LineSeries::new(points.iter().copied(), BLUE.stroke_width(3)))?
            .label("this reserve")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 22, y)], BLUE.stroke_width(3)));
        draw_best(self, &mut chart)?;
        draw_legend(&mut chart, SeriesLabelPosition::UpperRight)
    }
}

/// The reserves that are good enough, as a band behind the lines.
fn draw_plateau<'a, B: DrawingBackend + 'a>(
    sweep: &Sweep,
    chart: &mut Chart<'a, B>,
    width: f64,
    highest: f64,
) -> Drawn<B> {
    let Some((low, high)) = sweep.plateau() else { return Ok(()) };
    let (low, high) = (low as f64 / GIB, high as f64 / GIB);
    let name = format!("within {:.0} % of the best: {low:.2} to {high:.2} GiB", (PLATEAU - 1.0) * 100.0);
    let half = if high > low { 0.0 } else { width / 200.0 };
    chart
        .draw_series([Rectangle::new([(low - half, 0.0), (high + half, highest)], GREEN.mix(0.15).filled())])?
        .label(name)
        .legend(|(x, y)| Rectangle::new([(x, y - 6), (x + 22, y + 6)], GREEN.mix(0.3).filled()));
    Ok(())
}

fn draw_best<'a, B: DrawingBackend + 'a>(sweep: &Sweep, chart: &mut Chart<'a, B>) -> Drawn<B> {
    let best = sweep.best().and_then(|p| Some((p.reserve_bytes as f64 / GIB, p.seconds?)));
    let Some((best, seconds)) = best else { return Ok(()) };
    chart
        .draw_series([Circle::new((best, seconds), 5, BLUE.filled())])?
        .label(format!("best: {} s with {best:.2} GiB", text::seconds(seconds, 2)))
        .legend(|(x, y)| Circle::new((x + 11, y), 5, BLUE.filled()));
    Ok(())
}

/// The seconds that a card took for each step against those of the model, as SVG. `real` says
/// whether the card is real.
///
/// # Errors
/// No point at all.
pub fn plot_compared(points: &[Compared], real: bool) -> Result<Vec<u8>> {
    if points.is_empty() {
        bail!("there is nothing to draw: no step was replayed on a card");
    }
    draw(Format::Svg, &CardAgainstModel { points, real })
}

struct CardAgainstModel<'a> {
    points: &'a [Compared],
    real: bool,
}

impl Picture for CardAgainstModel<'_> {
    fn size(&self) -> (u32, u32) {
        (760, 700)
    }

    fn draw<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        let all = || self.points.iter().flat_map(|point| [point.modelled, point.card]);
        let (low, high) = (all().fold(f64::MAX, f64::min).max(1e-6) / 1.5, all().fold(1e-6, f64::max) * 1.5);
        area.fill(&WHITE)?;
        let (title, clock) = match self.real {
            true => ("Measured against modelled", "measured seconds per step"),
            false => ("A fake card against the model: nothing here is measured", "the fake card's seconds per step"),
        };
        draw_title(area, title)?;
        let mut chart = layout(area, 56).build_cartesian_2d((low..high).log_scale(), (low..high).log_scale())?;
        chart
            .configure_mesh()
            .x_desc("modelled seconds per step")
            .y_desc(clock)
            .axis_desc_style((FONT, 16))
            .label_style((FONT, 14))
            .light_line_style(WHITE)
            .bold_line_style(FAINT)
            .draw()?;
        chart
            .draw_series(DashedLineSeries::new([(low, low), (high, high)], 8, 5, GREY.stroke_width(2)))?
            .label("as modelled")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 22, y)], GREY.stroke_width(2)));
        for (name, first_come, colour) in [("first-come", true, VERMILION), ("reserve", false, BLUE)] {
            let of_kind = self.points.iter().filter(|point| point.first_come == first_come);
            chart
                .draw_series(of_kind.map(|point| Circle::new((point.modelled, point.card), 5, colour.filled())))?
                .label(name)
                .legend(move |(x, y)| Circle::new((x + 11, y), 5, colour.filled()));
        }
        draw_legend(&mut chart, SeriesLabelPosition::UpperLeft)
    }
}

fn draw_title<B: DrawingBackend>(area: &Area<B>, title: &str) -> Drawn<B> {
    area.draw(&Text::new(title, (24, 16), TextStyle::from((FONT, 22)).color(&BLACK)))
}

/// The margins and labels of all charts.
fn layout<'a, B: DrawingBackend>(area: &'a Area<B>, top: i32) -> ChartBuilder<'a, 'a, B> {
    let mut builder = ChartBuilder::on(area);
    builder.margin_top(top).margin_right(30).margin_bottom(12).margin_left(12);
    builder.x_label_area_size(48).y_label_area_size(62);
    builder
}

/// The legend of all charts.
fn draw_legend<'a, B, C>(chart: &mut ChartContext<'a, B, C>, position: SeriesLabelPosition) -> Drawn<B>
where
    B: DrawingBackend + 'a,
    C: CoordTranslate,
{
    chart
        .configure_series_labels()
        .position(position)
        .label_font((FONT, 15))
        .background_style(WHITE.mix(0.9))
        .border_style(FAINT)
        .legend_area_size(32)
        .draw()
}
