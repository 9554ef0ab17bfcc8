//! Pictures as bytes of a file: SVG or PNG by the file's extension.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::output;
use crate::text::shown;

/// Colours that everyone can tell apart, whatever their colour vision (Okabe and Ito's).
pub(super) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(super) const ORANGE: RGBColor = RGBColor(230, 159, 0);
pub(super) const GREEN: RGBColor = RGBColor(0, 158, 115);
pub(super) const VERMILION: RGBColor = RGBColor(213, 94, 0);
pub(super) const GREY: RGBColor = RGBColor(150, 150, 150);
pub(super) const FAINT: RGBColor = RGBColor(232, 232, 232);
pub(super) const FONT: &str = "sans-serif";

/// The highest picture, in pixels.
const HIGHEST: u32 = 30_000;

/// An area to draw on.
pub(super) type Area<B> = DrawingArea<B, Shift>;

/// The result of drawing on a kind of file.
pub(super) type Drawn<B, T = ()> = Result<T, DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

/// A picture, which can be drawn on any kind of file.
pub(super) trait Picture {
    /// Width and height in pixels.
    fn size(&self) -> (u32, u32);

    /// Draws it.
    fn draw<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B>;
}

/// Whether a picture can be written to this file.
///
/// # Errors
/// An extension other than .svg and .png.
pub fn check_extension(path: &Path) -> Result<()> {
    Format::of(path).map(drop)
}

/// The format of a picture's file.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Format {
    Svg,
    Png,
}

impl Format {
    /// The format that a file's extension names.
    fn of(path: &Path) -> Result<Format> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("svg") => Ok(Format::Svg),
            Some("png") => Ok(Format::Png),
            _ => bail!("{}: pictures are written as .svg or .png (a map also as a page, .html)", shown(path)),
        }
    }
}

/// Registers the built-in font, so that pictures do not depend on the fonts of a machine.
fn register_font() -> Result<()> {
    let font = epaint_default_fonts::UBUNTU_LIGHT;
    plotters::style::register_font(FONT, FontStyle::Normal, font)
        .map_err(|_| anyhow!("the built-in font is not readable"))
}

/// Draws a picture. Returns the bytes of its file.
pub(super) fn draw(format: Format, picture: &impl Picture) -> Result<Vec<u8>> {
    register_font()?;
    let size = picture.size();
    let (width, height) = size;
    ensure!(
        height <= HIGHEST,
        "the picture would be {height} pixels high, more than {HIGHEST}: draw less memory, larger granules, \
         or a page (.html)"
    );
    match format {
        Format::Svg => {
            let mut text = String::new();
            paint(SVGBackend::with_string(&mut text, size), picture)?;
            Ok(text.into_bytes())
        }
        Format::Png => {
            let mut pixels = vec![0; width as usize * height as usize * 3];
            paint(BitMapBackend::with_buffer(&mut pixels, size), picture)?;
            let mut bytes = Vec::new();
            let mut encoder = png::Encoder::new(&mut bytes, width, height);
            encoder.set_color(png::ColorType::Rgb);
            encoder.write_header()?.write_image_data(&pixels)?;
            Ok(bytes)
        }
    }
}

fn paint<B: DrawingBackend>(backend: B, picture: &impl Picture) -> Result<()> {
    let area = backend.into_drawing_area();
    picture.draw(&area).and_then(|()| area.present()).map_err(|why| anyhow!("{why}"))
}

/// Draws a picture into a file.
pub(super) fn draw_into(path: &Path, picture: &impl Picture) -> Result<()> {
    let drawn = draw(Format::of(path)?, picture).with_context(|| format!("cannot draw {}", shown(path)))?;
    output::write(path, &drawn)
}
