//! The program's heap: memory by powers of two, cut from regions, and back into the region's list for its size when it is
//! freed. A region in which nothing is used goes back to the kernel; what is larger than [`LARGEST`] is mapped on its own.
//! mmap(2), mremap(2), munmap(2).
//!
//! Why not musl's (mallocng, made to make use of freed memory hard): it maps a page for nearly every size that a small program
//! begins to use, and unmaps it when that is freed. That was 30 system calls and a twentieth of the time of a container's
//! start. With lists for all regions together instead of one for each, what an image's index had needed stayed with the
//! supervisor and its copy, init, for as long as they lived (90 KB).
//!
//! Left out: compaction. A region of which a single piece is in use stays.
#![allow(unsafe_code)]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull, null_mut};
use core::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap_anonymous, mremap, munmap};
use rustix::thread::sched_yield;

/// Bytes of the smallest piece, which has to have room for a pointer, and of the largest that is cut from a region.
const SMALLEST: usize = 16;
const LARGEST: usize = 1 << 13;
const CLASSES: usize = (LARGEST.ilog2() - SMALLEST.ilog2() + 1) as usize;
/// Bytes of a region, which begins at a multiple of that: so a piece leads to its region.
const REGION: usize = 1 << 16;
/// How many regions are looked through for a piece, the newest first.
const LOOKED: usize = 8;

pub struct Heap {
    busy: AtomicBool,
    state: UnsafeCell<State>,
    /// Has the first region in it, for which the kernel need not be asked. Not in the state: whoever has a piece of it uses
    /// that while others have the state.
    first: UnsafeCell<[MaybeUninit<u8>; 2 * REGION]>,
}

struct State {
    /// The newest, and behind it the others.
    regions: Option<NonNull<Region>>,
    /// The first one, once it is in use.
    first: Option<NonNull<Region>>,
}

/// A region begins with this.
struct Region {
    next: Option<NonNull<Region>>,
    /// Of each size the piece that was freed last; each begins with a pointer to the one before it.
    free: [Option<NonNull<Link>>; CLASSES],
    /// How many pieces are in use, and the bytes that have been cut, this header included.
    used: usize,
    cut: usize,
}

struct Link(Option<NonNull<Link>>);

// SAFETY: `state` is used by who has set `busy`, and nobody else does meanwhile; `first` is memory like any other that the
// state hands out.
unsafe impl Sync for Heap {}

impl Heap {
    pub const fn new() -> Heap {
        Heap {
            busy: AtomicBool::new(false),
            state: UnsafeCell::new(State {
                regions: None,
                first: None,
            }),
            first: UnsafeCell::new([MaybeUninit::zeroed(); 2 * REGION]),
        }
    }

    /// The one thread that there mostly is finds it free. A fork is made by that thread, never in here.
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        while self.busy.swap(true, Ordering::Acquire) {
            sched_yield();
        }
        // SAFETY: `busy` was false, and is ours now.
        let result = work(unsafe { &mut *self.state.get() });
        self.busy.store(false, Ordering::Release);
        result
    }
}

impl Default for Heap {
    fn default() -> Heap {
        Heap::new()
    }
}

impl Region {
    /// A piece that was freed.
    fn again(&mut self, class: usize) -> Option<NonNull<u8>> {
        let first = self.free.get_mut(class)?;
        let piece = (*first)?;
        // SAFETY: `State::free` has written it, and nobody has had the piece since then.
        *first = unsafe { piece.as_ref() }.0;
        self.used += 1;
        Some(piece.cast())
    }

    /// Where in the region a piece is that nobody has had: `size` bytes at a multiple of that.
    fn cut(&mut self, size: usize) -> Option<usize> {
        let at = self.cut.next_multiple_of(size);
        if at + size > REGION {
            return None;
        }
        self.cut = at + size;
        self.used += 1;
        Some(at)
    }
}

