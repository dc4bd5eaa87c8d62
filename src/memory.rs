//! Memory that is free, and that the system may have back.

#![expect(unsafe_code, reason = "no safe wrapper has it; it takes a flag, and can be called at any time")]

// So that it is there to be called.
use mimalloc as _;

unsafe extern "C" {
    /// mimalloc's own name for it: with `force`, what this thread has freed goes back to the system at once.
    safe fn mi_collect(force: bool);
}

/// Gives back to the system what this thread has freed. It looks at all that the thread has: to be called when much was freed.
pub fn give_back() {
    mi_collect(true);
}
