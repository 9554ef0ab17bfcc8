//! The C header, the library and the Python package declare the same functions, structs and
//! statistics. What the sources say is the same on each system, and `scripts/wheels` looks at what
//! the library for Windows exports.
#![cfg(unix)]

mod root;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use giant_kitten::abi::GkStats;
use root::root;

/// The functions of the header that the Python package does not call: PyTorch calls them by their
/// addresses, and `gk_snapshot_json` is for other programs.
const NOT_CALLED_FROM_PYTHON: [&str; 12] = [
    "gk_base_alloc",
    "gk_begin_allocate_stream_to_pool",
    "gk_begin_allocate_to_pool",
    "gk_end_allocate_stream_to_pool",
    "gk_end_allocate_to_pool",
    "gk_free",
    "gk_init",
    "gk_malloc",
    "gk_release_pool",
    "gk_reset",
    "gk_snapshot_json",
    "gk_torch_malloc",
];

/// The types that a function returns and takes, as C writes them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Signature {
    result: String,
    arguments: Vec<String>,
}

type Signatures = BTreeMap<String, Signature>;

fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// The header without comments and directives.
fn header() -> String {
    let mut text = String::new();
    let header = read("include/giant_kitten.h");
    let header: String = header.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let mut rest = header.as_str();
    while let Some((before, after)) = rest.split_once("/*") {
        text.push_str(before);
        rest = after.split_once("*/").unwrap().1;
    }
    text + rest
}

/// The parts of a list at its commas, except those in inner brackets.
fn split(list: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in list.char_indices() {
        match c {
            '(' | '<' => depth += 1,
            ')' | '>' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[start..]);
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect()
}

/// The text up to the bracket that closes the one before it, and the rest.
fn bracketed(text: &str) -> (&str, &str) {
    let mut depth = 1;
    let end = text.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0
    });
    let end = end.expect("a bracket that is closed");
    (&text[..end], &text[end + 1..])
}

/// A type of C, without the argument's name if there is one: `const char *text` is `const char *`.
fn c_type(declared: &str, is_named: bool) -> String {
    let mut words: Vec<&str> = declared.split_inclusive('*').flat_map(|part| part.split_whitespace()).collect();
    if is_named {
        let last = words.pop().unwrap();
        // The star stands at the name.
        if last.starts_with('*') {
            words.push("*");
        }
    }
    words.join(" ").replace(" *", "*").replace('*', " *")
}

fn of_the_header() -> Signatures {
    let header = header();
    let declarations = header.split(';').filter_map(|declaration| {
        let (before, after) = declaration.split_once('(')?;
        let before = before.rsplit(['\n', '}', '{']).find(|line| line.contains("gk_"))?;
        let at = before.find("gk_")?;
        let arguments = split(bracketed(after).0).into_iter().filter(|argument| *argument != "void");
        let arguments = arguments.map(|argument| c_type(argument, true)).collect();
        Some((before[at..].to_owned(), Signature { result: c_type(&before[..at], false), arguments }))
    });
    declarations.collect()
}

/// The type of C that a type of Rust is.
fn of_rust(rust: &str) -> String {
    for (pointer, is_const) in [("*const ", "const "), ("*mut ", "")] {
        if let Some(target) = rust.strip_prefix(pointer) {
            return format!("{is_const}{} *", of_rust(target));
        }
    }
    let plain = [
        ("c_int", "int"),
        ("c_char", "char"),
        ("c_void", "void"),
        ("usize", "size_t"),
        ("u32", "uint32_t"),
        ("u64", "uint64_t"),
        ("f64", "double"),
        ("GkActivation", "struct gk_activation"),
        ("GkPool", "struct gk_pool"),
        ("GkSnapshot", "struct gk_snapshot"),
        ("GkStats", "struct gk_stats"),
    ];
    let found = plain.iter().find(|(name, _)| *name == rust);
    found.unwrap_or_else(|| panic!("what is {rust} in C?")).1.to_owned()
}

/// Rust sources under a folder.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else {
            text += &std::fs::read_to_string(&path).unwrap();
        }
    }
    text
}

fn of_the_library() -> Signatures {
    let text = sources(&root().join("src"));
    let functions = text.split("#[unsafe(no_mangle)]\n").skip(1).map(|function| {
        let (before, after) = function.split_once('(').unwrap();
        let name = before.rsplit(' ').next().unwrap();
        let (arguments, after) = bracketed(after);
        let arguments = split(arguments).into_iter().map(|argument| of_rust(argument.split_once(": ").unwrap().1));
        let result = after.split_once('{').unwrap().0.trim();
        let result = result.strip_prefix("-> ").map_or("void".into(), of_rust);
        (name.to_owned(), Signature { result, arguments: arguments.collect() })
    });
    functions.collect()
}

/// The type of C that a type of ctypes is. ctypes has no `const`.
fn of_ctypes(ctypes: &str) -> String {
    if let Some(target) = ctypes.strip_prefix("ctypes.POINTER(") {
        return format!("{} *", of_ctypes(target.strip_suffix(')').unwrap()));
    }
    let plain = [
        ("None", "void"),
        ("ctypes.c_int", "int"),
        ("ctypes.c_size_t", "size_t"),
        ("ctypes.c_uint32", "uint32_t"),
        ("ctypes.c_uint64", "uint64_t"),
        ("ctypes.c_double", "double"),
        ("ctypes.c_char_p", "char *"),
        ("ctypes.c_void_p", "void *"),
        ("Activation", "struct gk_activation"),
        ("Snapshot", "struct gk_snapshot"),
        ("Stats", "struct gk_stats"),
    ];
    let found = plain.iter().find(|(name, _)| *name == ctypes);
    found.unwrap_or_else(|| panic!("what is {ctypes} in C?")).1.to_owned()
}

