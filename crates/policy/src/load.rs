//! Loads scopes and policies, checks each against the other, and reports every fault at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cedar_policy::ffi::DetailedError;
use cedar_policy::{
    Authorizer, EntityUid, Policy, PolicyId, PolicySet as Cedar, Schema, ValidationMode, Validator,
};
use grantwright_domain::{Digest, Scope, ScopeName, canonical};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fault::{Fault, Faults, Place, did_you_mean, line_of};
use crate::index::Index;
use crate::remembered::Remembered;
use crate::rule::{self, Rule};
use crate::scopes::{self, Declarations, Declared};
use crate::set::{Known, PolicySet};
use crate::statement::{self, Statement};
use crate::{facts, schema};

/// What an operator writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// Cedar policies by file name.
    pub policies: BTreeMap<String, String>,
    /// TOML with `[[scope]]` tables by file name.
    pub scopes: BTreeMap<String, String>,
    /// IANA time zone in which policies see hours, weekdays and dates, for example `UTC`.
    pub zone: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Blob {
    policies: BTreeMap<String, String>,
    zone: String,
}

impl PolicySet {
    /// Loads what an operator wrote. `minter_faults` says what a scope's own minter finds wrong
    /// with its template.
    ///
    /// # Errors
    /// Every fault, in reading order.
    pub fn load(
        sources: &Sources,
        minter_faults: &dyn Fn(&Scope) -> Vec<String>,
    ) -> Result<Self, Vec<Fault>> {
        let mut faults = Faults::default();
        let mut declared = Declarations::default();
        for (file, text) in &sources.scopes {
            scopes::read(file, text, &mut declared, &mut faults);
        }
        for d in &declared.scopes {
            for fault in minter_faults(&d.scope) {
                faults.add(&d.place, format!("scope `{}`: {fault}", d.scope.name));
            }
        }
        let blob = Blob { policies: sources.policies.clone(), zone: sources.zone.clone() };
        build(blob, declared, faults)
    }

