//! The JSON documents: their shape is a promise, and JSON.md tells it.

use serde_json::Value;

use crate::harness::Cli;

/// Field names and types, without values.
fn shape(value: &Value, depth: usize, text: &mut String) {
    let pad = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let kind = match value {
                    Value::Null => "null",
                    Value::Bool(_) => "bool",
                    Value::Number(_) => "number",
                    Value::String(_) => "string",
                    Value::Array(_) => "array",
                    Value::Object(_) => "object",
                };
                text.push_str(&format!("{pad}{name}: {kind}\n"));
                shape(value, depth + 1, text);
            }
        }
        Value::Array(items) => {
            if let Some(first) = items.first() {
                shape(first, depth, text);
            }
        }
        _ => {}
    }
}

fn shape_of(cli: &Cli, arguments: &[&str], input: &[u8]) -> String {
    let document = cli.run_with_input(arguments, input).ok().json();
    is_documented(&document);
    let mut text = String::new();
    shape(&document, 0, &mut text);
    text
}

/// Every field of the document is told in JSON.md.
pub(crate) fn is_documented(document: &Value) {
    match document {
        Value::Object(map) => {
            for (name, value) in map {
                let told =
                    DOCUMENTED.contains(&format!("`{name}`")) || DOCUMENTED.contains(&format!("\"{name}\""));
                assert!(told, "{name} is not told in JSON.md: {document}");
                // What is inside is PostgreSQL's.
                if name != "settings" {
                    is_documented(value);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(is_documented),
        _ => {}
    }
}

const DOCUMENTED: &str = include_str!("../../JSON.md");

#[test]
fn the_documents_keep_their_shape() {
    let cli = Cli::new();
    insta::assert_snapshot!("init", shape_of(&cli, &["init", "--json"], b""));
    let backup =
        ["backup", "--cluster", "main", "--stdin-as", "a", "--label", "l", "--database", "d", "--json"];
    insta::assert_snapshot!("backup", shape_of(&cli, &backup, &[5; 100_000]));
    insta::assert_snapshot!("list", shape_of(&cli, &["list", "--json"], b""));
    insta::assert_snapshot!("show", shape_of(&cli, &["show", "main/latest", "--json"], b""));
    insta::assert_snapshot!("verify", shape_of(&cli, &["verify", "--level", "full", "--json"], b""));
    let target = cli.path("target");
    let restore = ["restore", "main/latest", "--json", "--to", target.to_str().expect("text")];
    insta::assert_snapshot!("restore", shape_of(&cli, &restore, b""));
    insta::assert_snapshot!("key_list", shape_of(&cli, &["key", "list", "--json"], b""));
    insta::assert_snapshot!(
        "manifest",
        shape_of(&cli, &["inspect", "manifest", "main/latest", "--json"], b"")
    );
    is_documented(&cli.run(&["probe", "--json"]).ok().json());
    let key = cli.keys().remove(0);
    insta::assert_snapshot!("delete", shape_of(&cli, &["delete", &key, "--json"], b""));
}

#[test]
fn exit_codes_in_help_and_document_are_the_same_table() {
    let help = Cli::new().run(&["--help"]).ok().text();
    let (_, table) = help.split_once("Exit codes:").expect("the help ends with the table");
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (code, meaning) = line.split_once("  ").expect("two columns");
        let row = format!("| {code} | {} |", meaning.trim());
        assert!(DOCUMENTED.contains(&row), "not in JSON.md: {row}");
    }
}
