//! Scope files: TOML with `[[scope]]` tables, read field by field so that every fault is found.

use std::collections::BTreeMap;
use std::ops::Range;

use grantwright_domain::param::ParamSpec;
use grantwright_domain::{Scope, ScopeName};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::fault::{Faults, LineIndex, Place, did_you_mean};

const SCOPE_KEYS: [&str; 9] =
    ["confirm", "labels", "minter", "name", "params", "questions", "template", "title", "ttl"];
const LABEL_KEYS: [&str; 5] = ["data_class", "environment", "risk", "sensitivity", "undo"];
const TYPES: [&str; 8] =
    ["boolean", "choice", "integer", "public-key", "s3-bucket", "s3-prefix", "set", "string"];
const TTL_KEYS: [&str; 2] = ["default_s", "max_s"];

/// A scope and where it was declared.
pub(crate) struct Declared {
    pub(crate) scope: Scope,
    pub(crate) place: Place,
}

/// What a file declares.
#[derive(Default)]
pub(crate) struct Declarations {
    pub(crate) scopes: Vec<Declared>,
    /// True when a declaration could not be read, so that names and types may be missing.
    pub(crate) incomplete: bool,
}

/// Reads one file.
pub(crate) fn read(file: &str, text: &str, out: &mut Declarations, faults: &mut Faults) {
    let reader = Reader { file, lines: LineIndex::new(text) };
    let (table, errors) = DeTable::parse_recoverable(text);
    for e in &errors {
        faults.add(&reader.place(e.span()), format!("not TOML: {}", e.message()));
    }
    if !errors.is_empty() {
        out.incomplete = true;
        return;
    }
    let mut fields = reader.fields(table, "the file", &["scope"], faults);
    let Some(list) = fields.take("scope") else { return };
    let at = reader.place(Some(list.span()));
    let DeValue::Array(items) = list.into_inner() else {
        out.incomplete = true;
        return faults.suggest(
            &at,
            "`scope` is not a list of tables",
            Some("write `[[scope]]`".into()),
        );
    };
    for item in items {
        let before = faults.0.len();
        let place = reader.place(Some(item.span()));
        match reader.scope(item, &place, faults) {
            Some(scope) => out.scopes.push(Declared { scope, place }),
            None => out.incomplete = true,
        }
        // An unknown key may be a misspelt one: what it should have said is missing.
        out.incomplete |= faults.0.len() > before;
    }
}

/// The entries of a table that is being taken apart.
struct Fields<'i> {
    place: Place,
    map: BTreeMap<String, Spanned<DeValue<'i>>>,
}

impl<'i> Fields<'i> {
    fn take(&mut self, key: &str) -> Option<Spanned<DeValue<'i>>> {
        self.map.remove(key)
    }
}

struct Reader<'t> {
    file: &'t str,
    lines: LineIndex,
}

