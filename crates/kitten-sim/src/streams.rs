//! Work, streams and events: their order, and their completion.
//!
//! Order and completion are separate. *Order* is what a program has enforced. Each stream has a
//! clock of how much of every stream's work comes before its next piece, and events carry clocks
//! from stream to stream and to the host. *Completion* is the work that has finished, and a test
//! chooses it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::code::{self, Result, error};
use crate::memory::Memory;
use crate::os;
use crate::races::{Access, Clock, Fault, Races, merge};
use crate::timeline::{Cost, Elapsed, Span, Timeline};

/// When work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// At once.
    Immediate,
    /// When something waits for it, or a test says so.
    Late,
}

/// The effect of deferred work on bytes when its turn comes.
pub(crate) type Effect = Box<dyn FnOnce(&Memory) + Send>;

struct Work {
    before: Clock,
    effect: Option<Effect>,
}

struct StreamState {
    serial: u64,
    clock: Clock,
    launched: u64,
    done: u64,
    queue: VecDeque<Work>,
    capture: Option<u64>,
}

/// The streams and events of one machine. Stream 0 is the default stream; 2 is the calling thread's
/// own.
pub(crate) struct Streams {
    completion: Completion,
    by_handle: BTreeMap<u64, u64>,
    /// The handles of destroyed streams, except those that are in use again.
    destroyed: BTreeSet<u64>,
    /// Whether a call on a destroyed stream is a fault, besides being refused.
    are_destroyed_faults: bool,
    states: HashMap<u64, StreamState>,
    next_serial: u64,
    events: BTreeMap<u64, Record>,
    next_event: u64,
    /// The events that keep time.
    timers: BTreeSet<u64>,
    timeline: Timeline,
    host: Clock,
    races: Races,
    /// The work that each capture under way has recorded, by the capture's number.
    captures: BTreeMap<u64, Capture>,
    next_capture: u64,
    graphs: BTreeMap<u64, Graph>,
}

/// The work that an event was recorded behind.
enum Record {
    Nothing,
    Work(Clock),
    /// A point in a capture.
    Capture(u64),
}

/// The work of a captured graph: the name of each piece, and the ranges that it touches.
type Graph = Vec<(String, Vec<Access>)>;

/// A capture under way.
#[derive(Default)]
struct Capture {
    graph: Graph,
    /// Whether a call that a capture forbids has spoilt it.
    is_invalid: bool,
}

/// Whether a stream is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureStatus {
    /// It is not.
    None,
    /// It is.
    Active,
    /// It is, by a capture that a forbidden call has spoilt, and that only has to be ended.
    Invalidated,
}

/// The first handle of a created stream. The next ones are 16 apart, as addresses would be.
const FIRST_STREAM: u64 = 0x5000_0000;

/// The stream of a handle in this call: the two default handles are the same stream, and the
/// per-thread handle is another stream in each thread. The system's number of a thread is the same
/// in all copies of this code in a process, which may share a machine.
pub(crate) fn handle_key(handle: u64) -> u64 {
    thread_local! {
        static THREAD: u64 = u64::from(os::this_thread());
    }
    match handle {
        0 | 1 => 0,
        2 => 1 << 63 | THREAD.with(|thread| *thread),
        other => other,
    }
}

/// The handle of the stream for copies that each device has from the start.
pub(crate) fn copy_stream(device: usize) -> u64 {
    1 << 63 | 1 << 62 | device as u64
}

/// Whether the key is that of a stream that a program creates.
fn is_created(key: u64) -> bool {
    key != 0 && key >> 63 == 0
}

fn invalidated<T>(call: &'static str) -> Result<T> {
    error(call, code::STREAM_CAPTURE_INVALIDATED, "a call that a capture forbids has spoilt the capture")
}

impl Streams {
    pub(crate) fn new() -> Streams {
        Streams {
            completion: Completion::Immediate,
            by_handle: BTreeMap::new(),
            destroyed: BTreeSet::new(),
            are_destroyed_faults: false,
            states: HashMap::new(),
            next_serial: 1,
            events: BTreeMap::new(),
            next_event: 1,
            timers: BTreeSet::new(),
            timeline: Timeline::default(),
            host: Clock::new(),
            races: Races::default(),
            captures: BTreeMap::new(),
            next_capture: 1,
            graphs: BTreeMap::new(),
        }
    }

