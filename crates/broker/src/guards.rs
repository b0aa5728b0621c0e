//! Guards against fatigue: what keeps people who decide attentive. None of them decides anything:
//! eligibility and the rules are `domain`'s.

pub mod two_step;
