//! A request's sheet, from the store's reading of it.

use grantwright_approval::Sheet;
use grantwright_store::Loaded;

use crate::core::Broker;
use crate::guards::route;
use crate::http::view;

/// What a channel shows of a request; none when the scope it pins is not known.
#[must_use]
pub fn sheet(broker: &Broker, loaded: &Loaded, channel: &str) -> Option<Sheet> {
    let authority = broker.authority();
    let scope = authority.catalog.get(&loaded.state.terms.template)?;
    let card = view::card_of(broker, loaded, scope);
    let link = broker.link(&loaded.state.terms.request_id);
    let mut sheet = Sheet::new(card, &loaded.state, scope, channel, link);
    let asked = route::known(broker, &loaded.state).unwrap_or_default();
    sheet.asked = asked.iter().map(ToString::to_string).collect();
    Some(sheet)
}
