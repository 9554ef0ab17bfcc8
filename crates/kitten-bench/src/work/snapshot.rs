//! PyTorch's own snapshots of its memory (`torch.cuda.memory._dump_snapshot`), as work to replay.
//!
//! A snapshot lists the live blocks, and the history of allocations and frees if one was recorded.
//! It contains no operations. So each block counts as written once when it is allocated and read
//! once when it is freed, and a block that lives throughout counts as read once. That is a lower
//! bound.
//!
//! The blocks that live when the history begins are weights. If the history began before the model
//! was loaded, the blocks that it never frees are weights, and the step begins after the last one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result, bail, ensure};

use super::part::Part;
use super::pickle::{PROTOCOL, Pickle, Value};
use super::trace::{Event, Kind, LARGEST, Op};
use crate::text::plain;

/// The most blocks and entries of its history that a snapshot may have.
const MOST: usize = 1 << 22;

/// The part of the bytes that a history never frees after which the model counts as loaded. The
/// rest are results.
const LOADED: f64 = 0.99;

/// How a snapshot is made that can be replayed.
pub const RECIPE: &str = r#"    import torch
    pipe(prompt)  # once before, so that everything is loaded
    torch.cuda.memory._record_memory_history()
    pipe(prompt)  # one generation; keep the model until the end
    torch.cuda.synchronize()
    torch.cuda.memory._dump_snapshot("snapshot.pickle")"#;

/// The words of a snapshot that this reader uses.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Word {
    Segments,
    Traces,
    Device,
    Address,
    Stream,
    Blocks,
    Size,
    State,
    /// Any state that begins with `active`.
    Active,
    Action,
    Addr,
    Alloc,
    FreeRequested,
}

impl Word {
    fn of(text: &[u8]) -> Option<Word> {
        Some(match text {
            b"segments" => Word::Segments,
            b"device_traces" => Word::Traces,
            b"device" => Word::Device,
            b"address" => Word::Address,
            b"stream" => Word::Stream,
            b"blocks" => Word::Blocks,
            b"size" => Word::Size,
            b"state" => Word::State,
            b"action" => Word::Action,
            b"addr" => Word::Addr,
            b"alloc" => Word::Alloc,
            b"free_requested" => Word::FreeRequested,
            state if state.starts_with(b"active") => Word::Active,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Word::Segments => "segments",
            Word::Traces => "device_traces",
            Word::Device => "device",
            Word::Address => "address",
            Word::Stream => "stream",
            Word::Blocks => "blocks",
            Word::Size => "size",
            Word::State => "state",
            Word::Active => "active",
            Word::Action => "action",
            Word::Addr => "addr",
            Word::Alloc => "alloc",
            Word::FreeRequested => "free_requested",
        }
    }
}

struct Memory {
    segments: Vec<Segment>,
    device_traces: Vec<Vec<Entry>>,
}

struct Segment {
    device: u64,
    address: u64,
    stream: u64,
    blocks: Vec<Block>,
}

struct Block {
    address: Option<u64>,
    size: u64,
    active: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Action {
    Alloc,
    Free,
}

struct Entry {
    action: Action,
    addr: u64,
    size: u64,
    stream: u64,
}

/// A dict of a snapshot.
struct Dict<'a>(&'a [(Word, Value<Word>)]);

impl<'a> Dict<'a> {
    fn of(pickle: &'a Pickle<Word>, value: Value<Word>) -> Result<Dict<'a>> {
        pickle.entries(value).map(Dict).context("it is not a dict")
    }

    fn get(&self, key: Word) -> Option<Value<Word>> {
        self.0.iter().find(|(known, _)| *known == key).map(|(_, value)| *value)
    }

    fn need(&self, key: Word) -> Result<Value<Word>> {
        self.get(key).with_context(|| format!("it has no \"{}\"", key.name()))
    }

    fn list(&self, pickle: &'a Pickle<Word>, key: Word) -> Result<&'a [Value<Word>]> {
        pickle.items(self.need(key)?).with_context(|| format!("its \"{}\" is not a list", key.name()))
    }

    /// A number; `None` if the dict does not have it.
    fn number(&self, key: Word) -> Result<Option<u64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Number(number)) if number >= 0 => Ok(Some(number as u64)),
            Some(Value::Number(number)) => bail!("its \"{}\" is {number}: it must be 0 or more", key.name()),
            Some(_) => bail!("its \"{}\" is not a whole number below 2^63", key.name()),
        }
    }