    pub(crate) fn set_completion(&mut self, completion: Completion, memory: &Memory) {
        self.completion = completion;
        if completion == Completion::Immediate {
            self.run_all(memory);
        }
    }

    fn serial(&mut self, call: &'static str, handle: u64) -> Result<u64> {
        let key = handle_key(handle);
        if let Some(serial) = self.by_handle.get(&key) {
            return Ok(*serial);
        }
        if is_created(key) {
            if self.are_destroyed_faults && self.destroyed.contains(&key) {
                self.races.fault(format!("{call} names stream {handle:#x}, which was destroyed"));
            }
            return error(
                call,
                code::INVALID_HANDLE,
                format!("there is no stream {handle:#x}: it was destroyed or never created"),
            );
        }
        Ok(self.add(key))
    }

    fn add(&mut self, key: u64) -> u64 {
        let serial = self.next_serial;
        self.next_serial += 1;
        let state =
            StreamState { serial, clock: Clock::new(), launched: 0, done: 0, queue: VecDeque::new(), capture: None };
        self.states.insert(serial, state);
        self.by_handle.insert(key, serial);
        self.destroyed.remove(&key);
        serial
    }

    /// Makes each call on a destroyed stream a fault: a driver follows the handle to memory that is
    /// gone.
    pub(crate) fn fault_destroyed(&mut self) {
        self.are_destroyed_faults = true;
    }

    /// Creates a stream. Handles of destroyed streams are used again, the lowest first.
    pub(crate) fn create_stream(&mut self) -> u64 {
        let handle =
            (0..).map(|i| FIRST_STREAM + 16 * i).find(|handle| !self.by_handle.contains_key(handle)).unwrap_or(0);
        self.add(handle);
        handle
    }

    pub(crate) fn destroy_stream(&mut self, handle: u64) -> Result<()> {
        const CALL: &str = "cuStreamDestroy";
        if !is_created(handle_key(handle)) {
            return error(CALL, code::INVALID_HANDLE, format!("{handle:#x} is a default stream"));
        }
        self.serial(CALL, handle)?;
        self.by_handle.remove(&handle);
        self.destroyed.insert(handle);
        Ok(())
    }

    /// How many streams were created and not destroyed.
    pub(crate) fn live_streams(&self) -> usize {
        self.by_handle.keys().filter(|key| is_created(**key)).count()
    }

    /// Queues work in a stream. The ranges that it touches are checked against all uses that are
    /// not ordered before it. It takes its time on the timeline.
    pub(crate) fn launch(
        &mut self,
        handle: u64,
        name: &str,
        accesses: &[Access],
        effect: Option<Effect>,
        cost: Cost,
        memory: &Memory,
    ) -> Result<()> {
        let serial = self.serial("cuLaunchKernel", handle)?;
        let host = self.host.clone();
        let Some(state) = self.states.get_mut(&serial) else { return Ok(()) };
        if let Some(capture) = state.capture {
            let capture = self.captures.entry(capture).or_default();
            if capture.is_invalid {
                return invalidated("cuLaunchKernel");
            }
            capture.graph.push((name.into(), accesses.to_vec()));
            return Ok(());
        }
        merge(&mut state.clock, &host);
        state.launched += 1;
        let (before, nth) = (state.clock.clone(), state.launched);
        state.clock.insert(serial, nth);
        state.queue.push_back(Work { before: before.clone(), effect });
        let written = accesses.iter().find(|access| access.write).map(|access| (access.address, access.bytes));
        self.timeline.note(serial, &before, cost, name, written);
        self.races.launch(name, &memory.with_places(accesses), serial, nth, &before);
        if self.completion == Completion::Immediate {
            self.run_all(memory);
        }
        Ok(())
    }

    /// Checks a range that the host itself touches, moves or unmaps.
    pub(crate) fn host_use(&mut self, name: &str, access: Access) {
        let host = self.host.clone();
        self.races.check(&access, name, None, &host);
    }

    fn is_done(&self, clock: &Clock) -> bool {
        clock.iter().all(|(stream, count)| self.states.get(stream).is_none_or(|state| state.done >= *count))
    }

