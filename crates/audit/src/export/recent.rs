//! Who asked for what, for the events that only name their request.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use grantwright_domain::{AgentId, Event, HumanId, InstanceId, RequestId, ScopeName};

/// Requests that are remembered at once; the oldest are forgotten first.
const MOST: usize = 1 << 16;

/// What later events of a request need of its ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Who asks.
    pub agent: AgentId,
    /// Through which sidecar.
    pub instance: InstanceId,
    /// For what.
    pub scope: ScopeName,
    /// Open parameters, `name=value`.
    pub params: Vec<String>,
    /// On whose behalf, when proven.
    pub on_behalf_of: Option<HumanId>,
    /// Whose approvals the intent rests on.
    pub approvers: Vec<HumanId>,
}

/// The asks that were learned last.
#[derive(Debug, Default)]
pub struct Recent {
    asked: HashMap<RequestId, Arc<Asked>>,
    order: VecDeque<RequestId>,
}

impl Recent {
    /// The ask of a request; none when it was forgotten or never learned.
    #[must_use]
    pub fn get(&self, id: &RequestId) -> Option<&Arc<Asked>> {
        self.asked.get(id)
    }

    /// Learns from an event.
    pub fn learn(&mut self, event: &Event) {
        let (id, terms) = match event {
            Event::Requested(e) => (&e.request_id, &e.terms),
            Event::Narrowed(e) => (&e.request_id, &e.terms),
            Event::Intended(e) => {
                if let Some(asked) = self.asked.get_mut(&e.request_id) {
                    Arc::make_mut(asked).approvers = e.approvers.iter().cloned().collect();
                }
                return;
            }
            _ => return,
        };
        let asked = Asked {
            agent: terms.agent.clone(),
            instance: terms.instance.clone(),
            scope: terms.scope.clone(),
            params: terms.params.iter().map(|(n, v)| format!("{n}={}", v.text())).collect(),
            on_behalf_of: terms.on_behalf_of.clone(),
            approvers: Vec::new(),
        };
        if self.asked.insert(id.clone(), Arc::new(asked)).is_some() {
            return;
        }
        self.order.push_back(id.clone());
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.asked.remove(&oldest);
        }
    }
}