    fn size(&self) -> Result<Option<u64>> {
        let size = self.number(Word::Size)?;
        ensure!(size.is_none_or(|size| size <= LARGEST), "its \"size\" is {}: more than 16 TiB", size.unwrap_or(0));
        Ok(size)
    }
}

impl Memory {
    fn of(pickle: &Pickle<Word>) -> Result<Memory> {
        let top = Dict::of(pickle, pickle.top())?;
        let mut count = 0;
        let mut counted = |more: usize| {
            count += more;
            ensure!(count <= MOST, "it has more than {MOST} blocks and entries of its history: record a shorter one");
            Ok(())
        };
        let mut memory = Memory { segments: Vec::new(), device_traces: Vec::new() };
        for (at, segment) in top.list(pickle, Word::Segments)?.iter().enumerate() {
            let place = || format!("segment {at}");
            let dict = Dict::of(pickle, *segment).with_context(place)?;
            let blocks = dict.list(pickle, Word::Blocks).with_context(place)?;
            counted(1 + blocks.len())?;
            memory.segments.push(Segment::of(pickle, &dict, blocks).with_context(place)?);
        }
        if top.get(Word::Traces).is_some() {
            for (device, trace) in top.list(pickle, Word::Traces)?.iter().enumerate() {
                let place = || format!("the history of device {device}");
                let entries = pickle.items(*trace).context("it is not a list").with_context(place)?;
                counted(1 + entries.len())?;
                let entries = entries.iter().enumerate().filter_map(|(at, entry)| {
                    Entry::of(pickle, *entry).with_context(|| format!("entry {at}")).transpose()
                });
                memory.device_traces.push(entries.collect::<Result<_>>().with_context(place)?);
            }
        }
        Ok(memory)
    }
}

impl Memory {
    /// The device with the longest history, or with the most memory if there is no history.
    fn chosen_device(&self) -> u64 {
        let traces = self.device_traces.iter().enumerate().rev();
        if let Some((device, _)) = traces.filter(|(_, trace)| !trace.is_empty()).max_by_key(|(_, trace)| trace.len()) {
            return device as u64;
        }
        let mut bytes: BTreeMap<u64, u128> = BTreeMap::new();
        for segment in &self.segments {
            *bytes.entry(segment.device).or_default() +=
                segment.blocks.iter().map(|block| u128::from(block.size)).sum::<u128>();
        }
        bytes.iter().max_by_key(|(_, bytes)| **bytes).map_or(0, |(device, _)| *device)
    }

    /// The live blocks of a device: by address, the size and the stream.
    fn live_blocks(&self, device: u64) -> Result<Live> {
        let mut live = BTreeMap::new();
        for segment in self.segments.iter().filter(|segment| segment.device == device) {
            let mut address = segment.address;
            for block in &segment.blocks {
                // Snapshots of PyTorch before 2.1 do not say where a block begins.
                address = block.address.unwrap_or(address);
                if block.active && block.size > 0 {
                    let other = live.insert(address, (block.size, segment.stream));
                    ensure!(other.is_none(), "two blocks live at {address:#x}");
                }
                address = address.saturating_add(block.size);
            }
        }
        Ok(live)
    }
}

impl Segment {
    fn of(pickle: &Pickle<Word>, dict: &Dict<'_>, blocks: &[Value<Word>]) -> Result<Segment> {
        let blocks = blocks.iter().enumerate().map(|(at, block)| {
            let dict = Dict::of(pickle, *block)?;
            Block::of(&dict).with_context(|| format!("block {at}"))
        });
        Ok(Segment {
            device: dict.number(Word::Device)?.unwrap_or(0),
            address: dict.number(Word::Address)?.context("it has no \"address\"")?,
            stream: dict.number(Word::Stream)?.unwrap_or(0),
            blocks: blocks.collect::<Result<_>>()?,
        })
    }
}

impl Block {
    fn of(dict: &Dict<'_>) -> Result<Block> {
        Ok(Block {
            address: dict.number(Word::Address)?,
            size: dict.size()?.context("it has no \"size\"")?,
            active: dict.need(Word::State)? == Value::Word(Word::Active),
        })
    }
}

