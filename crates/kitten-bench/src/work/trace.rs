//! Traces in the format `gpu-op-trace/1`: JSON lines, plain or compressed by zstd, read as a stream
//! and checked as they are read.
//!
//! The header comes first. Then come allocations, operations and frees in program order, with the
//! names of phases between them. Unknown fields and unknown kinds of lines are skipped. A trace may
//! come from anybody, so every mistake in it is an error that names the line.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use kitten_sim::Load;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::input::{self, Lines};
use crate::text::plain;

/// The format that this reader understands.
pub const FORMAT: &str = "gpu-op-trace/1";
/// The largest storage that a trace may have: 16 TiB.
pub(super) const LARGEST: u64 = 1 << 44;

/// The purpose of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A parameter or buffer of the model.
    Param,
    /// An input that lives through the run.
    Input,
    /// Everything else.
    #[default]
    #[serde(other)]
    Act,
}

/// One line of a trace that this reader understands.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A phase begins.
    Phase(String),
    /// A storage is allocated.
    Alloc {
        /// Its id in the trace, which is never used again.
        id: u64,
        /// Its length.
        bytes: u64,
        /// The number of its stream.
        stream: u64,
        /// Its purpose.
        kind: Kind,
        /// The name of a parameter or buffer; empty where it is unknown.
        name: Box<str>,
    },
    /// A storage is freed.
    Free {
        /// Its id in the trace.
        id: u64,
    },
    /// A kernel.
    Op(Op),
}

/// A kernel, with the storages that it touches and how many bytes of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    /// The operator (`aten::convolution`).
    pub name: String,
    /// The module that computes it; empty where that is unknown, or where its weights are not lent
    /// because gradients need them.
    pub module: String,
    /// Floating-point operations.
    pub flops: f64,
    /// Storages read, with the bytes of each.
    pub reads: Vec<(u64, u64)>,
    /// Storages written, with the bytes of each.
    pub writes: Vec<(u64, u64)>,
}

impl Op {
    /// What it moves and computes, with everything dedicated.
    pub fn load(&self) -> Load {
        let bytes: u64 = self.reads.iter().chain(&self.writes).map(|(_, bytes)| bytes).sum();
        Load { bytes: bytes as f64, flops: self.flops, ..Load::default() }
    }
}

#[derive(Deserialize)]
struct Header {
    ev: String,
    #[serde(default)]
    format: String,
    trace: Option<String>,
}

#[derive(Deserialize)]
struct Line {
    ev: String,
    name: Option<String>,
    id: Option<u64>,
    bytes: Option<u64>,
    #[serde(default)]
    stream: u64,
    #[serde(default)]
    kind: Kind,
    #[serde(default, rename = "mod")]
    module: String,
    #[serde(default)]
    grad: bool,
    #[serde(default)]
    flops: f64,
    #[serde(default)]
    reads: Vec<u64>,
    #[serde(default)]
    writes: Vec<u64>,
    #[serde(default)]
    read_bytes: Vec<u64>,
    #[serde(default)]
    write_bytes: Vec<u64>,
}

/// Whether a phase of this name is loading, before the work begins.
pub fn is_loading(phase: &str) -> bool {
    matches!(phase, "load" | "inputs")
}

/// Whether a phase of this name is a step: neither loading nor the end.
pub fn is_step(phase: &str) -> bool {
    !is_loading(phase) && phase != "end"
}

/// The kind of work of a phase: its name without the number.
pub(super) fn kind_of(phase: &str) -> &str {
    phase.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end()
}

/// A trace being read: an iterator over its events.
pub struct Trace {
    lines: Lines,
    name: String,
    live: HashMap<u64, u64>,
    dead: HashSet<u64>,
    ended: bool,
}

macro_rules! bundled {
    ($($name:literal),*) => {
        /// The names of the traces in this program.
        pub const BUNDLED: &[&str] = &[$($name),*];

        fn bundled(name: &str) -> Option<&'static [u8]> {
            match name {
                $($name => Some(include_bytes!(concat!("../../../../traces/", $name, ".jsonl.zst"))),)*
                _ => None,
            }
        }
    };
}

