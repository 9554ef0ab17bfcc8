//! PyTorch's own snapshots of its memory (`torch.cuda.memory._dump_snapshot`), as work to replay.
//!
//! A snapshot holds what lives, and the history of what came and went, if one was recorded. It says nothing of operations, so each
//! block is taken to be written once when it comes and read once when it goes, and what lives throughout to be read once:
//! the least that it can be.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::{BufReader, Read};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::trace::{Event, Kind, Op};
use crate::workload::Part;

/// What a pickle of protocol 2 or later begins with.
const PICKLE: u8 = 0x80;

#[derive(Deserialize)]
struct Memory {
    segments: Vec<Segment>,
    #[serde(default)]
    device_traces: Vec<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Segment {
    #[serde(default)]
    device: usize,
    address: u64,
    #[serde(default)]
    stream: u64,
    blocks: Vec<Block>,
}

#[derive(Deserialize)]
struct Block {
    address: Option<u64>,
    size: u64,
    state: String,
}

#[derive(Deserialize)]
struct Entry {
    action: String,
    #[serde(default)]
    addr: u64,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    stream: u64,
}

/// A snapshot, as the events of one device.
pub struct Snapshot {
    name: String,
    load: Vec<Event>,
    history: Vec<Event>,
}

impl Snapshot {
    /// Whether a file is a snapshot.
    ///
    /// # Errors
    /// A file that is there and cannot be read.
    pub fn is_one(path: &str) -> Result<bool> {
        let Ok(mut file) = File::open(path) else { return Ok(false) };
        let mut first = [0];
        let read = file.read(&mut first).with_context(|| format!("cannot read {path}"))?;
        Ok(read == 1 && first[0] == PICKLE)
    }

    /// The snapshot in a file; `None` where that is something else.
    ///
    /// # Errors
    /// A pickle that holds no snapshot; one of a memory where nothing lives and nothing happened.
    pub fn open(path: &str) -> Result<Option<Snapshot>> {
        if !Snapshot::is_one(path)? {
            return Ok(None);
        }
        let file = BufReader::new(File::open(path).with_context(|| format!("cannot read {path}"))?);
        let memory: Memory =
            serde_pickle::from_reader(file, serde_pickle::DeOptions::new().replace_recursive_structures())
                .with_context(|| {
                    format!(
                        "{path} is a pickle, but not what torch.cuda.memory._dump_snapshot writes, or it is cut off"
                    )
                })?;
        Snapshot::read(memory, path).map(Some)
    }

    /// The device with the most history, or with the most memory where there is none.
    fn read(mut memory: Memory, name: &str) -> Result<Snapshot> {
        let longest = (0..memory.device_traces.len()).rev().max_by_key(|device| memory.device_traces[*device].len());
        let of = |device: usize| memory.segments.iter().filter(move |segment| segment.device == device);
        let bytes = |device: usize| of(device).flat_map(|segment| &segment.blocks).map(|block| block.size).sum::<u64>();
        let devices = memory.segments.iter().map(|segment| segment.device);
        let device = longest
            .filter(|device| !memory.device_traces[*device].is_empty())
            .or_else(|| devices.max_by_key(|device| bytes(*device)))
            .unwrap_or(0);
        let mut live: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for segment in of(device) {
            let mut address = segment.address;
            for block in &segment.blocks {
                // Snapshots of PyTorch before 2.1 do not say where a block begins.
                address = block.address.unwrap_or(address);
                if block.state.starts_with("active") {
                    live.insert(address, (block.size, segment.stream));
                }
                address += block.size;
            }
        }
        let entries = memory.device_traces.get_mut(device).map(std::mem::take).unwrap_or_default();
        let entries: Vec<Entry> =
            entries.into_iter().filter(|entry| matches!(entry.action.as_str(), "alloc" | "free_requested")).collect();
        ensure!(!live.is_empty() || !entries.is_empty(), "{name}: a snapshot of an empty memory says nothing");
        // Backwards from the end: what lived when the history began.
        for entry in entries.iter().rev() {
            match entry.action.as_str() {
                "alloc" => drop(live.remove(&entry.addr)),
                _ => drop(live.insert(entry.addr, (entry.size, entry.stream))),
            }
        }
        Ok(Snapshot::events(name, live, entries))
    }

