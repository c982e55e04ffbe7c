//! Packs: objects of many sealed frames. Building one in memory, checking it before it leaves,
//! and reading frames back.

mod builder;
mod frame;
mod join;

pub(crate) use builder::{PackBuilder, SealedPack};
pub(crate) use frame::{FrameOpener, FrameProblem, open_footer};
pub(crate) use join::{group, join};
