//! A JSON Schema of the rule file, for editors.

use serde_json::{Map, Value, json};

use crate::language::{self, Key, Shape};

/// The JSON Schema (draft 7) of a rule file: its keys, which of them are required, and the words that can be chosen.
///
/// What it accepts need not be right: what patterns and names mean, only [`Policy::parse`](crate::Policy::parse) checks.
pub fn schema() -> Value {
    let mut schema = mapping(language::FILE);
    if let Value::Object(keys) = &mut schema {
        keys.insert(
            "$schema".to_owned(),
            "http://json-schema.org/draft-07/schema#".into(),
        );
        keys.insert("title".to_owned(), "A rule file of Adit".into());
    }
    schema
}

fn mapping(keys: &[Key]) -> Value {
    let required: Vec<&str> = keys
        .iter()
        .filter(|key| key.is_required)
        .map(|key| key.name)
        .collect();
    let properties: Map<String, Value> = keys
        .iter()
        .map(|key| {
            let mut value = shape(&key.value);
            if let Value::Object(value) = &mut value {
                value.insert("description".to_owned(), key.about.into());
            }
            (key.name.to_owned(), value)
        })
        .collect();
    let mut schema = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}

fn shape(value: &Shape) -> Value {
    match value {
        Shape::Version => json!({ "enum": [1, "1"] }),
        // An editor sees types that the reader, which takes the text as it stands, does not.
        Shape::Text => json!({ "type": ["string", "number", "boolean"] }),
        Shape::Words(words) => json!({ "enum": words }),
        Shape::Switch => json!({ "enum": [true, false] }),
        Shape::Date => json!({ "type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$" }),
        Shape::Ports => json!({
            "anyOf": [
                { "type": "integer", "minimum": 1, "maximum": 65535 },
                { "type": "string" },
            ]
        }),
        Shape::Either(shapes) => json!({ "anyOf": shapes.iter().map(shape).collect::<Vec<_>>() }),
        Shape::OneOrMore(item) => {
            let item = shape(item);
            json!({ "anyOf": [item, { "type": "array", "items": item, "minItems": 1 }] })
        }
        Shape::List(item) => json!({ "type": ["array", "null"], "items": shape(item) }),
        Shape::Mapping(keys) => mapping(keys),
        Shape::Named(item) => {
            json!({ "type": ["object", "null"], "additionalProperties": shape(item) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_a_rule_may_have() {
        let schema = schema();
        assert_eq!(schema["required"], json!(["version"]));
        let rule = &schema["properties"]["rules"]["items"];
        assert_eq!(rule["required"], json!(["action"]));
        assert_eq!(rule["additionalProperties"], false);
        assert_eq!(
            rule["properties"]["action"]["enum"],
            json!(["tunnel", "pass", "block"])
        );
        let app = &rule["properties"]["app"]["anyOf"][1]["items"]["anyOf"][1]["properties"];
        for key in ["path", "script", "parent", "unit", "sha256", "not"] {
            assert!(app[key]["description"].is_string(), "{key}");
        }
    }

    #[test]
    fn every_key_is_explained() {
        fn check(schema: &Value) -> usize {
            let mut keys = 0;
            if let Some(properties) = schema["properties"].as_object() {
                for (key, value) in properties {
                    assert!(value["description"].is_string(), "{key}");
                    keys += 1;
                }
            }
            let children: Vec<&Value> = match schema {
                Value::Object(entries) => entries.values().collect(),
                Value::Array(items) => items.iter().collect(),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
            };
            keys + children.into_iter().map(check).sum::<usize>()
        }
        assert!(check(&schema()) > 40);
    }
}
