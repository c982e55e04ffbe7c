//! Time and chance, handed to everything that needs them.

use std::fmt;
use std::sync::Arc;

use capy_types::{Clock, Entropy, OsEntropy, SystemClock};

/// Where time and randomness come from. The default asks the operating system.
#[derive(Clone)]
pub struct Env {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The source of names, nonces and keys.
    pub entropy: Arc<dyn Entropy>,
}

impl Default for Env {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), entropy: Arc::new(OsEntropy) }
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env")
    }
}
