//! The page of the statistics, as somebody sees it in a browser.

use crate::statistics::{cell, get, hash, start};
use crate::support::browser::Browser;
use crate::support::{Folder, await_that, peers};

#[test]
fn the_page_is_drawn_by_a_browser_fits_a_phone_and_asks_for_nothing_elsewhere() {
    let folder = Folder::new("stats-page");
    let Some(browser) = Browser::start(&folder) else { return };
    let server = peers::echo();
    let (relay, url) = start(&folder, server.address, "");
    for _ in 0..5 {
        peers::exchange(relay.address(), b"shown").unwrap();
    }
    browser.post("/window/rect", &serde_json::json!({"width": 500, "height": 900}));
    browser.open(&url);
    let shown = || browser.evaluate("return document.body.innerText").to_string();
    await_that("the page is drawn", || shown().contains("completed"));
    let page = shown();
    for part in ["serving", "agents", "intake", "in use", "100.0 %"] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    // It goes on by itself.
    peers::exchange(relay.address(), b"shown").unwrap();
    await_that("a new session is shown", || {
        let cell = "return document.querySelector('#ended tbody td.n').textContent";
        browser.evaluate(cell) == "6"
    });
    let wide = "return document.documentElement.scrollWidth <= window.innerWidth";
    assert_eq!(browser.evaluate(wide), true, "it scrolls sideways");
    let asked = "return performance.getEntriesByType('resource').map(e => e.name).join(' ')";
    let asked = browser.evaluate(asked);
    for name in asked.as_str().unwrap().split_whitespace() {
        assert!(name.starts_with(&url), "{asked}");
    }
}

#[test]
fn the_page_follows_the_scheme_that_its_reader_has_chosen() {
    let folder = Folder::new("page-scheme");
    let Some(browser) = Browser::start(&folder) else { return };
    let server = peers::echo();
    let (_relay, url) = start(&folder, server.address, "");
    browser.open(&url);
    let ground = || {
        let colour = "return getComputedStyle(document.body).backgroundColor";
        browser.evaluate(colour).as_str().unwrap().to_owned()
    };
    for (scheme, colour) in [("light", "rgb(251, 250, 248)"), ("dark", "rgb(22, 24, 27)")] {
        browser.prefer(scheme);
        await_that(scheme, || ground() == colour);
    }
}

/// Whoever may signs in on the page and presses a button.
#[test]
fn a_server_is_drained_and_brought_back_by_the_buttons_of_the_page() {
    let folder = Folder::new("page-buttons");
    let Some(browser) = Browser::start(&folder) else { return };
    let server = peers::echo();
    let admins = format!("admins = {{ alice = \"{}\" }}\n", hash());
    let (_relay, url) = start(&folder, server.address, &admins);
    browser.open(&url);
    let shown = || browser.evaluate("return document.body.innerText").as_str().unwrap().to_owned();
    await_that("the page is drawn", || shown().contains("Change servers"));
    let sign_in = |password: &str| {
        browser.evaluate(&format!(
            "document.getElementById('name').value = 'alice';\
             document.getElementById('password').value = '{password}';\
             document.getElementById('sign-in').requestSubmit();"
        ))
    };
    let press = |label: &str| {
        let script = format!(
            "const button = [...document.querySelectorAll('#servers button')]\
                 .find(button => button.textContent === '{label}');\
             if (button) button.click();\
             return Boolean(button);"
        );
        await_that("there is a button", || browser.evaluate(&script) == true);
    };
    let status = || cell(&get(&format!("{url}/;csv")), "intake", "a", "status");

    sign_in("wrong");
    press("drain");
    await_that("it says why not", || shown().contains("name of [stats] admins"));
    assert_eq!(status(), "no check");
    sign_in("correct horse");
    press("drain");
    await_that("it is drained", || status() == "DRAIN");
    await_that("the page says so", || shown().contains("intake/a drain: done"));
    press("ready");
    await_that("it is back", || status() == "no check");
}
