//! Narrowing a request: what it would become is shown before the vote for it.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use grantwright_approval::console::narrow::{Becomes, Field, Kind, Narrow, narrow as rendered};
use grantwright_approval::console::{Frame, Here, Viewer, page as document};
use grantwright_domain::param::{Order, ParamSpec};
use grantwright_domain::time::{parse_ttl, ttl_words};
use grantwright_domain::{ParamValue, Params, RequestState, Scope, Strength, Terms};
use grantwright_store::Loaded;
use serde_json::{Value, json};

use super::decide::{Fields, act, field};
use super::matter::{At, card, material};
use super::request::{load, pinned};
use super::respond::{Page, Posted, html};
use crate::error::refuse;
use crate::http::Shared;
use crate::http::session::Session;
use crate::people::Intention;

/// Lifetimes that are offered, in seconds.
const LIVES: [u32; 10] = [60, 120, 300, 600, 900, 1800, 3600, 14_400, 28_800, 43_200];

/// Whether anything of the request can shrink.
#[must_use]
pub fn is_possible(state: &RequestState, scope: &Scope) -> bool {
    state.terms.ttl_s > 60 || shrinkable(&state.terms, scope).next().is_some()
}

fn shrinkable<'a>(
    terms: &'a Terms,
    scope: &'a Scope,
) -> impl Iterator<Item = (&'a String, &'a ParamSpec, &'a ParamValue)> {
    terms.params.iter().filter_map(|(name, value)| {
        let spec = scope.params.get(name)?;
        let room = match (spec.order, value) {
            (Order::Max, ParamValue::Integer(_)) | (Order::Prefix, ParamValue::Text(_)) => true,
            (Order::Subset, ParamValue::Set(set)) => set.len() > 1,
            _ => false,
        };
        room.then_some((name, spec, value))
    })
}

/// The page; with choices in its address it shows what the request would become.
pub async fn page(
    State(broker): Shared,
    session: Session,
    Path(id): Path<String>,
    Query(chosen): Query<BTreeMap<String, String>>,
) -> Page {
    let loaded = load(&broker, &id).await?;
    let (authority, now) = (broker.authority(), broker.now());
    let at = At { broker: &broker, authority: &authority, now };
    let scope = pinned(at, &loaded)?;
    let old = &loaded.state.terms;
    let card = card(at, &loaded, scope);
    let becomes = match chosen.is_empty() {
        true => Becomes::Same,
        false => becomes(at, &loaded, scope, &chosen),
    };
    let passkey = loaded.state.verdict.as_ref().is_some_and(|v| v.strength == Strength::Passkey);
    let fields = fields(old, scope, &chosen);
    let id = old.request_id.as_str();
    let matter = Narrow { id, csrf: &session.csrf, card: &card, fields, becomes, passkey, now };
    let viewer = Viewer { human: session.human.as_str(), csrf: &session.csrf };
    let frame = Frame::new("Narrow", Here::Inbox, viewer);
    Ok(html(StatusCode::OK, document(&frame, &rendered(&matter))))
}

fn fields(old: &Terms, scope: &Scope, chosen: &Fields) -> Vec<Field> {
    let ttl = chosen.get("ttl").and_then(|t| parse_ttl(t).ok()).unwrap_or(old.ttl_s);
    let mut lives: BTreeSet<u32> = LIVES.into_iter().filter(|s| *s < old.ttl_s).collect();
    lives.extend([old.ttl_s, ttl]);
    let lives = lives.into_iter().rev().map(|s| (format!("{s}s"), ttl_words(s), s == ttl));
    let mut out = vec![Field {
        name: "ttl".into(),
        title: "lifetime".into(),
        kind: Kind::Choice(lives.collect()),
    }];
    for (name, spec, value) in shrinkable(old, scope) {
        let typed = chosen.get(&format!("p.{name}"));
        let kind = match value {
            ParamValue::Integer(max) => Kind::Number {
                min: match spec.kind {
                    grantwright_domain::param::ParamType::Integer { min, .. } => min,
                    _ => 0,
                },
                max: *max,
                value: typed.and_then(|t| t.parse().ok()).unwrap_or(*max),
            },
            ParamValue::Set(set) => Kind::Subset(
                set.iter()
                    .enumerate()
                    .map(|(n, member)| (member.clone(), kept(chosen, name, n)))
                    .collect(),
            ),
            other => Kind::Prefix {
                base: other.text(),
                value: typed.cloned().unwrap_or_else(|| other.text()),
            },
        };
        out.push(Field { name: name.clone(), title: spec.title.clone(), kind });
    }
    out
}

