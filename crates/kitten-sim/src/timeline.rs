//! The timeline: when each piece of work begins and ends.
//!
//! Each stream has a compute engine of its own, and there is one copy engine each way over the
//! link. A kernel computes, then reads what is shared, then writes what is shared. A copy over the
//! link occupies the engine of its way. The kernels and the copy that use the link one way at the
//! same time share it equally. With one stream, the time is the sum of all work.
//!
//! The host has a time of its own, which its calls take. Work begins no earlier than the host has
//! queued it, so that calls hide behind work that was queued before them.
//!
//! Work is noted as it is queued, and the timeline is solved when somebody asks or waits. The host
//! is behind all of it then.

use std::collections::{BTreeMap, VecDeque};

use crate::races::Clock;

/// How many pieces of work are noted before they are solved unasked, so that a program that never
/// asks does not fill memory.
const MOST_NOTED: usize = 1 << 16;

/// The longest stage that is believed, in seconds.
const LONGEST: f64 = 1e30;

/// A way over the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToDevice,
    ToHost,
}

/// What a piece of work takes, in seconds if it has the link to itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cost {
    /// Without the link.
    pub(crate) compute: f64,
    /// Over the link to the device, then to the host.
    pub(crate) to_device: f64,
    pub(crate) to_host: f64,
    /// The bytes that it copies to the device.
    pub(crate) copied: f64,
    /// The copy engine that it occupies from its beginning to its end.
    pub(crate) engine: Option<Way>,
}

impl Cost {
    /// Seconds with the link to itself.
    pub(crate) fn seconds(&self) -> f64 {
        self.compute + self.to_device + self.to_host
    }

    fn stages(&self) -> [(Option<Way>, f64); 3] {
        [(None, self.compute), (Some(Way::ToDevice), self.to_device), (Some(Way::ToHost), self.to_host)]
    }
}

/// Seconds of what the machine has done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Elapsed {
    /// From the beginning to the end of all work and of the host's calls.
    pub seconds: f64,
    /// In which copies to the device occupied their engine.
    pub copies_to_device: f64,
    /// In which copies to the host occupied theirs.
    pub copies_to_host: f64,
    /// Bytes that copies brought to the device.
    pub copied_bytes: f64,
    /// That kernels waited for work in other streams, while their own stream had nothing to do.
    pub waited: f64,
}

/// A piece of work on the timeline.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The serial number of its stream: the first stream that was used has the lowest.
    pub stream: u64,
    /// Its name.
    pub name: String,
    /// The range that it copies to, if it is a copy over the link: the address and the bytes.
    pub copies_to: Option<(u64, u64)>,
    /// The bytes that it copies over the link to the device.
    pub crosses: u64,
    /// When it began.
    pub begin: f64,
    /// When its stage over the link began, if it has one.
    pub link: Option<f64>,
    /// When it ended.
    pub end: f64,
}

struct Piece {
    /// When the host queued it: it begins no earlier.
    floor: f64,
    /// What it waits for in other streams: how much of their work.
    before: Vec<(u64, u64)>,
    cost: Cost,
    /// The range that it copies to, if it is a copy over the link.
    copies_to: Option<(u64, u64)>,
    /// The place in the order in which work was noted.
    noted: u64,
    name: String,
}

/// The work of one stream.
#[derive(Default)]
struct Line {
    queue: VecDeque<Piece>,
    /// How many pieces were done before the first of `ends`.
    solved: u64,
    /// When each piece ended since somebody asked.
    ends: Vec<f64>,
    /// When the last piece ended.
    free_at: f64,
}

impl Line {
    fn done(&self) -> u64 {
        self.solved + self.ends.len() as u64
    }
}

/// A piece of work that is being done.
struct Running {
    stream: u64,
    piece: Piece,
    stage: usize,
    /// Seconds of its stage that are left, if it has the link to itself.
    left: f64,
    begin: f64,
    link: Option<f64>,
}

