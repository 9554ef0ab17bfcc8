//! The memory map as a page: the element that WebUIs and the monitor show
//! (`python/giant_kitten/map.js`), together with its state.

use std::path::Path;

use anyhow::Result;
use giant_kitten::abi::{GkStats, map_json};
use serde_json::{Map, Value, json};

use crate::output;
use crate::replay::Busiest;

const ELEMENT: &str = include_str!("../../../../python/giant_kitten/map.js");

/// Whether a file's extension is that of a page.
pub fn is_page(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "html")
}

/// Writes the page of a memory map. The page loads nothing from anywhere.
///
/// # Errors
/// A file that cannot be written.
pub fn write_map(at: &Busiest, title: &str, path: &Path) -> Result<()> {
    output::write(path, page(at, title)?.as_bytes())
}

fn page(Busiest { map, stats, modules, .. }: &Busiest, title: &str) -> Result<String> {
    let mut figures: Map<String, Value> =
        GkStats::of(stats, &map.splits).fields().map(|(name, value)| (name.to_owned(), value.into())).collect();
    figures.insert("device".into(), title.into());
    figures.insert("phase_name".into(), stats.phase.name().into());
    let map: Value = serde_json::from_str(&map_json(map))?;
    let state = json!({ "devices": [{ "index": 0, "stats": figures, "map": map, "modules": modules }] });
    // Inside a script element, no text may look like its end.
    let state = state.to_string().replace('<', "\\u003c");
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>giant-kitten</title>\n<body style=\"max-width:760px;margin:12px auto;padding:0 12px\">\n\
         <giant-kitten-map><script type=\"application/json\">{state}</script></giant-kitten-map>\n\
         <script>\n{ELEMENT}</script>\n</html>\n"
    ))
}

#[cfg(test)]
mod tests {
    use giant_kitten::{MemoryMap, Stats};

    use super::page;
    use crate::replay::Busiest;

    #[test]
    fn the_state_in_a_page_cannot_end_its_script() {
        let map = MemoryMap { granule: 2 << 20, ..MemoryMap::default() };
        let at = Busiest { phase: String::new(), map, stats: Stats::default(), modules: Vec::new() };
        let text = page(&at, "a </script><b> \"title\"").unwrap();
        assert_eq!(text.matches("</script>").count(), 2);
        assert!(text.contains("a \\u003c/script>\\u003cb> \\\"title\\\"") && text.contains("customElements.define"));
    }
}
