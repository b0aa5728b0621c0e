//! An end to how much of an answer is read: the SDK has none.

use aws_sdk_sts::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_sts::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_sts::error::BoxError;
use aws_smithy_types::body::SdkBody;
use http_body_util::Limited;

/// Largest answer: none of STS's has a tenth of it.
pub(super) const MAX_ANSWER: usize = 1 << 20;

/// Reads no more of an answer.
#[derive(Debug)]
pub(super) struct Bound;

impl Intercept for Bound {
    fn name(&self) -> &'static str {
        "bound"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response_mut().body_mut();
        let whole = std::mem::replace(body, SdkBody::taken());
        *body = SdkBody::from_body_1_x(Limited::new(whole, MAX_ANSWER));
        Ok(())
    }
}
