//! Everything that runs between `clone3` and `execve`, and the PID 1 reaper.
//!
//! This library is `no_std` and has no `alloc`: the compiler itself excludes allocation and the standard library,
//! and clippy forbids what could panic. After `clone3` the child is a copy of a process whose C library does not
//! know that it was copied; code that allocates, locks or unwinds there works until the day it does not.
//! Whatever is needed is prepared before the clone by `plan.rs`, in memory that lives for ever.
//!
//! Reading order: [`step`] (what can be done, and how it is shown), [`child`] (doing it), [`rootfs`] and
//! [`resolve`] (mounts below an untrusted image), [`mask`] (what of /proc and /sys is hidden), [`network`], [`user`] (who the
//! command runs as), [`capabilities`], [`exec`] (the command, and why it did not start), [`init`] (PID 1), [`report`]
//! (how a failure reaches the supervisor), [`sys`] (`unsafe`). Beside them [`heap`]: memory for the rest of the program.
#![no_std]
#![deny(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub mod capabilities;
pub mod child;
pub mod exec;
pub mod heap;
pub mod init;
pub mod mask;
pub mod network;
pub mod report;
pub mod resolve;
pub mod rootfs;
pub mod step;
pub mod sys;
pub mod user;
