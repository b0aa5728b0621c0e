//! What a tool takes: the table that makes both its JSON Schema and the check of a call, so that the
//! two cannot differ.

use grantwright_wire::Refusal;
use serde_json::{Map, Value, json};

/// One argument.
pub(super) struct Argument {
    pub name: &'static str,
    pub kind: Kind,
    pub required: bool,
    pub about: &'static str,
}

/// What it holds.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Text of at most so many characters.
    Text(usize),
    /// An object; the sidecar looks into it.
    Object,
    /// A whole number from 0.
    UpTo(u64),
}

/// JSON Schema 2020-12 of the arguments.
pub(super) fn schema(arguments: &[Argument]) -> Value {
    let properties: Map<String, Value> = arguments
        .iter()
        .map(|it| {
            let mut schema = match it.kind {
                Kind::Text(most) => json!({"type": "string", "minLength": 1, "maxLength": most}),
                Kind::Object => json!({"type": "object"}),
                Kind::UpTo(most) => json!({"type": "integer", "minimum": 0, "maximum": most}),
            };
            if let Some(schema) = schema.as_object_mut() {
                schema.insert("description".into(), it.about.into());
            }
            (it.name.to_owned(), schema)
        })
        .collect();
    let required: Vec<&str> = arguments.iter().filter(|it| it.required).map(|it| it.name).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// Holds the arguments of a call against the table.
///
/// # Errors
/// 400 `malformed`, naming the first argument that is unknown, missing or of another kind.
pub(super) fn check(
    tool: &str,
    arguments: &[Argument],
    given: &Map<String, Value>,
) -> Result<(), Box<Refusal>> {
    if let Some(name) = given.keys().find(|name| arguments.iter().all(|it| it.name != **name)) {
        let name = grantwright_domain::text::shorten(name, 40);
        let name = grantwright_domain::text::visible(&name);
        let taken: Vec<&str> = arguments.iter().map(|it| it.name).collect();
        let taken = if taken.is_empty() { "none".to_owned() } else { taken.join(", ") };
        return Err(malformed(format!("unknown argument `{name}`; `{tool}` takes: {taken}")));
    }
    for it in arguments {
        match given.get(it.name) {
            None if it.required => {
                return Err(malformed(format!("`{tool}` wants `{}`", it.name)));
            }
            None => {}
            Some(value) => {
                if let Some(want) = it.kind.misses(value) {
                    return Err(malformed(format!("`{}` wants {want}", it.name)));
                }
            }
        }
    }
    Ok(())
}

impl Kind {
    /// What is wanted, where the value is not that.
    fn misses(self, value: &Value) -> Option<String> {
        match self {
            Self::Text(most) => {
                let fits = |text: &str| (1..=most).contains(&text.chars().count());
                (!value.as_str().is_some_and(fits))
                    .then(|| format!("text of 1 to {most} characters"))
            }
            Self::Object => (!value.is_object()).then(|| "an object".to_owned()),
            Self::UpTo(most) => {
                let fits = whole(value).is_some_and(|number| number <= most);
                (!fits).then(|| format!("a whole number from 0 to {most}"))
            }
        }
    }
}

/// A whole number; JSON Schema also counts `5.0` as one.
pub(super) fn whole(value: &Value) -> Option<u64> {
    let small = |number: &f64| (0.0..1e9).contains(number) && number.fract() == 0.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is whole, not negative and small"
    )]
    value.as_u64().or_else(|| value.as_f64().filter(small).map(|number| number as u64))
}

/// The text at `name`; empty where there is none.
pub(super) fn text<'a>(given: &'a Map<String, Value>, name: &str) -> &'a str {
    given.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn malformed(detail: String) -> Box<Refusal> {
    Box::new(
        Refusal::new(400, "malformed", "The call is not well formed.")
            .detail(detail)
            .next("Correct the arguments and call again."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKES: &[Argument] = &[
        Argument { name: "a", kind: Kind::Text(3), required: true, about: "" },
        Argument { name: "b", kind: Kind::Object, required: false, about: "" },
        Argument { name: "c", kind: Kind::UpTo(60), required: false, about: "" },
    ];

    #[test]
    fn calls_are_held_against_the_table() {
        let why = |given: Value| match check("t", TAKES, given.as_object().unwrap()) {
            Ok(()) => String::new(),
            Err(refusal) => refusal.detail,
        };
        assert_eq!(why(json!({"a": "x"})), "");
        assert_eq!(why(json!({"a": "xyz", "b": {}, "c": 60})), "");
        assert_eq!(why(json!({"a": "x", "c": 5.0})), "");
        assert_eq!(why(json!({"a": "x", "z": 1})), "unknown argument `z`; `t` takes: a, b, c");
        assert_eq!(why(json!({})), "`t` wants `a`");
        assert_eq!(why(json!({"a": ""})), "`a` wants text of 1 to 3 characters");
        assert_eq!(why(json!({"a": "wxyz"})), "`a` wants text of 1 to 3 characters");
        assert_eq!(why(json!({"a": null})), "`a` wants text of 1 to 3 characters");
        assert_eq!(why(json!({"a": "x", "b": "{}"})), "`b` wants an object");
        for c in [json!(61), json!(-1), json!(1.5), json!("1"), json!(1e30)] {
            assert_eq!(why(json!({"a": "x", "c": c})), "`c` wants a whole number from 0 to 60");
        }
    }

    #[test]
    fn the_schema_is_closed() {
        let schema = schema(TAKES);
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["required"], json!(["a"]));
        assert_eq!(schema["properties"]["c"]["maximum"], 60);
    }
}
