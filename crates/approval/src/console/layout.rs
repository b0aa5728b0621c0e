//! The frame of every page, and the only way out to the browser.

use grantwright_domain::text::is_deceptive;
use maud::{DOCTYPE, Markup, html};

use super::assets;

/// The place in the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Here {
    /// What waits.
    Inbox,
    /// Agents.
    Agents,
    /// Leases.
    Leases,
    /// The log.
    Log,
    /// Scopes and policies.
    Policies,
    /// How people decide.
    Attention,
    /// The person's own page.
    Account,
}

/// Who looks.
#[derive(Debug, Clone, Copy)]
pub struct Viewer<'a> {
    /// The person.
    pub human: &'a str,
    /// Goes into every form as the field `csrf`.
    pub csrf: &'a str,
}

/// Something said once, above the page.
#[derive(Debug, Clone, Copy)]
pub enum Notice<'a> {
    /// What was asked for happened.
    Done(&'a str),
    /// It was refused: why, and what to do next.
    Refused(&'a str, &'a str),
}

/// What stands around a page.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The page's name; may hold an agent's parameters.
    pub title: &'a str,
    /// Where it is in the navigation.
    pub here: Option<Here>,
    /// Who looks; none: nobody is signed in, and there is no navigation.
    pub viewer: Option<Viewer<'a>>,
    /// Said above it.
    pub notice: Option<Notice<'a>>,
}

impl<'a> Frame<'a> {
    /// A page for somebody who is signed in.
    #[must_use]
    pub fn new(title: &'a str, here: Here, viewer: Viewer<'a>) -> Self {
        Self { title, here: Some(here), viewer: Some(viewer), notice: None }
    }

    /// A page for whoever comes: signing in, enrolling, what went wrong.
    #[must_use]
    pub fn open(title: &'a str) -> Self {
        Self { title, here: None, viewer: None, notice: None }
    }

    /// With something said above it.
    #[must_use]
    pub fn saying(self, notice: Option<Notice<'a>>) -> Self {
        Self { notice, ..self }
    }
}

const LINKS: [(Here, &str, &str); 6] = [
    (Here::Inbox, "/", "Inbox"),
    (Here::Agents, "/agents", "Agents"),
    (Here::Leases, "/leases", "Leases"),
    (Here::Log, "/log", "Log"),
    (Here::Policies, "/policies", "Policies"),
    (Here::Attention, "/attention", "Attention"),
];

/// The whole document. `content` becomes the children of `main`.
#[must_use]
pub fn page(frame: &Frame<'_>, content: &Markup) -> String {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (frame.title) " · Grantwright" }
                link rel="stylesheet" href=(assets::stylesheet());
                link rel="icon" type="image/svg+xml" href=(assets::icon());
                script src=(assets::script()) defer {}
                script src=(assets::passkey_script()) defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header.top {
                    a.brand href="/" { "Grantwright" }
                    @if let Some(viewer) = frame.viewer { (navigation(frame.here, viewer)) }
                }
                main #main tabindex="-1" {
                    @match frame.notice {
                        Some(Notice::Done(what)) => p.notice role="status" { (what) },
                        Some(Notice::Refused(why, next)) => div.notice.refused role="alert" {
                            p { strong { "Refused. " } (why) }
                            @if !next.is_empty() { p.muted { (next) } }
                        },
                        None => {},
                    }
                    (content)
                }
                @if frame.viewer.is_some() { (keys()) }
            }
        }
    };
    undeceived(&document.into_string())
}

fn navigation(here: Option<Here>, viewer: Viewer<'_>) -> Markup {
    html! {
        nav aria-label="Main" {
            @for (place, path, name) in LINKS {
                a href=(path) aria-current=[(here == Some(place)).then_some("page")] { (name) }
            }
        }
        div.me {
            button.quiet.help type="button" popovertarget="keys" aria-label="Keys" title="Keys: ?" { kbd { "?" } }
            a.human href="/account" aria-current=[(here == Some(Here::Account)).then_some("page")] {
                (viewer.human)
            }
            form method="post" action="/signout" {
                input type="hidden" name="csrf" value=(viewer.csrf);
                button.quiet type="submit" { "Sign out" }
            }
        }
    }
}

/// What the keys do; opened by `?` or its button.
fn keys() -> Markup {
    let rows = [
        ("j k", "next, previous request"),
        ("o or Enter", "open it"),
        ("a", "go to Approve; Enter then approves"),
        ("d", "deny: choose a reason"),
        ("q", "ask the agent"),
        ("n", "narrow"),
        ("i", "back to the inbox"),
        ("/", "search the log"),
        ("?", "this list"),
    ];
    html! {
        div #keys popover role="dialog" aria-labelledby="keys-title" {
            h2 #keys-title { "Keys" }
            dl.keys {
                @for (key, what) in rows { dt { kbd { (key) } } dd { (what) } }
            }
            button type="button" popovertarget="keys" popovertargetaction="hide" { "Close" }
        }
    }
}

/// No control, bidirectional, zero-width or other deceptive character leaves, wherever it came
/// from; a line break is the only control character that pages are written with.
fn undeceived(document: &str) -> String {
    if document.bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)) {
        return document.to_owned();
    }
    let mut out = String::with_capacity(document.len());
    for c in document.chars() {
        if c != '\n' && is_deceptive(c) {
            out.push_str(&format!("⟨U+{:04X}⟩", c as u32));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_deceptive_leaves_even_if_a_page_forgot() {
        let hostile = "a\u{202e}b\u{200b}c\u{0}d\u{e0041}<script>";
        let frame = Frame::open(hostile);
        let out = page(&frame, &html! { p title=(hostile) { (hostile) } });
        assert!(!out.chars().any(|c| c != '\n' && is_deceptive(c)));
        assert_eq!(out.matches("a⟨U+202E⟩b⟨U+200B⟩c⟨U+0000⟩d⟨U+E0041⟩&lt;script&gt;").count(), 3);
        assert_eq!(out.matches("<script").count(), 2, "our own");
    }

    #[test]
    fn the_frame_names_its_place_and_its_person() {
        let viewer = Viewer { human: "bob", csrf: "c\"1" };
        let out = page(&Frame::new("x", Here::Log, viewer), &html! {});
        for part in [
            r#"<a href="/log" aria-current="page">Log</a>"#,
            r#"<a href="/">Inbox</a>"#,
            r#"name="csrf" value="c&quot;1""#,
            ">bob</a>",
        ] {
            assert!(out.contains(part), "{part}\n{out}");
        }
        let nobody = page(&Frame::open("x"), &html! {});
        assert!(!nobody.contains("<nav") && !nobody.contains("csrf"));
    }
}
