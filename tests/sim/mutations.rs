//! The list of deliberate breakages, which `scripts/mutations` carries out: it must not rot.

use std::path::Path;

use serde_json::Value;

#[test]
fn each_mutation_finds_what_it_breaks() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let list: Vec<Value> = serde_json::from_str(include_str!("mutations.json")).unwrap();
    for mutation in list {
        for edit in mutation["edits"].as_array().unwrap() {
            let file = edit["file"].as_str().unwrap();
            let text = std::fs::read_to_string(root.join(file)).unwrap();
            let found = text.matches(edit["from"].as_str().unwrap()).count();
            assert_eq!(found, 1, "{}: {file}: {}", mutation["name"], edit["from"]);
        }
    }
}
