//! The card and what stands around it on a channel: what a button refers to, where the console shows
//! the same request, what can be asked and narrowed with one tap.

use grantwright_domain::param::{Order, ParamType};
use grantwright_domain::time::ttl_words;
use grantwright_domain::{ParamValue, RequestState, Scope, Strength};

use crate::card::Card;
use crate::channel::Handle;
use crate::show::{code, plain};

/// Shorter lifetimes that are offered, in seconds, longest first.
const LIFETIMES: [u32; 12] =
    [86_400, 43_200, 28_800, 14_400, 7_200, 3_600, 1_800, 900, 600, 300, 120, 60];
/// Most members of a set that are offered one by one.
const MEMBERS: usize = 100;
/// Most bytes of parameters and of what will be issued that one message shows whole.
const FITS: usize = 2400;
/// Most parameters that one message shows.
const PARAMS: usize = 20;
/// Questions when the scope declares none.
const QUESTIONS: [&str; 2] = ["Which ticket is this for?", "Who needs this, and until when?"];

/// What a channel renders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sheet {
    /// The card.
    pub card: Card,
    /// To what the buttons refer.
    pub handle: Handle,
    /// The request in the console.
    pub link: String,
    /// How approving works here.
    pub approve: Approve,
    /// Votes, questions and narrowings count that come through this channel.
    pub votes_count: bool,
    /// The request is decided by people, and can still be.
    pub open: bool,
    /// Questions to ask with one tap, at most three.
    pub questions: Vec<String>,
    /// Shorter lifetimes to choose from, in seconds with their words.
    pub lifetimes: Vec<(u32, String)>,
    /// Parameters that can shrink.
    pub shrinks: Vec<Shrink>,
    /// Who is asked first: ids of people; empty: everybody who may decide.
    pub asked: Vec<String>,
}

/// How approving works on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approve {
    /// A verified press is a vote.
    Here,
    /// Only in the console: a passkey must sign, a value must be seen in full, or votes through this
    /// channel do not count.
    Console(&'static str),
}

/// A parameter that can shrink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shrink {
    /// Its name, as the scope declares it: `[a-z0-9_]{1,32}`.
    pub name: String,
    /// Words for people: its title, else its name.
    pub label: String,
    /// How.
    pub how: ShrinkBy,
}

/// How a parameter can shrink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShrinkBy {
    /// To a smaller whole number within these, both included.
    Number {
        /// The least.
        least: i64,
        /// As asked.
        now: i64,
    },
    /// To a longer text that begins with this one.
    Prefix {
        /// As asked.
        now: String,
    },
    /// To fewer of these, each with its words in code style.
    Members(Vec<(String, String)>),
}

impl Sheet {
    /// Puts the sheet of a request together for one channel. The same state gives the same sheet.
    #[must_use]
    pub fn new(
        card: Card,
        state: &RequestState,
        scope: &Scope,
        channel: &str,
        link: String,
    ) -> Self {
        let asks = state.verdict.as_ref().filter(|v| v.quorum > 0);
        let votes_count = asks.is_some_and(|v| v.channels.contains(channel));
        let approve = if !votes_count {
            Approve::Console("policy takes no votes through this channel")
        } else if asks.is_some_and(|v| v.strength == Strength::Passkey) {
            Approve::Console("this one is signed with a passkey")
        } else if !card.full_view.is_empty() {
            Approve::Console("a value is too long to show here: open the full view")
        } else if card.params.iter().flat_map(|p| &p.values).map(String::len).sum::<usize>()
            + card.issues.what.to_string().len()
            > FITS
            || card.params.len() > PARAMS
        {
            Approve::Console("there is more to see than fits here: open the full view")
        } else {
            Approve::Here
        };
        let declared = scope.questions.iter().map(|q| plain(q)).take(3);
        let mut questions: Vec<String> = declared.collect();
        if questions.is_empty() {
            questions = QUESTIONS.map(ToOwned::to_owned).to_vec();
        }
        let ttl = state.terms.ttl_s;
        Self {
            handle: handle(state),
            link,
            approve,
            votes_count,
            open: asks.is_some() && state.phase.is_open(),
            questions,
            lifetimes: LIFETIMES
                .into_iter()
                .filter(|s| *s < ttl)
                .take(6)
                .map(|s| (s, ttl_words(s)))
                .collect(),
            shrinks: shrinks(state, scope),
            asked: Vec::new(),
            card,
        }
    }
}

/// To what a button on the present card refers.
#[must_use]
pub fn handle(state: &RequestState) -> Handle {
    Handle {
        request: state.terms.request_id.clone(),
        digest: state.digest,
        seen: state.last_seen.unwrap_or(0),
    }
}

fn shrinks(state: &RequestState, scope: &Scope) -> Vec<Shrink> {
    let how = |name: &str, value: &ParamValue| {
        let spec = scope.params.get(name)?;
        match (spec.order, &spec.kind, value) {
            (Order::Max, ParamType::Integer { min, .. }, ParamValue::Integer(now)) => {
                (now > min).then_some(ShrinkBy::Number { least: *min, now: *now })
            }
            (Order::Prefix, _, ParamValue::Text(now)) => {
                Some(ShrinkBy::Prefix { now: now.clone() })
            }
            (Order::Subset, _, ParamValue::Set(now)) if (2..=MEMBERS).contains(&now.len()) => {
                let shown = |m: &String| (m.clone(), code(m, 60).text);
                Some(ShrinkBy::Members(now.iter().map(shown).collect()))
            }
            _ => None,
        }
    };
    let label = |name: &str| match scope.params.get(name).map(|s| plain(&s.title)) {
        Some(title) if !title.is_empty() => title,
        _ => name.to_owned(),
    };
    let all = state.terms.params.iter().filter_map(|(name, value)| {
        Some(Shrink { name: name.clone(), label: label(name), how: how(name, value)? })
    });
    all.take(8).collect()
}
