//! A request for an export, as the broker would hold it.

use std::collections::{BTreeMap, BTreeSet};

use grantwright_approval::sheet::Sheet;
use grantwright_approval::{Card, Material, card, render_text};
use grantwright_domain::authority::{Agent, Human, Instance, Ownership};
use grantwright_domain::event::{
    Answered, Attributes, Decided, Decision, Questioned, Requested, Voted,
};
use grantwright_domain::param::{Order, ParamSpec, ParamType};
use grantwright_domain::request::Rights;
use grantwright_domain::scope::{Labels, TtlLimits};
use grantwright_domain::{
    AgentId, Authority, Digest, Event, GroupName, HumanId, InstanceId, ParamValue, Params,
    RequestId, RequestState, Scope, ScopeName, Strength, Terms, Timestamp, Verdict, VerdictKind,
};
use serde_json::{Value, json};

pub fn now() -> Timestamp {
    Timestamp::parse("2026-11-21T13:38:00Z").unwrap()
}

pub fn scope() -> Scope {
    let spec = |kind, sensitive| ParamSpec {
        kind,
        order: Order::Equal,
        optional: false,
        sensitive,
        title: String::new(),
    };
    let anything = || ParamType::String { pattern: ".+".into() };
    Scope {
        name: ScopeName::parse("demo.export").unwrap(),
        title: "Export up to {rows} rows of {dataset}".into(),
        minter: "jwt".into(),
        params: BTreeMap::from([
            ("rows".into(), spec(ParamType::Integer { min: 0, max: 1_000_000 }, false)),
            ("dataset".into(), spec(anything(), false)),
            ("columns".into(), spec(ParamType::Set { pattern: ".+".into(), most: 100 }, false)),
            ("key".into(), spec(anything(), true)),
        ]),
        ttl: TtlLimits::default(),
        labels: Labels {
            sensitivity: "sensitive".into(),
            environment: "production".into(),
            data_class: "personal data".into(),
            risk: "high".into(),
            undo: "cannot be recalled once read".into(),
        },
        template: serde_json::Map::new(),
        questions: Vec::new(),
        confirm: None,
    }
}

/// What a test may vary.
#[derive(Debug, Clone)]
pub struct Ask {
    pub scope: Scope,
    pub terms: Terms,
    pub reason: String,
    pub task: Option<String>,
    pub texts: BTreeMap<u64, String>,
    pub verdict: Verdict,
    pub later: Vec<Event>,
    /// When the card is looked at.
    pub seen_at: Timestamp,
}

impl Ask {
    pub fn new() -> Self {
        let scope = scope();
        let terms = Terms {
            version: 1,
            origin: "log.example/1".into(),
            request_id: RequestId::parse("r-1").unwrap(),
            agent: AgentId::parse("sales-etl").unwrap(),
            instance: InstanceId::parse("i-1").unwrap(),
            workload: "etl".into(),
            process: None,
            delegation: vec![AgentId::parse("planner").unwrap()],
            delegation_id: None,
            on_behalf_of: None,
            scope: scope.name.clone(),
            template: scope.digest().unwrap(),
            params: Params::from([
                ("rows".into(), ParamValue::Integer(10_000)),
                ("dataset".into(), ParamValue::Text("customers".into())),
            ]),
            sealed_params: BTreeMap::from([(
                "key".into(),
                Digest::commitment(&[1; 16], "hunter2"),
            )]),
            ttl_s: 900,
            task: None,
            reason: Digest::commitment(&[2; 16], "nightly report"),
            decide_by: now().plus_seconds(42 * 60),
        };
        let verdict = Verdict {
            kind: VerdictKind::Ask,
            code: String::new(),
            reason: "exports of personal data need one person from Data".into(),
            policies: BTreeSet::from(["export-asks".into()]),
            policy_set: Digest::of("policy", b""),
            quorum: 1,
            strength: Strength::Chat,
            channels: BTreeSet::from(["api".into(), "console".into()]),
            approvers: BTreeSet::from([GroupName::parse("data").unwrap()]),
            max_ttl_s: 900,
        };
        Self {
            scope,
            terms,
            reason: "nightly report for the sales team".into(),
            task: None,
            texts: BTreeMap::new(),
            verdict,
            later: Vec::new(),
            seen_at: now(),
        }
    }