impl State {
    fn take(&mut self, size: usize, class: usize, first: *mut u8) -> Option<NonNull<u8>> {
        let mut at = self.regions;
        for _ in 0..LOOKED {
            let Some(mut start) = at else {
                break;
            };
            // SAFETY: what is in the list is a region, and nobody else uses its header meanwhile.
            let region = unsafe { start.as_mut() };
            if let Some(piece) = region.again(class) {
                return Some(piece);
            }
            if let Some(piece) = region.cut(size) {
                return NonNull::new(start.as_ptr().cast::<u8>().wrapping_add(piece));
            }
            at = region.next;
        }
        let mut new = self.region(first)?;
        // SAFETY: it is as large and as aligned as a region, and nobody uses it.
        let piece = unsafe {
            new.write(Region {
                next: self.regions,
                free: [None; CLASSES],
                used: 0,
                cut: size_of::<Region>(),
            });
            new.as_mut().cut(size)?
        };
        self.regions = Some(new);
        NonNull::new(new.as_ptr().cast::<u8>().wrapping_add(piece))
    }

    fn region(&mut self, first: *mut u8) -> Option<NonNull<Region>> {
        if self.first.is_none() {
            self.first = NonNull::new(first.wrapping_add(first.align_offset(REGION)).cast());
            return self.first;
        }
        // The kernel often puts it below the one before.
        let at = map(REGION);
        if at.align_offset(REGION) == 0 {
            return NonNull::new(at.cast());
        }
        unmap(at, REGION);
        let at = map(2 * REGION);
        if at.is_null() {
            return None;
        }
        let before = at.align_offset(REGION);
        let region = at.wrapping_add(before);
        unmap(at, before);
        unmap(region.wrapping_add(REGION), REGION - before);
        NonNull::new(region.cast())
    }

    fn free(&mut self, piece: NonNull<u8>, class: usize) {
        let at = piece.as_ptr();
        let start = at.wrapping_sub(at as usize % REGION).cast::<Region>();
        // SAFETY: the piece was cut from it.
        let region = unsafe { &mut *start };
        if let Some(first) = region.free.get_mut(class) {
            let link = piece.cast::<Link>();
            // SAFETY: the caller is done with the piece, which has room for a pointer and is aligned for one.
            unsafe { link.write(Link(*first)) };
            *first = Some(link);
        }
        region.used -= 1;
        if region.used > 0 {
            return;
        }
        let stays = [self.regions, self.first];
        if stays.contains(&NonNull::new(start)) {
            // It is cut anew.
            (region.free, region.cut) = ([None; CLASSES], size_of::<Region>());
            return;
        }
        let mut at = self.regions;
        while let Some(mut other) = at {
            // SAFETY: as in `take`.
            let other = unsafe { other.as_mut() };
            if other.next.map(NonNull::as_ptr) == Some(start) {
                other.next = region.next;
                unmap(start.cast(), REGION);
                return;
            }
            at = other.next;
        }
    }
}

/// The size of the pieces for this layout, and its place in the list of sizes; `None` for what is mapped on its own.
fn class(layout: Layout) -> Option<(usize, usize)> {
    let size = layout.size().max(layout.align()).max(SMALLEST);
    let size = size.checked_next_power_of_two()?;
    (size <= LARGEST).then(|| (size, (size.ilog2() - SMALLEST.ilog2()) as usize))
}

fn map(size: usize) -> *mut u8 {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping where the kernel has room for it touches nothing that is in use.
    let mapped = unsafe { mmap_anonymous(null_mut(), size, protection, MapFlags::PRIVATE) };
    mapped.map_or(null_mut(), |at| at.cast())
}

fn unmap(at: *mut u8, size: usize) {
    if size > 0 && !at.is_null() {
        // SAFETY: all callers have mapped it, and nobody uses it.
        let _ = unsafe { munmap(at.cast(), size) };
    }
}

