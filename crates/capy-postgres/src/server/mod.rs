//! What a server says about itself, and what is worth telling before a backup starts.

mod facts;
mod preflight;

pub(crate) use facts::{facts_over_replication, facts_over_sql};
pub(crate) use preflight::advice_of;
pub use preflight::{Advice, Severity};
