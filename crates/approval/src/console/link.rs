//! The page on which a signed-in person takes an account of a chat service as theirs.

use maud::{Markup, html};

/// Asks whether the account is the viewer's own. The name is the service's word and no identity.
#[must_use]
pub fn ask(
    human: &str,
    channel: &str,
    tenant: &str,
    account: &str,
    name: &str,
    code: &str,
    csrf: &str,
) -> Markup {
    html! {
        div.sheet.narrow-page {
            h1 { "Link an account?" }
            p {
                "You are signed in as " strong { (human) } ". From now on, what is pressed in "
                (channel) " with this account counts as yours:"
            }
            p { code { (account) } " in " code { (tenant) } ", which calls itself " (name) }
            p.muted {
                "Confirm only if you pressed a button there yourself, a moment ago, and this link was \
                 shown to you there. If somebody sent it to you, close this page and tell security."
            }
            form method="post" action=(format!("/link/{code}")) {
                input type="hidden" name="csrf" value=(csrf);
                button type="submit" { "Yes, this account is mine" }
            }
            p { a href="/" { "No, back to the inbox" } }
        }
    }
}

/// Says that it is done.
#[must_use]
pub fn done(human: &str, channel: &str, account: &str) -> Markup {
    html! {
        div.sheet.narrow-page {
            h1 { "Linked" }
            p {
                "The " (channel) " account " code { (account) } " is " strong { (human) } "\u{2019}s now. \
                 Go back there and press again."
            }
            p { a href="/" { "Inbox" } }
        }
    }
}
