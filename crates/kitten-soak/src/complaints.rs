//! The errors that the library logs. PyTorch's hooks have no other way to report one.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    static HEARD: RefCell<Option<String>> = const { RefCell::new(None) };
}

struct Listener;

impl log::Log for Listener {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        metadata.level() == log::Level::Error
    }

    fn log(&self, record: &log::Record) {
        if self.enabled(record.metadata()) {
            HEARD.with(|heard| *heard.borrow_mut() = Some(record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

/// Starts to listen on every thread. Only the first call in a process has an effect.
pub fn listen() {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        if log::set_logger(&Listener).is_ok() {
            log::set_max_level(log::LevelFilter::Error);
        }
    });
}

/// The last error that the library has logged on this thread since the last call.
#[inline]
pub fn take() -> Option<String> {
    HEARD.with(|heard| heard.borrow_mut().take())
}