impl Running {
    fn way(&self) -> Option<Way> {
        self.piece.cost.stages()[self.stage].0
    }

    /// Enters its stage, or the next that takes time. Returns whether there is one.
    fn enter(&mut self, stage: usize, now: f64) -> bool {
        let stages = self.piece.cost.stages();
        let Some(next) = (stage..stages.len()).find(|stage| stages[*stage].1 > 0.0) else { return false };
        (self.stage, self.left) = (next, stages[next].1.min(LONGEST));
        if stages[next].0.is_some() && self.link.is_none() {
            self.link = Some(now);
        }
        true
    }
}

/// The time that a mark stands for.
enum Mark {
    /// No earlier than the time, and behind the work.
    Behind(f64, Clock),
    At(f64),
}

/// The timeline of one machine.
#[derive(Default)]
pub(crate) struct Timeline {
    lines: BTreeMap<u64, Line>,
    marks: BTreeMap<u64, Mark>,
    noted: u64,
    unsolved: usize,
    elapsed: Elapsed,
    /// When the host is.
    host: f64,
    /// What was done, if somebody wants to see it.
    spans: Option<Vec<Span>>,
}

impl Timeline {
    /// Notes the next piece of work of a stream, which comes behind `before`. A copy over the link
    /// writes `to`.
    pub(crate) fn note(&mut self, stream: u64, before: &Clock, cost: Cost, name: &str, to: Option<(u64, u64)>) {
        let before = before.iter().filter(|(other, _)| **other != stream).map(|(other, count)| (*other, *count));
        let name = if self.spans.is_some() { name.to_owned() } else { String::new() };
        let piece = Piece {
            floor: self.host,
            before: before.collect(),
            cost,
            copies_to: to.filter(|_| cost.engine.is_some()),
            noted: self.noted,
            name,
        };
        self.noted += 1;
        self.unsolved += 1;
        self.lines.entry(stream).or_default().queue.push_back(piece);
        if self.unsolved >= MOST_NOTED {
            self.solve();
        }
    }

    /// Marks the moment when the work of a clock is done.
    pub(crate) fn mark(&mut self, mark: u64, clock: Clock) {
        self.marks.insert(mark, Mark::Behind(self.host, clock));
    }

    pub(crate) fn forget(&mut self, mark: u64) {
        self.marks.remove(&mark);
    }

    /// When the work of a mark was done.
    pub(crate) fn time(&mut self, mark: u64) -> Option<f64> {
        if let Some(Mark::Behind(..)) = self.marks.get(&mark) {
            self.wait();
        }
        match self.marks.get(&mark)? {
            Mark::At(time) => Some(*time),
            Mark::Behind(..) => None,
        }
    }

    /// A call of the host takes its time.
    pub(crate) fn spend(&mut self, seconds: f64) {
        self.host += seconds;
    }

    /// The host waits, for all work: what is noted later begins behind it.
    pub(crate) fn wait(&mut self) {
        self.solve();
        self.host = self.host.max(self.elapsed.seconds);
    }

    /// Seconds of all work and calls so far. The host waits for the work.
    pub(crate) fn elapsed(&mut self) -> Elapsed {
        self.wait();
        Elapsed { seconds: self.host, ..self.elapsed }
    }

    /// Keeps the spans of work from now on.
    pub(crate) fn watch(&mut self) {
        self.solve();
        self.spans = Some(Vec::new());
    }

