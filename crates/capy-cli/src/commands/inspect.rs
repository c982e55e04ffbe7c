//! `capy-store inspect`: what is stored, decoded as far as it can be. Never modifies anything.

use std::path::PathBuf;

use capy_store::inspect::{Inspection, ManifestInspection, WalObject};
use capy_store::{BackupSelector, ChunkId, IndexId, PackId};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::human;
use crate::output::table;
use crate::session::Session;

/// Decode stored objects, damaged ones as far as possible; changes nothing
///
/// Every object is taken apart step by step: header, seal, content. What cannot be decoded is
/// listed under "problems", and the command ends with exit code 1.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    capy-store inspect repo\n  \
    capy-store inspect root\n  \
    capy-store inspect manifest main/latest | less\n  \
    capy-store inspect chunk 3fa2...c1 --output chunk.bin\n  \
    capy-store inspect wal main/000000010000000000000003")]
pub(crate) struct InspectArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The repository: its config and how much of everything there is
    Repo,
    /// A root: the newest, or the one of a generation
    Root {
        /// The generation; by default the newest there is
        generation: Option<u64>,
    },
    /// A pack: header, trailer, and the frames its footer lists
    Pack {
        /// The pack's id
        pack: PackId,
    },
    /// An index object: the packs and frames it lists
    Index {
        /// The index's id
        index: IndexId,
    },
    /// The entries of a backup's manifest
    Manifest {
        /// The backup: CLUSTER/ID, or CLUSTER/latest
        backup: BackupSelector,
        /// Show at most this many entries
        #[arg(long, value_name = "N", default_value_t = 100_000)]
        limit: usize,
    },
    /// A chunk: where it is stored, and whether it can be read
    Chunk {
        /// The chunk's id
        chunk: ChunkId,
        /// Write its plaintext to this file (must not exist)
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// A file of a WAL archive: its object's header, the facts about it, what is in it, and the trailer
    Wal {
        /// CLUSTER/FILE, or the name of an object below wal/, wal-conflicts/, wal-facts/ or archives/
        #[arg(value_name = "CLUSTER/FILE|OBJECT")]
        object: WalObject,
    },
    /// The key slots as stored, secrets left out; needs no passphrase
    Key,
}

pub(crate) async fn run(args: InspectArgs, session: &mut Session) -> anyhow::Result<Exit> {
    if let What::Key = args.what {
        let found = capy_store::inspect::key_slots(&session.ctx, &session.location()?).await?;
        session.output.answer(&json!({ "objects": found }), |_| found.iter().map(text).collect())?;
        return Ok(exit(found.iter().all(|i| i.problems.is_empty())));
    }
    let repository = session.open().await?;
    let ctx = &session.ctx;
    let found = match args.what {
        What::Repo => repository.inspect_repo(ctx).await?,
        What::Root { generation } => repository.inspect_root(ctx, generation).await?,
        What::Pack { pack } => repository.inspect_pack(ctx, pack).await?,
        What::Wal { object } => repository.inspect_wal(ctx, &object).await?,
        What::Index { index } => repository.inspect_index(ctx, index).await?,
        What::Chunk { chunk, output } => {
            let (found, plain) = repository.inspect_chunk(ctx, chunk).await?;
            if let (Some(file), Some(plain)) = (output, plain) {
                std::fs::File::create_new(&file)
                    .and_then(|mut f| std::io::Write::write_all(&mut f, &plain))?;
            }
            found
        }
        What::Manifest { backup, limit } => {
            let found = repository.inspect_manifest(ctx, &backup, limit).await?;
            session.output.answer(&json!({ "manifest": found }), |_| manifest_text(&found))?;
            return Ok(exit(found.problems.is_empty()));
        }
        What::Key => return Ok(Exit::Success),
    };
    session.output.answer(&json!({ "object": found }), |_| text(&found))?;
    Ok(exit(found.problems.is_empty()))
}

const fn exit(sound: bool) -> Exit {
    if sound { Exit::Success } else { Exit::Problems }
}

fn text(found: &Inspection) -> String {
    let mut text = format!("{} ({})\n", found.object, human::bytes(found.size_bytes));
    for (name, part) in [("header", &found.header), ("content", &found.content)] {
        if !part.is_null() {
            text.push_str(&format!("{name}:\n"));
            indent(part, 1, &mut text);
        }
    }
    for problem in &found.problems {
        text.push_str(&format!("problem: {problem}\n"));
    }
    text
}

/// JSON as indented lines: readable, and greppable by key.
fn indent(value: &Value, depth: usize, text: &mut String) {
    let space = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                line(&format!("{space}{name}:"), value, depth, text);
            }
        }
        Value::Array(items) => {
            for item in items {
                line(&format!("{space}-"), item, depth, text);
            }
        }
        other => text.push_str(&format!("{space}{}\n", scalar(other))),
    }
}

fn line(start: &str, value: &Value, depth: usize, text: &mut String) {
    let nested = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if nested {
        text.push_str(&format!("{start}\n"));
        indent(value, depth + 1, text);
    } else {
        text.push_str(&format!("{start} {}\n", scalar(value)));
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Array(_) => "none".to_owned(),
        other => other.to_string(),
    }
}

fn manifest_text(found: &ManifestInspection) -> String {
    let mut rows = vec![["TYPE", "MODE", "SIZE", "CHUNKS", "CRC32C", "PATH"].map(str::to_owned).to_vec()];
    for entry in &found.entries {
        rows.push(vec![
            entry.kind.to_owned(),
            entry.mode.map_or_else(String::new, |mode| format!("{mode:04o}")),
            entry.size_bytes.map_or_else(String::new, |size| size.to_string()),
            entry.chunking.unwrap_or_default().to_owned(),
            entry.crc32c.clone().unwrap_or_default(),
            entry.path.clone(),
        ]);
    }
    let mut text = table(&rows);
    if found.truncated {
        text.push_str(&format!("(cut off at {} entries; see --limit)\n", found.entries.len()));
    }
    for problem in &found.problems {
        text.push_str(&format!("problem: {problem}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_values_become_indented_lines() {
        let mut text = String::new();
        indent(&json!({ "a": 1, "list": [{ "b": "x" }], "none": [] }), 1, &mut text);
        assert_eq!(text, "  a: 1\n  list:\n    -\n      b: x\n  none: none\n");
    }
}
