//! Tests that texts are valid by the schemas in `schemas/`, on a simulated device in various
//! states.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use boon::{Compiler, Schemas};
use kitten_sim::{Access, Completion};
use serde_json::Value;

use crate::abi::stacks::Stack;
use crate::abi::stats::GkStats;
use crate::allocator::{Allocator, Options};
use crate::core::history::{Names, Recording, Who};
use crate::core::{Activation, PoolId, Reserve, Tier};
use crate::driver::Stream;
use crate::driver::sim::SimDriver;

fn schema(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas").join(name).with_extension("json")
}

/// A text as JSON, after its validation by a schema.
fn valid(name: &str, text: &str) -> Value {
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    let location = schema(name).to_str().unwrap().to_owned();
    let compiled = compiler.compile(&location, &mut schemas).unwrap_or_else(|why| panic!("{why:#}"));
    let value = serde_json::from_str(text).unwrap();
    schemas.validate(&value, compiled).unwrap_or_else(|why| panic!("{name}: {why:#}\n{text}"));
    value
}

fn allocate(allocator: &Allocator, bytes: usize, stack: Option<&Who>) -> u64 {
    let (stream, device) = (Stream(0), 0);
    let result = allocator.malloc(bytes, device, stream);
    allocator.record_malloc(&result, bytes, device, stream, stack.cloned());
    result.unwrap_or(0)
}

/// A device that was activated and disabled. It has blocks in both tiers, one of them waiting for
/// another stream, a pool, free space, and a history with every action.
fn worked_on() -> Allocator {
    let driver = SimDriver::of_profile("nominal-6g").unwrap();
    let gpu = driver.gpu().clone();
    let allocator = Allocator::new(Options::default(), Arc::new(driver)).unwrap();
    allocator.record(Recording { most: 1000, names: Names::OfAll, skipped: 0 });
    let stack: Who = Stack::of_lines(&[("a \"file\".py", 7, "work\n"), ("main.py", 1, "<module>")]);
    let blocks: Vec<u64> = (1..6).map(|n| allocate(&allocator, n << 26, Some(&stack))).collect();
    allocate(&allocator, 1000, None);
    allocator.mark(blocks[4], true).unwrap();
    allocator.pin_to(blocks[0], Some(Tier::Shared)).unwrap();
    let reserve = Reserve::Fixed(1 << 30);
    allocator.activate(0, &Activation { reserve, ..Activation::default() }).unwrap();
    allocate(&allocator, 1 << 24, Some(&stack));
    allocator.begin_pool(0, PoolId(0, 1), |_| true).unwrap();
    allocate(&allocator, 1 << 22, None);
    allocator.end_pool(0, PoolId(0, 1)).unwrap();
    allocator.recorded_free(blocks[1], Stream(0), Some(stack.clone())).unwrap();
    allocate(&allocator, 1 << 50, None);
    allocator.disable(0, Activation::default().order).unwrap();
    allocator.reset().unwrap();
    let other = Stream(gpu.create_stream().unwrap());
    gpu.set_completion(Completion::Late);
    for block in &blocks[2..4] {
        gpu.launch(other.0, "use", &[Access::write(*block, 512)]).unwrap();
        allocator.record_stream(*block, other).unwrap();
    }
    allocator.recorded_free(blocks[2], Stream(0), Some(stack)).unwrap();
    allocator
}

fn unused() -> Allocator {
    Allocator::new(Options::default(), Arc::new(SimDriver::of_profile("nominal-6g").unwrap())).unwrap()
}

/// The distinct values of a key in the rows of a list.
fn values(rows: &Value, key: &str) -> BTreeSet<String> {
    rows.as_array().unwrap().iter().map(|row| row[key].as_str().unwrap().to_owned()).collect()
}

fn texts<const N: usize>(texts: [&str; N]) -> BTreeSet<String> {
    texts.map(str::to_owned).into()
}

#[test]
fn statistics_are_as_their_schema_says_and_the_same_by_tier() {
    for allocator in [unused(), worked_on()] {
        let look = allocator.look(0).unwrap();
        let value = valid("stats", &super::stats(&look));
        assert_eq!(value["in_use"], u64::from(look.info.is_some()));
        for tier in Tier::ALL {
            for (name, figure) in value["tiers"][tier.name()].as_object().unwrap() {
                assert_eq!(figure, &value[format!("{tier}_{name}")], "{tier}: {name}");
            }
        }
    }
}

#[test]
fn statistics_are_in_the_order_of_the_struct() {
    // The Python package takes the names of the struct's fields from the text.
    let text = super::stats(&worked_on().look(0).unwrap());
    let Value::Object(object) = valid("stats", &text) else { panic!("{text}") };
    let fields = GkStats::default();
    let names: Vec<&str> = ["version"].into_iter().chain(fields.fields().map(|(name, _)| name)).collect();
    let numbers: BTreeSet<&str> = object.iter().filter(|(_, value)| value.is_u64()).map(|(name, _)| &**name).collect();
    assert_eq!(numbers, names.iter().copied().collect());
    assert!(names.is_sorted_by_key(|name| text.find(&format!("\"{name}\":"))), "{text}");
}