    /// The spans of work that was done since the last time.
    pub(crate) fn spans(&mut self) -> Vec<Span> {
        self.solve();
        self.spans.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Does all work that is noted. O(pieces × streams that have work at the same time).
    fn solve(&mut self) {
        let mut running: Vec<Running> = Vec::new();
        loop {
            while self.start(&mut running) {}
            let next = self.next_queued();
            match next {
                None if running.is_empty() => break,
                Some(next) if running.is_empty() => self.elapsed.seconds = next,
                _ => self.advance(&mut running, next),
            }
        }
        self.unsolved = 0;
        self.settle_marks();
        for line in self.lines.values_mut() {
            line.solved = line.done();
            line.ends.clear();
        }
        self.lines.retain(|_, line| line.solved > 0 || !line.queue.is_empty());
    }

    /// When the host queues the next work that waits for nothing but that.
    fn next_queued(&self) -> Option<f64> {
        let floors = self.lines.values().filter_map(|line| line.queue.front()).map(|piece| piece.floor);
        floors.filter(|floor| *floor > self.elapsed.seconds).min_by(f64::total_cmp)
    }

    fn is_done(&self, before: &[(u64, u64)]) -> bool {
        let done = |stream| self.lines.get(stream).map_or(0, Line::done);
        before.iter().all(|(stream, count)| done(stream) >= *count)
    }

    /// Begins all work that waits for nothing, the earliest noted first. Returns whether some of it
    /// took no time, so that more may begin.
    fn start(&mut self, running: &mut Vec<Running>) -> bool {
        let now = self.elapsed.seconds;
        let waits = |stream: &u64| running.iter().all(|work| work.stream != *stream);
        let mut ready: Vec<(u64, u64)> = self
            .lines
            .iter()
            .filter(|(stream, _)| waits(stream))
            .filter_map(|(stream, line)| line.queue.front().map(|piece| (piece.noted, *stream, piece)))
            .filter(|(.., piece)| piece.floor <= now && self.is_done(&piece.before))
            .map(|(noted, stream, _)| (noted, stream))
            .collect();
        ready.sort_unstable();
        let mut is_some_done = false;
        for (_, stream) in ready {
            let Some(line) = self.lines.get_mut(&stream) else { continue };
            let engine = line.queue.front().and_then(|piece| piece.cost.engine);
            if engine.is_some() && running.iter().any(|work| work.piece.cost.engine == engine) {
                continue;
            }
            let Some(piece) = line.queue.pop_front() else { continue };
            if piece.cost.engine.is_none() {
                self.elapsed.waited += now - line.free_at.max(piece.floor);
            }
            let mut work = Running { stream, piece, stage: 0, left: 0.0, begin: now, link: None };
            if work.enter(0, now) {
                running.push(work);
            } else {
                self.end(work);
                is_some_done = true;
            }
        }
        is_some_done
    }

    /// Goes on to the end of the next stage, or to when the host queues more, if that is earlier.
    fn advance(&mut self, running: &mut Vec<Running>, queued: Option<f64>) {
        let users = |way| running.iter().filter(|work| work.way() == way).count().max(1) as f64;
        let shares = [users(Some(Way::ToDevice)), users(Some(Way::ToHost))];
        let share = |work: &Running| match work.way() {
            None => 1.0,
            Some(Way::ToDevice) => shares[0],
            Some(Way::ToHost) => shares[1],
        };
        let ends = running.iter().map(|work| work.left * share(work)).fold(f64::INFINITY, f64::min);
        let passes = queued.map_or(ends, |queued| ends.min(queued - self.elapsed.seconds));
        for work in running.iter_mut() {
            let takes = work.left * share(work);
            work.left = if takes <= passes { 0.0 } else { work.left - passes / share(work) };
        }
        for (way, seconds) in
            [(Way::ToDevice, &mut self.elapsed.copies_to_device), (Way::ToHost, &mut self.elapsed.copies_to_host)]
        {
            if running.iter().any(|work| work.piece.cost.engine == Some(way)) {
                *seconds += passes;
            }
        }
        self.elapsed.seconds += passes;
        let now = self.elapsed.seconds;
        let mut index = 0;
        while index < running.len() {
            let work = &mut running[index];
            if work.left > 0.0 || work.enter(work.stage + 1, now) {
                index += 1;
            } else {
                let work = running.swap_remove(index);
                self.end(work);
            }
        }
    }

    fn end(&mut self, work: Running) {
        let now = self.elapsed.seconds;
        self.elapsed.copied_bytes += work.piece.cost.copied;
        if let Some(line) = self.lines.get_mut(&work.stream) {
            line.ends.push(now);
            line.free_at = now;
        }
        if let Some(spans) = &mut self.spans {
            let Piece { name, copies_to, cost, .. } = work.piece;
            let (stream, crosses) = (work.stream, cost.copied as u64);
            spans.push(Span { stream, name, copies_to, crosses, begin: work.begin, link: work.link, end: now });
        }
    }

    /// Gives each mark its time.
    fn settle_marks(&mut self) {
        let lines = &self.lines;
        let end_of = |stream: &u64, count: u64| {
            let line = lines.get(stream)?;
            line.ends.get(count.checked_sub(line.solved + 1)? as usize).copied()
        };
        for mark in self.marks.values_mut() {
            if let Mark::Behind(floor, clock) = mark {
                let ends = clock.iter().filter_map(|(stream, count)| end_of(stream, *count));
                *mark = Mark::At(ends.fold(*floor, f64::max));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compute(seconds: f64) -> Cost {
        Cost { compute: seconds, ..Cost::default() }
    }

    fn in_place(compute: f64, to_device: f64) -> Cost {
        Cost { compute, to_device, ..Cost::default() }
    }

    fn copy(seconds: f64) -> Cost {
        Cost { to_device: seconds, engine: Some(Way::ToDevice), ..Cost::default() }
    }

    /// A stream, what its piece of work waits for, and what that takes.
    type Noted<'a> = (u64, &'a [(u64, u64)], Cost);

    fn seconds(pieces: &[Noted<'_>]) -> f64 {
        let mut timeline = Timeline::default();
        for (stream, before, cost) in pieces {
            timeline.note(*stream, &before.iter().copied().collect(), *cost, "", None);
        }
        timeline.elapsed().seconds
    }

    #[test]
    fn one_stream_takes_the_sum_and_others_run_beside_it() {
        assert_eq!(seconds(&[(1, &[], in_place(1.0, 2.0)), (1, &[], compute(3.0))]), 6.0);
        assert_eq!(seconds(&[(1, &[], compute(1.0)), (2, &[], compute(3.0))]), 3.0);
        assert_eq!(seconds(&[(1, &[], compute(1.0)), (2, &[(1, 1)], compute(3.0))]), 4.0);
        assert_eq!(seconds(&[]), 0.0);
    }

    #[test]
    fn copies_hide_behind_work_and_follow_one_another() {
        assert_eq!(seconds(&[(1, &[], compute(3.0)), (2, &[], copy(2.0)), (1, &[(2, 1)], compute(1.0))]), 4.0);
        assert_eq!(seconds(&[(1, &[], compute(1.0)), (2, &[], copy(2.0)), (1, &[(2, 1)], compute(1.0))]), 3.0);
        assert_eq!(seconds(&[(1, &[], copy(2.0)), (2, &[], copy(2.0))]), 4.0, "one engine");
        let back = Cost { to_host: 2.0, engine: Some(Way::ToHost), ..Cost::default() };
        assert_eq!(seconds(&[(1, &[], copy(2.0)), (2, &[], back)]), 2.0, "one each way");
    }

    #[test]
    fn a_copy_and_a_kernel_share_the_link() {
        // The kernel reads from 1 s on, at half the rate until the copy is over at 3 s.
        let pieces: [Noted<'_>; 2] = [(1, &[], in_place(1.0, 2.0)), (2, &[], copy(2.0))];
        assert_eq!(seconds(&pieces), 4.0);
        let pieces: [Noted<'_>; 2] = [(1, &[], Cost { to_host: 2.0, ..Cost::default() }), (2, &[], copy(2.0))];
        assert_eq!(seconds(&pieces), 2.0, "the other way is free");
    }

    #[test]
    fn marks_are_reached_with_their_work_and_who_asks_waits() {
        let mut timeline = Timeline::default();
        timeline.mark(1, Clock::new());
        timeline.note(1, &Clock::new(), compute(2.0), "", None);
        timeline.note(2, &Clock::new(), copy(3.0), "", None);
        timeline.mark(2, Clock::from([(1, 1)]));
        timeline.mark(3, Clock::from([(1, 1), (2, 1)]));
        assert_eq!([1, 2, 3].map(|mark| timeline.time(mark)), [Some(0.0), Some(2.0), Some(3.0)]);
        timeline.note(1, &Clock::new(), compute(1.0), "", None);
        timeline.mark(2, Clock::from([(1, 2)]));
        assert_eq!((timeline.time(2), timeline.time(1), timeline.time(9)), (Some(4.0), Some(0.0), None));
        timeline.forget(1);
        assert_eq!(timeline.time(1), None);
        let elapsed = timeline.elapsed();
        assert_eq!(elapsed, Elapsed { seconds: 4.0, copies_to_device: 3.0, ..Elapsed::default() });
    }

    #[test]
    fn spans_are_kept_for_who_watches() {
        let mut timeline = Timeline::default();
        timeline.note(1, &Clock::new(), compute(2.0), "unseen", None);
        timeline.watch();
        timeline.note(1, &Clock::new(), in_place(1.0, 2.0), "seen", None);
        let span =
            Span { stream: 1, name: "seen".into(), copies_to: None, crosses: 0, begin: 2.0, link: Some(3.0), end: 5.0 };
        assert_eq!((timeline.spans(), timeline.spans()), (vec![span], Vec::new()));
    }

    #[test]
    fn calls_of_the_host_hide_behind_work_and_delay_what_comes_after_them() {
        let mut timeline = Timeline::default();
        timeline.note(1, &Clock::new(), compute(3.0), "", None);
        timeline.spend(1.0);
        timeline.note(2, &Clock::new(), compute(1.0), "", None);
        assert_eq!(timeline.elapsed().seconds, 3.0, "the second began at 1 s, beside the first");
        timeline.spend(2.0);
        timeline.note(1, &Clock::new(), compute(1.0), "", None);
        timeline.note(2, &Clock::new(), compute(3.0), "", None);
        assert_eq!(timeline.elapsed().seconds, 8.0);
        timeline.spend(1.0);
        assert_eq!(timeline.elapsed().seconds, 9.0);
    }

    proptest! {
        #[test]
        fn no_shorter_than_any_engine_and_no_longer_than_everything(
            pieces in prop::collection::vec((1u64..4, 0u8..9, 0u8..9, 0u8..9, 0u8..3, prop::option::of(1u64..4)), 0..60),
        ) {
            let mut timeline = Timeline::default();
            let mut launched = [0u64; 4];
            let (mut engines, mut all) = ([0.0f64; 6], 0.0);
            for (stream, compute, to_device, to_host, kind, waits_for) in pieces {
                let [compute, to_device, to_host] = [compute, to_device, to_host].map(f64::from);
                let cost = match kind {
                    0 => Cost { compute, to_device, to_host, ..Cost::default() },
                    1 => copy(to_device),
                    _ => Cost { to_host, engine: Some(Way::ToHost), ..Cost::default() },
                };
                let before: Clock = waits_for.map(|other| (other, launched[other as usize])).into_iter().collect();
                timeline.note(stream, &before, cost, "", None);
                launched[stream as usize] += 1;
                let sum = cost.compute + cost.to_device + cost.to_host;
                engines[stream as usize] += sum;
                engines[4] += cost.to_device;
                engines[5] += cost.to_host;
                all += sum;
            }
            let took = timeline.elapsed().seconds;
            prop_assert!(engines.iter().all(|engine| took >= engine - 1e-9), "{took}: {engines:?}");
            prop_assert!(took <= all + 1e-9, "{took} of {all}");
        }
    }
}
