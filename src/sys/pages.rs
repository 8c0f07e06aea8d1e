//! Anonymous memory that costs nothing until it is touched.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

/// Zeroed, page-aligned memory of our own, given back to the kernel when dropped. Pages that were
/// never written take no room.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to this value alone, and is memory like any other.
unsafe impl Send for Pages {}

impl Pages {
    /// Maps `bytes` bytes (rounded up to whole pages by the kernel).
    ///
    /// # Errors
    /// ENOMEM when the address space or the limit on it is used up.
    ///
    /// # Panics
    /// If `bytes` is zero.
    pub fn map(bytes: usize) -> io::Result<Self> {
        assert!(bytes > 0, "an empty mapping has no use");
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches nothing
        // that exists.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { start, bytes })
    }

    /// Where the memory begins, for the kernel's ears.
    pub(super) const fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is `bytes` long, readable, initialised (zeroed by the kernel) and
        // lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; and `&mut self` makes the borrow the only one.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this start and length, and no borrow of it
        // outlives `self`.
        let result = unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert_eq!(result, 0, "our own mapping can be taken away");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_zeroed_and_can_be_written() {
        let mut pages = Pages::map(100_000).unwrap();
        assert_eq!(pages.len(), 100_000);
        assert!(pages.iter().all(|byte| *byte == 0));
        pages[99_999] = 7;
        assert_eq!(pages[99_999], 7);
    }
}
