//! A browser, driven by WebDriver (W3C).

use std::process::Command;

use super::{Folder, await_some, run_well};

/// A browser of the test's own, driven by WebDriver (W3C); ended when dropped.
pub struct Browser {
    driver: Option<std::process::Child>,
    session: String,
}

impl Browser {
    /// `None`, and said so, where there is none.
    pub fn start(folder: &Folder) -> Option<Self> {
        let mut browser = Self { driver: None, session: String::new() };
        // It takes one port of two addresses, and ends where another one has half of that.
        let port = await_some("chromedriver listens", || {
            if browser.driver.is_none() {
                let log = std::fs::File::create(folder.path("driver.log")).unwrap();
                let driver = Command::new("chromedriver").arg("--port=0").stdout(log).spawn();
                let Ok(driver) = driver else { return Some(0) };
                browser.driver = Some(driver);
            }
            let log = std::fs::read_to_string(folder.path("driver.log")).unwrap();
            let port = log.split("successfully on port ").nth(1).and_then(|rest| {
                rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u16>().ok()
            });
            if browser.driver.as_mut().is_some_and(|driver| driver.try_wait().unwrap().is_some()) {
                browser.driver = None;
            }
            port
        });
        if port == 0 {
            eprintln!("SKIPPED: no chromedriver here (apt-get install chromium-driver)");
            return None;
        }
        let arguments = serde_json::json!([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            format!("--user-data-dir={}", folder.path("profile").display()),
        ]);
        let options = serde_json::json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": {"args": arguments}}}});
        browser.session = format!("http://127.0.0.1:{port}/session");
        let answer = browser.post("", &options);
        browser.session = format!("{}/{}", browser.session, answer["sessionId"].as_str()?);
        Some(browser)
    }

    pub fn post(&self, path: &str, body: &serde_json::Value) -> serde_json::Value {
        let (url, body) = (format!("{}{path}", self.session), body.to_string());
        let mut arguments = vec!["--silent", "--max-time", "20", &url];
        arguments.extend(["--header", "Content-Type: application/json", "--data", &body]);
        let answer: serde_json::Value =
            serde_json::from_str(&run_well("curl", &arguments)).unwrap();
        answer["value"].clone()
    }

    pub fn open(&self, url: &str) {
        self.post("/url", &serde_json::json!({"url": url}));
    }

    /// What its reader has chosen, `dark` or `light` (a command of Chromium's beside the standard).
    pub fn prefer(&self, scheme: &str) {
        let feature = serde_json::json!({"name": "prefers-color-scheme", "value": scheme});
        self.post(
            "/goog/cdp/execute",
            &serde_json::json!({"cmd": "Emulation.setEmulatedMedia", "params": {"features": [feature]}}),
        );
    }

    pub fn evaluate(&self, script: &str) -> serde_json::Value {
        self.post("/execute/sync", &serde_json::json!({"script": script, "args": []}))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let end = ["--silent", "--max-time", "10", "--request", "DELETE", &self.session];
        let _ = Command::new("curl").args(end).output();
        if let Some(mut driver) = self.driver.take() {
            let _ = driver.kill();
            let _ = driver.wait();
        }
    }
}
