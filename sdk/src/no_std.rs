//! What `no_std_runtime!` needs: the allocator of wasi-libc, which is the one the standard library uses too.
#![allow(unsafe_code, reason = "an allocator is unsafe by its nature")]

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;

#[link(name = "c")]
unsafe extern "C" {
    fn malloc(bytes: usize) -> *mut u8;
    fn aligned_alloc(align: usize, bytes: usize) -> *mut u8;
    fn realloc(memory: *mut u8, bytes: usize) -> *mut u8;
    fn free(memory: *mut u8);
}

/// What `malloc` aligns to: wasi-libc's `max_align_t` on wasm32.
const MALLOC_ALIGN: usize = 16;

/// The allocator of wasi-libc.
pub struct Libc;

// SAFETY: `malloc`, `aligned_alloc` and `realloc` answer with null or with memory of the size and alignment asked for,
// and `free` takes the memory of each of them.
unsafe impl GlobalAlloc for Libc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the layout's size is not zero and its alignment a power of two, by the trait's contract; C wants the size
        // to be a multiple of the alignment.
        unsafe {
            if layout.align() <= MALLOC_ALIGN {
                malloc(layout.size())
            } else {
                aligned_alloc(layout.align(), layout.pad_to_align().size())
            }
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, _layout: Layout) {
        // SAFETY: the memory comes from `alloc` or `realloc` above, by the trait's contract.
        unsafe { free(memory) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the memory comes from above and holds `layout.size()` bytes, and `bytes` is not zero and does not overflow
        // when rounded up to the alignment, by the trait's contract.
        unsafe {
            if layout.align() <= MALLOC_ALIGN {
                return realloc(memory, bytes);
            }
            let moved = self.alloc(Layout::from_size_align_unchecked(bytes, layout.align()));
            if !moved.is_null() {
                ptr::copy_nonoverlapping(memory, moved, layout.size().min(bytes));
                free(memory);
            }
            moved
        }
    }
}

impl Libc {
    /// The canonical ABI's `realloc`. Traps when there is no memory left.
    ///
    /// # Safety
    /// As the canonical ABI says: `old` with `old_bytes` comes from here, unless `old_bytes` is zero; `align` is a power of
    /// two; `new_bytes` is zero only together with `old_bytes`.
    pub unsafe fn cabi_realloc(old: *mut u8, old_bytes: usize, align: usize, new_bytes: usize) -> *mut u8 {
        if old_bytes == 0 && new_bytes == 0 {
            return ptr::without_provenance_mut(align);
        }
        // SAFETY: by this function's own contract.
        let memory = unsafe {
            if old_bytes == 0 {
                Self.alloc(Layout::from_size_align_unchecked(new_bytes, align))
            } else {
                Self.realloc(old, Layout::from_size_align_unchecked(old_bytes, align), new_bytes)
            }
        };
        if memory.is_null() {
            core::arch::wasm32::unreachable();
        }
        memory
    }
}
