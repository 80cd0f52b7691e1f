//! The JSON schemas of the files that people write, for their editors. They are made from the types, and this holds those
//! in `docs/schema/` against them; `make schema` writes them anew.

use std::path::PathBuf;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;

use super::manifest::Manifest;
use super::tenant::TenantFile;

fn text<T: JsonSchema>() -> String {
    // Editors for TOML know this draft.
    let mut schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<T>();
    schema.ensure_object().retain(|key, _| key != "default");
    format!("{}\n", serde_json::to_string_pretty(&schema).expect("a schema is JSON"))
}

fn all() -> [(PathBuf, String); 2] {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/schema");
    [(folder.join("manifest.json"), text::<Manifest>()), (folder.join("tenant.json"), text::<TenantFile>())]
}

#[test]
fn the_schemas_in_docs_are_those_of_the_types() {
    // Both are put where `make schema` takes them from before either is held against docs.
    let made = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/schema");
    std::fs::create_dir_all(&made).unwrap();
    for (path, text) in all() {
        std::fs::write(made.join(path.file_name().unwrap()), text).unwrap();
    }
    for (path, text) in all() {
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == text, "{} is not current; `make schema` writes it anew", path.display());
    }
}
