//! The options: one table, from which the parser, the reference page and `--help` are made.
//!
//! The text is a list like that of `PYTORCH_CUDA_ALLOC_CONF`:
//! `reserve:1.6GiB,persist:0,sort:reversed`.

use std::time::Duration;

use crate::core::layout::Layout;
use crate::core::placement::SortBy;
use crate::core::policy::Wanted;
use crate::core::{Activation, Reserve, parse_size};
use crate::heap::{CopyAhead, Limits};

/// The configuration of giant-kitten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The activation: what an action asks for, and what is kept while loading.
    pub activation: Activation,
    /// The memory that may be used of each device and of the host.
    pub limits: Limits,
    /// Whether the reserve that a run would have wanted is remembered for the next run of the same
    /// program on the same card.
    pub remember: bool,
    /// The findings of an earlier run, in place of those that are remembered.
    pub remembered: Option<Wanted>,
    /// Whether `torch.cuda.empty_cache` is a safe point, in programs that use a card from one
    /// thread.
    pub safe_point_at_reset: bool,
    /// Whether weights of the shared tier are copied ahead of their use.
    pub copy_ahead: CopyAhead,
    /// How large blocks are laid out.
    pub layout: Layout,
    /// How long idle memory stays cached in a program that neither allocates nor frees; `None` for
    /// ever.
    pub idle: Option<Duration>,
    /// How long an action waits for the pieces of work of other threads before it is refused.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            activation: Activation::default(),
            limits: Limits::default(),
            remember: false,
            remembered: None,
            safe_point_at_reset: false,
            copy_ahead: CopyAhead::Auto,
            layout: Layout::default(),
            idle: Some(Duration::from_secs(60)),
            patience: Duration::from_secs(30),
        }
    }
}

/// One row of the table.
pub struct OptionRow {
    /// The option's name in the text.
    pub name: &'static str,
    /// The values that it takes.
    pub values: &'static str,
    /// The value in force if none is given.
    pub default: &'static str,
    /// What the option does.
    pub help: &'static str,
    set: fn(&mut Options, &str) -> Result<(), String>,
}

