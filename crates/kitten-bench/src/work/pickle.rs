//! Reads the plain data in Python's pickles: dicts, lists and tuples, whole numbers, and the words
//! that the reader knows.
//!
//! A pickle is a program. This reader runs none of it, does not recurse however deep it nests,
//! keeps a value once that is referred to twice, and drops unknown texts as it reads them. So no
//! pickle takes more memory than [`MOST_VALUES`] allows.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};

use anyhow::{Result, anyhow, bail, ensure};

/// The first byte of every pickle of protocol 2 or later.
pub(crate) const PROTOCOL: u8 = 0x80;
/// The most values that a pickle may hold at any time: lists, dicts, their items, and the memo.
/// Each value takes about 20 bytes.
const MOST_VALUES: usize = 1 << 26;
/// The longest pickle that is read: 4 GiB.
const LONGEST: u64 = 4 << 30;
/// A list or dict with one item takes as much memory as this many values.
const FEWEST: usize = 4;
/// An entry of the memo takes as much memory as this many values.
const PLACE: usize = 2;
/// The longest known word.
const LONGEST_WORD: usize = 64;

/// A value of a pickle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<W> {
    /// A whole number.
    Number(i64),
    /// A known word.
    Word(W),
    /// A list or tuple, by its number.
    List(u32),
    /// A dict, by its number.
    Dict(u32),
    /// Anything else.
    Other,
}

/// The contents of a pickle.
pub(crate) struct Pickle<W> {
    top: Value<W>,
    lists: Vec<Vec<Value<W>>>,
    /// The entries of each dict whose keys are known words.
    dicts: Vec<Vec<(W, Value<W>)>>,
}

impl<W: Copy + PartialEq> Pickle<W> {
    /// Reads a pickle; `word` knows the words.
    ///
    /// # Errors
    /// Bytes that are not a pickle, are cut off, or hold too much.
    pub(crate) fn read(from: impl Read, word: impl Fn(&[u8]) -> Option<W>) -> Result<Pickle<W>> {
        let from = BufReader::new(from.take(LONGEST));
        let pickle = Pickle { top: Value::Other, lists: Vec::new(), dicts: Vec::new() };
        let mut reader =
            Reader { from, word, pickle, held: 0, stack: Vec::new(), marks: Vec::new(), memo: BTreeMap::new() };
        loop {
            match reader.byte()? {
                b'.' => break,
                opcode => reader.step(opcode)?,
            }
        }
        reader.pickle.top = reader.pop()?;
        Ok(reader.pickle)
    }

    /// The value of the whole pickle.
    pub(crate) fn top(&self) -> Value<W> {
        self.top
    }

    /// The items of a list or tuple; `None` for anything else.
    pub(crate) fn items(&self, of: Value<W>) -> Option<&[Value<W>]> {
        match of {
            Value::List(list) => self.lists.get(list as usize).map(Vec::as_slice),
            _ => None,
        }
    }

    /// The entries of a dict whose keys are known words; `None` for anything else.
    pub(crate) fn entries(&self, of: Value<W>) -> Option<&[(W, Value<W>)]> {
        match of {
            Value::Dict(dict) => self.dicts.get(dict as usize).map(Vec::as_slice),
            _ => None,
        }
    }
}

/// A pickle being read.
struct Reader<R, W, F> {
    from: BufReader<R>,
    word: F,
    pickle: Pickle<W>,
    /// How many values are held, apart from those on the stack.
    held: usize,
    stack: Vec<Value<W>>,
    /// The positions of the marks on the stack.
    marks: Vec<usize>,
    /// The memo, by place.
    memo: BTreeMap<u32, Value<W>>,
}

