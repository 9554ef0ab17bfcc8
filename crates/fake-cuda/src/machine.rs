//! Which simulated machine this copy of the library stands for.
//!
//! From the environment, at the first call:
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `FAKE_CUDA_PROFILE` | hardware profiles of the devices, separated by commas | `nominal-8g` |
//! | `FAKE_CUDA_VERSION` | the CUDA version that the driver reports | `13000` |
//! | `FAKE_CUDA_MISSING` | functions that the driver lacks, separated by commas | none |
//! | `FAKE_CUDA_RUNGS` | ways to shared memory: `host_numa`, `host`, `pinned`; or `none` | all |
//! | `CUDA_VISIBLE_DEVICES` | visible devices by number, up to the first invalid one | all |
//! | `FAKE_CUDA_COMPLETION` | `immediate`, or `late`: done only when waited for | `immediate` |
//! | `FAKE_CUDA_DESTROYED_STREAMS` | a call on one: `refused`, or a `fault` too | `refused` |
//! | `FAKE_CUDA_GRANTED` | what the system grants of each card, as in `4GiB,8GiB` | no account |
//! | `FAKE_CUDA_OVERCOMMIT` | `1`: a full card's memory is created in the host's | `0` |
//! | `FAKE_CUDA_FAULTS` | a file for every use of memory that came too early | none |

use std::any::Any;
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::ffi::c_int;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use kitten_sim::{Completion, Gpu, Profile, code};

use crate::refusal::{Result, refuse};

/// The machine and the driver that a copy of the library stands for.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The machine.
    pub gpu: Gpu,
    /// The CUDA version that the driver says it supports, as in 12040 for 12.4.
    pub version: i32,
    /// Functions that the driver lacks.
    pub missing: Vec<String>,
    /// Whether backing can be placed on a node of host memory.
    pub host_numa: bool,
    /// Whether backing can be placed in host memory without naming a node.
    pub host: bool,
    /// Whether host memory can be pinned for the device.
    pub pinned: bool,
    /// The node that the driver reports as nearest to each device; -1 on a system without nodes.
    pub numa_node: i32,
    /// The cards in the machine, including those that `CUDA_VISIBLE_DEVICES` hides.
    pub cards: usize,
}

impl Setup {
    /// A current driver over a machine.
    pub fn new(gpu: Gpu) -> Setup {
        let cards = gpu.device_count();
        Setup {
            gpu,
            version: 13_000,
            missing: Vec::new(),
            host_numa: true,
            host: true,
            pinned: true,
            numa_node: 0,
            cards,
        }
    }

    /// The setup that the environment describes; `None` if it hides every device.
    fn from_environment() -> std::result::Result<Option<Setup>, String> {
        let variable = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.into());
        let list =
            |text: String| text.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let profiles = list(variable("FAKE_CUDA_PROFILE", "nominal-8g"))
            .iter()
            .map(|name| Profile::load(name))
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|why| format!("FAKE_CUDA_PROFILE: {why}"))?;
        let cards = profiles.len();
        let seen: Vec<Profile> = match std::env::var("CUDA_VISIBLE_DEVICES") {
            Ok(wanted) => visible(&wanted, cards).into_iter().map(|card| profiles[card].clone()).collect(),
            Err(_) => profiles,
        };
        if seen.is_empty() {
            return Ok(None);
        }
        let version = variable("FAKE_CUDA_VERSION", "13000");
        let rungs = list(variable("FAKE_CUDA_RUNGS", "host_numa,host,pinned"));
        let gpu = Gpu::new(&seen).map_err(|why| why.to_string())?;
        gpu.set_completion(completion(&variable("FAKE_CUDA_COMPLETION", "immediate"))?);
        match variable("FAKE_CUDA_DESTROYED_STREAMS", "refused").as_str() {
            "refused" => {}
            "fault" => gpu.fault_destroyed_streams(),
            other => return Err(format!("FAKE_CUDA_DESTROYED_STREAMS={other}: it is refused or fault")),
        }
        if let Some(budgets) = granted(&variable("FAKE_CUDA_GRANTED", ""))? {
            (0..gpu.device_count()).for_each(|device| gpu.grant(device, Some(budgets)));
        }
        match variable("FAKE_CUDA_OVERCOMMIT", "0").as_str() {
            "0" => {}
            "1" => gpu.overcommit(),
            other => return Err(format!("FAKE_CUDA_OVERCOMMIT={other}: it is 0 or 1")),
        }
        Ok(Some(Setup {
            version: version.parse().map_err(|why| format!("FAKE_CUDA_VERSION={version}: {why}"))?,
            missing: list(variable("FAKE_CUDA_MISSING", "")),
            host_numa: rungs.iter().any(|rung| rung == "host_numa"),
            host: rungs.iter().any(|rung| rung == "host"),
            pinned: rungs.iter().any(|rung| rung == "pinned"),
            cards,
            ..Setup::new(gpu)
        }))
    }
}

impl Setup {
    /// The device of a number that a program gave.
    pub(crate) fn device(&self, number: c_int) -> Result<usize> {
        match usize::try_from(number).ok().filter(|device| *device < self.gpu.device_count()) {
            Some(device) => Ok(device),
            None => refuse(code::INVALID_DEVICE, format!("there is no device {number}")),
        }
    }

    /// Whether the driver, or the system's graphics library, lacks a function.
    pub(crate) fn lacks(&self, function: &str) -> bool {
        self.missing.iter().any(|missing| missing == function)
    }
}