bundled!(
    "sd15_unet_512",
    "sd15_unet_1024",
    "sdxl_unet_1024",
    "sdxl_unet_2048",
    "sdvae_dec_1024",
    "sdvae_dec_1024_fp32",
    "llama3_8b_p2048_d16",
    "wan22_5b_704",
    "flux1dev_1024",
    "flux1dev_1024_fp8",
    "qwen25_7b_nf4_p2048_d16",
    "sdxl_lora_1024"
);

/// The endings of files with traces, which people leave out.
const ENDINGS: [&str; 4] = [".jsonl.zst", ".jsonl.gz", ".zst", ".jsonl"];

/// The endings of files with weights, which people take for what a plan needs.
const CHECKPOINTS: [&str; 7] = ["safetensors", "ckpt", "gguf", "pt", "pth", "bin", "onnx"];

/// The bundled traces whose names have a text within them, or are most like it: three.
fn nearest(name: &str) -> Vec<&'static str> {
    let plain = |name: &str| name.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "");
    let asked = plain(name);
    let mut names = BUNDLED.to_vec();
    names.sort_by_cached_key(|name| {
        let name = plain(name);
        (!name.contains(&asked), strsim::levenshtein(&name, &asked))
    });
    names.truncate(3);
    names
}

impl Trace {
    /// Opens a bundled trace by its name, or a file.
    ///
    /// # Errors
    /// A file that cannot be read, or that does not begin with the header of a trace.
    pub fn open(path_or_name: &str) -> Result<Trace> {
        let found = bundled(path_or_name);
        if found.is_none() {
            let (name, path) = (plain(path_or_name), Path::new(path_or_name));
            let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_lowercase();
            if path.is_dir() {
                bail!(
                    "{name} is a folder: a trace is one file, which giant_kitten.record(\"mine.jsonl.gz\") around a \
                     program's work writes"
                );
            }
            if path.exists() && CHECKPOINTS.contains(&ending.as_str()) {
                bail!(
                    "{name} is a checkpoint, which has weights and no work: record a trace of a program that uses it, \
                     with giant_kitten.record(\"mine.jsonl.gz\")"
                );
            }
            if !path.exists() {
                let mut whole = ENDINGS.iter().map(|ending| format!("{path_or_name}{ending}"));
                if let Some(found) = whole.find(|found| Path::new(found).is_file()) {
                    bail!("there is no trace {name}, and there is {}: give its whole name", plain(&found));
                }
                bail!(
                    "there is no trace {name}: neither a file nor one of those bundled, of which the nearest are {} \
                     (kitten-bench --help lists all)",
                    nearest(path_or_name).join(", ")
                );
            }
        }
        Trace::read(input::open(path_or_name, found, "trace")?, path_or_name)
    }

    /// A trace from any source of bytes; `source` names it in errors.
    ///
    /// # Errors
    /// Bytes that do not begin with the header of a trace.
    pub fn read(bytes: Box<dyn Read>, source: &str) -> Result<Trace> {
        let mut trace = Trace {
            lines: Lines::new(bytes, source),
            name: String::new(),
            live: HashMap::new(),
            dead: HashSet::new(),
            ended: false,
        };
        let source = trace.lines.source().to_owned();
        let header: Header =
            trace.next_line()?.ok_or_else(|| anyhow!("{source} is empty: a trace begins with a header line"))?;
        let format = plain(&header.format);
        ensure!(
            header.ev == "header" && format == FORMAT,
            "{source} is not a trace that kitten-bench reads: its first line is not a header with \"format\":\"{FORMAT}\" but {}",
            if format.is_empty() {
                format!("\"ev\":\"{}\"", plain(&header.ev))
            } else {
                format!("\"format\":\"{format}\"")
            }
        );
        trace.name = header.trace.map_or(source, |name| plain(&name).into());
        Ok(trace)
    }

    /// The trace's own name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where in the input we are, for error messages.
    pub fn at(&self) -> String {
        self.lines.at()
    }