impl<R: Read, W: Copy + PartialEq, F: Fn(&[u8]) -> Option<W>> Reader<R, W, F> {
    /// Executes one opcode. Python's `Lib/pickletools.py` lists them all.
    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            // The protocol, and the length of a frame.
            PROTOCOL => drop(self.bytes::<1>()?),
            0x95 => drop(self.bytes::<8>()?),
            // The stack.
            b'(' => {
                self.hold(1)?;
                self.marks.push(self.stack.len());
            }
            b'0' if self.marks.last() == Some(&self.stack.len()) => drop(self.pop_mark()?),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let top = self.top()?;
                self.push(top)?;
            }
            // The memo.
            b'p' => {
                let place = self.decimal()?;
                self.remember(place)?;
            }
            b'q' => {
                let place = self.bytes::<1>()?[0];
                self.remember(place.into())?;
            }
            b'r' => {
                let place = u32::from_le_bytes(self.bytes()?);
                self.remember(place)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?,
            b'g' => {
                let place = self.decimal()?;
                self.recall(place)?;
            }
            b'h' => {
                let place = self.bytes::<1>()?[0];
                self.recall(place.into())?;
            }
            b'j' => {
                let place = u32::from_le_bytes(self.bytes()?);
                self.recall(place)?;
            }
            // Numbers. None, True and False are not used here.
            b'N' | 0x88 | 0x89 => self.push(Value::Other)?,
            b'I' | b'L' => {
                let line = self.line()?;
                let digits = str::from_utf8(&line).ok().map(|digits| digits.strip_suffix('L').unwrap_or(digits));
                self.push(digits.and_then(|digits| digits.parse().ok()).map_or(Value::Other, Value::Number))?;
            }
            b'J' => {
                let number = i32::from_le_bytes(self.bytes()?);
                self.push(Value::Number(number.into()))?;
            }
            b'K' => {
                let number = self.bytes::<1>()?[0];
                self.push(Value::Number(number.into()))?;
            }
            b'M' => {
                let number = u16::from_le_bytes(self.bytes()?);
                self.push(Value::Number(number.into()))?;
            }
            0x8a => {
                let length = self.bytes::<1>()?[0];
                self.long(length.into())?;
            }
            0x8b => {
                let length = self.length_of_4()?;
                self.long(length)?;
            }
            b'F' => {
                self.line()?;
                self.push(Value::Other)?;
            }
            b'G' => {
                self.bytes::<8>()?;
                self.push(Value::Other)?;
            }
            // Texts and bytes.
            b'S' | b'V' => {
                let line = self.line()?;
                let quoted =
                    [b'\'', b'"'].iter().find_map(|quote| line.strip_prefix(&[*quote])?.strip_suffix(&[*quote]));
                self.text(quoted.unwrap_or(&line))?;
            }
            b'U' | b'C' | 0x8c => {
                let length = self.bytes::<1>()?[0];
                self.counted(length.into())?;
            }
            b'T' => {
                let length = self.length_of_4()?;
                self.counted(length)?;
            }
            b'X' | b'B' => {
                let length = u32::from_le_bytes(self.bytes()?);
                self.counted(length.into())?;
            }
            0x8d | 0x8e | 0x96 => {
                let length = u64::from_le_bytes(self.bytes()?);
                self.counted(length)?;
            }
            // Tuples and lists.
            b')' | b']' => self.list(Vec::new())?,
            0x85..=0x87 => {
                let items = self.take(usize::from(opcode - 0x84))?;
                self.list(items)?;
            }
            b't' | b'l' => {
                let items = self.pop_mark()?;
                self.list(items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(&items)?;
            }
            // Dicts.
            b'}' => self.dict()?,
            b'd' => {
                let items = self.pop_mark()?;
                self.dict()?;
                self.set(&items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set(&items)?;
            }
            // Sets are not used here.
            0x8f => self.push(Value::Other)?,
            0x90 => drop(self.pop_mark()?),
            0x91 => {
                self.pop_mark()?;
                self.push(Value::Other)?;
            }
            // Classes, functions, and the results of calls, which are never made.
            b'c' => {
                self.line()?;
                self.line()?;
                self.push(Value::Other)?;
            }
            b'i' => {
                self.line()?;
                self.line()?;
                self.pop_mark()?;
                self.push(Value::Other)?;
            }
            b'o' => {
                self.pop_mark()?;
                self.push(Value::Other)?;
            }
            b'P' => {
                self.line()?;
                self.push(Value::Other)?;
            }
            0x82 => self.extension::<1>()?,
            0x83 => self.extension::<2>()?,
            0x84 => self.extension::<4>()?,
            0x97 => self.push(Value::Other)?,
            0x98 => {}
            b'Q' => self.replace(1)?,
            b'R' | 0x81 | 0x93 => self.replace(2)?,
            0x92 => self.replace(3)?,
            b'b' => drop(self.pop()?),
            _ => bail!("{opcode:#04x} is not an opcode of a pickle"),
        }
        Ok(())
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.bytes::<1>()?[0])
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes).map_err(|why| anyhow!("the pickle is cut off: {why}"))?;
        Ok(bytes)
    }

    fn length_of_4(&mut self) -> Result<u64> {
        let length = i32::from_le_bytes(self.bytes()?);
        u64::try_from(length).map_err(|_| anyhow!("{length} is not a length"))
    }

    /// Reads `length` bytes, and returns as many of them as a known word can have.
    fn beginning(&mut self, length: u64) -> Result<Vec<u8>> {
        let mut kept = Vec::new();
        (&mut self.from).take(length.min(LONGEST_WORD as u64 + 1)).read_to_end(&mut kept)?;
        let rest = length - kept.len() as u64;
        let skipped = std::io::copy(&mut (&mut self.from).take(rest), &mut std::io::sink())?;
        ensure!(skipped == rest, "the pickle is cut off");
        Ok(kept)
    }

    /// A line without its end.
    fn line(&mut self) -> Result<Vec<u8>> {
        let mut line = Vec::new();
        (&mut self.from).take(1 << 16).read_until(b'\n', &mut line)?;
        ensure!(line.pop() == Some(b'\n'), "the pickle is cut off, or has a line of more than 64 KiB");
        Ok(line)
    }

    fn decimal(&mut self) -> Result<u32> {
        let line = self.line()?;
        let digits = str::from_utf8(&line).ok().and_then(|digits| digits.trim().parse().ok());
        digits.ok_or_else(|| anyhow!("a place in the memo is not a number"))
    }

    /// Reads a number of this many bytes, in two's complement.
    fn long(&mut self, length: u64) -> Result<()> {
        let bytes = self.beginning(length)?;
        let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
        let mut number = [if negative { 0xff } else { 0 }; 8];
        let value = match bytes.len() {
            length @ 0..=8 => {
                number[..length].copy_from_slice(&bytes);
                Value::Number(i64::from_le_bytes(number))
            }
            _ => Value::Other,
        };
        self.push(value)
    }

    fn counted(&mut self, length: u64) -> Result<()> {
        let text = self.beginning(length)?;
        self.text(&text)
    }

    fn text(&mut self, text: &[u8]) -> Result<()> {
        let word = if text.len() <= LONGEST_WORD { (self.word)(text) } else { None };
        self.push(word.map_or(Value::Other, Value::Word))
    }

    /// Counts values that will be held.
    fn hold(&mut self, values: usize) -> Result<()> {
        self.held += values;
        let held = self.held + self.stack.len();
        ensure!(held <= MOST_VALUES, "it holds more than {MOST_VALUES} values: record a shorter history");
        Ok(())
    }

    fn push(&mut self, value: Value<W>) -> Result<()> {
        self.hold(0)?;
        self.stack.push(value);
        Ok(())
    }

    /// The values above the last mark. Opcodes can take no others.
    fn above(&self) -> &[Value<W>] {
        &self.stack[self.marks.last().copied().unwrap_or(0)..]
    }

    fn top(&self) -> Result<Value<W>> {
        self.above().last().copied().ok_or_else(|| anyhow!("the pickle takes more from its stack than lies there"))
    }

    fn pop(&mut self) -> Result<Value<W>> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// Takes some values off the stack.
    fn take(&mut self, values: usize) -> Result<Vec<Value<W>>> {
        ensure!(self.above().len() >= values, "the pickle takes more from its stack than lies there");
        Ok(self.stack.split_off(self.stack.len() - values))
    }

    /// Takes all values above the last mark, and the mark.
    fn pop_mark(&mut self) -> Result<Vec<Value<W>>> {
        let mark = self.marks.pop().ok_or_else(|| anyhow!("there is no mark in the pickle where one is needed"))?;
        self.held -= 1;
        Ok(self.stack.split_off(mark))
    }

    /// Replaces some values with one that is not used here.
    fn replace(&mut self, values: usize) -> Result<()> {
        self.take(values)?;
        self.push(Value::Other)
    }

    fn extension<const N: usize>(&mut self) -> Result<()> {
        self.bytes::<N>()?;
        self.push(Value::Other)
    }

    fn remember(&mut self, place: u32) -> Result<()> {
        let value = self.top()?;
        let before = self.memo.insert(place, value);
        self.hold(if before.is_none() { PLACE } else { 0 })
    }

    fn recall(&mut self, place: u32) -> Result<()> {
        let value = self.memo.get(&place).copied();
        self.push(value.ok_or_else(|| anyhow!("nothing is in the memo at {place}"))?)
    }

    /// Makes a list.
    fn list(&mut self, items: Vec<Value<W>>) -> Result<()> {
        self.hold(1 + items.len())?;
        self.pickle.lists.push(items);
        self.push(Value::List(self.pickle.lists.len() as u32 - 1))
    }

    /// Makes a dict.
    fn dict(&mut self) -> Result<()> {
        self.hold(1)?;
        self.pickle.dicts.push(Vec::new());
        self.push(Value::Dict(self.pickle.dicts.len() as u32 - 1))
    }

    /// Appends to the list on top of the stack. Anything else there is ignored.
    fn append(&mut self, items: &[Value<W>]) -> Result<()> {
        if let Value::List(list) = self.top()? {
            let is_first = self.pickle.lists[list as usize].is_empty() && !items.is_empty();
            self.hold(if is_first { items.len().max(FEWEST) } else { items.len() })?;
            self.pickle.lists[list as usize].extend_from_slice(items);
        }
        Ok(())
    }

    /// Sets entries of the dict on top of the stack. Anything else there is ignored.
    fn set(&mut self, items: &[Value<W>]) -> Result<()> {
        let Value::Dict(dict) = self.top()? else { return Ok(()) };
        for entry in items.chunks_exact(2) {
            let Value::Word(key) = entry[0] else { continue };
            let entries = &mut self.pickle.dicts[dict as usize];
            match entries.iter_mut().find(|(known, _)| *known == key) {
                Some((_, value)) => *value = entry[1],
                None => {
                    entries.push((key, entry[1]));
                    let values = if entries.len() == 1 { FEWEST } else { 1 };
                    self.hold(values)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Word {
        A,
        B,
    }

    fn read(bytes: impl Read) -> Result<Pickle<Word>> {
        Pickle::read(bytes, |text| match text {
            b"a" => Some(Word::A),
            b"b" => Some(Word::B),
            _ => None,
        })
    }

    fn error(bytes: impl Read) -> String {
        format!("{:#}", read(bytes).err().expect("an error"))
    }

    /// `{"a": [1, -2, (3, "b")], "c": 4, "b": {"a": 2**40}}`, by Python's `pickle.dumps` of
    /// protocols 0, 1, 2 and 4.
    #[test]
    fn protocols_read_the_same() {
        let pickles: [&[u8]; 4] = [
            b"(dp0\nVa\np1\n(lp2\nI1\naI-2\na(I3\nVb\np3\ntp4\nasVc\np5\nI4\nsg3\n(dp6\ng1\nL1099511627776L\nss.",
            b"}q\0(X\x01\0\0\0aq\x01]q\x02(K\x01J\xfe\xff\xff\xff(K\x03X\x01\0\0\0bq\x03tq\x04eX\x01\0\0\0cq\x05K\x04h\x03}q\x06h\x01L1099511627776L\nsu.",
            b"\x80\x02}q\0(X\x01\0\0\0aq\x01]q\x02(K\x01J\xfe\xff\xff\xffK\x03X\x01\0\0\0bq\x03\x86q\x04eX\x01\0\0\0cq\x05K\x04h\x03}q\x06h\x01\x8a\x06\0\0\0\0\0\x01su.",
            b"\x80\x04\x951\0\0\0\0\0\0\0}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffK\x03\x8c\x01b\x94\x86\x94e\x8c\x01c\x94K\x04h\x03}\x94h\x01\x8a\x06\0\0\0\0\0\x01su.",
        ];
        for bytes in pickles {
            let pickle = read(bytes).unwrap();
            let [(Word::A, list), (Word::B, inner)] = pickle.entries(pickle.top()).unwrap()[..] else { panic!() };
            let [Value::Number(1), Value::Number(-2), tuple] = pickle.items(list).unwrap()[..] else { panic!() };
            assert_eq!(pickle.items(tuple).unwrap(), [Value::Number(3), Value::Word(Word::B)]);
            assert_eq!(pickle.entries(inner).unwrap(), [(Word::A, Value::Number(1 << 40))]);
        }
    }

    #[test]
    fn deep_nesting_does_not_overflow() {
        const DEEP: usize = 3_000_000;
        let lists = [vec![b']'; DEEP], vec![b'a'; DEEP - 1], vec![b'.']].concat();
        let tuples = [vec![b')'], vec![0x85; DEEP], vec![b'.']].concat();
        let dicts = [b"}X\x01\0\0\0a".repeat(DEEP / 8), vec![b'N'], vec![b's'; DEEP / 8], vec![b'.']].concat();
        // Lists in the memo. Each is appended to the one before it once all of them exist.
        let place = |number: usize| (number as u32).to_le_bytes();
        let made = (0..DEEP / 16).flat_map(|number| [&b"]r"[..], &place(number), b"0"].concat());
        let put =
            (0..DEEP / 16 - 1).flat_map(|number| [b"j", &place(number)[..], b"j", &place(number + 1), b"a0"].concat());
        let chain: Vec<u8> = made.chain(put).chain(*b"h\0.").collect();
        for bytes in [lists, tuples, dicts, chain] {
            let pickle = read(&bytes[..]).unwrap();
            assert!(pickle.items(pickle.top()).is_some() || pickle.entries(pickle.top()).is_some());
        }
        // A list that contains itself.
        let pickle = read(&b"]q\0h\0a."[..]).unwrap();
        assert_eq!(pickle.items(pickle.top()).unwrap(), [pickle.top()]);
    }

    #[test]
    fn a_value_referred_to_twice_is_kept_once() {
        let doubled = [b"]".to_vec(), b"2a".repeat(1000), b".".to_vec()].concat();
        assert_eq!(read(&doubled[..]).unwrap().lists.len(), 1);
        let long = [&b"X\0\0\x10\0"[..], &[b'x'; 1 << 20], b"q\0", &b"2".repeat(100_000), b"."].concat();
        assert!(read(&long[..]).unwrap().lists.is_empty());
    }

    #[test]
    fn bombs_and_nonsense_are_rejected() {
        for opcode in *b"](" {
            assert!(error(std::io::repeat(opcode)).contains("more than 67108864 values"));
        }
        assert!(read(&b"Nr\xff\xff\xff\xff."[..]).is_ok());
        assert!(error(std::io::repeat(b'0')).contains("more from its stack"));
        for (bytes, said) in [
            (&b""[..], "cut off"),
            (b"\x80\x04", "cut off"),
            (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc", "cut off"),
            (b"\x8b\xfb\xff\xff\xffabc", "-5 is not a length"),
            (b"T\xff\xff\xff\xffabc", "-1 is not a length"),
            (b"Ino end", "cut off"),
            (b".", "more from its stack"),
            (b"N\x87.", "more from its stack"),
            (b"N(\x85.", "more from its stack"),
            (b"(2.", "more from its stack"),
            (b"e.", "no mark"),
            (b"gx\n.", "not a number"),
            (b"h\0.", "nothing is in the memo at 0"),
            (b"\xff.", "0xff is not an opcode"),
        ] {
            let why = error(bytes);
            assert!(why.contains(said), "{bytes:?}: {why}");
        }
    }

    #[test]
    fn anything_but_plain_data_is_skipped() {
        for bytes in [
            &b"cos\nsystem\n(X\x02\0\0\0lstR."[..],
            b"\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.",
            b"cx\ny\n)\x81}X\x01\0\0\0aK\x01sb.",
            b"(ix\ny\n.",
            b"\x8f(K\x01\x90.",
            b"G\0\0\0\0\0\0\0\0.",
            b"F1e400\n.",
            b"I01\n.",
            b"L99999999999999999999L\n.",
            b"\x8a\x09\0\0\0\0\0\0\0\0\x01.",
            b"P7\n.",
            b"NNNa.",
        ] {
            let top = read(bytes).unwrap().top();
            assert!(matches!(top, Value::Other | Value::Number(1)), "{bytes:?}: {top:?}");
        }
    }
}