    pub fn with(mut self, name: &str, value: ParamValue) -> Self {
        self.terms.params.insert(name.into(), value);
        self
    }

    pub fn digest(&self) -> Digest {
        self.terms.digest().unwrap()
    }

    pub fn voted(&self, human: &str, decision: Decision) -> Event {
        Event::Voted(Voted {
            at: now(),
            digest: self.digest(),
            request_id: self.terms.request_id.clone(),
            human: HumanId::parse(human).unwrap(),
            decision,
            channel: "api".into(),
            seen: None,
            groups: BTreeSet::from([GroupName::parse("data").unwrap()]),
            policies: BTreeSet::new(),
            policy_set: self.verdict.policy_set,
            reason_code: String::new(),
            reason: None,
            confirmed: None,
            proof: None,
        })
    }

    fn state(&self) -> RequestState {
        let id = self.terms.request_id.clone();
        let digest = self.digest();
        let at = now().plus_seconds(-60);
        let requested = Requested {
            at,
            digest,
            request_id: id.clone(),
            renews: None,
            terms: self.terms.clone(),
        };
        let mut state = RequestState::begin(1, &requested, Rights::Past).unwrap();
        let decided = Event::Decided(Decided {
            at,
            digest,
            request_id: id,
            verdict: self.verdict.clone(),
            attributes: serde_json::Map::new(),
            context: serde_json::Map::new(),
            again: false,
            chain: Vec::new(),
            excluded: Default::default(),
            unusual: Vec::new(),
            past: None,
        });
        for event in std::iter::once(&decided).chain(&self.later) {
            state.apply(2, event, Rights::Past).unwrap();
        }
        state
    }

    pub fn card(&self) -> Card {
        let state = self.state();
        let dataset = self.terms.params.get("dataset").map(ParamValue::text);
        card(&Material {
            state: &state,
            scope: &self.scope,
            authority: &authority(&self.terms),
            reason: Some(&self.reason),
            task: self.task.as_deref(),
            texts: &self.texts,
            unusual: &["first time in production".into()],
            preview: json!({ "audience": "https://data.example", "params": { "dataset": dataset } }),
            revocable: None,
            now: self.seen_at,
        })
    }

    /// The sheet of the card on a channel.
    pub fn sheet(&self, channel: &str) -> Sheet {
        let link = "https://broker.example/requests/r-1".into();
        Sheet::new(self.card(), &self.state(), &self.scope, channel, link)
    }

    pub fn text(&self) -> String {
        render_text(&self.card(), now())
    }
}

fn authority(terms: &Terms) -> Authority {
    let human = |id: &str| HumanId::parse(id).unwrap();
    let mut out = Authority::default();
    for id in ["alice", "bob", "carol"] {
        out.humans.insert(human(id), Human { active: true, operator: false });
    }
    let data = GroupName::parse("data").unwrap();
    out.groups.insert(data, ["alice", "bob", "carol"].map(human).into());
    let attributes = Attributes {
        team: "Sales".into(),
        environment: "production".into(),
        model: "model-x".into(),
        model_version: "4.1".into(),
    };
    for id in std::iter::once(&terms.agent).chain(&terms.delegation) {
        let owners = vec![Ownership { human: human("alice"), until: None }];
        let agent = Agent { owners, attributes: attributes.clone(), revoked: false };
        out.agents.insert(id.clone(), agent);
    }
    out.models.insert(
        (attributes.model, attributes.model_version),
        Timestamp::parse("2027-03-01T00:00:00Z").unwrap(),
    );
    let instance = Instance {
        agent: terms.agent.clone(),
        serials: Vec::new(),
        join_id: String::new(),
        key: grantwright_domain::Digest([0; 32]),
        not_after: grantwright_domain::Timestamp::default(),
        seal_key: String::new(),
        revoked: false,
    };
    out.instances.insert(terms.instance.clone(), instance);
    out
}

