//! Two mistakes, made on purpose: a sanitizer that does not see these sees nothing.

/// Reads what has been freed.
#[unsafe(no_mangle)]
pub extern "C" fn read_after_free() -> u8 {
    let freed: *mut u8 = std::hint::black_box(Box::into_raw(Box::new(7)));
    // SAFETY: none. It came from a box, and is read when that has been dropped.
    unsafe {
        drop(Box::from_raw(freed));
        freed.read_volatile()
    }
}

/// Forgets what it has allocated.
#[unsafe(no_mangle)]
pub extern "C" fn leak() {
    std::mem::forget(std::hint::black_box(Box::new([7_u8; 1000])));
}
