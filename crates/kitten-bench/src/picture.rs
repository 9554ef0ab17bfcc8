//! Pictures: the plot of a sweep, the memory map, a card against the model. SVG or PNG by the file's extension.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use giant_kitten::{MemoryMap, Stats, Tier, show_size};
use image::codecs::png::PngEncoder;
use image::{ColorType, ImageEncoder};
use plotters::coord::CoordTranslate;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::output;
use crate::report::Compared;
use crate::sweep::{PLATEAU, Sweep};
use crate::text::shown;

/// Colours that differ for every kind of eye (Okabe and Ito's).
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(230, 159, 0);
const GREEN: RGBColor = RGBColor(0, 158, 115);
const VERMILION: RGBColor = RGBColor(213, 94, 0);
const GREY: RGBColor = RGBColor(150, 150, 150);
const FAINT: RGBColor = RGBColor(232, 232, 232);
const FONT: &str = "sans-serif";

/// Whether a picture can be written to this file.
///
/// # Errors
/// An extension other than .svg and .png.
pub fn check_extension(path: &Path) -> Result<()> {
    Format::of(path).map(drop)
}

/// Makes the fonts known; pictures must not depend on what a machine has installed.
fn fonts() -> Result<()> {
    let font = epaint_default_fonts::UBUNTU_LIGHT;
    plotters::style::register_font(FONT, FontStyle::Normal, font)
        .map_err(|_| anyhow!("the built-in font is not readable"))
}

/// What a picture is written as.
#[derive(Clone, Copy, PartialEq)]
enum Format {
    Svg,
    Png,
}

impl Format {
    /// What a file is to be, by its extension.
    fn of(path: &Path) -> Result<Format> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("svg") => Ok(Format::Svg),
            Some("png") => Ok(Format::Png),
            _ => bail!("{}: pictures are written as .svg or .png", shown(path)),
        }
    }
}

/// A picture may not be higher, in pixels.
const HIGHEST: u32 = 30_000;

/// Draws on an area that becomes the bytes of a file.
fn draw(format: Format, size: (u32, u32), paint: impl Fn(&dyn Canvas) -> Result<()>) -> Result<Vec<u8>> {
    fonts()?;
    let (width, height) = size;
    ensure!(
        height <= HIGHEST,
        "the picture would be {height} pixels high, more than {HIGHEST}: draw less memory, larger granules, or a page (.html)"
    );
    match format {
        Format::Svg => {
            let mut text = String::new();
            {
                let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
                paint(&area)?;
                area.present().map_err(|why| anyhow!("{why}"))?;
            }
            Ok(text.into_bytes())
        }
        Format::Png => {
            let mut pixels = vec![0; width as usize * height as usize * 3];
            {
                let area = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
                paint(&area)?;
                area.present().map_err(|why| anyhow!("{why}"))?;
            }
            let mut bytes = Vec::new();
            PngEncoder::new(&mut bytes).write_image(&pixels, width, height, ColorType::Rgb8)?;
            Ok(bytes)
        }
    }
}

/// Draws into a file.
fn draw_into(path: &Path, size: (u32, u32), paint: impl Fn(&dyn Canvas) -> Result<()>) -> Result<()> {
    let drawn = draw(Format::of(path)?, size, paint).with_context(|| format!("cannot draw {}", shown(path)))?;
    output::write(path, &drawn)
}

/// What both kinds of file can do.
trait Canvas {
    fn sweep(&self, sweep: &Sweep) -> Result<()>;
    fn map(&self, map: &MemoryMap, stats: &Stats, title: &str) -> Result<()>;
    fn compared(&self, points: &[Compared], real: bool) -> Result<()>;
}

impl<B: DrawingBackend> Canvas for DrawingArea<B, Shift>
where
    B::ErrorType: 'static,
{
    fn sweep(&self, sweep: &Sweep) -> Result<()> {
        paint_sweep(self, sweep).map_err(|why| anyhow!("{why}"))
    }

    fn map(&self, map: &MemoryMap, stats: &Stats, title: &str) -> Result<()> {
        paint_map(self, map, stats, title).map_err(|why| anyhow!("{why}"))
    }

    fn compared(&self, points: &[Compared], real: bool) -> Result<()> {
        paint_compared(self, points, real).map_err(|why| anyhow!("{why}"))
    }
}

/// Draws a sweep.
///
/// # Errors
/// A file that cannot be written; a sweep without a single time.
pub fn plot_sweep(sweep: &Sweep, path: &Path) -> Result<()> {
    if sweep.best().is_none() {
        bail!("there is nothing to draw: no reserve got through");
    }
    draw_into(path, (900, 560), |canvas| canvas.sweep(sweep))
}

