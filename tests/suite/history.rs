//! The history: the caller that allocated a block is known as long as an event or a live block
//! names it.

use std::sync::Arc;

use super::common::{DEFAULT, GRANULE, MIB, kitten_on, machine, setup};
use giant_kitten::driver::Stream;
use giant_kitten::history::{Action, Event, Names, Recording, Who};
use giant_kitten::{Allocator, PoolId};
use kitten_sim::{Access, Completion};

fn recording(most: usize, names: Names) -> Recording {
    Recording { most, names, skipped: 0 }
}

fn somebody(name: &'static str) -> Who {
    Arc::new(name)
}

fn name(who: Option<&Who>) -> Option<&'static str> {
    who.map(|who| *who.downcast_ref::<&'static str>().unwrap())
}

/// Allocates as the C interface does while a history is recorded.
fn malloc(allocator: &Allocator, device: usize, who: &Who) -> u64 {
    let result = allocator.malloc(MIB as usize, device, DEFAULT);
    allocator.record_malloc(&result, MIB as usize, device, DEFAULT, Some(who.clone()));
    result.unwrap()
}

/// The events of an address, and their callers.
fn events_of(allocator: &Allocator, address: u64) -> Vec<(Action, Option<&'static str>)> {
    let of =
        |event: &Event| event.address == address && !matches!(event.action, Action::SegmentMap | Action::SegmentUnmap);
    let events = allocator.history(0).unwrap();
    events.iter().filter(|event| of(event)).map(|event| (event.action, name(event.who.as_ref()))).collect()
}

#[test]
fn the_allocating_caller_is_named_where_the_freeing_one_is_unknown() {
    let (_, allocator) = setup(64 * GRANULE, 64 * GRANULE, "");
    allocator.record(recording(100, Names::OfAll));
    let (allocating, freeing) = (somebody("allocating"), somebody("freeing"));
    let block = malloc(&allocator, 0, &allocating);
    allocator.recorded_free(block, DEFAULT, None).unwrap();
    assert_eq!(malloc(&allocator, 0, &allocating), block);
    allocator.recorded_free(block, DEFAULT, Some(freeing.clone())).unwrap();
    let (alloc, requested, completed) = (Action::Alloc, Action::FreeRequested, Action::FreeCompleted);
    let by_allocating = [alloc, requested, completed].map(|action| (action, Some("allocating")));
    let by_freeing = [(alloc, Some("allocating")), (requested, Some("freeing")), (completed, Some("freeing"))];
    assert_eq!(events_of(&allocator, block), [by_allocating, by_freeing].concat());
    allocator.record(Recording::default());
    assert_eq!((Arc::strong_count(&allocating), Arc::strong_count(&freeing)), (1, 1));
}

#[test]
fn a_block_that_waits_for_a_stream_keeps_its_caller() {
    let (gpu, allocator) = setup(64 * GRANULE, 64 * GRANULE, "");
    gpu.set_completion(Completion::Late);
    allocator.record(recording(100, Names::OfAll));
    let allocating = somebody("allocating");
    let block = malloc(&allocator, 0, &allocating);
    let other = Stream(gpu.create_stream().unwrap());
    gpu.launch(other.0, "use", &[Access::read(block, MIB)]).unwrap();
    allocator.record_stream(block, other).unwrap();
    allocator.recorded_free(block, DEFAULT, Some(somebody("freeing"))).unwrap();
    assert_eq!(name(allocator.snapshot(0).unwrap().1.get(&block)), Some("allocating"));
    allocator.disable(0, giant_kitten::Activation::default().order).unwrap();
    assert_eq!(events_of(&allocator, block).last(), Some(&(Action::FreeCompleted, Some("allocating"))));
    assert!(allocator.snapshot(0).unwrap().1.is_empty());
}

#[test]
fn blocks_are_observed_until_the_last_with_a_known_caller_is_freed() {
    let gpu = machine(2, 64 * GRANULE, 64 * GRANULE);
    let allocator = kitten_on(&gpu, "");
    assert!(!allocator.is_observed());
    allocator.record(recording(1, Names::OfBlocks));
    let allocating = somebody("allocating");
    let blocks = [malloc(&allocator, 0, &allocating), malloc(&allocator, 1, &allocating)];
    allocator.record(Recording::default());
    for block in blocks {
        assert!(allocator.is_observed());
        allocator.recorded_free(block, DEFAULT, None).unwrap();
    }
    assert!(!allocator.is_observed() && allocator.history(0).unwrap().is_empty());
    assert_eq!(Arc::strong_count(&allocating), 1);
}

#[test]
fn an_event_says_in_which_pool_it_was() {
    let (_, allocator) = setup(64 * GRANULE, 64 * GRANULE, "");
    allocator.record(recording(100, Names::None));
    let pool = PoolId(3, 7);
    allocator.begin_pool_of_kind(0, pool, giant_kitten::ContextKind::Region, |_| true).unwrap();
    let inside = malloc(&allocator, 0, &somebody("allocating"));
    allocator.end_pool(0, pool).unwrap();
    let outside = malloc(&allocator, 0, &somebody("allocating"));
    let pools = |address| {
        let events = allocator.history(0).unwrap();
        events.iter().filter(|event| event.address == address).map(|event| event.pool).collect::<Vec<_>>()
    };
    assert!(pools(inside).iter().all(|found| *found == (3, 7)) && pools(outside).iter().all(|found| *found == (0, 0)));
    assert!(!pools(inside).is_empty() && !pools(outside).is_empty());
}