    fn events(name: &str, first: BTreeMap<u64, (u64, u64)>, entries: Vec<Entry>) -> Snapshot {
        let mut next = 0;
        let mut ids: HashMap<u64, (u64, u64)> = HashMap::new();
        let mut alloc = |addr: u64, bytes: u64, stream: u64, kind: Kind, ids: &mut HashMap<u64, (u64, u64)>| {
            next += 1;
            ids.insert(addr, (next, bytes));
            Event::Alloc { id: next, bytes, stream, kind }
        };
        let load: Vec<Event> = first
            .into_iter()
            .map(|(addr, (bytes, stream))| alloc(addr, bytes, stream, Kind::Param, &mut ids))
            .collect();
        let touch = |reads: Vec<(u64, u64)>, writes: Vec<(u64, u64)>| {
            Event::Op(Op { name: "history".into(), flops: 0.0, reads, writes })
        };
        let mut history = vec![touch(ids.values().copied().collect(), Vec::new())];
        let mut pending = VecDeque::from(entries);
        while let Some(entry) = pending.pop_front() {
            if entry.action == "alloc" {
                // Known already where the history lost the free between.
                if let Some((id, _)) = ids.remove(&entry.addr) {
                    history.push(Event::Free { id });
                }
                history.push(alloc(entry.addr, entry.size, entry.stream, Kind::Act, &mut ids));
                history.push(touch(Vec::new(), vec![ids[&entry.addr]]));
            } else if let Some((id, bytes)) = ids.remove(&entry.addr) {
                history.push(touch(vec![(id, bytes)], Vec::new()));
                history.push(Event::Free { id });
            }
        }
        Snapshot { name: name.into(), load, history }
    }

    /// The same as work: what lived first is loaded, and the history is one step.
    pub(crate) fn into_part(self) -> Part {
        let name = std::path::Path::new(&self.name)
            .file_stem()
            .map_or(self.name.clone(), |stem| stem.to_string_lossy().into());
        Part { name, times: 1, load: self.load, steps: vec![("history".into(), self.history)] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(action: &str, addr: u64, size: u64) -> Entry {
        Entry { action: action.into(), addr, size, stream: 0 }
    }

    fn block(size: u64, state: &str) -> Block {
        Block { address: None, size, state: state.into() }
    }

    #[test]
    fn what_lived_first_is_found_backwards() {
        let memory = Memory {
            segments: vec![Segment {
                device: 0,
                address: 1000,
                stream: 0,
                blocks: vec![block(100, "active_allocated"), block(50, "inactive"), block(25, "active_allocated")],
            }],
            // 1000 lived all along, 1150 came, 1100 lived and went.
            device_traces: vec![vec![
                entry("segment_alloc", 1000, 175),
                entry("alloc", 1150, 25),
                entry("free_requested", 1100, 50),
                entry("free_completed", 1100, 50),
            ]],
        };
        let snapshot = Snapshot::read(memory, "s").unwrap();
        let sizes: Vec<u64> = snapshot
            .load
            .iter()
            .map(|event| match event {
                Event::Alloc { bytes, .. } => *bytes,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sizes, [100, 50]);
        let frees = snapshot.history.iter().filter(|event| matches!(event, Event::Free { .. })).count();
        let allocs = snapshot.history.iter().filter(|event| matches!(event, Event::Alloc { .. })).count();
        assert_eq!((allocs, frees), (1, 1));
    }

    #[test]
    fn an_empty_memory_is_refused() {
        let memory = Memory { segments: Vec::new(), device_traces: vec![Vec::new()] };
        assert!(Snapshot::read(memory, "s").is_err());
    }
}
