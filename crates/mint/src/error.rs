use grantwright_domain::text::{shorten, visible};

/// Why there is no credential. `Display` and `detail` are chosen words, fit for the agent; `operator`
/// is for the broker's log: it may quote the backend, made safe to show, and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// Nothing was minted, for certain: refused here before any call, or by the backend, definitely.
    /// Also an answer that went beyond the grant, which is never delivered (`backend_wider`).
    #[error("{detail}")]
    Refused {
        /// Machine word, for example `ttl_too_short`, `backend_denied`, `backend_away`.
        code: &'static str,
        /// For the caller.
        detail: String,
        /// For the operator.
        operator: String,
    },
    /// The backend may have minted and its answer was lost. Never to be repeated blindly.
    #[error("{detail}")]
    Unknown {
        /// For the caller.
        detail: String,
        /// For the operator.
        operator: String,
    },
}

impl MintError {
    /// A refusal; what a backend said goes into `operator` only.
    pub fn refused(
        code: &'static str,
        detail: impl Into<String>,
        operator: impl AsRef<str>,
    ) -> Self {
        Self::Refused { code, detail: detail.into(), operator: shown(operator.as_ref()) }
    }

    /// A lost answer.
    pub fn unknown(operator: impl AsRef<str>) -> Self {
        Self::Unknown {
            detail:
                "the backend's answer was lost, so it may have issued a credential that nobody \
                     received"
                    .into(),
            operator: shown(operator.as_ref()),
        }
    }

    /// The machine word: the refusal's, or `outcome_unknown`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused { code, .. } => code,
            Self::Unknown { .. } => "outcome_unknown",
        }
    }
}

/// What to do about a refusal of this code ([`MintError::code`]), for whoever reads it.
#[must_use]
pub fn remedy(code: &str) -> &'static str {
    match code {
        "backend_away" | "backend_busy" => {
            "ask again later with a new key; if it lasts, an operator looks at the backend"
        }
        "backend_denied" => {
            "an operator gives the broker the right at the backend that docs/backends.md names"
        }
        "backend_wider" => "an operator takes away what the backend adds by itself",
        "bad_parameter" => "ask with parameters that the backend knows",
        "bad_template" => {
            "an operator corrects the scope's template, or what it names at the backend"
        }
        "clock" => "an operator sets the clocks right",
        "policy_too_large" => {
            "ask with shorter parameters, or an operator shortens the scope's template"
        }
        "ttl_too_long" | "ttl_too_short" => "ask for a lifetime within the bound",
        _ => "an operator looks at the backend",
    }
}

/// A backend cannot be set up from what it was given; the process must not start without it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SetupError(pub &'static str);

fn shown(text: &str) -> String {
    shorten(&visible(text), 500)
}