impl Entry {
    /// An entry of a history; `None` if it is not about a block.
    fn of(pickle: &Pickle<Word>, value: Value<Word>) -> Result<Option<Entry>> {
        let dict = Dict::of(pickle, value)?;
        let action = match dict.need(Word::Action)? {
            Value::Word(Word::Alloc) => Action::Alloc,
            Value::Word(Word::FreeRequested) => Action::Free,
            _ => return Ok(None),
        };
        let (addr, stream) = (dict.number(Word::Addr)?.unwrap_or(0), dict.number(Word::Stream)?.unwrap_or(0));
        let size = dict.size()?.unwrap_or(0);
        Ok((size > 0).then_some(Entry { action, addr, size, stream }))
    }
}

/// Live blocks by address: the size and the stream of each.
type Live = BTreeMap<u64, (u64, u64)>;

/// Cuts loading off a history that began before it. `first` lives when the history begins. Returns
/// the blocks that live when work begins, and the history from then on; `None` if most of what is
/// allocated for a time is allocated before the last weight, because work alternates with loading.
fn generation(mut first: Live, mut entries: Vec<Entry>) -> Option<(Live, Vec<Entry>)> {
    let kept = kept(&entries);
    let kept_bytes: u64 = kept.iter().map(|at| entries[*at].size).sum();
    if kept_bytes <= first.values().map(|(bytes, _)| bytes).sum() {
        return Some((first, entries));
    }
    let mut loaded_bytes = 0;
    let last = *kept.iter().find(|at| {
        loaded_bytes += entries[**at].size;
        loaded_bytes as f64 >= LOADED * kept_bytes as f64
    })?;
    let freed = entries[last + 1..].iter().take_while(|entry| entry.action == Action::Free).count();
    let work = entries.split_off(last + 1 + freed);
    let result_bytes = kept_bytes - loaded_bytes;
    let (loading_bytes, work_bytes) = (allocated(&entries) - loaded_bytes, allocated(&work) - result_bytes);
    if work_bytes == 0 || work_bytes < loading_bytes {
        return None;
    }
    for entry in &entries {
        match entry.action {
            Action::Alloc => drop(first.insert(entry.addr, (entry.size, entry.stream))),
            Action::Free => drop(first.remove(&entry.addr)),
        }
    }
    Some((first, work))
}

/// Bytes that a history allocates.
fn allocated(entries: &[Entry]) -> u64 {
    entries.iter().filter(|entry| entry.action == Action::Alloc).map(|entry| entry.size).sum()
}