#[test]
fn a_device_is_as_its_schema_says() {
    valid("device", &super::device(&unused().look_at(0).unwrap()));
}

#[test]
fn maps_are_as_their_schema_says() {
    valid("map", &super::map_json(&unused().map(0).unwrap()));
    let value = valid("map", &super::map_json(&worked_on().map(0).unwrap()));
    assert_eq!(values(&value["arenas"], "purpose"), texts(["pool", "resident", "scratch"]));
}

#[test]
fn claims_are_as_their_schema_says() {
    let claims = worked_on().claims(0, Activation::default().order).unwrap();
    let value = valid("claims", &super::claims(&claims));
    assert!(value.as_array().unwrap().iter().any(|claim| claim["pinned"] == 1));
    assert!(
        value.as_array().unwrap().iter().any(|claim| claim["used_on"].as_array().is_some_and(|used| used.len() == 1))
    );
}

#[test]
fn snapshots_are_as_their_schema_says() {
    let (segments, callers) = worked_on().snapshot(0).unwrap();
    let value = valid("snapshot", &super::snapshot(&segments, &callers));
    let segments = value["segments"].as_array().unwrap();
    let blocks: Vec<Value> =
        segments.iter().flat_map(|segment| segment["blocks"].as_array().unwrap()).cloned().collect();
    assert!(blocks.iter().any(|block| block["stack"] == 0) && blocks.iter().any(|block| block.get("stack").is_none()));
    let states = texts(["active_allocated", "active_pending_free", "inactive"]);
    assert_eq!(values(&blocks.into(), "state"), states);
}

#[test]
fn an_outline_and_its_blocks_are_the_snapshot() {
    let (segments, callers) = worked_on().snapshot(0).unwrap();
    let (outline, blocks) = super::outline(&segments, &callers);
    let (outline, mut blocks) = (valid("outline", &outline), blocks.into_iter());
    let whole = valid("snapshot", &super::snapshot(&segments, &callers));
    assert_eq!(outline["stacks"], whole["stacks"]);
    let (outlined, wholes) = (outline["segments"].as_array().unwrap(), whole["segments"].as_array().unwrap());
    assert_eq!(outlined.len(), wholes.len());
    for (outlined, whole) in outlined.iter().zip(wholes) {
        let rows = whole["blocks"].as_array().unwrap();
        assert_eq!(outlined["blocks"], rows.len());
        for (row, block) in rows.iter().zip(&mut blocks) {
            let mut told = outline["kinds"][block.kind as usize].clone();
            for (name, value) in [
                ("address", block.address),
                ("size", block.size),
                ("requested_size", block.requested),
                ("dedicated_size", block.dedicated),
                ("shared_size", block.shared),
            ] {
                told[name] = value.into();
            }
            assert_eq!(&told, row);
        }
        let sum = |name: &str, states: &[&str]| {
            let rows = rows.iter().filter(|row| states.contains(&row["state"].as_str().unwrap()));
            rows.map(|row| row[name].as_u64().unwrap()).sum::<u64>()
        };
        let (live, active) = (["active_allocated"], ["active_allocated", "active_pending_free"]);
        assert_eq!(outlined["allocated_size"], sum("size", &live));
        assert_eq!(outlined["active_size"], sum("size", &active));
        assert_eq!(outlined["requested_size"], sum("requested_size", &live));
        assert_eq!(outlined["dedicated_size"], sum("dedicated_size", &active));
        assert_eq!(outlined["shared_size"], sum("shared_size", &active));
    }
    assert_eq!(blocks.next(), None);
}

#[test]
fn histories_are_as_their_schema_says() {
    let value = valid("history", &super::history(&worked_on().history(0).unwrap()));
    let actions = ["alloc", "free_completed", "free_requested", "oom", "segment_map", "segment_unmap"];
    assert_eq!(values(&value["events"], "action"), texts(actions));
    let frames = serde_json::json!([
        { "filename": "a \"file\".py", "line": 7, "name": "work\n" },
        { "filename": "main.py", "line": 1, "name": "<module>" }
    ]);
    assert_eq!(value["stacks"], serde_json::json!([frames]), "each stack is there once");
}

#[test]
fn schemas_require_what_is_always_there() {
    let optional = texts(["addr", "device_free", "stack"]);
    for name in ["claims", "common", "device", "history", "map", "outline", "snapshot", "stats"] {
        let schema: Value = serde_json::from_str(&std::fs::read_to_string(schema(name)).unwrap()).unwrap();
        let objects = schema["$defs"].as_object().into_iter().flat_map(|defs| defs.values());
        for object in objects.chain([&schema, &schema["items"]]).filter(|object| object["required"].is_array()) {
            let required: BTreeSet<String> = serde_json::from_value(object["required"].clone()).unwrap();
            let known: BTreeSet<String> = object["properties"].as_object().unwrap().keys().cloned().collect();
            assert_eq!(known.difference(&optional).cloned().collect::<BTreeSet<_>>(), required, "{name}");
            assert_eq!(object["additionalProperties"], false, "{name}");
        }
    }
}
