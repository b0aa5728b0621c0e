//! Signing in, enrolling a passkey, and the person's own page.

use grantwright_domain::Timestamp;
use maud::{Markup, html};

/// One passkey of the person's.
#[derive(Debug, Clone)]
pub struct Passkey {
    /// Its credential id.
    pub id: String,
    /// When it was enrolled.
    pub enrolled_at: Timestamp,
    /// It may be copied to the person's other devices.
    pub copies: bool,
    /// The site it answers to.
    pub here: String,
}

/// What the person's own page shows.
#[derive(Debug)]
pub struct Account<'a> {
    /// Who.
    pub human: &'a str,
    /// Goes into every form.
    pub csrf: &'a str,
    /// May change what decisions rest on.
    pub operator: bool,
    /// Their groups.
    pub groups: &'a [String],
    /// Since when they are signed in.
    pub signed_in_at: Timestamp,
    /// How they signed in, in words.
    pub how: &'a str,
    /// Their live passkeys, oldest first.
    pub passkeys: &'a [Passkey],
}

fn without_scripts() -> Markup {
    html! { noscript { p.notice.refused { "A passkey needs a browser that runs this page's script." } } }
}

/// The page of a one-time link: enrol a passkey.
#[must_use]
pub fn enrol(human: &str, code: &str) -> Markup {
    html! {
        div.sheet.narrow-page {
            h1 { "Enrol a passkey for " (human) }
            p {
                "A passkey stays on your device or key and signs what you decide: nobody else can, not even \
                 this broker. Your device will ask for your fingerprint, face or PIN."
            }
            p.muted { "This link works once. If you are not " (human) ", close this page and tell an operator." }
            (without_scripts())
            form method="post" action={ "/enrol/" (code) } data-enrol {
                button type="submit" { "Enrol a passkey" }
                p.passkey-said role="alert" hidden {}
            }
        }
    }
}

/// Where to sign in; `next` is where the person wanted to go, `company` the host of the identity
/// provider, if people sign in there, and where that begins.
#[must_use]
pub fn signin(next: &str, company: Option<(&str, &str)>) -> Markup {
    html! {
        div.sheet.narrow-page {
            h1 { "Sign in" }
            // A link: browsers hold a form to our own origin through its redirects, too.
            @if let Some((host, begin)) = company {
                p { a.button href=(begin) { "Sign in at " (host) } }
            }
            (without_scripts())
            form method="post" action="/signin" data-signin {
                input type="hidden" name="next" value=(next);
                label.wide {
                    "Your id, if your passkey does not offer itself"
                    input type="text" name="human" autocomplete="username webauthn" autocapitalize="none" spellcheck="false" maxlength="64";
                }
                button type="submit" { "Sign in with a passkey" }
                p.passkey-said role="alert" hidden {}
            }
            p.muted { "No passkey? An operator can make you a one-time link: " code { "grantwright person link" } "." }
        }
    }
}

/// The person's own page.
#[must_use]
pub fn account(m: &Account<'_>) -> Markup {
    html! {
        div.head { h1 { (m.human) } p { @if m.operator { "operator" } } }
        section {
            h2 { "Here" }
            p { "Groups: " @if m.groups.is_empty() { "none" } @else { (m.groups.join(", ")) } }
            p { "Signed in " (m.how) ", " time datetime=(m.signed_in_at) { (m.signed_in_at) } }
        }
        section {
            h2 { "Passkeys" }
            @if m.passkeys.is_empty() {
                p.empty { "None. Decisions that ask for one need a passkey: an operator makes you a link to enrol it." }
            } @else {
                div.sheet {
                    @for passkey in m.passkeys {
                        form.passkey method="post" action={ "/account/passkeys/" (passkey.id) "/remove" } {
                            input type="hidden" name="csrf" value=(m.csrf);
                            p {
                                code.id { (short(&passkey.id)) } " for " (passkey.here) ", enrolled "
                                time datetime=(passkey.enrolled_at) { (passkey.enrolled_at) }
                                @if passkey.copies { ", may be copied to your other devices" }
                            }
                            button.quiet type="submit" aria-label={ "Remove passkey " (short(&passkey.id)) } { "Remove" }
                        }
                    }
                }
                p.muted.small { "Approvals that a removed passkey signed count no more, until something was issued for them." }
            }
        }
    }
}

/// Enough of a credential id to know it by.
fn short(id: &str) -> String {
    id.chars().take(12).collect()
}
