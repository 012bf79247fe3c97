//! `ftps2sftp check`: everything that can be found out before the first client comes, in one table.

use std::path::Path;
use std::process::ExitCode;

use crate::app::check::{Finding, State, examine};
use crate::app::check_materials;
use crate::config;

use super::{FAILED, complain_of, print, runtime};

pub(super) fn main(file: &Path, probe: bool) -> ExitCode {
    let mut loaded = config::load(file);
    let warnings = std::mem::take(&mut loaded.warnings);
    let config = match check_materials(loaded) {
        Ok(config) => config,
        Err(problems) => return complain_of(file, &problems),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    let valid = Finding {
        subject: "configuration".to_owned(),
        state: State::Ok,
        about: format!("{} is valid", file.display()),
        hint: None,
    };
    let mut findings = vec![valid];
    findings.extend(runtime.block_on(examine(&config, &warnings, probe)));
    print(&table(&findings));
    let failed = findings.iter().any(|finding| finding.state == State::Failed);
    if failed { ExitCode::from(FAILED) } else { ExitCode::SUCCESS }
}

fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.subject.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { subject, state, about, hint } in findings {
        let state = match state {
            State::Ok => "ok",
            State::Note => "note",
            State::Failed => "FAILED",
        };
        text.push_str(&format!("{subject:<width$}  {state:<6}  {about}\n"));
        if let Some(hint) = hint {
            text.push_str(&format!("{:<width$}  {:<6}  hint: {hint}\n", "", ""));
        }
    }
    text
}
