//! A real browser: Chromium, played by Playwright, told by the test what to do.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's tools fail by failing the test")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// A browser with one page; it ends when this is dropped.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

/// How a page is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Pixels.
    pub width: u32,
    /// The user likes it dark.
    pub dark: bool,
    /// Scripts run.
    pub script: bool,
}

impl Default for Look {
    fn default() -> Self {
        Self { width: 1280, dark: false, script: true }
    }
}

impl Browser {
    /// A browser. None where this machine has none: DROVER_BROWSER names the folder with playwright-core and axe-core, and
    /// DROVER_CHROMIUM the program, as `ci/test browser` installs them.
    ///
    /// # Panics
    /// When it does not start although it is there.
    #[must_use]
    pub fn start() -> Option<Self> {
        let modules = std::env::var_os("DROVER_BROWSER")?;
        let chromium = std::env::var_os("DROVER_CHROMIUM")?;
        let mut child = Command::new("node")
            .arg(crate::top().join("tests/browser/driver.mjs"))
            .arg(chromium)
            .arg(modules)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("node does not start: {error}"));
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Some(Self { child, to, from: BufReader::new(from) })
    }

    /// Does something; see driver.mjs for what there is.
    ///
    /// # Panics
    /// When it cannot be done.
    #[track_caller]
    pub fn tell(&mut self, command: &Value) -> Value {
        writeln!(self.to, "{command}").unwrap();
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("the browser's driver has ended at {command}: {error}: {line:?}"));
        match answer.get("error") {
            Some(error) => panic!("{command}: {error}"),
            None => answer.get("value").cloned().unwrap_or_default(),
        }
    }

    /// A new page, without cookies.
    #[track_caller]
    pub fn open(&mut self, look: Look) {
        let Look { width, dark, script } = look;
        self.tell(&json!({"do": "open", "width": width, "dark": dark, "script": script}));
    }

    /// Goes to an address, and gives the status of the answer.
    #[track_caller]
    pub fn go(&mut self, to: &str) -> u64 {
        self.tell(&json!({"do": "go", "to": to})).as_u64().unwrap_or(0)
    }

    /// Waits until this expression is true in the page.
    #[track_caller]
    pub fn wait(&mut self, expression: &str) {
        self.tell(&json!({"do": "wait", "for": expression}));
    }

    /// Waits until the page has this text somewhere.
    #[track_caller]
    pub fn wait_text(&mut self, text: &str) {
        self.wait(&format!("document.body.innerText.includes({})", Value::from(text)));
    }

    /// What an expression is in the page.
    #[track_caller]
    pub fn value(&mut self, of: &str) -> Value {
        self.tell(&json!({"do": "value", "of": of}))
    }

    /// The text of the first element that a selector chooses; it works without scripts.
    #[track_caller]
    pub fn text(&mut self, of: &str) -> String {
        self.tell(&json!({"do": "text", "of": of})).as_str().unwrap_or_default().to_owned()
    }

    /// How many elements a selector chooses; it works without scripts.
    #[track_caller]
    pub fn count(&mut self, of: &str) -> u64 {
        self.tell(&json!({"do": "count", "of": of})).as_u64().unwrap_or(0)
    }

    /// Logs in.
    #[track_caller]
    pub fn log_in(&mut self, url: &str, token: &str) {
        self.go(&format!("{url}/login"));
        self.tell(&json!({"do": "fill", "what": "input[name=token]", "with": token}));
        self.tell(&json!({"do": "click", "what": "main form button"}));
    }

    /// A picture of the page, in target/screenshots.
    #[track_caller]
    pub fn shot(&mut self, name: &str) -> PathBuf {
        let folder = screenshots();
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join(name).with_extension("png");
        self.tell(&json!({"do": "shot", "file": file, "whole": true}));
        file
    }

    /// What an automated check of accessibility finds.
    #[track_caller]
    pub fn barriers(&mut self) -> Vec<String> {
        let found = self.tell(&json!({"do": "axe"}));
        serde_json::from_value(found).unwrap()
    }

    /// What the page's console said, and its scripts' errors.
    #[track_caller]
    pub fn said(&mut self) -> Vec<String> {
        let said = self.tell(&json!({"do": "said"}));
        serde_json::from_value(said).unwrap()
    }

    /// The seconds of processor that the page's main thread has taken, and those of them that were its script's.
    #[track_caller]
    pub fn times(&mut self) -> (f64, f64) {
        let times = self.tell(&json!({"do": "times"}));
        let of = |name: &str| times.get(name).and_then(Value::as_f64).unwrap_or(0.0);
        (of("task"), of("script"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where pictures go.
fn screenshots() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| Path::new(&crate::top()).join("target")).join("screenshots")
}
