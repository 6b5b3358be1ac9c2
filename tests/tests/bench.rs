//! The bench measures: every figure, tiny, directly and through Adit in both orders. How fast is no test's business.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

#[test]
fn every_figure_of_the_bench_can_be_measured() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("numbers.json");
    let ended = Command::new(env!("CARGO_BIN_EXE_adit-bench"))
        .args(["--smoke", "--only", "direct,adit,adit-early", "--json"])
        .arg(&file)
        // It has rules for both orders, whichever the tests run in.
        .env_remove("ADIT_TEST_CONNECT")
        .output()?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "{}: {said}", ended.status);

    let numbers: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    let figures = numbers["results"]["figures"]
        .as_object()
        .context("no figures")?;
    ensure!(figures.len() == 17, "{} figures", figures.len());
    for (figure, tools) in figures {
        let early = ["connect-serial", "connect-32", "hold"].contains(&figure.as_str());
        let wanted = ["direct", "adit", "adit-early"];
        for tool in &wanted[..if early { 3 } else { 2 }] {
            let numbers = tools[tool]["numbers"]["0"].as_object();
            let numbers = numbers.with_context(|| format!("no {figure} of {tool}"))?;
            let positive = |number: &Value| number.as_f64().is_some_and(|number| number > 0.0);
            ensure!(
                numbers.values().all(positive) && !numbers.is_empty(),
                "{figure} of {tool}: {numbers:?}"
            );
        }
    }
    Ok(())
}
