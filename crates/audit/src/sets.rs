//! Policy sets that were compiled from their texts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use grantwright_policy::{Fault, PolicySet};

/// Most sets that are kept: a few megabytes of ordinary ones.
const MOST_SETS: usize = 64;

/// The text of the policies, and those of the scopes.
type Texts = (Vec<u8>, Vec<Vec<u8>>);

/// Policy sets by the texts that they were compiled from, which takes longer than to verify a short log:
/// for whoever verifies many logs that rest on the same ones. Clones share what they keep.
#[derive(Debug, Clone, Default)]
pub struct Sets(Arc<Mutex<HashMap<Texts, Arc<PolicySet>>>>);

impl Sets {
    /// The set of exactly these texts.
    ///
    /// # Errors
    /// As [`PolicySet::from_blobs`]; what has faults is not kept.
    pub(crate) fn compiled(
        &self,
        policies: Vec<u8>,
        scopes: Vec<Vec<u8>>,
    ) -> Result<Arc<PolicySet>, Vec<Fault>> {
        let texts = (policies, scopes);
        if let Some(set) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&texts) {
            return Ok(set.clone());
        }
        let set = Arc::new(PolicySet::from_blobs(&texts.0, texts.1.iter().cloned())?);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST_SETS {
            kept.clear();
        }
        kept.insert(texts, set.clone());
        Ok(set)
    }
}
