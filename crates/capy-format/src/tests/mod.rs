//! Tests over all structures at once: round trips, damage, and the golden objects.

mod damage;
mod decoders;
mod golden;
mod round_trip;
pub(crate) mod samples;
