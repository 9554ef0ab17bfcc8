//! The last calls of an actor, recorded without a lock, so that any thread can read them after a
//! failure.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many calls are kept.
const KEPT: usize = 64;

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A call, of the library or of the machine.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Call { $(#[doc = $text] $name,)* }

        const NAMES: &[&str] = &[$($text,)*];
    };
}

calls! {
    Malloc = "gk_malloc",
    Free = "gk_free",
    WrongFree = "gk_free of an address that is not a block",
    Upload = "a write is launched",
    Download = "a read is launched",
    BaseAlloc = "gk_base_alloc",
    Tier = "gk_tier",
    Mark = "gk_mark",
    Touch = "gk_touch",
    RecordStream = "gk_record_stream",
    Stats = "gk_stats",
    Json = "a query for JSON",
    ResetPeaks = "gk_reset_peaks",
    Reset = "gk_reset",
    Fraction = "gk_memory_fraction",
    Prefer = "gk_prefer",
    Idle = "the watch looks for idle memory",
    Work = "a piece of work begins or ends",
    Adopt = "gk_adopt",
    BeginPass = "gk_begin_pass",
    Lend = "gk_lend",
    GiveBack = "gk_give_back",
    EndPass = "gk_end_pass",
    MemoryInfo = "gk_memory_info",
    Record = "gk_record",
    CreateStream = "a stream is created",
    DestroyStream = "a stream is destroyed",
    Mail = "a block is given to another actor",
    Taken = "a block of another actor is taken over",
    BeginPool = "gk_begin_allocate_to_pool",
    BeginStreamPool = "gk_begin_allocate_stream_to_pool",
    EndPool = "gk_end_allocate_to_pool",
    EndStreamPool = "gk_end_allocate_stream_to_pool",
    ReleasePool = "gk_release_pool",
    KeepPool = "gk_keep_pool",
    DropPool = "gk_drop_pool",
    BeginCapture = "a capture begins",
    Fork = "a stream joins the capture",
    EndCapture = "a capture ends",
    Replay = "a graph is replayed",
    Foreign = "other programs take memory of the card",
}

/// The last calls of one actor.
#[derive(Debug)]
pub struct Notes {
    count: AtomicU64,
    ring: [[AtomicU64; 2]; KEPT],
}

impl Default for Notes {
    fn default() -> Self {
        Notes { count: AtomicU64::new(0), ring: [const { [const { AtomicU64::new(0) }; 2] }; KEPT] }
    }
}

impl Notes {
    /// Records a call on a device and a stream, by the stream's place, with a size and an address.
    /// Only the actor itself may call this.
    #[inline]
    pub fn note(&self, call: Call, device: usize, stream: usize, bytes: u64, address: u64) {
        let count = self.count.load(Ordering::Relaxed);
        let [what, whither] = &self.ring[count as usize % KEPT];
        what.store(
            (call as u64) << 56 | (device as u64 & 0xff) << 48 | (stream as u64 & 0xff) << 40 | bytes,
            Ordering::Relaxed,
        );
        whither.store(address, Ordering::Relaxed);
        self.count.store(count + 1, Ordering::Relaxed);
    }

    /// How many calls there were.
    #[inline]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The last calls, a line each, the latest last.
    pub fn lines(&self) -> String {
        let count = self.count();
        (count.saturating_sub(KEPT as u64)..count)
            .map(|nth| {
                let [what, whither] = &self.ring[nth as usize % KEPT];
                let (what, whither) = (what.load(Ordering::Relaxed), whither.load(Ordering::Relaxed));
                let name = NAMES.get((what >> 56) as usize).copied().unwrap_or("?");
                let (device, stream, bytes) = (what >> 48 & 0xff, what >> 40 & 0xff, what & 0xff_ffff_ffff);
                format!("  {nth:>9}  {name}, device {device}, stream {stream}, {bytes} bytes, {whither:#x}\n")
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_calls_are_listed_in_order() {
        let notes = Notes::default();
        for nth in 0..100 {
            notes.note(if nth == 99 { Call::Foreign } else { Call::Malloc }, 1, 3, 512 * nth, 0x7000 + nth);
        }
        let lines = notes.lines();
        assert_eq!((notes.count(), lines.lines().count()), (100, KEPT));
        assert_eq!(lines.lines().next().unwrap().trim(), "36  gk_malloc, device 1, stream 3, 18432 bytes, 0x7024");
        assert!(
            lines.ends_with(&format!(
                "99  {}, device 1, stream 3, 50688 bytes, 0x7063\n",
                NAMES[Call::Foreign as usize]
            ))
        );
        assert_eq!(NAMES[Call::Foreign as usize], "other programs take memory of the card");
    }
}