/// All options.
pub const OPTIONS: &[OptionRow] = &[
    OptionRow {
        name: "reserve",
        values: "auto|remembered|SIZE",
        default: "auto",
        help: "dedicated memory for scratch. auto finds what the work needs, if the program reports when memory may \
               move. remembered is the reserve that the last run of this program on this card would have wanted, kept \
               from the first step on, so that nothing has to move. A size is kept free while loading. Scratch gets \
               the reserve first, once activated or once the program works",
        set: |options, value| {
            options.remember = value == "remembered";
            options.activation.reserve = match value {
                "auto" | "remembered" => Reserve::Auto,
                size => Reserve::Fixed(parse_size(size)?),
            };
            Ok(())
        },
    },
    OptionRow {
        name: "persist",
        values: "SIZE",
        default: "0",
        help: "dedicated memory withheld while active, as if the card were smaller",
        set: |options, value| set_size(&mut options.activation.persist, value),
    },
    OptionRow {
        name: "safe_points",
        values: "told|empty_cache",
        default: "told",
        help: "when the automatic reserve may move memory. told: where the program reports that no GPU work is being \
               launched (safe_point(), follow(), a WebUI's generation). empty_cache: at torch.cuda.empty_cache() too, \
               in programs that use the card from one thread; refused once a second thread has used the card",
        set: |options, value| {
            options.safe_point_at_reset = match value {
                "told" => false,
                "empty_cache" => true,
                _ => return Err(format!("{value} is neither told nor empty_cache")),
            };
            Ok(())
        },
    },
    OptionRow {
        name: "sort",
        values: "normal|reversed",
        default: "normal",
        help: "whether small blocks (normal) or large ones (reversed) claim dedicated memory first",
        set: |options, value| {
            options.activation.order.sort_reversed = match value {
                "normal" => false,
                "reversed" => true,
                _ => return Err(format!("{value} is neither normal nor reversed")),
            };
            Ok(())
        },
    },
    OptionRow {
        name: "sort_by",
        values: "size|reads|recency",
        default: "size",
        help: "the key by which blocks are sorted to claim dedicated memory in an activation. size is the original's. \
               reads and recency go by the reads that were reported: the most read or the last read first, and equals \
               by size",
        set: |options, value| {
            options.activation.order.sort_by = SortBy::parse(value)?;
            Ok(())
        },
    },
    OptionRow {
        name: "ignore_model",
        values: "0|1",
        default: "0",
        help: "with 1, blocks marked as the model's do not come before the others",
        set: |options, value| {
            options.activation.order.ignore_model = match value {
                "0" | "false" => false,
                "1" | "true" => true,
                _ => return Err(format!("{value} is neither 0 nor 1")),
            };
            Ok(())
        },
    },
    OptionRow {
        name: "copy_ahead",
        values: "auto|off|SIZE",
        default: "auto",
        help: "whether weights in the shared tier are copied into a ring of dedicated memory before they are used, in \
               modules that are followed. auto: where that is expected to be faster. SIZE: always, through a ring of \
               that size, at most half of dedicated memory",
        set: |options, value| {
            options.copy_ahead = match value {
                "auto" => CopyAhead::Auto,
                "off" => CopyAhead::Off,
                size => CopyAhead::Ring(parse_size(size)?),
            };
            Ok(())
        },
    },
    OptionRow {
        name: "layout",
        values: "learned|fit",
        default: "fit",
        help: "where large blocks go. fit: into the nearest size, and of equals the lowest. learned: work that repeats \
               is recognised, and where another layout would spare memory, the next time takes its blocks where a plan \
               has put them; all else goes by the fit. See layout.md",
        set: |options, value| {
            options.layout = Layout::parse(value)?;
            Ok(())
        },
    },
    OptionRow {
        name: "idle",
        values: "SECONDS|off",
        default: "60",
        help: "how long unused memory stays cached in a program that neither allocates nor frees (one that waits for \
               its user, say) before it is returned to the driver for other programs. It may take twice as long. Not \
               while frozen, and never within a step",
        set: |options, value| {
            options.idle = match value {
                "off" => None,
                seconds => Some(parse_seconds(seconds)?),
            };
            Ok(())
        },
    },
    OptionRow {
        name: "dedicated",
        values: "SIZE",
        default: "the device's free memory at the start, less the headroom",
        help: "the most dedicated memory to use; a small value makes a large card act like a small one",
        set: |options, value| set_some_size(&mut options.limits.dedicated, value),
    },
    OptionRow {
        name: "headroom",
        values: "SIZE",
        default: "a thirty-second of the card, at least 256MiB and at most 1GiB",
        help: "dedicated memory left for the CUDA context, late-loaded kernels and the desktop. By default what is \
               still free of it is used before anything overflows, all but a quarter; a size that is given here is \
               never used",
        set: |options, value| set_some_size(&mut options.limits.headroom, value),
    },
    OptionRow {
        name: "shared",
        values: "SIZE",
        default: "half of the host's memory, or the available memory less a margin, whichever is less",
        help: "the most host memory to use as the shared tier; 0 for none",
        set: |options, value| set_some_size(&mut options.limits.shared, value),
    },
    OptionRow {
        name: "granule",
        values: "SIZE",
        default: "the driver's granularity, 2MiB",
        help: "the unit in which memory is backed and moved; a power of two",
        set: |options, value| set_some_size(&mut options.limits.granule, value),
    },
];

/// The texts of `GIANT_KITTEN` that turn the allocator on with all defaults, in upper or lower
/// case.
pub const ON: &[&str] = &["1", "true", "on", "yes", "auto"];

/// The texts of `GIANT_KITTEN` that leave it off, in upper or lower case. The Python package has
/// the same table.
pub const OFF: &[&str] = &["", "0", "false", "off", "no"];

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=1e7).contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("{text} is not a number of seconds from 0.1 to 10000000"))
}

fn set_size(field: &mut u64, value: &str) -> Result<(), String> {
    *field = parse_size(value)?;
    Ok(())
}

fn set_some_size(field: &mut Option<u64>, value: &str) -> Result<(), String> {
    *field = Some(parse_size(value)?);
    Ok(())
}

impl Options {
    /// Parses the text of the environment variable `GIANT_KITTEN`. A text that only turns
    /// giant-kitten on (`ON`) or off (`OFF`) means all defaults.
    ///
    /// # Errors
    /// A sentence about the first part that is not understood, with that part and the values it may
    /// take.
    pub fn parse(text: &str) -> Result<Options, String> {
        let mut options = Options::default();
        options.apply(text)?;
        Ok(options)
    }

    /// Parses a text over these options. Options that it does not name stay.
    ///
    /// # Errors
    /// As for [`parse`](Options::parse). Nothing has changed then.
    pub fn apply(&mut self, text: &str) -> Result<(), String> {
        let mut options = self.clone();
        let text = unquoted(text);
        if !ON.iter().chain(OFF).any(|plain| text.eq_ignore_ascii_case(plain)) {
            for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
                options.apply_one(part)?;
            }
        }
        *self = options;
        Ok(())
    }

    fn apply_one(&mut self, part: &str) -> Result<(), String> {
        let (name, value) = part.split_once(':').ok_or_else(|| match part.split_once('=') {
            Some((name, value)) => format!("\"{part}\" has a = where a : belongs: write {name}:{value}"),
            None if ["1", "true", "on", "yes", "auto"].contains(&part.to_lowercase().as_str()) => {
                format!("\"{part}\" stands alone: leave it out where there are options")
            }
            None => format!("\"{part}\" is not of the form option:value; {}", known_options()),
        })?;
        let (name, value) = (name.trim(), value.trim());
        let row = OPTIONS
            .iter()
            .find(|row| row.name == name)
            .ok_or_else(|| format!("there is no option \"{name}\"; {}", known_options()))?;
        (row.set)(self, value).map_err(|why| format!("option {name}: {why} (it takes {})", row.values))
    }
}