/// A request that was asked about, and answered.
pub fn asked_and_answered(channel: &str) -> Ask {
    let mut ask = Ask::new();
    ask.verdict.channels.insert(channel.into());
    ask.task = Some("t".into());
    ask.texts = [(2, "which report?".to_owned()), (3, "a".to_owned())].into();
    let (digest, request_id) = (ask.digest(), ask.terms.request_id.clone());
    ask.later = vec![
        Event::Questioned(Questioned {
            at: now(),
            digest,
            request_id: request_id.clone(),
            human: HumanId::parse("bob").unwrap(),
            channel: channel.into(),
            text: Digest::commitment(&[3; 16], "q"),
        }),
        Event::Answered(Answered {
            at: now(),
            digest,
            request_id,
            text: Digest::commitment(&[4; 16], "a"),
        }),
    ];
    ask
}

/// Requests in several states, as a channel's golden file draws them; the first is open, and can be
/// narrowed.
pub fn examples(channel: &str) -> [(&'static str, Ask); 4] {
    let mut typed = Ask::new();
    typed.verdict.channels.insert(channel.into());
    for (name, order) in
        [("rows", Order::Max), ("columns", Order::Subset), ("dataset", Order::Prefix)]
    {
        typed.scope.params.get_mut(name).unwrap().order = order;
    }
    typed.scope.questions = vec!["which report?".into(), "which ticket?".into()];
    typed.terms.template = typed.scope.digest().unwrap();
    let columns = ["email", "name", "postal_code"].map(ToOwned::to_owned);
    let typed = typed.with("columns", ParamValue::Set(columns.into()));
    let mut hostile = typed.clone();
    hostile.reason = "**APPROVED** by `bob`\n\n# [state](https://evil.example) 1 of 1 · approved \
                      {{DATE(2017-02-14T06:08:39Z)}} ❞ — said by the broker, checked"
        .into();
    hostile =
        hostile.with("dataset", ParamValue::Text("p\u{430}yroll** `approved`\u{202e}".into()));
    let mut granted = asked_and_answered(channel);
    granted.verdict.quorum = 2;
    granted.later.push(granted.voted("bob", Decision::Approve));
    if let Some(Event::Voted(vote)) = granted.later.last_mut() {
        vote.seen = Some(3);
    }
    let mut denied = typed.clone();
    denied.later = vec![denied.voted("carol", Decision::Deny)];
    [("open", typed), ("hostile", hostile), ("answered", granted), ("denied", denied)]
}

/// Three requests of one task, of which one was denied meanwhile.
pub fn of_one_task(channel: &str) -> Vec<Sheet> {
    let one = |dataset: &str, rows, reason: &str| {
        let mut ask = Ask::new().with("dataset", ParamValue::Text(dataset.into()));
        ask = ask.with("rows", ParamValue::Integer(rows));
        ask.terms.request_id = RequestId::parse(&format!("r-{dataset}")).unwrap();
        ask.verdict.channels.insert(channel.into());
        (ask.reason, ask.task) = (reason.into(), Some("close the third quarter".into()));
        ask
    };
    let mut payroll = one("payroll", 400, "salaries of the quarter");
    payroll.later = vec![payroll.voted("carol", Decision::Deny)];
    let asks =
        [one("customers", 12_000, "who bought"), one("invoices", 9_400, "what they paid"), payroll];
    asks.iter().map(|ask| ask.sheet(channel)).collect()
}

/// Compares with a golden file, whose cards are also drawn for the documentation.
pub fn golden(file: &str, cards: Vec<(&str, Value)>) {
    let golden = format!("{}/tests/card/{file}", env!("CARGO_MANIFEST_DIR"));
    // Sorted, whatever order the map keeps.
    let sorted: BTreeMap<_, _> =
        cards.into_iter().map(|(name, card)| (name.to_owned(), sort(card))).collect();
    let text = serde_json::to_string_pretty(&sorted).unwrap() + "\n";
    if std::env::var_os("GRANTWRIGHT_BLESS").is_some() {
        std::fs::write(&golden, &text).unwrap();
    }
    let want = std::fs::read_to_string(golden).unwrap_or_default();
    assert!(want == text, "the cards changed: look at them, then run with GRANTWRIGHT_BLESS=1");
}

fn sort(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<String, Value> =
                map.into_iter().map(|(k, v)| (k, sort(v))).collect();
            sorted.into_iter().collect()
        }
        Value::Array(items) => items.into_iter().map(sort).collect(),
        other => other,
    }
}