impl Reader<'_> {
    fn place(&self, span: Option<Range<usize>>) -> Place {
        let line = span.map_or(0, |s| self.lines.line(s.start));
        Place { file: self.file.to_owned(), line }
    }

    /// Takes a table apart, refusing unknown keys.
    fn fields<'i>(
        &self,
        table: Spanned<DeTable<'i>>,
        what: &str,
        known: &[&str],
        faults: &mut Faults,
    ) -> Fields<'i> {
        let place = self.place(Some(table.span()));
        let mut map = BTreeMap::new();
        for (key, value) in table.into_inner() {
            let at = self.place(Some(key.span()));
            let key = key.into_inner().into_owned();
            if known.contains(&key.as_str()) {
                map.insert(key, value);
            } else {
                let hint = did_you_mean(&key, known.iter().copied())
                    .unwrap_or_else(|| format!("it takes {}", known.join(", ")));
                faults.suggest(&at, format!("{what}: unknown key `{key}`"), Some(hint));
            }
        }
        Fields { place, map }
    }

    /// The value as a table, taken apart.
    fn table<'i>(
        &self,
        value: Spanned<DeValue<'i>>,
        what: &str,
        known: &[&str],
        faults: &mut Faults,
    ) -> Option<Fields<'i>> {
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(t) => Some(self.fields(Spanned::new(span, t), what, known, faults)),
            _ => {
                faults.add(&self.place(Some(span)), format!("{what}: want a table"));
                None
            }
        }
    }

    fn typed<T: DeserializeOwned>(
        &self,
        value: Spanned<DeValue<'_>>,
        what: &str,
        faults: &mut Faults,
    ) -> Option<T> {
        let span = value.span();
        match T::deserialize(ValueDeserializer::from(value)) {
            Ok(v) => Some(v),
            Err(e) => {
                let at = self.place(e.span().or(Some(span)));
                faults.add(&at, format!("{what}: {}", e.message()));
                None
            }
        }
    }

    fn required<T: DeserializeOwned>(
        &self,
        fields: &mut Fields<'_>,
        key: &str,
        what: &str,
        faults: &mut Faults,
    ) -> Option<T> {
        match fields.take(key) {
            Some(v) => self.typed(v, &format!("{what}: `{key}`"), faults),
            None => {
                faults.add(&fields.place, format!("{what}: `{key}` is missing"));
                None
            }
        }
    }

    /// Absent: the default. Present and wrong: a fault, and nothing.
    fn optional<T: DeserializeOwned + Default>(
        &self,
        fields: &mut Fields<'_>,
        key: &str,
        what: &str,
        faults: &mut Faults,
    ) -> Option<T> {
        match fields.take(key) {
            Some(v) => self.typed(v, &format!("{what}: `{key}`"), faults),
            None => Some(T::default()),
        }
    }

    fn scope(
        &self,
        item: Spanned<DeValue<'_>>,
        place: &Place,
        faults: &mut Faults,
    ) -> Option<Scope> {
        let mut fields = self.table(item, "scope", &SCOPE_KEYS, faults)?;
        fields.place = place.clone();
        let name: Option<ScopeName> = self.required(&mut fields, "name", "scope", faults);
        let what = match &name {
            Some(n) => format!("scope `{n}`"),
            None => "scope".to_owned(),
        };
        for (key, known) in [("labels", &LABEL_KEYS[..]), ("ttl", &TTL_KEYS[..])] {
            self.drop_unknown(&mut fields, key, &format!("{what}: `{key}`"), known, faults);
        }
        if let Some(template) = fields.map.get("template") {
            self.refuse_dates(template, &what, faults);
        }
        let title = self.required(&mut fields, "title", &what, faults);
        let minter = self.required(&mut fields, "minter", &what, faults);
        let ttl = self.optional(&mut fields, "ttl", &what, faults);
        let labels = self.optional(&mut fields, "labels", &what, faults);
        let template: Option<Map<String, Value>> =
            self.optional(&mut fields, "template", &what, faults);
        let questions = self.optional(&mut fields, "questions", &what, faults);
        let confirm = self.optional(&mut fields, "confirm", &what, faults);
        let params = match fields.take("params") {
            Some(v) => self.params(v, &what, faults),
            None => Some(BTreeMap::new()),
        };
        Some(Scope {
            name: name?,
            title: title?,
            minter: minter?,
            params: params?,
            ttl: ttl?,
            labels: labels?,
            template: template?,
            questions: questions?,
            confirm: confirm?,
        })
    }

    fn params(
        &self,
        value: Spanned<DeValue<'_>>,
        what: &str,
        faults: &mut Faults,
    ) -> Option<BTreeMap<String, ParamSpec>> {
        let span = value.span();
        let DeValue::Table(table) = value.into_inner() else {
            faults.add(&self.place(Some(span)), format!("{what}: `params` wants a table"));
            return None;
        };
        let mut out = Some(BTreeMap::new());
        for (key, mut value) in table {
            let name = key.into_inner().into_owned();
            let what = format!("{what}: parameter `{name}`");
            // `deny_unknown_fields` does not see through a flattened enum: its types without
            // fields of their own would let any key pass.
            if let DeValue::Table(t) = value.get_ref() {
                let kind = t.get("type").and_then(|v| Some((v.span(), v.get_ref().as_str()?)));
                let known = kind.as_ref().and_then(|(_, kind)| keys_of(kind));
                if let (Some((at, kind)), None) = (&kind, known) {
                    let hint = did_you_mean(kind, TYPES)
                        .unwrap_or_else(|| format!("there are {}", TYPES.join(", ")));
                    let at = self.place(Some(at.clone()));
                    faults.suggest(&at, format!("{what}: unknown type `{kind}`"), Some(hint));
                    out = None;
                    continue;
                }
                if let Some(known) = known {
                    let span = value.span();
                    let DeValue::Table(t) = value.into_inner() else { return None };
                    let fields = self.fields(Spanned::new(span.clone(), t), &what, known, faults);
                    value = rebuilt(span, fields);
                }
            }
            match (self.typed::<ParamSpec>(value, &what, faults), &mut out) {
                (Some(spec), Some(map)) => {
                    map.insert(name, spec);
                }
                _ => out = None,
            }
        }
        out
    }

    /// Takes unknown keys out of an inner table, so that each is one fault.
    fn drop_unknown(
        &self,
        fields: &mut Fields<'_>,
        key: &str,
        what: &str,
        known: &[&str],
        faults: &mut Faults,
    ) {
        let Some(value) = fields.take(key) else { return };
        let span = value.span();
        let value = match value.into_inner() {
            DeValue::Table(t) => {
                let inner = self.fields(Spanned::new(span.clone(), t), what, known, faults);
                rebuilt(span, inner)
            }
            other => Spanned::new(span, other),
        };
        fields.map.insert(key.to_owned(), value);
    }

    /// TOML's dates have no canonical form.
    fn refuse_dates(&self, value: &Spanned<DeValue<'_>>, what: &str, faults: &mut Faults) {
        match value.get_ref() {
            DeValue::Datetime(_) => faults.suggest(
                &self.place(Some(value.span())),
                format!("{what}: `template` holds a date"),
                Some("put it in quotes".into()),
            ),
            DeValue::Array(items) => items.iter().for_each(|v| self.refuse_dates(v, what, faults)),
            DeValue::Table(t) => t.iter().for_each(|(_, v)| self.refuse_dates(v, what, faults)),
            _ => {}
        }
    }
}

fn rebuilt(span: Range<usize>, fields: Fields<'_>) -> Spanned<DeValue<'_>> {
    let mut table = DeTable::new();
    for (key, value) in fields.map {
        table.insert(Spanned::new(value.span(), key.into()), value);
    }
    Spanned::new(span, DeValue::Table(table))
}

/// The keys that a parameter of this type takes; none for an unknown type.
fn keys_of(kind: &str) -> Option<&'static [&'static str]> {
    Some(match kind {
        "boolean" | "s3-bucket" | "s3-prefix" => {
            &["optional", "order", "sensitive", "title", "type"]
        }
        "choice" => &["optional", "order", "sensitive", "title", "type", "values"],
        "integer" => &["max", "min", "optional", "order", "sensitive", "title", "type"],
        "public-key" => &["format", "optional", "order", "sensitive", "title", "type"],
        "set" => &["most", "optional", "order", "pattern", "sensitive", "title", "type"],
        "string" => &["optional", "order", "pattern", "sensitive", "title", "type"],
        _ => return None,
    })
}
