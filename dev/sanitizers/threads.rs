//! A mistake, made on purpose: a sanitizer that does not see it sees nothing.

static mut SHARED: u64 = 0;

fn bump() {
    for _ in 0..1000 {
        // SAFETY: none. Another thread does the same at the same time.
        unsafe { SHARED += 1 }
    }
}

fn main() {
    let other = std::thread::spawn(bump);
    bump();
    drop(other.join());
}