    /// Loads what was recorded: [`PolicySet::blob`] and the canonical bytes of each scope. Minters
    /// are not asked: they were when it was loaded first.
    ///
    /// # Errors
    /// Every fault; also when the bytes are not canonical, so that a digest has one preimage only.
    pub fn from_blobs(
        policies: &[u8],
        scopes: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<Self, Vec<Fault>> {
        let mut faults = Faults::default();
        let mut declared = Declarations::default();
        for (n, bytes) in scopes.into_iter().enumerate() {
            let place = Place { file: format!("scope blob {n}"), line: 0 };
            match exact::<Scope>(&bytes) {
                Ok(scope) => declared.scopes.push(Declared { scope, place }),
                Err(e) => {
                    declared.incomplete = true;
                    faults.add(&place, e);
                }
            }
        }
        match exact::<Blob>(policies) {
            Ok(blob) => build(blob, declared, faults),
            Err(e) => {
                faults.add(&Place { file: "policy blob".into(), line: 0 }, e);
                faults.into_result()?;
                Err(Vec::new())
            }
        }
    }
}

fn exact<T: Serialize + for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, String> {
    let value: T = canonical::parse_as(bytes).map_err(|e| e.to_string())?;
    match canonical::to_bytes(&value) {
        Ok(again) if again == bytes => Ok(value),
        _ => Err("not in canonical form".into()),
    }
}

fn build(
    source: Blob,
    declared: Declarations,
    mut faults: Faults,
) -> Result<PolicySet, Vec<Fault>> {
    let nowhere = |file: &str| Place { file: file.to_owned(), line: 0 };
    let zone = zone(&source.zone, &mut faults);
    let scopes = check_scopes(&declared, &mut faults);
    let (policies, rules) = read_policies(&source.policies, &mut faults);
    for policy in &policies {
        if let Some(rule) = rules.get(policy.id()) {
            check_literals(policy, rule, &scopes, declared.incomplete, &mut faults);
        }
    }
    // Without every scope the schema lacks parameters, and faults would be reported that are none.
    if !declared.incomplete {
        validate(&policies, &rules, &scopes, &source.policies, &mut faults);
    }
    let blob = canonical::to_bytes(&source).unwrap_or_default();
    if blob.is_empty() {
        faults.add(&nowhere("policies"), "the policy texts have no canonical form");
    }
    let kinds = facts::Kinds::new();
    let mut index = Index::default();
    for policy in policies {
        if let Some(rule) = rules.get(policy.id()) {
            index.add(policy, rule);
        }
    }
    faults.into_result()?;
    let (Some(zone), Ok(kinds)) = (zone, kinds) else { return Err(Vec::new()) };
    let known = scopes.iter().map(|(name, s)| (name.clone(), Known::new(s, &kinds))).collect();
    Ok(PolicySet {
        digest: Digest::of("policy-set", &blob),
        blob,
        // An escape could spell it otherwise.
        minds_time: source.policies.values().any(|t| t.contains("time") || t.contains('\\')),
        texts: source.policies,
        zone,
        zone_name: source.zone,
        scopes,
        known,
        rules,
        index,
        kinds,
        authorizer: Authorizer::new(),
        remembered: Remembered::default(),
    })
}

/// The zone, from the database that is compiled in: another machine's would replay otherwise.
fn zone(name: &str, faults: &mut Faults) -> Option<TimeZone> {
    let database = jiff::tz::TimeZoneDatabase::bundled();
    let zone = database.get(name).ok();
    // The database compares without case; the name is part of a digest and has one spelling.
    let exact = zone.filter(|_| database.available().any(|n| n.as_str() == name));
    if exact.is_none() {
        let known: Vec<String> = database.available().map(|n| n.as_str().to_owned()).collect();
        let hint = did_you_mean(name, known.iter().map(String::as_str))
            .unwrap_or_else(|| "want an IANA name, for example `Europe/Berlin` or `UTC`".into());
        let place = Place { file: "zone".into(), line: 0 };
        faults.suggest(&place, format!("no time zone `{name}`"), Some(hint));
    }
    exact
}

fn check_scopes(declared: &Declarations, faults: &mut Faults) -> BTreeMap<ScopeName, Arc<Scope>> {
    let mut scopes: BTreeMap<ScopeName, Arc<Scope>> = BTreeMap::new();
    let mut places: HashMap<&ScopeName, &Place> = HashMap::new();
    for Declared { scope, place } in &declared.scopes {
        for fault in scope.faults() {
            faults.add(place, format!("scope `{}`: {fault}", scope.name));
        }
        if let Some(first) = places.get(&scope.name) {
            faults.suggest(
                place,
                format!("scope `{}` is declared twice", scope.name),
                Some(format!("first in {} line {}", first.file, first.line)),
            );
            continue;
        }
        places.insert(&scope.name, place);
        scopes.insert(scope.name.clone(), Arc::new(scope.clone()));
    }
    for c in schema::params(scopes.values().map(AsRef::as_ref)).1 {
        let (Some(place), wanted, given) =
            (places.get(&c.scope.name), c.first.name(), c.second.name())
        else {
            continue;
        };
        faults.suggest(
            place,
            format!(
                "scope `{}`: parameter `{}` is {given} here and {wanted} in another scope",
                c.scope.name, c.param
            ),
            Some(format!("rename it here, for example `{}_2`, or give it the same type", c.param)),
        );
    }
    scopes
}

fn read_policies(
    files: &BTreeMap<String, String>,
    faults: &mut Faults,
) -> (Vec<Policy>, HashMap<PolicyId, Rule>) {
    let mut policies = Vec::new();
    let mut rules: HashMap<PolicyId, Rule> = HashMap::new();
    for (file, text) in files {
        let mut lines = Lines { text, offset: 0, line: 1, start: 0 };
        for s in statement::split(text) {
            let place = Place { file: file.clone(), line: lines.at(s.offset) };
            // Two on one line are told apart by the second's column.
            let id = format!("{file}:{}", place.line);
            let id = match rules.contains_key(&PolicyId::new(&id)) {
                true => format!("{id}:{}", s.offset - lines.start + 1),
                false => id,
            };
            let parsed = Policy::parse(Some(PolicyId::new(id)), s.text);
            let policy = match parsed {
                Ok(p) => p,
                Err(e) => {
                    for e in e.iter() {
                        cedar_fault(&DetailedError::from(e), &place, &s, faults);
                    }
                    continue;
                }
            };
            let policy = match policy.annotation("id") {
                Some(id) if rule::is_id(id) => policy.new_id(PolicyId::new(id)),
                Some(_) => {
                    let want = "want 1 to 64 of A-Z a-z 0-9 . _ -".to_owned();
                    faults.suggest(&place, "the policy's `@id` is not a name", Some(want));
                    policy
                }
                None => policy,
            };
            let line = |name: &str| {
                let found = s.text.find(&format!("@{name}"));
                place.line + found.map_or(0, |at| line_of(s.text, at) - 1)
            };
            let mut rule = rule::read(&policy, &place, &line, faults);
            rule.offset = s.offset;
            match rules.get(policy.id()) {
                Some(first) => faults.suggest(
                    &place,
                    format!("policy `{}` is there twice", policy.id()),
                    Some(format!("first in {} line {}", first.place.file, first.place.line)),
                ),
                None => {
                    rules.insert(policy.id().clone(), rule);
                    policies.push(policy);
                }
            }
        }
    }
    (policies, rules)
}

/// Counts lines forward only, so that a file of any length is counted once.
struct Lines<'t> {
    text: &'t str,
    offset: usize,
    line: usize,
    /// Where the present line begins.
    start: usize,
}