/// What `FAKE_CUDA_GRANTED` grants of dedicated and of shared memory; `None` where it is empty.
fn granted(text: &str) -> std::result::Result<Option<[u64; 2]>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let sizes = text.split(',').map(|size| parse_size::parse_size(size).map_err(|why| why.to_string()));
    let sizes = sizes.collect::<std::result::Result<Vec<_>, _>>().and_then(|sizes| {
        <[u64; 2]>::try_from(sizes).map_err(|_| "it is two sizes, of dedicated and of shared memory".into())
    });
    sizes.map(Some).map_err(|why| format!("FAKE_CUDA_GRANTED={text}: {why}"))
}

/// When work is done, as `FAKE_CUDA_COMPLETION` names it.
fn completion(name: &str) -> std::result::Result<Completion, String> {
    match name {
        "immediate" => Ok(Completion::Immediate),
        "late" => Ok(Completion::Late),
        other => Err(format!("FAKE_CUDA_COMPLETION={other}: it is immediate or late")),
    }
}

/// The cards that a value of `CUDA_VISIBLE_DEVICES` leaves: those before the first invalid number,
/// and none if a number comes twice, as the CUDA programming guide defines it.
fn visible(wanted: &str, cards: usize) -> Vec<usize> {
    let known = |part: &str| part.trim().parse().ok().filter(|card| *card < cards);
    let seen: Vec<usize> = wanted.split(',').map_while(known).collect();
    let twice = (1..seen.len()).any(|at| seen[..at].contains(&seen[at]));
    if twice { Vec::new() } else { seen }
}

/// A machine in use.
pub(crate) type Machine = Setup;

/// The machine in use. Earlier ones are leaked, so that references stay valid.
static CURRENT: AtomicPtr<Machine> = AtomicPtr::new(std::ptr::null_mut());

/// The machine in use: the one installed, or else the one that the environment describes.
pub(crate) fn current() -> Result<&'static Machine> {
    // SAFETY: the pointer is null or leads to a machine that was leaked below.
    if let Some(machine) = unsafe { CURRENT.load(Ordering::Acquire).as_ref() } {
        return Ok(machine);
    }
    static FROM_ENVIRONMENT: OnceLock<std::result::Result<Option<Setup>, String>> = OnceLock::new();
    match FROM_ENVIRONMENT.get_or_init(|| {
        let setup = Setup::from_environment();
        match &setup {
            Ok(Some(setup)) => keep_faults(&setup.gpu),
            Ok(None) => {}
            Err(why) => eprintln!("fake-cuda: {why}"),
        }
        setup
    }) {
        Ok(Some(setup)) => Ok(setup),
        Ok(None) => refuse(code::NO_DEVICE, "CUDA_VISIBLE_DEVICES leaves no device"),
        Err(why) => refuse(code::NOT_INITIALIZED, why.clone()),
    }
}

/// Appends each fault to the file that `FAKE_CUDA_FAULTS` names, at once, because a program may be
/// killed.
fn keep_faults(gpu: &Gpu) {
    fn add(text: &str) {
        let Ok(path) = std::env::var("FAKE_CUDA_FAULTS") else { return };
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        if let Err(why) = file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes())) {
            eprintln!("fake-cuda: {path}: {why}");
        }
    }
    // An empty file shows that faults were looked for.
    add("");
    gpu.tell_faults(|fault| add(&format!("{fault}\n")));
}

/// Makes this copy of the library stand for a machine that a test controls. Returns whether that
/// succeeded: library and caller must be compiled from the same simulator by the same compiler.
#[unsafe(no_mangle)]
pub extern "Rust" fn fake_cuda_install(setup: Box<dyn Any>) -> bool {
    match setup.downcast::<Setup>() {
        Ok(setup) => {
            CURRENT.store(Box::leak(setup), Ordering::Release);
            true
        }
        Err(_) => false,
    }
}

/// The library that cargo has built for the test that calls this.
///
/// # Panics
/// Where there is none: fake-cuda must be a dependency of the test.
pub fn built_library() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let library = test.with_file_name(format!("{DLL_PREFIX}fake_cuda{DLL_SUFFIX}"));
    assert!(library.exists(), "there is no {}", library.display());
    library
}

/// Loads the copy of the library in a file and makes it stand for a machine.
///
/// # Errors
/// No such library, or one of another build.
pub fn install_in(library: &Path, setup: Setup) -> std::result::Result<(), String> {
    // SAFETY: the file is a copy of this library, whose initialisers have no precondition.
    let loaded = unsafe { libloading::Library::new(library) }.map_err(|why| format!("{}: {why}", library.display()))?;
    // SAFETY: the symbol is the function above, which checks that both sides have the same types.
    let installed = unsafe {
        let install = loaded
            .get::<extern "Rust" fn(Box<dyn Any>) -> bool>("fake_cuda_install")
            .map_err(|why| format!("{} is not a copy of fake-cuda: {why}", library.display()))?;
        install(Box::new(setup))
    };
    // Never unloaded: the machine is used through it.
    std::mem::forget(loaded);
    if installed { Ok(()) } else { Err(format!("{} is from another build: rebuild it", library.display())) }
}

#[cfg(test)]
mod tests {
    use super::visible;

    #[test]
    fn devices_are_hidden_as_by_any_driver() {
        let cases: [(&str, &[usize]); 9] = [
            ("", &[]),
            ("0", &[0]),
            ("1", &[1]),
            ("2, 0", &[2, 0]),
            ("1,7,0", &[1]),
            ("-1", &[]),
            ("0,-1,1", &[0]),
            ("1,1", &[]),
            ("GPU-8", &[]),
        ];
        for (wanted, seen) in cases {
            assert_eq!(visible(wanted, 3), seen, "{wanted:?}");
        }
    }
}