fn of_the_python_package() -> Signatures {
    let module = read("python/giant_kitten/_library.py");
    let table =
        module.split_once("_SIGNATURES").unwrap().1.split_once("= {\n").unwrap().1.split_once("\n}\n").unwrap().0;
    let rows = table.split("\"gk_").skip(1).map(|row| {
        let (name, row) = row.split_once("\": (").unwrap();
        let parts = split(bracketed(row).0);
        let [result, arguments] = parts[..] else { panic!("gk_{name}: {parts:?}") };
        let arguments = arguments.strip_prefix('(').and_then(|list| list.strip_suffix(')')).unwrap();
        let arguments = split(arguments).into_iter().map(of_ctypes).collect();
        (format!("gk_{name}"), Signature { result: of_ctypes(result), arguments })
    });
    rows.collect()
}

/// A type of C as far as ctypes can say it. A text that the caller frees is an address there.
fn as_ctypes_says(of: &str) -> String {
    match of {
        "char *" => "void *".into(),
        other => other.trim_start_matches("const ").into(),
    }
}

#[test]
fn header_and_library_declare_the_same_functions() {
    let (header, library) = (of_the_header(), of_the_library());
    assert!(header.len() > 50, "the header was not read: {header:?}");
    for (name, declared) in &header {
        assert_eq!(library.get(name), Some(declared), "{name}");
    }
    assert_eq!(library.len(), header.len(), "the library has functions that the header does not declare");
}

#[test]
fn the_library_exports_what_the_header_declares() {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let library = deps.join("libgiant_kitten.so");
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(&library).output().unwrap();
    assert!(output.status.success(), "nm {}: {}", library.display(), String::from_utf8_lossy(&output.stderr));
    let symbols = String::from_utf8(output.stdout).unwrap();
    let exported = symbols.lines().filter_map(|line| line.split(' ').next_back());
    let exported: BTreeSet<String> = exported.filter(|name| name.starts_with("gk_")).map(Into::into).collect();
    assert_eq!(of_the_header().into_keys().collect::<BTreeSet<_>>(), exported);
}

#[test]
fn everything_that_the_header_declares_is_called_from_c() {
    let program = read("tests/c/everything.c");
    for name in of_the_header().keys() {
        assert!(program.contains(&format!("{name}(")), "{name} is never called");
    }
}

#[test]
fn the_python_package_calls_what_the_header_declares() {
    let (header, python) = (of_the_header(), of_the_python_package());
    for (name, declared) in &python {
        let Some(Signature { result, arguments }) = header.get(name) else { panic!("the header has no {name}") };
        let result = as_ctypes_says(result);
        let arguments = arguments.iter().map(|argument| as_ctypes_says(argument)).collect();
        assert_eq!(*declared, Signature { result, arguments }, "{name}");
    }
    let not_called: Vec<&str> = header.keys().map(String::as_str).filter(|name| !python.contains_key(*name)).collect();
    assert_eq!(not_called, NOT_CALLED_FROM_PYTHON);
}

/// The names of a struct's fields in the header, with their types.
fn fields(of: &str) -> Vec<(String, String)> {
    let header = header();
    let body = header.split_once(&format!("struct {of} {{")).unwrap().1.split_once('}').unwrap().0;
    let fields = body.split(';').filter_map(|field| field.trim().rsplit_once(' '));
    fields.map(|(kind, name)| (name.to_owned(), kind.to_owned())).collect()
}

#[test]
fn header_and_library_have_the_same_statistics() {
    let declared = fields("gk_stats");
    let ours = GkStats::default();
    let (names, kinds): (Vec<String>, Vec<String>) = declared.into_iter().unzip();
    assert_eq!(names[..2], ["size", "version"]);
    assert_eq!(names[2..], ours.fields().map(|(name, _)| name).collect::<Vec<_>>());
    assert!(kinds[..2].iter().all(|kind| kind == "uint32_t") && kinds[2..].iter().all(|kind| kind == "uint64_t"));
    assert_eq!(size_of::<GkStats>(), 8 + 8 * (names.len() - 2));
}

#[test]
fn blocks_have_the_same_fields_everywhere() {
    let rust = read("src/abi/snapshot.rs");
    let rust = rust.split_once("pub struct GkBlock {\n").unwrap().1.split_once("\n}\n").unwrap().0;
    let rust = rust.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.strip_suffix(',')?.split_once(": "));
    let declared = fields("gk_block");
    assert_eq!(rust.map(|(name, kind)| (name.to_owned(), of_rust(kind))).collect::<Vec<_>>(), declared);
    let python = read("python/giant_kitten/_library.py");
    assert!(python.contains(&format!("_BLOCK = struct.Struct(\"={}Q\")", declared.len())));
    assert!(declared.iter().all(|(_, kind)| kind == "uint64_t"));
}

#[test]
fn activations_have_the_same_fields_everywhere() {
    let declared = fields("gk_activation");
    let rust = read("src/abi/actions.rs");
    let rust = rust.split_once("pub struct GkActivation {\n").unwrap().1.split_once("\n}\n").unwrap().0;
    let rust = rust.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.strip_suffix(',')?.split_once(": "));
    assert_eq!(rust.map(|(name, kind)| (name.to_owned(), of_rust(kind))).collect::<Vec<_>>(), declared);
    let python = read("python/giant_kitten/_library.py");
    let python = python.split_once("_fields_ = (").unwrap().1.split_once("\n    )\n").unwrap().0;
    let python =
        python.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.strip_suffix("),")?.split_once("\", "));
    assert_eq!(python.map(|(name, kind)| (name.to_owned(), of_ctypes(kind))).collect::<Vec<_>>(), declared);
}