    /// Does one piece of work that waits for nothing, the lowest stream first from `start` on.
    /// Returns whether there was one.
    fn run_one(&mut self, start: u64, memory: &Memory) -> bool {
        let mut serials: Vec<u64> = self.states.keys().copied().collect();
        serials.sort_unstable();
        let shift = serials.iter().position(|serial| *serial >= start).unwrap_or(0);
        serials.rotate_left(shift);
        for serial in serials {
            let Some(work) = self.states[&serial].queue.front() else { continue };
            let others: Clock = work.before.iter().filter(|(s, _)| **s != serial).map(|(s, c)| (*s, *c)).collect();
            if !self.is_done(&others) {
                continue;
            }
            if let Some(state) = self.states.get_mut(&serial)
                && let Some(work) = state.queue.pop_front()
            {
                state.done += 1;
                if let Some(effect) = work.effect {
                    effect(memory);
                }
            }
            return true;
        }
        false
    }

    fn run_all(&mut self, memory: &Memory) {
        while self.run_one(0, memory) {}
    }

    /// Does one piece of late work. The search begins at the stream that the seed names. Returns
    /// whether there was one.
    pub(crate) fn complete_one(&mut self, seed: u64, memory: &Memory) -> bool {
        let start = seed % self.next_serial;
        self.run_one(start, memory)
    }

    /// How many pieces of work are not done.
    pub(crate) fn pending(&self) -> usize {
        self.states.values().map(|state| state.queue.len()).sum()
    }

    fn any_capture(&self) -> bool {
        self.states.values().any(|state| state.capture.is_some())
    }

    /// Refuses a call about the whole device while a stream is captured, and invalidates all
    /// captures if `spoils`.
    fn refuse_in_capture(&mut self, call: &'static str, spoils: bool, rule: &str) -> Result<()> {
        if !self.any_capture() {
            return Ok(());
        }
        self.captures.values_mut().for_each(|capture| capture.is_invalid |= spoils);
        error(call, code::STREAM_CAPTURE_UNSUPPORTED, rule)
    }

    /// Refuses a call about a stream that is captured, and invalidates the capture then.
    fn refuse_captured(&mut self, call: &'static str, serial: u64) -> Result<()> {
        let Some(capture) = self.states[&serial].capture else { return Ok(()) };
        self.captures.entry(capture).or_default().is_invalid = true;
        error(call, code::STREAM_CAPTURE_UNSUPPORTED, "the stream is captured")
    }

    /// Waits for all work. Refused while a stream is captured, and spoils the capture if `spoils`.
    pub(crate) fn synchronize(&mut self, spoils: bool, memory: &Memory) -> Result<()> {
        let rule = "the device cannot be waited for while a stream is captured";
        self.refuse_in_capture("cuCtxSynchronize", spoils, rule)?;
        self.run_all(memory);
        for state in self.states.values() {
            self.host.insert(state.serial, state.launched);
        }
        self.timeline.wait();
        self.races.forget_all();
        Ok(())
    }

    pub(crate) fn synchronize_stream(&mut self, handle: u64, memory: &Memory) -> Result<()> {
        let serial = self.serial("cuStreamSynchronize", handle)?;
        self.refuse_captured("cuStreamSynchronize", serial)?;
        let clock = self.states[&serial].clock.clone();
        self.finish(&clock, memory);
        Ok(())
    }

    pub(crate) fn query_stream(&mut self, handle: u64) -> Result<bool> {
        let serial = self.serial("cuStreamQuery", handle)?;
        self.refuse_captured("cuStreamQuery", serial)?;
        let clock = self.states[&serial].clock.clone();
        Ok(self.is_done(&clock))
    }

    /// Does all work of a clock. The host knows afterwards that it is done.
    fn finish(&mut self, clock: &Clock, memory: &Memory) {
        while !self.is_done(clock) && self.run_one(0, memory) {}
        merge(&mut self.host, clock);
        self.timeline.wait();
        self.races.forget(&self.host);
    }

    pub(crate) fn create_event(&mut self) -> u64 {
        let event = self.next_event;
        self.next_event += 1;
        self.events.insert(event, Record::Nothing);
        event
    }

    /// Creates an event that keeps the time of its last record.
    pub(crate) fn create_timer(&mut self) -> u64 {
        let event = self.create_event();
        self.timers.insert(event);
        event
    }