/// A value without the blanks around it, and without the quotation marks that Windows' `set` and
/// files of variables leave in place.
fn unquoted(text: &str) -> &str {
    let text = text.trim();
    let within = ['"', '\''].iter().find_map(|mark| text.strip_prefix(*mark)?.strip_suffix(*mark));
    within.unwrap_or(text).trim()
}

fn known_options() -> String {
    let names: Vec<_> = OPTIONS.iter().map(|row| row.name).collect();
    format!("the options are {}", names.join(", "))
}

/// The reference of the options as Markdown. The page `docs/options.md` is this text.
pub fn reference() -> String {
    let mut page = String::from(
        "# Options\n\n\
         Options are given by the environment variable `GIANT_KITTEN`, by `gk_configure` and by the tools, as\n\
         `option:value` separated by commas: `GIANT_KITTEN=reserve:1.6GiB,sort:reversed`.\n\
         `GIANT_KITTEN=1` means all defaults, and so do `true`, `on`, `yes` and `auto`. `0`, `false`, `off`,\n\
         `no` and an empty value leave giant-kitten out. Case does not matter, nor do\n\
         spaces and quotation marks around the value.\n\n\
         A SIZE is a number with a unit (1.6GiB, 1600MiB, 1.6GB = 1,600,000,000 bytes) or a whole number of\n\
         bytes, 65536 at least or 0.\n\n\
         | option | values | default | what it does |\n|---|---|---|---|\n",
    );
    for row in OPTIONS {
        let values = row.values.replace('|', "\\|");
        page.push_str(&format!("| `{}` | {values} | {} | {} |\n", row.name, row.default, row.help));
    }
    page
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_forms_people_write() {
        let options = Options::parse("reserve:1.6GiB, persist:0 ,sort:reversed,ignore_model:1,shared:8GB").unwrap();
        assert_eq!(options.activation.reserve, Reserve::Fixed(1_717_986_918));
        assert_eq!(Options::parse("reserve:auto").unwrap().activation.reserve, Reserve::Auto);
        assert_eq!(options.limits.shared, Some(8_000_000_000));
        assert!(options.activation.order.sort_reversed && options.activation.order.ignore_model);
        for plain in ON.iter().chain(OFF) {
            for text in [(*plain).to_owned(), format!(" {plain}\t"), plain.to_uppercase()] {
                assert_eq!(Options::parse(&text), Ok(Options::default()), "{text:?}");
            }
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (text, named) in [
            ("garbage", "garbage"),
            ("reserv:1GiB", "reserv"),
            ("reserve=1GiB", "write reserve:1GiB"),
            ("reserve:8", "8GiB"),
            ("reserve:1.6", "1.6"),
            ("reserve:-1", "-1"),
            ("reserve:1e30", "1e30"),
            ("sort:up", "up"),
            ("sort_by:age", "age"),
            ("ignore_model:maybe", "maybe"),
            ("reserve:", "reserve"),
            ("idle:soon", "soon"),
            ("idle:-1", "-1"),
            ("idle:nan", "nan"),
            ("safe_points:none", "none"),
            ("layout:best", "best"),
        ] {
            let why = Options::parse(text).expect_err(text);
            assert!(why.contains(named), "{text}: {why}");
        }
    }

    #[test]
    fn quotation_marks_around_a_value_are_no_part_of_it() {
        let plain = Options::parse("reserve:1GiB").unwrap();
        for text in ["\"reserve:1GiB\"", "'reserve:1GiB'", " \" reserve:1GiB \" "] {
            assert_eq!(Options::parse(text), Ok(plain.clone()), "{text}");
        }
        assert_eq!(Options::parse("\"1\""), Ok(Options::default()));
        Options::parse("\"reserve:1GiB").unwrap_err();
    }

    #[test]
    fn a_bad_text_changes_nothing() {
        let mut options = Options::parse("reserve:1GiB").unwrap();
        let before = options.clone();
        options.apply("persist:1GiB,nonsense").unwrap_err();
        assert_eq!(options, before);
    }

    #[test]
    fn the_reference_page_is_the_table() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/options.md")).unwrap();
        assert_eq!(page, reference(), "docs/options.md must be what giant_kitten::reference() returns");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,80}") {
            let _ = Options::parse(&text);
        }
    }
}
