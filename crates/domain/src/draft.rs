//! The next leaves of one request, folded as they are added. Whoever appends them later need not fold
//! them again, if what decisions rest on is still the very same: a draft cannot be made otherwise.

use std::sync::Arc;

use crate::authority::Authority;
use crate::event::{Event, Requested};
use crate::id::LeaseId;
use crate::request::{RequestState, Rights, Terms};
use crate::state::Violation;
use crate::time::Timestamp;

/// Where a leaf stands that is not in the log yet.
const NOWHERE: u64 = u64::MAX;

/// Events of one request and the state that their fold gives under one authority.
#[derive(Debug, Clone)]
pub struct Draft {
    folded: Box<Folded>,
    events: Vec<Event>,
}

/// A draft's fold without its events.
#[derive(Debug, Clone)]
pub struct Folded {
    authority: Arc<Authority>,
    /// Boxed, as a state is large and is handed on as it is.
    base: Option<Box<RequestState>>,
    state: Box<RequestState>,
    /// Nothing in the state but its last index depends on where the leaves will stand.
    portable: bool,
}

impl Draft {
    /// A new request; computes its D.
    ///
    /// # Errors
    /// As [`RequestState::begin`].
    pub fn begin(
        authority: Arc<Authority>,
        at: Timestamp,
        renews: Option<LeaseId>,
        terms: Terms,
    ) -> Result<Self, Violation> {
        let digest = terms.digest().map_err(|x| Violation::rule("canonical", x.to_string()))?;
        let request_id = terms.request_id.clone();
        let requested = Requested { at, digest, request_id, renews, terms };
        let rights = Rights::Now(&authority);
        let state = RequestState::begin_with(NOWHERE, requested.clone(), digest, rights)?;
        let state = Box::new(state);
        let folded = Box::new(Folded { authority, base: None, state, portable: true });
        let mut events = Vec::with_capacity(4);
        events.push(Event::Requested(requested));
        Ok(Self { folded, events })
    }

    /// The next leaves of a request as it was read.
    #[must_use]
    pub fn on(authority: Arc<Authority>, state: impl Into<Box<RequestState>>) -> Self {
        let state = state.into();
        let base = Some(state.clone());
        Self {
            folded: Box::new(Folded { authority, base, state, portable: true }),
            events: Vec::new(),
        }
    }

    /// Adds an event.
    ///
    /// # Errors
    /// When the rules forbid it here. The draft may then be half changed: drop it.
    pub fn push(&mut self, event: Event) -> Result<(), Violation> {
        let Folded { authority, state, portable, .. } = &mut *self.folded;
        state.apply(NOWHERE, &event, Rights::Now(authority))?;
        // A vote keeps the index of its leaf.
        *portable &= !matches!(event, Event::Voted(_));
        self.events.push(event);
        Ok(())
    }

    /// The events, in order.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The state with all events folded in.
    #[must_use]
    pub fn state(&self) -> &RequestState {
        &self.folded.state
    }

    /// Under what they were folded.
    #[must_use]
    pub fn authority(&self) -> &Arc<Authority> {
        &self.folded.authority
    }

    /// Notes in the last verdict what is unlike the agent's past, of a log of this size: the rules do
    /// not look at it.
    pub fn remark(&mut self, unusual: Vec<String>, past: u64) {
        if let Some(Event::Decided(decided)) = self.events.last_mut() {
            decided.unusual = unusual;
            decided.past = Some(past);
        }
    }

    /// The events, for encoding, and their fold.
    #[must_use]
    pub fn into_parts(self) -> (Box<Folded>, Vec<Event>) {
        (self.folded, self.events)
    }
}

impl Folded {
    /// The state on which the events build; none for a new request.
    #[must_use]
    pub fn base(&self) -> Option<&RequestState> {
        self.base.as_deref()
    }

    /// The request's state with the events folded in.
    #[must_use]
    pub fn state(&self) -> &RequestState {
        &self.state
    }

    /// The state once the last leaf stands at `last`, if the fold is that of this very `authority`.
    ///
    /// # Errors
    /// Gives the base back where the events must be folded again: the authority is another by now.
    pub fn land(
        self,
        authority: &Arc<Authority>,
        last: u64,
    ) -> Result<Box<RequestState>, Option<Box<RequestState>>> {
        let Self { authority: mine, base, mut state, portable } = self;
        if !portable || !Arc::ptr_eq(&mine, authority) {
            return Err(base);
        }
        state.last_index = last;
        Ok(state)
    }
}
