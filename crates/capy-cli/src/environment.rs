//! The one place that reads the environment, and what it is read for.
//!
//! Contained by: the binary only; the library never looks at the environment, the terminal or
//! the home directory, it is handed what this module found.

use std::path::PathBuf;

use capy_store::{Location, StoreOptions};

use crate::args::Global;

/// A variable's value, when it is set, not empty and readable as text.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub(crate) fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A variable that names a file.
pub(crate) fn path_var(name: &str) -> Option<PathBuf> {
    var(name).map(PathBuf::from)
}

/// How to reach the store: the usual AWS variables, overridden by the command line.
pub(crate) fn store_options(global: &Global) -> anyhow::Result<StoreOptions> {
    let mut options = Location::options_from_vars(var)?;
    if let Some(endpoint) = &global.endpoint {
        options.endpoint = Some(endpoint.clone());
    }
    if let Some(region) = &global.region {
        options.region = Some(region.clone());
    }
    if global.path_style {
        options.path_style = Some(true);
    }
    Ok(options)
}
