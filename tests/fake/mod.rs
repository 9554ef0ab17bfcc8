//! Copies of the fake CUDA driver. A copy stands for one machine, so each test thread has its
//! own.
#![allow(dead_code, reason = "each test uses a part")]

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use fake_cuda::Setup;
use giant_kitten::driver::DriverError;
use giant_kitten::driver::cuda::{CudaDriver, LIBRARY};
use tempfile::TempDir;

/// A copy of the fake library that no other thread uses. The next test of the thread uses it again.
fn copy_of_this_thread() -> PathBuf {
    thread_local! {
        static COPY: RefCell<Option<TempDir>> = const { RefCell::new(None) };
    }
    COPY.with(|copy| {
        let mut copy = copy.borrow_mut();
        let folder = copy.get_or_insert_with(|| {
            let folder = tempfile::tempdir().unwrap();
            std::fs::copy(fake_cuda::built_library(), folder.path().join(LIBRARY)).unwrap();
            folder
        });
        folder.path().join(LIBRARY)
    })
}

/// The CUDA driver over a fake library that stands for a machine, and for the system's graphics
/// library.
pub fn cuda_driver(setup: Setup) -> Result<CudaDriver, DriverError> {
    let copy = copy_of_this_thread();
    fake_cuda::install_in(Path::new(&copy), setup).unwrap();
    Ok(CudaDriver::open_library(&copy)?.with_graphics(&copy))
}