fn kept(chosen: &Fields, name: &str, n: usize) -> bool {
    chosen.is_empty() || chosen.contains_key(&format!("s.{name}.{n}"))
}

/// What the choices make of the request: the domain says whether that is narrower.
fn becomes(at: At<'_>, loaded: &Loaded, scope: &Scope, chosen: &Fields) -> Becomes {
    let old = &loaded.state.terms;
    let made = || -> Result<(Terms, Value), String> {
        let ttl_s = chosen.get("ttl").map_or(Ok(old.ttl_s), |t| parse_ttl(t))?;
        let mut changed = Params::new();
        for (name, spec, value) in shrinkable(old, scope) {
            let typed = chosen.get(&format!("p.{name}"));
            let given = match (value, typed) {
                (ParamValue::Integer(_), Some(text)) => {
                    let digits: String = text.chars().filter(|c| !matches!(c, ',' | ' ')).collect();
                    json!(digits.parse::<i64>().map_err(|_| format!("`{name}` wants a number"))?)
                }
                (ParamValue::Set(set), _) => {
                    let members = set.iter().enumerate();
                    let kept = members.filter(|(n, _)| kept(chosen, name, *n)).map(|(_, m)| m);
                    json!(kept.collect::<Vec<_>>())
                }
                (_, Some(text)) => json!(text),
                _ => continue,
            };
            let new = spec.check(name, &given).map_err(|e| e.to_string())?;
            if new != *value {
                changed.insert(name.clone(), new);
            }
        }
        let sent = serde_json::to_value(&changed).map_err(|e| e.to_string())?;
        let mut params = old.params.clone();
        params.extend(changed);
        let terms = Terms { ttl_s, params, ..old.clone() };
        old.narrows_to(&terms, scope)?;
        Ok((terms, sent))
    };
    let (terms, params) = match made() {
        Ok(made) => made,
        Err(why) => return Becomes::Not(why),
    };
    let Ok(digest) = terms.digest() else { return Becomes::Not("it cannot be written".into()) };
    let ttl = format!("{}s", terms.ttl_s);
    let mut next = loaded.state.clone();
    next.original.get_or_insert(std::mem::replace(&mut next.terms, terms));
    next.digest = digest;
    let (card, whole) = material(at, loaded, &next, scope, |m| {
        let card = grantwright_approval::card(m);
        let whole = grantwright_approval::whole(m, &card.full_view);
        (card, whole)
    });
    Becomes::Narrower { card: Box::new(card), ttl, params: params.to_string(), whole }
}

/// Narrows it to what the page showed, and approves that.
pub async fn narrow(State(broker): Shared, Path(id): Path<String>, posted: Posted) -> Page {
    let malformed = |what: &str| refuse(400, "malformed", what, "send the form of the page");
    let work = async |fields: &Fields| {
        let ttl_s = parse_ttl(field(fields, "ttl")?).map_err(|e| malformed(&e))?;
        let params: Value =
            grantwright_domain::canonical::parse(field(fields, "params")?.as_bytes())
                .map_err(|e| malformed(&e.to_string()))?;
        let confirm = fields.get("confirm").filter(|t| !t.trim().is_empty()).cloned();
        if !fields.contains_key("opened") {
            super::decide::all_was_shown(&broker, &id).await?;
        }
        Ok(Intention::Narrow { ttl_s: Some(ttl_s), params: Some(params), confirm })
    };
    act(&broker, &id, &posted, "narrow", work).await
}