/// Which entries allocate blocks that the history never frees, in order.
fn kept(entries: &[Entry]) -> Vec<usize> {
    let mut live = HashMap::new();
    for (at, entry) in entries.iter().enumerate() {
        match entry.action {
            Action::Alloc => drop(live.insert(entry.addr, at)),
            Action::Free => drop(live.remove(&entry.addr)),
        }
    }
    let mut kept: Vec<usize> = live.into_values().collect();
    kept.sort_unstable();
    kept
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
    /// A file that exists and cannot be read.
    pub fn is_one(path: &str) -> Result<bool> {
        let Ok(mut file) = File::open(path) else { return Ok(false) };
        if file.metadata().is_ok_and(|found| found.is_dir()) {
            return Ok(false);
        }
        let mut first = [0];
        let read = file.read(&mut first).with_context(|| format!("cannot read {}", plain(path)))?;
        Ok(read == 1 && first[0] == PROTOCOL)
    }

    /// The snapshot in a file; `None` if the file is something else.
    ///
    /// # Errors
    /// A pickle that is not a snapshot; a snapshot of an empty memory.
    pub fn open(path: &str) -> Result<Option<Snapshot>> {
        if !Snapshot::is_one(path)? {
            return Ok(None);
        }
        let file = File::open(path).with_context(|| format!("cannot read {}", plain(path)))?;
        Snapshot::read(file, path).map(Some)
    }

    /// A snapshot from any source of bytes; `source` names it in errors.
    ///
    /// # Errors
    /// As for [`open`](Snapshot::open).
    pub fn read(bytes: impl Read, source: &str) -> Result<Snapshot> {
        let memory = Pickle::read(bytes, Word::of).and_then(|pickle| Memory::of(&pickle)).with_context(|| {
            format!(
                "{} is a pickle, but not what torch.cuda.memory._dump_snapshot writes, or it is cut off",
                plain(source)
            )
        })?;
        Snapshot::of(memory, source)?.with_weights()
    }

    /// The same, if most of what lives when the history begins lives until its end.
    fn with_weights(self) -> Result<Snapshot> {
        let mut lives: HashMap<u64, u64> = HashMap::new();
        for event in &self.load {
            if let Event::Alloc { id, bytes, .. } = event {
                lives.insert(*id, *bytes);
            }
        }
        let all: u64 = lives.values().sum();
        for event in &self.history {
            if let Event::Free { id } = event {
                lives.remove(id);
            }
        }
        ensure!(
            2 * lives.values().sum::<u64>() >= all,
            "{}: most of what lives when work begins is freed by the end of the history, so it has no weights. \
             Keep the model until the snapshot is written:\n\n{RECIPE}\n",
            plain(&self.name)
        );
        Ok(self)
    }

    /// The events of the chosen device.
    fn of(mut memory: Memory, name: &str) -> Result<Snapshot> {
        let device = memory.chosen_device();
        let mut live = memory.live_blocks(device).with_context(|| plain(name).into_owned())?;
        let entries = usize::try_from(device).ok().and_then(|device| memory.device_traces.get_mut(device));
        let entries = entries.map(std::mem::take).unwrap_or_default();
        ensure!(
            !live.is_empty() || !entries.is_empty(),
            "{}: the snapshot is of an empty memory, so it has nothing to replay",
            plain(name)
        );
        // Backwards from the end: the blocks that lived when the history began.
        for entry in entries.iter().rev() {
            match entry.action {
                Action::Alloc => drop(live.remove(&entry.addr)),
                Action::Free => drop(live.insert(entry.addr, (entry.size, entry.stream))),
            }
        }
        let (live, entries) = generation(live, entries).with_context(|| {
            format!(
                "{}: its history begins before the model is loaded, and weights and scratch are indistinguishable in \
                 it: work alternates with loading, the model was deleted before the end, or the last step's gradients \
                 were kept. giant_kitten.record(\"mine.jsonl.gz\") around the work tells them apart. Or record one \
                 generation after everything is loaded:\n\n{RECIPE}\n",
                plain(name)
            )
        })?;
        Ok(Snapshot::from_history(name, live, entries))
    }

    fn from_history(name: &str, first: Live, entries: Vec<Entry>) -> Snapshot {
        let mut next = 0;
        let mut ids: HashMap<u64, (u64, u64)> = HashMap::new();
        let mut alloc = |addr: u64, bytes: u64, stream: u64, kind: Kind, ids: &mut HashMap<u64, (u64, u64)>| {
            next += 1;
            ids.insert(addr, (next, bytes));
            Event::Alloc { id: next, bytes, stream, kind, name: Box::default() }
        };
        let load: Vec<Event> = first
            .into_iter()
            .map(|(addr, (bytes, stream))| alloc(addr, bytes, stream, Kind::Param, &mut ids))
            .collect();
        let touch = |reads: Vec<(u64, u64)>, writes: Vec<(u64, u64)>| {
            Event::Op(Op { name: "history".into(), module: String::new(), flops: 0.0, reads, writes })
        };
        let mut history = vec![touch(ids.values().copied().collect(), Vec::new())];
        let mut pending = VecDeque::from(entries);
        while let Some(entry) = pending.pop_front() {
            if entry.action == Action::Alloc {
                // The address is known already if the history lost the free in between.
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

    /// The blocks that lived when the history began, as loading, and then the history.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.load.iter().chain(&self.history)
    }

    /// The same as a part: the blocks that lived first are loaded, and the history is one step.
    pub(super) fn into_part(self) -> Part {
        let name = std::path::Path::new(&self.name)
            .file_stem()
            .map_or(self.name.as_str().into(), |stem| stem.to_string_lossy());
        let name = plain(&name).into_owned();
        Part { name, times: 1, load: self.load, steps: vec![("history".into(), self.history)] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(action: Action, addr: u64, size: u64) -> Entry {
        Entry { action, addr, size, stream: 0 }
    }

    fn block(size: u64, active: bool) -> Block {
        Block { address: None, size, active }
    }

    #[test]
    fn the_first_blocks_are_found_backwards() {
        let memory = Memory {
            segments: vec![Segment {
                device: 0,
                address: 1000,
                stream: 0,
                blocks: vec![block(100, true), block(50, false), block(25, true)],
            }],
            // 1000 lives throughout, 1150 is allocated, 1100 lived and is freed.
            device_traces: vec![vec![entry(Action::Alloc, 1150, 25), entry(Action::Free, 1100, 50)]],
        };
        let snapshot = Snapshot::of(memory, "s").unwrap();
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

    /// Four weights of 1000, each made of a temporary block, and then `steps` blocks of work, of
    /// which the last is a result.
    fn loading_and(steps: u64) -> Vec<Entry> {
        let weights = (1..5).flat_map(|weight| {
            let temporary = 500_000 + weight;
            [
                entry(Action::Alloc, temporary, 2000),
                entry(Action::Alloc, 1000 * weight, 1000),
                entry(Action::Free, temporary, 2000),
            ]
        });
        let work =
            (0..steps).flat_map(|step| [entry(Action::Alloc, 9000 + step, 700), entry(Action::Free, 9000 + step, 700)]);
        weights.chain(work).chain([entry(Action::Alloc, 100_000, 8)]).collect()
    }

    /// A snapshot of a history whose last live blocks are these.
    fn begun_before_loading(entries: Vec<Entry>) -> Result<Snapshot> {
        let segments = kept(&entries).into_iter().map(|at| Segment {
            device: 0,
            address: entries[at].addr,
            stream: 0,
            blocks: vec![block(entries[at].size, true)],
        });
        Snapshot::of(Memory { segments: segments.collect(), device_traces: vec![entries] }, "s")
    }

    #[test]
    fn a_history_begun_before_loading_is_cut_where_work_begins() {
        let snapshot = begun_before_loading(loading_and(12)).unwrap();
        let bytes = |events: &[Event], wanted: Kind| -> Vec<u64> {
            events
                .iter()
                .filter_map(|event| match event {
                    Event::Alloc { bytes, kind, .. } if *kind == wanted => Some(*bytes),
                    _ => None,
                })
                .collect()
        };
        assert_eq!(bytes(&snapshot.load, Kind::Param), [1000, 1000, 1000, 1000]);
        assert_eq!(bytes(&snapshot.history, Kind::Act), [&[700; 12][..], &[8]].concat());
    }

    #[test]
    fn work_that_alternates_with_loading_is_rejected_with_the_way_out() {
        let mut entries = loading_and(20);
        entries.extend(loading_and(1).into_iter().map(|entry| Entry { addr: entry.addr + 1_000_000, ..entry }));
        let why = format!("{:#}", begun_before_loading(entries).err().expect("an error"));
        assert!(why.contains("s: its history begins before the model is loaded"), "{why}");
        assert_eq!(RECIPE.lines().count(), 6);
        assert!(why.contains(RECIPE), "{why}");
    }

    #[test]
    fn a_model_that_is_deleted_before_the_snapshot_is_rejected() {
        let mut entries = loading_and(20);
        entries.insert(12, entry(Action::Alloc, 200_000, 900));
        entries.extend((1..5).map(|weight| entry(Action::Free, 1000 * weight, 1000)));
        let snapshot = begun_before_loading(entries).unwrap();
        let why = format!("{:#}", snapshot.with_weights().err().expect("an error"));
        assert!(why.contains("most of what lives when work begins is freed") && why.contains(RECIPE), "{why}");
    }

    #[test]
    fn an_empty_memory_is_rejected() {
        let memory = Memory { segments: Vec::new(), device_traces: vec![Vec::new()] };
        assert!(Snapshot::of(memory, "s").is_err());
    }

    #[test]
    fn two_blocks_at_one_address_are_rejected() {
        let one = || Block { address: Some(4096), size: 512, active: true };
        let segment = Segment { device: 0, address: 4096, stream: 0, blocks: vec![one(), one()] };
        let memory = Memory { segments: vec![segment], device_traces: Vec::new() };
        let why = format!("{:#}", Snapshot::of(memory, "s").err().expect("an error"));
        assert!(why.contains("s: two blocks live at 0x1000"), "{why}");
    }

    #[test]
    fn unmatched_frees_and_lost_frees_are_tolerated() {
        let entries = vec![
            entry(Action::Free, 1, 512),
            entry(Action::Free, 1, 512),
            entry(Action::Alloc, 2, 512),
            entry(Action::Alloc, 2, 1024),
            entry(Action::Free, 2, 1024),
            entry(Action::Free, 2, 1024),
        ];
        let snapshot = Snapshot::of(Memory { segments: Vec::new(), device_traces: vec![entries] }, "s").unwrap();
        let mut live = HashMap::new();
        for event in snapshot.events() {
            match event {
                Event::Alloc { id, bytes, .. } => assert_eq!(live.insert(*id, *bytes), None),
                Event::Free { id } => assert!(live.remove(id).is_some(), "{id} is freed twice"),
                Event::Op(op) => {
                    let touched = op.reads.iter().chain(&op.writes);
                    touched.for_each(|(id, bytes)| assert!(live.get(id).is_some_and(|size| bytes <= size)));
                }
                Event::Phase(_) => {}
            }
        }
        assert!(live.is_empty());
    }

    /// A text as it stands in a pickle.
    fn text(text: &str) -> Vec<u8> {
        [&b"\x8c"[..], &[text.len() as u8], text.as_bytes()].concat()
    }

    #[test]
    fn errors_in_wrong_snapshots_name_the_mistake() {
        let dict = |entries: &[(&str, &[u8])]| -> Vec<u8> {
            let entries: Vec<u8> = entries.iter().flat_map(|(key, value)| [&text(key), *value].concat()).collect();
            [&b"}("[..], &entries, b"u"].concat()
        };
        let list = |items: &[Vec<u8>]| [&b"]("[..], &items.concat(), b"e"].concat();
        let block = |size: &[u8]| dict(&[("size", size), ("state", &text("active_allocated"))]);
        let segments = |block: Vec<u8>| list(&[dict(&[("address", b"K\x01"), ("blocks", &list(&[block]))])]);
        let history = |entry: Vec<u8>| list(&[list(&[entry])]);
        let (mut huge, beyond) = (b"\x8a\x06".to_vec(), b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\0");
        huge.extend_from_slice(&(1u64 << 46).to_le_bytes()[..6]);
        let huge = &huge[..];
        let alloc = |size: &[u8]| dict(&[("action", &text("alloc")), ("size", size)]);
        let traces = |traces: &[u8]| dict(&[("segments", b"]"), ("device_traces", traces)]);
        let blocks = |size: &[u8]| dict(&[("segments", &segments(block(size)))]);
        let cases = [
            (b"N".to_vec(), "it is not a dict"),
            (dict(&[]), "it has no \"segments\""),
            (dict(&[("segments", b"N")]), "its \"segments\" is not a list"),
            (dict(&[("segments", b"N\x85")]), "segment 0: it is not a dict"),
            (dict(&[("segments", b"}\x85")]), "segment 0: it has no \"blocks\""),
            (blocks(b"J\xff\xff\xff\xff"), "block 0: its \"size\" is -1: it must be 0 or more"),
            (blocks(b"N"), "its \"size\" is not a whole number"),
            (blocks(beyond), "its \"size\" is not a whole number"),
            (blocks(huge), "its \"size\" is 70368744177664: more than 16 TiB"),
            (blocks(b"K\0"), "empty memory"),
            (traces(b"N"), "its \"device_traces\" is not a list"),
            (traces(&history(dict(&[]))), "entry 0: it has no \"action\""),
            (traces(&history(alloc(huge))), "more than 16 TiB"),
        ];
        for (top, said) in cases {
            let bytes = [&b"\x80\x04"[..], &top, b"."].concat();
            let why = format!("{:#}", Snapshot::read(&bytes[..], "s").err().expect(said));
            assert!(why.contains(said), "{said}: {why}");
        }
    }

    #[test]
    fn a_snapshot_that_refers_to_one_entry_again_and_again_is_rejected() {
        // A history that names one entry ten million times, by its place in the memo.
        let entry = [&b"}("[..], &text("action"), &text("alloc"), b"uq\0"].concat();
        let entries = [&b"]("[..], &entry, &b"h\0".repeat(10_000_000), b"e"].concat();
        let bytes =
            [&b"\x80\x04}("[..], &text("segments"), b"]", &text("device_traces"), b"](", &entries, b"eu."].concat();
        let why = format!("{:#}", Snapshot::read(&bytes[..], "s").err().expect("an error"));
        assert!(why.contains("more than 4194304 blocks and entries"), "{why}");
    }
}
