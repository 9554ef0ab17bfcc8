//! Pictures and pages.
//!
//! ```text
//!   cards.rs    the known cards as a table
//!   costs.rs    calls off the hot path as a table
//!   canvas.rs   pictures as SVG or PNG
//!   chart.rs    a sweep, and a card compared with the model
//!   map.rs      the memory map as a picture
//!   page.rs     the memory map as a page
//!   timeline.rs a step's timeline as a picture
//!   layout.rs   the layout of a step as a picture
//!   report.rs   everything that a check of a GPU left in a folder, as one page
//! ```

mod canvas;
pub mod cards;
mod chart;
pub mod costs;
mod layout;
mod map;
pub mod page;
pub mod report;
mod timeline;

pub use canvas::check_extension;
pub use chart::{plot_compared, plot_sweep};
pub use layout::{draw_layout, layout_in_words};
pub use map::draw_map;
pub use timeline::{draw_timeline, in_words};
