//! Which work reads which weights: the models of work, and the modules and blocks that their
//! weights belong to, as its operations show them.

use std::collections::{HashMap, HashSet};

use anyhow::Result;

use crate::work::Source;
use crate::work::trace::{Event, Kind, Op, is_step};

/// What work says about its weights. Bytes are of whole weights, however few of them are read.
#[derive(Debug, Default)]
pub(super) struct Weights {
    /// Each kind of work that has steps.
    kinds: Vec<KindOfWork>,
    /// Their numbers by their names.
    names: HashMap<String, usize>,
    /// The bytes of each model. A model is the weights of all kinds of work that share any, such
    /// as those of a prompt and of each token after it. A weight that nothing reads belongs to the
    /// model of the weight that was loaded before it.
    models: Vec<u64>,
    /// Bytes of the weights that operations read for which the work names no module.
    pub unnamed_bytes: u64,
}

/// One kind of work, such as the steps of a UNet.
#[derive(Debug, Default)]
pub(super) struct KindOfWork {
    /// Its model; `None` where it reads no weight.
    pub model: Option<usize>,
    /// The weights that each of its blocks reads.
    blocks: HashMap<String, Read>,
    /// The weights that each of its modules reads.
    modules: HashMap<String, Read>,
}

/// Weights that something reads.
#[derive(Debug, Default)]
struct Read {
    bytes: u64,
    ids: HashSet<u64>,
}

impl Read {
    fn note(&mut self, id: u64, bytes: u64) {
        if self.ids.insert(id) {
            self.bytes += bytes;
        }
    }
}

/// Notes that a part of a model reads a weight.
fn note(parts: &mut HashMap<String, Read>, part: &str, id: u64, bytes: u64) {
    match parts.get_mut(part) {
        Some(read) => read.note(id, bytes),
        None => parts.entry(part.to_owned()).or_default().note(id, bytes),
    }
}

/// The block of a module: its path up to the first number, which is what a list of modules has
/// (`model.layers.3` of `model.layers.3.mlp.up_proj`). Empty for a module outside any list.
pub(super) fn block_of(module: &str) -> &str {
    let mut end = 0;
    for part in module.split('.') {
        end += part.len();
        if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            return &module[..end];
        }
        end += 1;
    }
    ""
}

impl KindOfWork {
    /// Bytes of the weights that a block reads; of the name "" those outside any block.
    pub fn block_bytes(&self, block: &str) -> u64 {
        self.blocks.get(block).map_or(0, |read| read.bytes)
    }

    /// Bytes of the weights that a module reads itself, without the modules in it.
    pub fn module_bytes(&self, module: &str) -> u64 {
        self.modules.get(module).map_or(0, |read| read.bytes)
    }
}

impl Weights {
    /// Reads work to its end.
    ///
    /// # Errors
    /// Work that is wrong.
    pub fn of(source: &mut dyn Source) -> Result<Weights> {
        let mut found = Finding::default();
        let mut kind = None;
        while let Some(event) = source.next_event()? {
            match event {
                Event::Phase(name) => kind = is_step(&name).then(|| found.kind(&source.kind(&name))),
                Event::Alloc { id, bytes, kind: Kind::Param, .. } => found.load(id, bytes),
                Event::Op(op) => kind.into_iter().for_each(|kind| found.read(kind, &op)),
                Event::Alloc { .. } | Event::Free { .. } => {}
            }
        }
        Ok(found.done())
    }

    /// A kind of work by its name.
    pub fn kind(&self, name: &str) -> Option<&KindOfWork> {
        self.names.get(name).map(|kind| &self.kinds[*kind])
    }

    /// Bytes of a model.
    pub fn model_bytes(&self, model: usize) -> u64 {
        self.models[model]
    }

    /// Whether any module reads a weight.
    pub fn has_modules(&self) -> bool {
        self.kinds.iter().any(|kind| !kind.modules.is_empty())
    }

    /// Whether any of these belongs to a block.
    pub fn has_blocks(&self) -> bool {
        self.kinds.iter().any(|kind| kind.blocks.keys().any(|block| !block.is_empty()))
    }
}

/// A weight, and the kind of work that reads it first.
struct Weight {
    id: u64,
    bytes: u64,
    reader: Option<usize>,
}

/// What was found so far. A model has the number of one of its kinds.
#[derive(Default)]
struct Finding {
    kinds: Vec<KindOfWork>,
    names: HashMap<String, usize>,
    /// Of each kind another one of the same model, nearer to the one that the model is named by.
    nearer: Vec<usize>,
    /// In the order in which they were loaded.
    weights: Vec<Weight>,
    places: HashMap<u64, usize>,
    unnamed: Read,
}

impl Finding {
    fn kind(&mut self, name: &str) -> usize {
        if let Some(kind) = self.names.get(name) {
            return *kind;
        }
        let kind = self.kinds.len();
        self.kinds.push(KindOfWork::default());
        self.nearer.push(kind);
        self.names.insert(name.to_owned(), kind);
        kind
    }

    fn load(&mut self, id: u64, bytes: u64) {
        self.places.insert(id, self.weights.len());
        self.weights.push(Weight { id, bytes, reader: None });
    }

    fn read(&mut self, kind: usize, op: &Op) {
        for (id, _) in &op.reads {
            let Some(place) = self.places.get(id) else { continue };
            let Weight { id, bytes, reader } = &mut self.weights[*place];
            let (id, bytes, first) = (*id, *bytes, *reader.get_or_insert(kind));
            let of = &mut self.kinds[kind];
            of.model.get_or_insert(kind);
            if op.module.is_empty() {
                self.unnamed.note(id, bytes);
            } else {
                note(&mut of.blocks, block_of(&op.module), id, bytes);
                note(&mut of.modules, &op.module, id, bytes);
            }
            self.join(first, kind);
        }
    }

    /// Two kinds read the same weight: they are one model.
    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.model(one), self.model(other));
        self.nearer[other] = one;
    }

    /// The model of a kind. The way to it is shortened, because a trace may have a million kinds.
    fn model(&mut self, mut kind: usize) -> usize {
        while self.nearer[kind] != kind {
            self.nearer[kind] = self.nearer[self.nearer[kind]];
            kind = self.nearer[kind];
        }
        kind
    }

    fn done(mut self) -> Weights {
        for kind in 0..self.kinds.len() {
            let model = self.model(kind);
            self.kinds[kind].model = self.kinds[kind].model.map(|_| model);
        }
        let mut models = vec![0; self.kinds.len()];
        // Until a weight is found that something reads, the weights are the first model's.
        let mut reader = self.weights.iter().find_map(|weight| weight.reader);
        for weight in &self.weights {
            reader = weight.reader.or(reader);
            if let Some(model) = reader.and_then(|kind| self.kinds[kind].model) {
                models[model] += weight.bytes;
            }
        }
        Weights { models, unnamed_bytes: self.unnamed.bytes, kinds: self.kinds, names: self.names }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_ends_at_the_first_number() {
        for (module, block) in [
            ("model.layers.3.mlp.up_proj", "model.layers.3"),
            ("up_blocks.0.attentions.1.norm", "up_blocks.0"),
            ("conv_in", ""),
            ("linear_1.2d", ""),
            ("a..7", "a..7"),
            ("", ""),
        ] {
            assert_eq!(block_of(module), block, "{module}");
        }
    }
}