impl Lines<'_> {
    fn at(&mut self, offset: usize) -> usize {
        let between = self.text.get(self.offset..offset).unwrap_or_default();
        self.line += between.bytes().filter(|b| *b == b'\n').count();
        if let Some(newline) = between.rfind('\n') {
            self.start = self.offset + newline + 1;
        }
        self.offset = offset;
        self.line
    }
}

fn cedar_fault(e: &DetailedError, place: &Place, s: &Statement<'_>, faults: &mut Faults) {
    let start = e.source_locations.first().map_or(0, |l| l.loc.start);
    let line = place.line + line_of(s.text, start) - 1;
    let message = e.message.trim_end_matches('.').to_owned();
    faults.suggest(&Place { file: place.file.clone(), line }, message, e.help.clone());
}

/// Refuses scopes that do not exist, and what could never be known at a decision: anything about
/// an entity that a condition names literally. Cedar finds such an entity in no group, which for a
/// forbid would be an open door.
fn check_literals(
    policy: &Policy,
    rule: &Rule,
    scopes: &BTreeMap<ScopeName, Arc<Scope>>,
    incomplete: bool,
    faults: &mut Faults,
) {
    let literals: BTreeSet<EntityUid> = policy.entity_literals().into_iter().collect();
    for uid in &literals {
        let name = uid.id().unescaped();
        let kind = uid.type_name().to_string();
        let known = ScopeName::parse(name).is_ok_and(|n| scopes.contains_key(&n));
        if kind == "Scope" && !known && !incomplete {
            faults.suggest(
                &rule.place,
                format!("there is no scope `{name}`"),
                did_you_mean(name, scopes.keys().map(ScopeName::as_str)),
            );
        }
    }
    if !policy.has_non_scope_constraint() {
        return;
    }
    let Ok(Value::Object(json)) = policy.to_json() else {
        return faults.add(&rule.place, "this policy cannot be examined");
    };
    if json.get("conditions").is_some_and(asks_literal) {
        faults.suggest(
            &rule.place,
            "a condition looks into an entity that is named literally, of which nothing is known \
             at a decision",
            Some("compare with `==`, or look into `principal`, `resource` or `context`".into()),
        );
    }
}

/// True when the left side of an attribute, `has`, `in`, `is` or tag expression holds a literal entity.
fn asks_literal(expr: &Value) -> bool {
    const LOOKS: [&str; 6] = [".", "has", "in", "is", "getTag", "hasTag"];
    match expr {
        Value::Object(map) => map.iter().any(|(key, inner)| {
            let left = inner.get("left");
            (LOOKS.contains(&key.as_str()) && left.is_some_and(holds_entity)) || asks_literal(inner)
        }),
        Value::Array(items) => items.iter().any(asks_literal),
        _ => false,
    }
}

fn holds_entity(expr: &Value) -> bool {
    match expr {
        Value::Object(map) => map.contains_key("__entity") || map.values().any(holds_entity),
        Value::Array(items) => items.iter().any(holds_entity),
        _ => false,
    }
}

fn validate(
    policies: &[Policy],
    rules: &HashMap<PolicyId, Rule>,
    scopes: &BTreeMap<ScopeName, Arc<Scope>>,
    texts: &BTreeMap<String, String>,
    faults: &mut Faults,
) {
    let text = schema::schema_text(scopes.values().map(AsRef::as_ref));
    let schema = match Schema::from_cedarschema_str(&text) {
        Ok((schema, _)) => schema,
        Err(e) => {
            let place = Place { file: "schema".into(), line: 0 };
            return faults.add(&place, format!("the generated schema does not parse: {e}"));
        }
    };
    let all = match Cedar::from_policies(policies.iter().cloned()) {
        Ok(all) => all,
        Err(e) => {
            let place = Place { file: "policies".into(), line: 0 };
            return faults.add(&place, e.to_string());
        }
    };
    let result = Validator::new(schema).validate(&all, ValidationMode::Strict);
    // Warnings count too: a policy that can never apply, or whose text looks like another, is a
    // mistake, and a forbid that never applies an open door.
    let found = result
        .validation_errors()
        .map(|e| (e.policy_id(), DetailedError::from(e)))
        .chain(result.validation_warnings().map(|e| (e.policy_id(), DetailedError::from(e))));
    for (id, e) in found {
        let Some(rule) = rules.get(id) else { continue };
        let file = texts.get(&rule.place.file).map_or("", String::as_str);
        let text = file.get(rule.offset..).unwrap_or_default();
        let s = Statement { offset: rule.offset, text };
        cedar_fault(&e, &rule.place, &s, faults);
    }
}