const GIB: f64 = (1u64 << 30) as f64;

fn paint_sweep<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    sweep: &Sweep,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let points: Vec<(f64, f64)> =
        sweep.points.iter().filter_map(|p| Some((p.reserve_bytes as f64 / GIB, p.seconds?))).collect();
    let lines = [("first-come", sweep.first_come, VERMILION), ("all dedicated", sweep.limit, GREY)];
    let highest = points.iter().map(|p| p.1).chain(lines.iter().filter_map(|l| l.1)).fold(0.0, f64::max) * 1.08;
    let (left, right) = (points.first().map_or(0.0, |p| p.0), points.last().map_or(1.0, |p| p.0));
    let right = if right > left { right } else { left + 1.0 };

    area.fill(&WHITE)?;
    let title = TextStyle::from((FONT, 22)).color(&BLACK);
    area.draw(&Text::new(format!("Seconds per step against the reserve: {}", sweep.trace), (24, 16), title))?;
    let subtitle = TextStyle::from((FONT, 15)).color(&RGBColor(90, 90, 90));
    let under = format!("modelled on the simulated GPU, profile {}; nothing here is measured", sweep.profile);
    area.draw(&Text::new(under, (24, 44), subtitle))?;

    let mut chart = ChartBuilder::on(area)
        .margin_top(72)
        .margin_right(30)
        .margin_bottom(12)
        .margin_left(12)
        .x_label_area_size(48)
        .y_label_area_size(62)
        .build_cartesian_2d(left..right, 0.0..highest)?;
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
    if let Some((low, high)) = sweep.plateau() {
        let (low, high) = (low as f64 / GIB, high as f64 / GIB);
        let name = format!("within {:.0} % of the best: {low:.2} to {high:.2} GiB", (PLATEAU - 1.0) * 100.0);
        let half = if high > low { 0.0 } else { (right - left) / 200.0 };
        chart
            .draw_series([Rectangle::new([(low - half, 0.0), (high + half, highest)], GREEN.mix(0.15).filled())])?
            .label(name)
            .legend(|(x, y)| Rectangle::new([(x, y - 6), (x + 22, y + 6)], GREEN.mix(0.3).filled()));
    }
    for (name, seconds, colour) in lines {
        let Some(seconds) = seconds else { continue };
        chart
            .draw_series(DashedLineSeries::new([(left, seconds), (right, seconds)], 8, 5, colour.stroke_width(2)))?
            .label(format!("{name}: {seconds:.2} s"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], colour.stroke_width(2)));
    }
    chart
        .draw_series(LineSeries::new(points.iter().copied(), BLUE.stroke_width(3)))?
        .label("this reserve")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 22, y)], BLUE.stroke_width(3)));
    if let Some((best, seconds)) = sweep.best().and_then(|p| Some((p.reserve_bytes as f64 / GIB, p.seconds?))) {
        chart
            .draw_series([Circle::new((best, seconds), 5, BLUE.filled())])?
            .label(format!("best: {seconds:.2} s with {best:.2} GiB"))
            .legend(|(x, y)| Circle::new((x + 11, y), 5, BLUE.filled()));
    }
    draw_legend(&mut chart, SeriesLabelPosition::Coordinate(((right - left) as i32).min(0) + 330, 90))
}

/// What a card took for each step against what the model says, as SVG; `real` where the card is.
///
/// # Errors
/// No point at all.
pub fn plot_compared(points: &[Compared], real: bool) -> Result<Vec<u8>> {
    if points.is_empty() {
        bail!("there is nothing to draw: no step was replayed on a card");
    }
    draw(Format::Svg, (760, 700), |canvas| canvas.compared(points, real))
}

fn paint_compared<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    points: &[Compared],
    real: bool,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let all = || points.iter().flat_map(|point| [point.modelled, point.card]);
    let (low, high) = (all().fold(f64::MAX, f64::min).max(1e-6) / 1.5, all().fold(1e-6, f64::max) * 1.5);
    area.fill(&WHITE)?;
    let (title, clock) = match real {
        true => ("Measured against modelled", "measured seconds per step"),
        false => ("A fake card against the model: nothing here is measured", "the fake card's seconds per step"),
    };
    area.draw(&Text::new(title, (24, 16), TextStyle::from((FONT, 22)).color(&BLACK)))?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(56)
        .margin_right(30)
        .margin_bottom(12)
        .margin_left(12)
        .x_label_area_size(48)
        .y_label_area_size(62)
        .build_cartesian_2d((low..high).log_scale(), (low..high).log_scale())?;
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
        let of_kind = points.iter().filter(|point| point.first_come == first_come);
        chart
            .draw_series(of_kind.map(|point| Circle::new((point.modelled, point.card), 5, colour.filled())))?
            .label(name)
            .legend(move |(x, y)| Circle::new((x + 11, y), 5, colour.filled()));
    }
    draw_legend(&mut chart, SeriesLabelPosition::UpperLeft)
}

