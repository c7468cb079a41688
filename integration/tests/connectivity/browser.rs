//! The page of `flannelctl connectivity`, laid out by a browser that has no network.

use anyhow::{Context, Result, ensure};
use integration::{Feature, Lab, Netns, lab, program};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The window of the browser, in pixels.
const WINDOW: (u32, u32) = (1280, 900);

/// The result of a test of this many nodes: one cannot be reached, one path is narrow, some lose packets. Names are as long as
/// addresses can be.
fn result(nodes: usize, v6: bool) -> Value {
    let key = |at: usize| format!("10.{}.{}.0-24", 5 + at / 256, at % 256);
    let public = |at: usize| match v6 {
        true => format!("2001:db8:1234:5678:9abc:def0:1234:{:x}", 0x1000 + at),
        false => format!("192.168.{}.{}", 100 + at / 100, 100 + at % 100),
    };
    let path = |from: usize, to: usize| {
        let (received, largest) = match (from, to) {
            _ if nodes > 2 && to == nodes - 1 => (0, Value::Null),
            (0, 1) => (5, json!(1404)),
            _ if (from * 7 + to * 13).is_multiple_of(97) => (4, json!(1450)),
            _ => (5, json!(1450)),
        };
        let time = json!({"least": 0.104, "median": 0.182, "most": 1234.5});
        json!({
            "from": key(from), "to": key(to), "family": "IPv4", "target": "10.5.1.0", "via": "vtep", "sent": 5,
            "received": received, "roundTripMilliseconds": if received > 0 { time } else { Value::Null },
            "largestPacketBytes": largest, "expectedPacketBytes": 1450,
        })
    };
    let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
    let paths: Vec<Value> = pairs.filter(|(from, to)| from != to).map(|(from, to)| path(from, to)).collect();
    let node = |at| json!({"key": key(at), "publicAddresses": [public(at)], "backend": "vxlan"});
    json!({"version": 2, "nodes": (0..nodes).map(node).collect::<Vec<_>>(), "paths": paths})
}

/// A network namespace without any network, and a directory for files.
struct Desk {
    netns: Netns,
    directory: PathBuf,
}

impl Desk {
    /// Creates the page of a result.
    fn page(&self, result: &Value) -> Result<String> {
        let (input, page) = (self.directory.join("result.json"), self.directory.join("page.html"));
        fs::write(&input, result.to_string())?;
        let mut command = Command::new(program("flannelctl"));
        command.args(["connectivity", "merge", "--output-html"]).args([&page, &input]);
        let output = self.netns.output(&mut command)?;
        ensure!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
        fs::read_to_string(page).context("no page")
    }

    /// Lays out a page and returns what the script `measure.js` finds in it.
    fn measure(&self, name: &str, html: &str, window: (u32, u32), dark: bool) -> Result<Value> {
        let page = self.directory.join(format!("{name}.html"));
        let measured =
            html.replace("</body>", &format!("<script>{}</script></body>", include_str!("measure.js")));
        fs::write(&page, measured)?;
        let dom = self.browse(&page, window, dark)?;
        let found = dom.split("id=\"measured\">").nth(1).and_then(|rest| rest.split("</pre>").next());
        let found = found.with_context(|| format!("the script of {name} did not end"))?;
        serde_json::from_str(&found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
            .with_context(|| format!("not JSON: {found}"))
    }

    fn browse(&self, page: &Path, window: (u32, u32), dark: bool) -> Result<String> {
        let mut command = Command::new("chromium-headless-shell");
        // Its sandbox needs another user than root.
        command.args(["--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=60000"]);
        command.arg(format!("--user-data-dir={}", self.directory.join("profile").display()));
        command.arg(format!("--window-size={},{}", window.0, window.1));
        command.arg(format!("--blink-settings=preferredColorScheme={}", if dark { 0 } else { 1 }));
        command.arg("--dump-dom").arg(format!("file://{}", page.display()));
        let output = self.netns.output(&mut command)?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn desk(lab: &Lab) -> Result<Desk> {
    lab.require(&[Feature::Chromium])?;
    Ok(Desk { netns: lab.host("desk")?, directory: lab.directory("browser")? })
}

/// Every text is within the page or reachable by scrolling, and readable in both colour schemes.
#[test]
fn page_is_readable_at_any_size() {
    lab(|lab| {
        let desk = desk(lab)?;
        for (nodes, v6) in [(1, false), (3, false), (12, true), (30, true), (150, false), (500, true)] {
            let html = desk.page(&result(nodes, v6))?;
            // Large pages take long, and have the same colours.
            let windows = [(WINDOW, false), (WINDOW, true), ((400, 800), false)];
            for &(window, dark) in &windows[..if nodes > 100 { 1 } else { 3 }] {
                let name = format!("{nodes}-{}-{}.png", window.0, if dark { "dark" } else { "light" });
                let found = desk.measure(&name, &html, window, dark)?;
                ensure!(found["dark"] == dark && found["width"] == window.0, "{name}: {found:#}");
                ensure!(found["clipped"] == json!([]), "{name}: clipped {:#}", found["clipped"]);
                ensure!(found["misaligned"] == json!([]), "{name}: misaligned {:#}", found["misaligned"]);
                // A narrow window has no space for it.
                let is_wide = nodes > 1 && window == WINDOW;
                ensure!(!is_wide || found["corner"] == json!(["from \\ to"]), "{name}: {found:#}");
                let contrast = found["contrast"].as_f64().context("no contrast")?;
                ensure!(contrast >= 4.5, "{name}: contrast {contrast} of {}", found["palest"]);
                ensure!(found["rings"] == u8::from(nodes > 1 && nodes <= 12), "{name}: {found:#}");
                ensure!(found["cells"] == if nodes > 1 { nodes * nodes } else { 0 }, "{name}: {found:#}");
            }
        }
        Ok(())
    });
}

#[test]
fn matrix_is_sorted_by_the_worst_nodes() {
    lab(|lab| {
        let desk = desk(lab)?;
        let found = desk.measure("sorted", &desk.page(&result(30, false))?, WINDOW, false)?;
        // The last node cannot be reached.
        ensure!(found["bySubnet"] == json!(["1", "2", "3"]), "{found:#}");
        ensure!(found["worstFirst"][0] == "30" && found["worstColumns"][0] == "30", "{found:#}");
        // Its column, and the diagonal, moved with it.
        ensure!(found["worstCorner"] == json!(["·", "LOST"]), "{found:#}");
        ensure!(found["again"] == found["bySubnet"], "{found:#}");
        Ok(())
    });
}