    fn next_line<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        if !self.lines.advance()? {
            return Ok(None);
        }
        serde_json::from_str(self.lines.line()).map(Some).with_context(|| {
            let shown: String = self.lines.line().chars().take(60).collect();
            format!("{}: not a line of a trace: {}", self.lines.at(), plain(&shown))
        })
    }

    /// The next event; `None` at the end.
    ///
    /// # Errors
    /// A line that is wrong, by its number.
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        while !self.ended {
            let Some(line) = self.next_line::<Line>()? else {
                bail!("{}: the trace is cut off: it has no line \"ev\":\"end\"", self.at());
            };
            let at = self.at();
            let known = match line.ev.as_str() {
                "phase" => {
                    let name = line.name.ok_or_else(|| anyhow!("{at}: a phase without a name"))?;
                    Some(Event::Phase(plain(&name).into()))
                }
                "alloc" => Some(self.alloc(&line).context(at)?),
                "free" => Some(self.free(&line).context(at)?),
                "op" => Some(self.op(line).context(at)?),
                "end" => {
                    self.ended = true;
                    None
                }
                _ => None,
            };
            if known.is_some() {
                return Ok(known);
            }
        }
        Ok(None)
    }

    fn alloc(&mut self, line: &Line) -> Result<Event> {
        let id = line.id.ok_or_else(|| anyhow!("an alloc without an id"))?;
        let bytes = line.bytes.ok_or_else(|| anyhow!("alloc {id} without bytes"))?;
        ensure!(bytes > 0 && bytes <= LARGEST, "alloc {id}: {bytes} bytes are invalid: a block has 1 byte to 16 TiB");
        ensure!(!self.live.contains_key(&id), "alloc {id}: this id is in use");
        ensure!(!self.dead.contains(&id), "alloc {id}: this id was used before, and ids are not used again");
        self.live.insert(id, bytes);
        let name = line.name.as_deref().filter(|_| line.kind == Kind::Param).unwrap_or_default().into();
        Ok(Event::Alloc { id, bytes, stream: line.stream, kind: line.kind, name })
    }

    fn free(&mut self, line: &Line) -> Result<Event> {
        let id = line.id.ok_or_else(|| anyhow!("a free without an id"))?;
        if self.live.remove(&id).is_none() {
            let why = if self.dead.contains(&id) { "it was freed already" } else { "it was never allocated" };
            bail!("free {id}: {why}");
        }
        self.dead.insert(id);
        Ok(Event::Free { id })
    }

    fn op(&self, line: Line) -> Result<Event> {
        let name = plain(&line.name.unwrap_or_default()).into_owned();
        ensure!(line.flops.is_finite() && line.flops >= 0.0, "op {name}: {} flops are invalid", line.flops);
        let touched = |ids: Vec<u64>, bytes: Vec<u64>, what: &str| -> Result<Vec<(u64, u64)>> {
            ensure!(ids.len() == bytes.len(), "op {name}: {} {what} but {} of their bytes", ids.len(), bytes.len());
            for (id, bytes) in ids.iter().zip(&bytes) {
                let size = *self
                    .live
                    .get(id)
                    .ok_or_else(|| anyhow!("op {name} touches block {id}, which is not allocated"))?;
                ensure!(*bytes <= size, "op {name} touches {bytes} bytes of block {id}, which has {size}");
            }
            Ok(ids.into_iter().zip(bytes).collect())
        };
        let reads = touched(line.reads, line.read_bytes, "reads")?;
        let writes = touched(line.writes, line.write_bytes, "writes")?;
        let module = if line.grad { String::new() } else { line.module };
        Ok(Event::Op(Op { name, module, flops: line.flops, reads, writes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = r#"{"ev":"header","format":"gpu-op-trace/1","trace":"t"}"#;

    fn read_all(lines: &[&str]) -> Result<Vec<Event>> {
        let text = lines.join("\n");
        let mut trace = Trace::read(Box::new(std::io::Cursor::new(text.into_bytes())), "test")?;
        std::iter::from_fn(|| trace.next_event().transpose()).collect()
    }

    #[test]
    fn unknown_fields_and_lines_are_skipped() {
        let events = read_all(&[
            HEADER,
            r#"{"ev":"weather","sun":true}"#,
            r#"{"ev":"alloc","id":1,"bytes":10,"colour":"red","kind":"odd"}"#,
            r#"{"ev":"op","name":"x","reads":[1],"read_bytes":[10],"writes":[],"write_bytes":[],"flops":3}"#,
            r#"{"ev":"end"}"#,
        ])
        .unwrap();
        assert_eq!(events.len(), 2);
        assert_eq!(events[0], Event::Alloc { id: 1, bytes: 10, stream: 0, kind: Kind::Act, name: "".into() });
    }

    #[test]
    fn modules_whose_weights_gradients_need_lend_none() {
        let op = |more: &str| format!(r#"{{"ev":"op","name":"x","mod":"m"{more}}}"#);
        let lines = [HEADER, &op(""), &op(r#","grad":true"#), r#"{"ev":"end"}"#];
        let modules = read_all(&lines).unwrap().into_iter().map(|event| match event {
            Event::Op(op) => op.module,
            other => panic!("{other:?}"),
        });
        assert!(modules.eq(["m", ""]));
    }

    #[test]
    fn errors_in_hostile_traces_name_the_line() {
        let alloc = r#"{"ev":"alloc","id":1,"bytes":10}"#;
        let free = r#"{"ev":"free","id":1}"#;
        let cases: &[(&[&str], &str)] = &[
            (&[], "empty"),
            (&["garbage"], "line 1"),
            (&[r#"{"ev":"header","format":"gpu-op-trace/9"}"#], "gpu-op-trace/9"),
            (&[HEADER, alloc], "cut off"),
            (&[HEADER, alloc, alloc], "in use"),
            (&[HEADER, alloc, free, alloc], "used before"),
            (&[HEADER, alloc, free, free], "freed already"),
            (&[HEADER, free], "never allocated"),
            (&[HEADER, r#"{"ev":"alloc","id":1,"bytes":1e30}"#], "line 2"),
            (&[HEADER, r#"{"ev":"alloc","id":1,"bytes":-5}"#], "line 2"),
            (&[HEADER, r#"{"ev":"alloc","id":1,"bytes":99999999999999999}"#], "invalid"),
            (&[HEADER, r#"{"ev":"alloc","id":1,"bytes":0}"#], "invalid"),
            (&[HEADER, r#"{"ev":"alloc","bytes":1}"#], "without an id"),
            (&[HEADER, r#"{"ev":"op","name":"x","reads":[7],"read_bytes":[1]}"#], "not allocated"),
            (&[HEADER, alloc, r#"{"ev":"op","name":"x","reads":[1],"read_bytes":[]}"#], "1 reads but 0"),
            (&[HEADER, alloc, r#"{"ev":"op","name":"x","reads":[1],"read_bytes":[11]}"#], "which has 10"),
            (&[HEADER, r#"{"ev":"op","name":"x","flops":-1}"#], "flops"),
        ];
        for (lines, named) in cases {
            let why = format!("{:#}", read_all(lines).expect_err(named));
            assert!(why.contains(named), "{lines:?}: {why}");
        }
    }

    #[test]
    fn damaged_compression_is_an_error() {
        let mut bytes =
            zstd::encode_all(format!("{HEADER}\n{}", "{\"ev\":\"x\"}\n".repeat(10_000)).as_bytes(), 1).unwrap();
        bytes.truncate(bytes.len() / 2);
        let decoder = zstd::stream::read::Decoder::new(std::io::Cursor::new(bytes)).unwrap();
        let read = Trace::read(Box::new(decoder), "test").and_then(|mut trace| {
            while trace.next_event()?.is_some() {}
            Ok(())
        });
        assert!(format!("{:#}", read.unwrap_err()).contains("cut off"));
    }

    #[test]
    fn every_bundled_trace_reads_to_its_end() {
        for name in BUNDLED {
            let mut trace = Trace::open(name).unwrap();
            let mut ops = 0;
            while let Some(event) = trace.next_event().unwrap() {
                ops += u32::from(matches!(event, Event::Op(_)));
            }
            assert!(ops > 500, "{name}");
        }
    }
}
