//! `capy-store init`: a new repository.

use std::path::PathBuf;

use capy_store::{ChunkSizes, InitOptions, Repository};
use clap::Args;
use serde_json::json;

use crate::exit::Exit;
use crate::output::fields;
use crate::secrets;
use crate::session::Session;

/// Create a repository in an empty place
///
/// Probes the store first: it must refuse to create an object that exists, also when two create
/// it at once, because every commit relies on it. A store that does not is refused with the name
/// of its fault.
///
/// The passphrase (or key file) opens the repository; without it nothing can ever be read again.
/// Give a passphrase and a key file to make a slot for each; add more later with `key add`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    capy-store init --repo /backup/repo\n  \
    CAPY_PASSPHRASE=... capy-store init --repo s3://bucket/prefix --endpoint http://localhost:8333\n  \
    capy-store init --repo /backup/repo --create-key-file /root/capy.key")]
pub(crate) struct InitArgs {
    /// Write a new random key file (mode 0600, must not exist) and open the repository with it
    #[arg(long, value_name = "FILE")]
    create_key_file: Option<PathBuf>,

    /// zstd level of stored chunks: 1 is fastest, 3 smaller on most data. WAL has a form of its own up to 3
    #[arg(long, value_name = "1-19", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=19))]
    compression_level: i32,

    /// Cut every file by content; by default the files of tables and indexes are cut by pages
    #[arg(long)]
    content_defined: bool,

    /// Cells in which files of tables and indexes are cut, in KiB: a multiple of 8
    #[arg(long, value_name = "KIB")]
    grid_kib: Option<u32>,

    /// Shortest, aimed at and longest chunk of what is cut by content, in KiB [default: 32,64,512]
    #[arg(long, value_name = "MIN,AVG,MAX", value_parser = three)]
    chunk_kib: Option<[u32; 3]>,
}

/// Three numbers with commas between them.
fn three(text: &str) -> Result<[u32; 3], String> {
    let numbers: Vec<u32> = text.split(',').map_while(|number| number.trim().parse().ok()).collect();
    <[u32; 3]>::try_from(numbers)
        .ok()
        .filter(|_| text.split(',').count() == 3)
        .ok_or_else(|| "expected three numbers, like 32,64,512".to_owned())
}

impl InitArgs {
    fn chunk_sizes(&self) -> ChunkSizes {
        let bytes = |kib: u32| kib.saturating_mul(1024);
        let mut sizes = ChunkSizes::default();
        sizes.grid_bytes = self.grid_kib.map_or(sizes.grid_bytes, bytes);
        if let Some(chosen) = self.chunk_kib {
            [sizes.min_bytes, sizes.avg_bytes, sizes.max_bytes] = chosen.map(bytes);
        }
        sizes
    }
}

pub(crate) async fn run(args: InitArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let location = session.location()?;
    let keys = match &args.create_key_file {
        Some(file) => vec![secrets::create_key_file(file)?],
        None => secrets::new_repository_keys(&session.global)?,
    };
    let mut options = InitOptions::default();
    options.compression_level = args.compression_level;
    options.content_defined = args.content_defined;
    options.chunk_sizes = args.chunk_sizes();
    let created = Repository::init(&session.ctx, &location, &keys, options).await;
    if let (Err(_), Some(file)) = (&created, &args.create_key_file) {
        // A key that opens nothing must not lie about.
        let _ = std::fs::remove_file(file);
    }
    let repository = created?;
    let document = json!({
        "repository": { "id": repository.id(), "url": repository.url(), "format_version": repository.format_version() }
    });
    session.output.account(&document, |_| {
        let mut text = fields(&[
            ("repository", repository.url()),
            ("id", repository.id().to_string()),
            ("key slots", keys.len().to_string()),
        ]);
        text.push_str("keep the passphrase or key file safe: without it nothing can be read again\n");
        text
    })?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::three;

    #[test]
    fn three_numbers_are_three_and_nothing_else_is() {
        assert_eq!(three("32,64,512"), Ok([32, 64, 512]));
        assert_eq!(three("32, 64, 512"), Ok([32, 64, 512]));
        for bad in ["", "32", "32,64", "32,64,512,1024", "32,64,512,", "a,b,c", "32;64;512", "-1,2,3"] {
            assert!(three(bad).is_err(), "{bad:?}");
        }
    }
}