    /// When the work before a timer was done.
    pub(crate) fn recorded_at(&mut self, timer: u64) -> Result<f64> {
        const CALL: &str = "cuEventElapsedTime";
        if !self.is_recorded_done(CALL, timer)? {
            return error(CALL, code::NOT_READY, format!("the work before event {timer} is not done yet"));
        }
        if !self.timers.contains(&timer) {
            return error(CALL, code::INVALID_HANDLE, format!("event {timer} was created to keep no time"));
        }
        match self.timeline.time(timer) {
            Some(time) => Ok(time),
            None => error(CALL, code::INVALID_HANDLE, format!("event {timer} was never recorded")),
        }
    }

    /// A call of the host takes its time.
    pub(crate) fn spend(&mut self, seconds: f64) {
        self.timeline.spend(seconds);
    }

    /// Seconds of all work and calls so far.
    pub(crate) fn elapsed(&mut self) -> Elapsed {
        self.timeline.elapsed()
    }

    /// Keeps the spans of work from now on.
    pub(crate) fn watch_work(&mut self) {
        self.timeline.watch();
    }

    /// The spans of work since the last time.
    pub(crate) fn spans(&mut self) -> Vec<Span> {
        self.timeline.spans()
    }

    pub(crate) fn destroy_event(&mut self, event: u64) -> Result<()> {
        match self.events.remove(&event) {
            Some(_) => {
                self.timers.remove(&event);
                self.timeline.forget(event);
                Ok(())
            }
            None => error("cuEventDestroy", code::INVALID_HANDLE, format!("there is no event {event}")),
        }
    }

    pub(crate) fn record(&mut self, event: u64, handle: u64) -> Result<()> {
        const CALL: &str = "cuEventRecord";
        let serial = self.serial(CALL, handle)?;
        let record = match self.states[&serial].capture {
            Some(capture) => Record::Capture(capture),
            None => {
                let mut clock = self.states[&serial].clock.clone();
                merge(&mut clock, &self.host);
                Record::Work(clock)
            }
        };
        self.keep_record(CALL, event, record)
    }

    /// Records an event behind all work of all streams. Refused while a stream is captured, and
    /// spoils the capture if `spoils`.
    pub(crate) fn record_all(&mut self, event: u64, spoils: bool) -> Result<()> {
        const CALL: &str = "cuCtxRecordEvent";
        let rule = "an event cannot be recorded behind all work while a stream is captured";
        self.refuse_in_capture(CALL, spoils, rule)?;
        let mut clock = self.host.clone();
        merge(&mut clock, &self.states.values().map(|state| (state.serial, state.launched)).collect());
        self.keep_record(CALL, event, Record::Work(clock))
    }

    fn keep_record(&mut self, call: &'static str, event: u64, record: Record) -> Result<()> {
        let Some(recorded) = self.events.get_mut(&event) else {
            return error(call, code::INVALID_HANDLE, format!("there is no event {event}"));
        };
        if let Record::Work(clock) = &record
            && self.timers.contains(&event)
        {
            self.timeline.mark(event, clock.clone());
        }
        *recorded = record;
        Ok(())
    }

    fn clock_of(&self, call: &'static str, event: u64) -> Result<Clock> {
        match self.events.get(&event) {
            Some(Record::Nothing) => Ok(Clock::new()),
            Some(Record::Work(clock)) => Ok(clock.clone()),
            Some(Record::Capture(_)) => error(
                call,
                code::CAPTURED_EVENT,
                format!("event {event} was recorded in a capture, so it is never done"),
            ),
            None => error(call, code::INVALID_HANDLE, format!("there is no event {event}")),
        }
    }

    pub(crate) fn query(&mut self, event: u64) -> Result<bool> {
        let clock = self.clock_of("cuEventQuery", event)?;
        if self.any_capture() {
            return error(
                "cuEventQuery",
                code::STREAM_CAPTURE_UNSUPPORTED,
                "an event cannot be queried while a stream is captured",
            );
        }
        let done = self.is_done(&clock);
        if done {
            merge(&mut self.host, &clock);
        }
        Ok(done)
    }

    /// Whether the work before an event is done. The host is not taken to know it.
    fn is_recorded_done(&self, call: &'static str, event: u64) -> Result<bool> {
        Ok(self.is_done(&self.clock_of(call, event)?))
    }

