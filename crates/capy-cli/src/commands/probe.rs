//! `capy-store probe`: what a store can do, and whether it can be trusted.

use capy_store::ProbeReport;
use clap::Args;
use serde_json::json;

use crate::exit::Exit;
use crate::session::Session;

/// Test whether a store does what a repository relies on
///
/// Writes and removes a few small objects under the repository's prefix: create-if-absent one
/// after another and eight at once, range reads, listing, read after write. On S3 also tells about
/// versioning, object lock, and whether abandoned uploads are cleaned up. Needs no passphrase.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    capy-store probe --repo s3://bucket/prefix")]
pub(crate) struct ProbeArgs {}

pub(crate) async fn run(_args: ProbeArgs, session: &mut Session) -> anyhow::Result<Exit> {
    let location = session.location()?;
    let report = capy_store::probe(&session.ctx, &location).await?;
    session.output.answer(&json!({ "probe": report }), |_| text(&report))?;
    Ok(if report.multi_writer_safe { Exit::Success } else { Exit::Problems })
}

fn text(report: &ProbeReport) -> String {
    let value = serde_json::to_value(report).unwrap_or_default();
    let mut text = String::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let name = name.replace('_', " ");
        match value {
            serde_json::Value::Array(items) => {
                for item in items {
                    text.push_str(&format!("{name}: {}\n", plain(item)));
                }
            }
            other => text.push_str(&format!("{name}: {}\n", plain(other))),
        }
    }
    text
}

fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        serde_json::Value::Null => "unknown".to_owned(),
        other => other.to_string(),
    }
}