// SAFETY: a piece is as large and as aligned as its class, which is at least as the layout; one that was handed out is in
// no list. No layout of mini's asks what is mapped on its own to be aligned to more than a page.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((size, class)) = class(layout) else {
            return map(layout.size());
        };
        let first = self.first.get().cast();
        let piece = self.with(|state| state.take(size, class, first));
        piece.map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        match (class(layout), NonNull::new(at)) {
            (Some((_, class)), Some(piece)) => self.with(|state| state.free(piece, class)),
            _ => unmap(at, layout.size()),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller vouches for it, as `GlobalAlloc` demands.
        let at = unsafe { self.alloc(layout) };
        // What is mapped on its own is zeros.
        if !at.is_null() && class(layout).is_some() {
            // SAFETY: just handed out, as large as the layout.
            unsafe { at.write_bytes(0, layout.size()) };
        }
        at
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller vouches for it, as `GlobalAlloc` demands.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (class(layout), class(new)) {
            (None, None) => {
                let flags = MremapFlags::MAYMOVE;
                // SAFETY: `alloc` has mapped it, and the caller uses what this returns in its place.
                let moved = unsafe { mremap(at.cast(), layout.size(), size, flags) };
                moved.map_or(null_mut(), |at| at.cast())
            }
            (Some(old), Some(new)) if old == new => at,
            _ => {
                // SAFETY: both are as large as their layouts, and the new one overlaps nothing that is in use.
                unsafe {
                    let to = self.alloc(new);
                    if !to.is_null() {
                        ptr::copy_nonoverlapping(at, to, layout.size().min(size));
                        self.dealloc(at, layout);
                    }
                    to
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    /// Pieces of all sizes, filled, resized and freed in an order that is as good as random: none changes by itself.
    #[test]
    fn what_is_handed_out_is_nobody_elses() {
        let heap = Heap::new();
        let mut pieces: Vec<(*mut u8, Layout, u8)> = Vec::new();
        let mut random: u64 = 1;
        let check = |(at, layout, fill): &(*mut u8, Layout, u8)| {
            // SAFETY: the heap says so.
            let bytes = unsafe { core::slice::from_raw_parts(*at, layout.size()) };
            assert!(bytes.iter().all(|byte| byte == fill), "{layout:?}");
            assert_eq!(*at as usize % layout.align(), 0);
        };
        for round in 0..10_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let size = 1 + (random >> 33) as usize % (1 << (1 + (random >> 20) % 18));
            let fill = round as u8;
            match (random >> 60, pieces.len()) {
                (0..=5, _) | (_, 0) => {
                    let layout = Layout::from_size_align(size, 1 << ((random >> 13) % 13)).unwrap();
                    // SAFETY: the size is not 0.
                    let at = unsafe { heap.alloc(layout) };
                    assert!(!at.is_null());
                    unsafe { at.write_bytes(fill, size) };
                    pieces.push((at, layout, fill));
                }
                (6..=10, count) => {
                    let piece = pieces.swap_remove((random >> 40) as usize % count);
                    check(&piece);
                    // SAFETY: from the heap, with this layout.
                    unsafe { heap.dealloc(piece.0, piece.1) };
                }
                (_, count) => {
                    let (at, layout, old) = &mut pieces[(random >> 40) as usize % count];
                    let kept = layout.size().min(size);
                    // SAFETY: from the heap, with this layout; the new size is not 0.
                    *at = unsafe { heap.realloc(*at, *layout, size) };
                    *layout = Layout::from_size_align(size, layout.align()).unwrap();
                    check(&(
                        *at,
                        Layout::from_size_align(kept, layout.align()).unwrap(),
                        *old,
                    ));
                    unsafe { at.write_bytes(fill, size) };
                    *old = fill;
                }
            }
        }
        pieces.iter().for_each(check);
    }

    #[test]
    fn what_is_freed_is_used_again() {
        let heap = Heap::new();
        let layout = Layout::from_size_align(100, 8).unwrap();
        // SAFETY: each is freed once, with its layout.
        unsafe {
            let (first, second, _third) =
                (heap.alloc(layout), heap.alloc(layout), heap.alloc(layout));
            heap.dealloc(first, layout);
            heap.dealloc(second, layout);
            assert_eq!([heap.alloc(layout), heap.alloc(layout)], [second, first]);
            assert_ne!(heap.alloc(layout), first);
        }
    }

    #[test]
    fn regions_without_use_go_back() {
        let heap = Heap::new();
        let layout = Layout::from_size_align(5000, 8).unwrap();
        let regions = || {
            heap.with(|state| {
                let (mut count, mut at) = (0, state.regions);
                while let Some(region) = at {
                    // SAFETY: what is in the list is a region.
                    (count, at) = (count + 1, unsafe { region.as_ref() }.next);
                }
                count
            })
        };
        // SAFETY: each is freed once, with its layout.
        unsafe {
            let pieces: Vec<*mut u8> = (0..100).map(|_| heap.alloc(layout)).collect();
            // Seven fit in one beside its header.
            assert_eq!(regions(), 15);
            for piece in pieces {
                heap.dealloc(piece, layout);
            }
        }
        // That which is in the program itself, and the newest.
        assert_eq!(regions(), 2);
    }
}