/// The legend of a chart, in the one look that they all have.
fn draw_legend<'a, B, C>(
    chart: &mut ChartContext<'a, B, C>,
    position: SeriesLabelPosition,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>>
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

const CELL: i32 = 9;
const COLUMNS: i32 = 100;

/// Draws a memory map: one cell for each granule.
///
/// # Errors
/// A file that cannot be written.
pub fn draw_map(map: &MemoryMap, stats: &Stats, title: &str, path: &Path) -> Result<()> {
    let rows: u64 = map.arenas.iter().map(|arena| (arena.granules.len() as u64).div_ceil(COLUMNS as u64)).sum();
    let height = 150 + rows * CELL as u64 + 34 * map.arenas.len() as u64;
    let height = u32::try_from(height).unwrap_or(u32::MAX);
    draw_into(path, (COLUMNS as u32 * CELL as u32 + 48, height), |canvas| canvas.map(map, stats, title))
}

/// A granule's colour: its filling by hue, its tier by shade (shared is pale with a frame).
fn paint_granule(kinds: [u64; 3]) -> RGBColor {
    let [model, scratch, other] = kinds;
    match model.max(scratch).max(other) {
        0 => WHITE,
        most if most == model => BLUE,
        most if most == scratch => ORANGE,
        _ => GREEN,
    }
}

fn paint_map<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    map: &MemoryMap,
    stats: &Stats,
    title: &str,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let text = |size: u32| TextStyle::from((FONT, size)).color(&BLACK);
    area.fill(&WHITE)?;
    area.draw(&Text::new(format!("Memory map: {title}"), (24, 14), text(22)))?;
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
    area.draw(&Text::new(line, (24, 42), text(14)))?;
    let line = format!(
        "phase {}, reserve {}, {} of it in stock; one cell is {}; on the simulated GPU",
        stats.phase.name(),
        show_size(stats.reserve),
        show_size(map.stock_dedicated.min(stats.reserve)),
        show_size(map.granule)
    );
    area.draw(&Text::new(line, (24, 62), text(14)))?;

    let mut x = 24;
    let legend = [("model", [1, 0, 0]), ("scratch", [0, 1, 0]), ("other", [0, 0, 1]), ("free", [0, 0, 0])];
    for (name, kinds) in legend {
        for tier in Tier::ALL {
            cell(area, (x, 92), 14, kinds, tier)?;
            let label = format!("{name}, {tier}");
            area.draw(&Text::new(label.clone(), (x + 19, 91), text(13)))?;
            x += 24 + 6 * label.len() as i32;
        }
    }

    let mut y = 118;
    for arena in &map.arenas {
        let heading = format!("{} arena, {} blocks", arena.purpose, arena.class);
        area.draw(&Text::new(heading, (24, y), text(14)))?;
        y += 20;
        for (i, granule) in arena.granules.iter().enumerate() {
            let Some(tier) = granule.tier else { continue };
            let at = (24 + (i as i32 % COLUMNS) * CELL, y + (i as i32 / COLUMNS) * CELL);
            cell(area, at, CELL - 1, [granule.model, granule.scratch, granule.other], tier)?;
        }
        y += (arena.granules.len() as i32 + COLUMNS - 1) / COLUMNS * CELL + 14;
    }
    Ok(())
}

/// A granule: filled in the dedicated tier, a frame with a faint filling in the shared one.
fn cell<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    (x, y): (i32, i32),
    size: i32,
    kinds: [u64; 3],
    tier: Tier,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let colour = paint_granule(kinds);
    let frame = if colour == WHITE { GREY } else { colour };
    let filling = match tier {
        Tier::Dedicated if colour == WHITE => GREY.mix(0.45),
        Tier::Dedicated => colour.mix(1.0),
        Tier::Shared => colour.mix(0.22),
    };
    area.draw(&Rectangle::new([(x, y), (x + size, y + size)], filling.filled()))?;
    area.draw(&Rectangle::new([(x, y), (x + size, y + size)], frame.stroke_width(1)))
}