    pub(crate) fn synchronize_event(&mut self, event: u64, memory: &Memory) -> Result<()> {
        let clock = self.clock_of("cuEventSynchronize", event)?;
        self.finish(&clock, memory);
        Ok(())
    }

    pub(crate) fn wait(&mut self, handle: u64, event: u64) -> Result<()> {
        let serial = self.serial("cuStreamWaitEvent", handle)?;
        if let Some(Record::Capture(capture)) = self.events.get(&event) {
            // The stream joins the capture if it is still under way.
            let joined = self.captures.contains_key(capture).then_some(*capture);
            if let Some(state) = self.states.get_mut(&serial)
                && joined.is_some()
            {
                state.capture = joined;
            }
            return Ok(());
        }
        let clock = self.clock_of("cuStreamWaitEvent", event)?;
        if let Some(state) = self.states.get_mut(&serial) {
            merge(&mut state.clock, &clock);
        }
        Ok(())
    }

    pub(crate) fn begin_capture(&mut self, handle: u64) -> Result<()> {
        let serial = self.serial("cuStreamBeginCapture", handle)?;
        if handle_key(handle) == 0 || self.states[&serial].capture.is_some() {
            return error(
                "cuStreamBeginCapture",
                code::ILLEGAL_STATE,
                "the stream is the default stream, or is captured already",
            );
        }
        let capture = self.next_capture;
        self.next_capture += 1;
        self.captures.insert(capture, Capture::default());
        if let Some(state) = self.states.get_mut(&serial) {
            state.capture = Some(capture);
        }
        Ok(())
    }

    /// Ends a capture, with all streams that joined it. Returns the number of its graph; an invalid
    /// capture has none.
    pub(crate) fn end_capture(&mut self, handle: u64) -> Result<u64> {
        let serial = self.serial("cuStreamEndCapture", handle)?;
        let Some(capture) = self.states.get_mut(&serial).and_then(|state| state.capture.take()) else {
            return error("cuStreamEndCapture", code::ILLEGAL_STATE, "the stream is not captured");
        };
        for state in self.states.values_mut().filter(|state| state.capture == Some(capture)) {
            state.capture = None;
        }
        let ended = self.captures.remove(&capture).unwrap_or_default();
        if ended.is_invalid {
            return invalidated("cuStreamEndCapture");
        }
        self.graphs.insert(capture, ended.graph);
        Ok(capture)
    }

    /// How many pieces of work a graph has.
    pub(crate) fn graph_length(&self, graph: u64) -> Result<usize> {
        match self.graphs.get(&graph) {
            Some(graph) => Ok(graph.len()),
            None => error("cuGraphGetNodes", code::INVALID_VALUE, format!("there is no graph {graph}")),
        }
    }

    /// The work of a graph, in order.
    pub(crate) fn graph(&self, graph: u64) -> Result<Graph> {
        match self.graphs.get(&graph) {
            Some(graph) => Ok(graph.clone()),
            None => error("cuGraphLaunch", code::INVALID_VALUE, format!("there is no graph {graph}")),
        }
    }

    pub(crate) fn destroy_graph(&mut self, graph: u64) {
        self.graphs.remove(&graph);
    }

    /// The number of the capture that a stream is in.
    pub(crate) fn capture_of(&mut self, handle: u64) -> Result<Option<u64>> {
        let serial = self.serial("cuStreamGetCaptureInfo", handle)?;
        Ok(self.states[&serial].capture)
    }

    pub(crate) fn capture_status(&mut self, handle: u64) -> Result<CaptureStatus> {
        let serial = self.serial("cuStreamIsCapturing", handle)?;
        let Some(capture) = self.states[&serial].capture else { return Ok(CaptureStatus::None) };
        let is_invalid = self.captures.get(&capture).is_some_and(|capture| capture.is_invalid);
        Ok(if is_invalid { CaptureStatus::Invalidated } else { CaptureStatus::Active })
    }

    pub(crate) fn tell_faults(&mut self, tell: fn(&Fault)) {
        self.races.tell(tell);
    }

    pub(crate) fn faults(&self) -> Vec<Fault> {
        self.races.faults()
    }

    pub(crate) fn live_events(&self) -> usize {
        self.events.len()
    }
}
